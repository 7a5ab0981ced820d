"""Backend "triton", token by token: what ``streaming.py`` does, as far as there are kernels for it.  Gives no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lavo import fused, kernels
from lavo.streaming import SelfState


def extend(q, k, v, basis, bias, state: SelfState, *, output: str) -> tuple[Tensor, SelfState] | None:
    """As ``streaming.extend``, for one token, or many at the beginning; None where there is no kernel for it."""
    basis = None if basis is None else basis.float().contiguous()
    if q.shape[2] == 1 and state.keys.shape[2] and state.keys.dtype == k.dtype:
        return _decode(q, k, v, basis, bias, state, output)
    if state.num_read == 0 and q.shape[2] > 1:
        return _begin(q, k, v, basis, bias, state, output)
    return None


def _decode(q, k, v, basis, bias, state: SelfState, output: str) -> tuple[Tensor, SelfState]:
    out, keys, values, sums = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, state.keys, state.values, state.sums)
    )
    rank, window = state.sums.shape[2], state.keys.shape[2]
    launch = fused.Launch(
        q,
        out,
        window,
        rank,
        causal=True,
        windows=True,
        cross=False,
        biased=bias is not None,
        ragged=False,
        identity=basis is None,
        output=fused.OUTPUTS[output],
    )
    launch.run(
        kernels.decode_kernel,
        (launch.rows,),
        q_ptr=q.contiguous(),
        k_ptr=k.contiguous(),
        v_ptr=v.contiguous(),
        basis_ptr=basis,
        bias_ptr=None if bias is None else bias.float().contiguous(),
        keys_ptr=state.keys.contiguous(),
        values_ptr=state.values.contiguous(),
        sums_ptr=state.sums.contiguous(),
        new_keys_ptr=keys,
        new_values_ptr=values,
        new_sums_ptr=sums,
        out_ptr=out,
        num_read=state.num_read,
    )
    return out, SelfState(keys, values, sums, state.num_read + 1)


def _begin(q, k, v, basis, bias, state: SelfState, output: str) -> tuple[Tensor, SelfState]:
    window = state.keys.shape[2]
    basis, bias, size, number = fused.prepare(q, basis, bias, window or fused.BLOCK, True, output, bool(window))
    query, key, value = fused.alike(q, k, v)
    found = fused.attend(query, key, value, basis, bias, size, True, number, bool(window), None, fused.LOOK_BACK)
    sums = found.sums.sum(2, dtype=state.sums.dtype)
    if basis is not None:
        sums = torch.einsum("bhd,hrd->bhr", sums, basis.to(sums.dtype))
    n = q.shape[2]
    filled = n % window if window else 0
    keys, values = (torch.zeros_like(state.keys, dtype=x.dtype) for x in (k, v))
    keys[:, :, :filled], values[:, :, :filled] = k[:, :, n - filled :], v[:, :, n - filled :]
    return found.out, SelfState(keys, values, sums, n)
