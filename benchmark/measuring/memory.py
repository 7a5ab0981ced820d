"""Peak memory: of the process (or of its GPU) between two moments, and of a single call.

    base = reset_peak(device)
    …
    peak = peak_bytes(device)   # the most bytes in use since then, including the base

On a CUDA device this reads torch's own counters.  On Linux it reads the kernel's high-water mark of resident memory, which
can be reset through /proc.  On other systems, or if the reset is refused, the peak is the memory that psutil reports at that
moment, which is only a lower bound (see ``peak_is_exact``).  ``allocated_by`` is exact to the byte and does not depend on what
ran before.
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
    """Starts a new measurement and returns its base: the bytes in use now."""
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
    """Returns the bytes in use now: allocated by torch on a CUDA device, resident memory of the process on a CPU."""
    if _is_cuda(device):
        import torch

        return int(torch.cuda.memory_allocated(device))
    resident = _status_bytes("VmRSS")
    if resident is not None:
        return resident
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: Any = "cpu") -> int:
    """Returns the most bytes that were in use at once since ``reset_peak``."""
    if _is_cuda(device):
        import torch

        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    high = _status_bytes("VmHWM") if peak_is_exact(device) else None
    return high if high is not None else base_bytes(device)


def peak_is_exact(device: Any = "cpu") -> bool:
    """Returns False if the peak can't be reset; ``peak_bytes`` then returns only the bytes in use when it is called."""
    return _is_cuda(device) or _mark_follows()


def allocated_by(call: Callable[[], Any], device: Any = "cpu") -> int:
    """Returns the most bytes that this call holds at once, on top of those held before it.  Its result is included.

    On a CPU, torch's profiler reports every allocation and every release.  So tensors that autograd saves and temporaries
    inside kernels count, and memory of caches and earlier calls does not.
    """
    if _is_cuda(device):
        base = reset_peak(device)
        result = call()
        increment = peak_bytes(device) - base
        del result
        return increment
    return _highest_sum(_allocations(call))


def _allocations(call: Callable[[], Any]) -> list[int]:
    """Returns the bytes of each allocation (positive) and each release (negative) on the CPU, in order of time."""
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # otherwise its C++ side prints to stderr that there is no GPU
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
    # The sort is stable, so events of the same nanosecond stay in the order in which they were found.
    return [size for _, size in sorted(found, key=lambda event: event[0])]


def _highest_sum(changes: list[int]) -> int:
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest


def keep_freed_memory() -> None:
    """Makes malloc keep freed memory for later tensors of this process.  Every process that trains or measures calls it.

    By default glibc returns large blocks to the system at once and then gets new ones page by page, which costs more than
    the arithmetic on them.  ``reset_peak`` returns the free memory to the system.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _return_free_memory() -> None:
    """Returns the free memory that malloc has kept to the system, because new tensors in it would not raise the peak."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Any:
    """Returns a function of glibc's malloc, or None if this system has no such function."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


@functools.cache
def _mark_follows() -> bool:
    """Returns whether the high-water mark (VmHWM) follows the memory in use and can be reset.

    This is tried out, because some sandboxes accept the reset and do nothing: memory is taken and freed, and the mark must
    rise and stay up until it is reset.  The trial resets the mark, so it must come before a measurement.
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
    with contextlib.suppress(OSError):  # raised on other systems, and in containers that refuse the reset
        _CLEAR_REFS.write_text(_RESET_PEAK)


def _status_bytes(field: str) -> int | None:
    """Returns a field of /proc/self/status in bytes (the file has kB), or None if there is no such file or field."""
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
    """Returns whether the error means that memory has run out.

    On a CPU, torch raises a plain RuntimeError for this, which can be recognised only by its text.
    """
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def _is_cuda(device: Any) -> bool:
    return str(device).startswith("cuda")
