"""Names that fairseq-fixed 0.12.3.1 uses and that NumPy 2 has removed."""

from types import SimpleNamespace

import numpy as np


def restore_numpy_compat() -> None:
    """Restores ``np.compat.long``, which is Python's int, if NumPy lacks it.

    Two files of fairseq/data use it: token_block_dataset.py (``--sample-break-mode eos``, which every
    ``fairseq-generate`` of a language model needs) and language_pair_dataset.py.
    """
    if not hasattr(np, "compat"):
        np.compat = SimpleNamespace(long=int)  # type: ignore[attr-defined]  # noqa: NPY201
