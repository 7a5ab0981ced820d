"""What fairseq-fixed 0.12.3.1 still asks of NumPy, and NumPy 2 no longer has."""

from types import SimpleNamespace

import numpy as np


def restore_numpy_compat() -> None:
    """``np.compat.long``, Python's int, where it is gone.

    fairseq/data/token_block_dataset.py (``--sample-break-mode eos``, so every ``fairseq-generate`` of a language model)
    and language_pair_dataset.py name it.
    """
    if not hasattr(np, "compat"):
        np.compat = SimpleNamespace(long=int)  # type: ignore[attr-defined]  # noqa: NPY201
