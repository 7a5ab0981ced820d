"""Peak memory: of the process (or its GPU) between two moments, and of what a single call allocates.

    base = reset_peak(device)
    …
    peak = peak_bytes(device)   # the highest since then, what was there before included

On a CUDA device torch's own counters serve.  On Linux the kernel's high-water mark of resident memory is set back
through /proc; where that is refused, or elsewhere, the peak is what psutil sees at the moment of asking, which is a
lower bound (``peak_is_exact`` tells).  ``allocated_by`` is exact to the byte and knows nothing of what ran before.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # man 5 proc_pid_clear_refs: sets VmHWM back to the current resident size
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # man 3 mallopt
_TRIAL_BYTES = 1 << 24


def reset_peak(device: Any = "cpu") -> int:
    """Starts a new measurement and gives the base: the bytes in use now."""
    if _is_cuda(device):
        import torch

        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _return_free_memory()
        _mark_follows()
        _reset_resident_peak()
    return base_bytes(device)


def base_bytes(device: Any = "cpu") -> int:
    """Bytes in use now: allocated by torch on a CUDA device, resident on a CPU."""
    if _is_cuda(device):
        import torch

        return int(torch.cuda.memory_allocated(device))
    resident = _status_bytes("VmRSS")
    if resident is not None:
        return resident
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: Any = "cpu") -> int:
    """The most bytes in use at once since ``reset_peak``."""
    if _is_cuda(device):
        import torch

        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    high = _status_bytes("VmHWM") if peak_is_exact(device) else None
    return high if high is not None else base_bytes(device)


def peak_is_exact(device: Any = "cpu") -> bool:
    """False where the peak can't be set back, so that ``peak_bytes`` is only what is in use when asked."""
    return _is_cuda(device) or _mark_follows()


def allocated_by(call: Callable[[], Any], device: Any = "cpu") -> int:
    """The most bytes that this call holds at once beyond what was there before it; its result counts.

    On a CPU the profiler reports every allocation and release of torch's allocator, so what autograd saves and what
    kernels allocate inside themselves is counted, and neither caches nor earlier calls are.
    """
    if _is_cuda(device):
        base = reset_peak(device)
        result = call()
        increment = peak_bytes(device) - base
        del result
        return increment
    return _highest_sum(_allocations(call))


def _allocations(call: Callable[[], Any]) -> list[int]:
    """Bytes allocated (positive) and released (negative) on the CPU, in the order of time."""
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else its C++ side tells stderr that there is no GPU
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = call()
    events = list(profiler.profiler.kineto_results.experimental_event_tree())
    found = []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    del result
    # A stable sort: two events of one nanosecond stay in the order of the tree.
    return [size for _, size in sorted(found, key=lambda event: event[0])]


def _highest_sum(changes: list[int]) -> int:
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest


def keep_freed_memory() -> None:
    """Lets malloc keep what is freed for the next tensor, in this process: for every one that trains or measures.

    By default glibc hands large blocks back to the system at once, and gets them anew page by page, which costs more
    than the arithmetic on them.  ``reset_peak`` hands back what is free.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _return_free_memory() -> None:
    """Gives the system back what earlier work freed and malloc kept, else what is measured next grows into it unseen."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Any:
    """A function of glibc's malloc, None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


@functools.cache
def _mark_follows() -> bool:
    """Whether the mark rises with a use that is over, and can be set back: tried, since some sandboxes only pretend.

    Called before anything is measured: the trial sets the mark back.
    """
    _reset_resident_peak()
    before = _status_bytes("VmHWM")
    with mmap.mmap(-1, _TRIAL_BYTES) as pages:
        pages.write(b"1" * _TRIAL_BYTES)
    after = _status_bytes("VmHWM")
    _reset_resident_peak()
    reset = _status_bytes("VmHWM")
    if before is None or after is None or reset is None:
        return False
    return after - before > _TRIAL_BYTES // 2 and after - reset > _TRIAL_BYTES // 2


def _reset_resident_peak() -> None:
    with contextlib.suppress(OSError):  # not Linux, or a container that refuses
        _CLEAR_REFS.write_text(_RESET_PEAK)


def _status_bytes(field: str) -> int | None:
    """A field of /proc/self/status, which counts in kB; None where there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch raises on a GPU, and on a CPU, where it is a RuntimeError known by its text alone."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def _is_cuda(device: Any) -> bool:
    return str(device).startswith("cuda")
