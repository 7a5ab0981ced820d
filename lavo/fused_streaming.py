"""Backend "triton", token by token: ``extend`` of streaming.py for the cases that have kernels.  It computes no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lavo import fused, kernels
from lavo.blocks import Tokens
from lavo.launch import BLOCK, OUTPUTS, Launch
from lavo.streaming import SelfState, after_new_windows


def extend(
    tokens: Tokens, basis: Tensor | None, bias: Tensor | None, state: SelfState, *, output: str
) -> tuple[Tensor, SelfState] | None:
    """Does the same as ``streaming.extend``.  Returns None if there is no kernel for the case.

    There are kernels for one new token, and for several tokens at the beginning of a sequence.
    """
    q, k, _ = tokens
    basis = None if basis is None else basis.float().contiguous()
    if q.shape[2] == 1 and state.keys.shape[2] and state.keys.dtype == k.dtype:
        return _decode(tokens, basis, bias, state, output)
    if state.num_read == 0 and q.shape[2] > 1:
        return _begin(tokens, basis, bias, state, output)
    return None


def _decode(
    tokens: Tokens, basis: Tensor | None, bias: Tensor | None, state: SelfState, output: str
) -> tuple[Tensor, SelfState]:
    """Reads one token."""
    q, k, v = tokens
    out, keys, values, sums = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, state.keys, state.values, state.sums)
    )
    rank, window = state.sums.shape[2], state.keys.shape[2]
    launch = Launch(
        q,
        out,
        window,
        rank,
        identity=basis is None,
        output=OUTPUTS[output],
        causal=True,
        windows=True,
        biased=bias is not None,
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


def _begin(
    tokens: Tokens, basis: Tensor | None, bias: Tensor | None, state: SelfState, output: str
) -> tuple[Tensor, SelfState]:
    """Reads the first tokens of a sequence, with the kernels of the forward pass."""
    window = state.keys.shape[2]
    basis, bias, form = fused.prepare(tokens.q, basis, bias, window or BLOCK, True, output, bool(window))
    found = fused.attend(Tokens(*fused.alike(*tokens)), basis, bias, None, form)
    sums = found.sums.sum(2, dtype=state.sums.dtype)
    if basis is not None:
        sums = torch.einsum("bhd,hrd->bhr", sums, basis.to(sums.dtype))
    return found.out, after_new_windows(tokens, state, sums)
