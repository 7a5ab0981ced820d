"""Keeps and restores the process state that a cell may change, so that the next cell in the worker doesn't inherit it."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ProcessState:
    """The state of a worker before its first cell."""

    folder: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    recursion_limit: int = field(default_factory=sys.getrecursionlimit)
    umask: int = 0o022

    def restore(self, threads: int) -> None:
        """Sets everything on which figures may depend: threads, types, modes, seeds, flags, folder and environment.

        threads: number of torch's threads for the next cell.  Values that are not kept in this object are torch's,
        NumPy's and Python's defaults, except that seeds are 0 and SIGINT is ignored, as in every worker.
        """
        import numpy as np
        import torch

        os.chdir(self.folder)
        if dict(os.environ) != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        os.umask(self.umask)
        sys.setrecursionlimit(self.recursion_limit)
        warnings.resetwarnings()
        gc.enable()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.autograd.set_detect_anomaly(False)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
        torch.set_flush_denormal(False)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]  # a property of the module
        np.seterr(all="warn", under="ignore")
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  attentions may draw from the global generator
        torch.manual_seed(0)


def current() -> ProcessState:
    """Returns the present state of this process."""
    mask = os.umask(0o022)
    os.umask(mask)
    return ProcessState(umask=mask)
