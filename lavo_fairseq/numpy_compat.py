"""Names that fairseq-fixed 0.12.3.1 uses and that NumPy 2 has removed."""

from types import SimpleNamespace

import numpy as np


def restore_numpy_compat() -> None:
    """Defines ``np.compat.long`` as Python's int, if NumPy lacks it.

    Two files of fairseq/data use this name: language_pair_dataset.py, and token_block_dataset.py with
    ``--sample-break-mode eos``, which ``fairseq-generate`` always needs for a language model.
    """
    if not hasattr(np, "compat"):
        np.compat = SimpleNamespace(long=int)  # type: ignore[attr-defined]  # noqa: NPY201
