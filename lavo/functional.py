"""LAVO as two functions.  They check the arguments, choose a backend and remove padded tokens."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lavo import chunked, overlap, reference
from lavo.cross import read_memory, source_mean

OUTPUTS = ("joint", "sum", "memory")
OLDEST_TRITON = (3, 6)
"""The oldest release with which the kernels were tried; it comes with torch 2.11.  With older ones the backend is "torch"."""

BACKENDS = ("auto", "reference", "torch", "triton")


def lavo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    basis: Tensor | None,
    *,
    window: int = 64,
    bias: Tensor | None = None,
    causal: bool = False,
    key_padding_mask: Tensor | None = None,
    output: str = "sum",
    dissect: bool = True,
    window_overlap: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Computes self-attention: exact inside a token's own window, and to the whole sequence through the orthogonal memory.

    q, k, v: (batch, heads, length, head_dim), one length and one dtype for all three.
    basis: (heads, rank, head_dim), orthonormal rows; None stands for the head's own axes (rank = head_dim), and then no
    product with a basis is computed.
    window: the number of tokens that attend to each other exactly.  Windows are consecutive, and the last may be shorter.
    bias: added to the scores inside windows, by distance.  If ``causal``, (heads, window), entry i for the distance
    t - j = i; else (heads, 2 window - 1), entry i for the distance t - j = i - (window - 1).
    key_padding_mask: boolean (batch, length), True where padded.  Padded tokens are treated as if they did not exist.
    output: "sum" (window plus memory), "joint" (one softmax over window and memory) or "memory" (the memory alone).
    dissect: False means that there are no windows: the memory compresses the values themselves, and the output is that of
    the memory, whatever ``output`` says.
    window_overlap: True means that a token sees its own block of window / 2 tokens and the block before it (if not
    ``causal``, also the block after it), instead of one window.  So each token sees at least window / 2 tokens back.
    backend: "auto", "reference", "torch" or "triton", which has no kernels for windows that overlap.
    Returns (batch, heads, length, head_dim) in the dtype of q; zeros where padded.
    Raises ValueError, with the argument, its value and what is allowed.
    """
    check_self(q, k, v, basis, key_padding_mask, window=window, bias=bias, causal=causal, output=output)
    check_overlap(window_overlap, window, dissect)
    options: dict[str, Any] = {"window": window, "bias": bias, "causal": causal, "output": output}
    with full_precision(q):
        backend = resolve_backend(
            backend, q, window if dissect else 1, 0 if basis is None else basis.shape[1], window_overlap=window_overlap
        )
        if backend == "reference":
            options |= {"dissect": dissect, "window_overlap": window_overlap}
            return reference.self_attention(
                q, k, v, basis_or_axes(basis, q), key_padding_mask=key_padding_mask, **options
            )
        attend: Callable[..., Tensor]
        if window_overlap:
            attend = overlap.self_attention
        elif backend == "triton":
            from lavo import fused

            attend = partial(fused.self_attention, dissect=dissect)
        else:
            attend = partial(chunked.self_attention, dissect=dissect)
        attend = partial(attend, basis=basis, **options)
        if key_padding_mask is None or not key_padding_mask.any():
            return attend(q, k, v, lengths=None)
        return _without_padding(attend, q, k, v, key_padding_mask)


def lavo_cross_attention(
    q: Tensor,
    v: Tensor,
    basis: Tensor | None,
    *,
    key_padding_mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Computes cross-attention: the queries see another sequence, the source, through its orthogonal memory.

    q: (batch, heads, target length, head_dim).  v: (batch, heads, source length, head_dim); LAVO reads no keys here.
    basis: (heads, rank, head_dim), orthonormal rows, or None for the head's own axes.
    key_padding_mask: boolean (batch, source length), True where padded.
    Returns (batch, heads, target length, head_dim) in the dtype of q; zeros where the source is empty.
    Raises ValueError, with the argument, its value and what is allowed.
    """
    check_inputs({"q": q, "v": v}, basis, key_padding_mask)
    if q.shape[:2] != v.shape[:2]:
        raise ValueError(f"q and v must agree in batch and heads, got {tuple(q.shape)} and {tuple(v.shape)}")
    with full_precision(q):
        backend = resolve_backend(backend, q, 1, 0 if basis is None else basis.shape[1])
        if backend == "reference":
            return reference.cross_attention(q, v, basis_or_axes(basis, q), key_padding_mask=key_padding_mask)
        if backend == "triton":
            from lavo import fused

            return fused.cross_attention(q, v, basis, key_padding_mask)
        mean = source_mean(v, basis, key_padding_mask)
        return read_memory(q, mean, basis)


def resolve_backend(
    backend: str, q: Tensor | None = None, window: int = 1, rank: int = 0, *, window_overlap: bool = False
) -> str:
    """Returns the backend that will run for these queries: "reference", "torch" or "triton".

    If "triton" has no kernel for the queries, "torch" runs in its place.
    q: None if no queries are known yet, as when a module is made.
    rank: the rank of the basis, or 0 if the basis is None.
    Raises ValueError for an unknown backend, and for "triton" if it cannot run on this machine or if ``window_overlap`` is
    asked for, for which there are no kernels at all.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend in ("torch", "reference"):
        return backend
    if window_overlap:
        if backend == "triton":
            raise ValueError('backend "triton" has no kernels for window_overlap; use "torch", "reference" or "auto"')
        return "torch"
    if not triton_runs():
        if backend == "triton":
            raise ValueError(
                'backend "triton" needs triton 3.6 or newer and a CUDA device; use "torch", "reference" or "auto"'
            )
        return "torch"
    # On a CPU triton runs only in its interpreter, which is for tests, so "auto" does not choose it there.
    if q is None or (backend == "auto" and q.device.type != "cuda"):
        return "torch" if backend == "auto" else "triton"
    from lavo import launch

    return "torch" if launch.why_not(q, window, rank) else "triton"


@cache
def triton_runs() -> bool:
    """Returns whether triton is installed and can run: on a GPU that it supports, or in its interpreter if that is on."""
    if importlib.util.find_spec("triton") is None:
        return False
    on_gpu = torch.cuda.is_available()
    # On a CPU triton is imported only if its interpreter is on, because importing it takes time, and old releases need setuptools.
    if not on_gpu and os.environ.get("TRITON_INTERPRET", "0").lower() not in ("1", "true", "yes", "on", "y"):
        return False
    import triton

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
        return False
    return not on_gpu or torch.cuda.get_device_capability() >= (8, 0)


def basis_or_axes(basis: Tensor | None, q: Tensor) -> Tensor:
    """Returns the basis as a matrix, (heads, rank, head_dim); the identity if the basis is None."""
    if basis is not None:
        return basis
    dtype = torch.promote_types(q.dtype, torch.float32)
    return torch.eye(q.shape[3], device=q.device, dtype=dtype).expand(q.shape[1], -1, -1)


def _without_padding(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Moves the real tokens of each row to the left, calls ``attend`` on them, and moves the outputs back to their places."""
    n = q.shape[2]
    lengths = (~mask).sum(1)
    longest = int(lengths.max())
    padded = torch.arange(longest, device=mask.device) >= lengths[:, None]  # after compaction
    order = None
    if (mask[:, :-1] > mask[:, 1:]).any():  # some padded token comes before a real one
        order = (
            mask.to(torch.int8)
            .argsort(dim=1, stable=True)[:, None, :longest, None]
            .expand(-1, q.shape[1], -1, q.shape[3])
        )
    # Padded tokens may hold nan, and 0 * nan is nan in products and in their gradients, so they are replaced by zeros.
    q, k, v = (
        (x[:, :, :longest] if order is None else x.gather(2, order)).masked_fill(padded[:, None, :, None], 0)
        for x in (q, k, v)
    )
    out = attend(q, k, v, lengths=lengths)
    out = out.masked_fill(padded[:, None, :, None], 0)
    if order is None:
        return F.pad(out, (0, 0, 0, n - longest))
    return out.new_zeros(*out.shape[:2], n, out.shape[3]).scatter(2, order, out)


def check_self(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    basis: Tensor | None,
    key_padding_mask: Tensor | None,
    *,
    window: int,
    bias: Tensor | None,
    causal: bool,
    output: str,
) -> None:
    """Checks the arguments of self-attention.  Raises a ValueError that names the one that does not fit."""
    check_inputs({"q": q, "k": k, "v": v}, basis, key_padding_mask)
    if q.shape != k.shape:
        raise ValueError(
            f"q and k of self-attention must have one shape, got length {q.shape[2]} for q and {k.shape[2]} for k "
            f"({tuple(q.shape)} and {tuple(k.shape)}); to continue a sequence, use LAVOAttention.extend"
        )
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be an integer of at least 1, got {window!r}")
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    entries = window if causal else 2 * window - 1
    if bias is not None and (not bias.is_floating_point() or bias.shape != (q.shape[1], entries)):
        form = "(heads, window)" if causal else "(heads, 2 window - 1)"
        raise ValueError(
            f"bias must be floating, of shape {form} = {(q.shape[1], entries)} for causal={causal}, "
            f"got {bias.dtype} {tuple(bias.shape)}"
        )


def check_overlap(window_overlap: bool, window: int, dissect: bool) -> None:
    """Raises ValueError if windows are to overlap and can't."""
    if not isinstance(window_overlap, bool):
        raise ValueError(f"window_overlap must be true or false, got {window_overlap!r}")
    if window_overlap and window % 2:
        raise ValueError(f"window_overlap needs an even window, because blocks are half a window, got {window}")
    if window_overlap and not dissect:
        raise ValueError("window_overlap needs windows, and with dissect=False there are none")


def check_inputs(tensors: dict[str, Tensor], basis: Tensor | None, mask: Tensor | None) -> None:
    """Checks shapes, dtypes and devices.  Raises a ValueError that names the tensor that does not fit.

    tensors: by name; all must fit the first one.  The mask belongs to the last one, whose length is the source length.
    """
    first, q = next(iter(tensors.items()))
    for name, x in tensors.items():
        if x.ndim != 4 or not x.is_floating_point():
            raise ValueError(
                f"{name} must be floating, of shape (batch, heads, length, head_dim), got {x.dtype} {tuple(x.shape)}"
            )
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name} must have the dtype and device of {first}, got {x.dtype} on {x.device}, "
                f"{first} has {q.dtype} on {q.device}"
            )
    source = list(tensors.values())[-1]
    for name, x in tensors.items():
        if x.shape[3] != q.shape[3] or x.shape[3] < 1 or (name != "q" and x.shape != source.shape):
            shapes = ", ".join(f"{other} {tuple(y.shape)}" for other, y in tensors.items())
            raise ValueError(f"{name} must have the same head_dim as the others, and k and v one shape, got {shapes}")
    if basis is not None and (
        basis.ndim != 3
        or not basis.is_floating_point()
        or (basis.shape[0], basis.shape[2]) != (q.shape[1], q.shape[3])
        or not 1 <= basis.shape[1] <= q.shape[3]
    ):
        raise ValueError(
            f"basis must be floating, of shape (heads, rank, head_dim) = ({q.shape[1]}, 1 to {q.shape[3]}, {q.shape[3]}), "
            f"got {basis.dtype} {tuple(basis.shape)}"
        )
    expected = (source.shape[0], source.shape[2])
    if mask is not None and (mask.dtype != torch.bool or mask.shape != expected):
        raise ValueError(
            f"key_padding_mask must be boolean, (batch, source length) = {expected}, True where padded, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )


def alike(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Returns whether all are floating, of one shape (batch, heads, length, head_dim), dtype and device.

    It is for single tokens, of which one is decoded in the time in which ``check_inputs`` finds what to say.
    """
    shape, dtype, device = q.shape, q.dtype, q.device
    return (
        k.shape == shape == v.shape
        and k.dtype == dtype == v.dtype
        and k.device == device == v.device
        and len(shape) == 4
        and shape[3] > 0
        and dtype.is_floating_point
    )


def full_precision(q: Tensor) -> AbstractContextManager:
    """Returns a context in which autocast is off, because it would compute sums over tokens in a low precision."""
    device = q.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
