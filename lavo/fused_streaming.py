"""Backend "triton", token by token: ``extend`` of streaming.py for the cases that have kernels.  It computes no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lavo import fused, kernels
from lavo.blocks import Tokens
from lavo.launch import BLOCK, OUTPUTS, Launch
from lavo.streaming import Form, SelfState, after_new_blocks


def extend(tokens: Tokens, form: Form, state: SelfState) -> tuple[Tensor, SelfState] | None:
    """Does the same as ``streaming.extend``.  Returns None if there is no kernel for the case.

    There are kernels for one new token, and for several tokens at the beginning of a sequence.
    """
    q, k, _ = tokens
    if form.basis is not None:
        form = form._replace(basis=form.basis.float().contiguous())
    if q.shape[2] == 1 and state.keys.shape[2] and state.keys.dtype == k.dtype:
        return _decode(tokens, form, state)
    if state.num_read == 0 and q.shape[2] > 1:
        return _begin(tokens, form, state)
    return None


def _decode(tokens: Tokens, form: Form, state: SelfState) -> tuple[Tensor, SelfState]:
    """Reads one token."""
    q, k, v = tokens
    basis, bias = form.basis, form.bias
    out, keys, values, mean = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, state.keys, state.values, state.mean)
    )
    rank, window = state.mean.shape[3], state.keys.shape[2]
    launch = Launch(
        q,
        out,
        window,
        rank,
        identity=basis is None,
        output=OUTPUTS[form.output],
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
        mean_ptr=state.mean.contiguous(),
        new_keys_ptr=keys,
        new_values_ptr=values,
        new_mean_ptr=mean,
        out_ptr=out,
        num_read=state.num_read,
    )
    num_read = state.num_read + 1
    return out, SelfState(keys, values, mean, num_read, [form.num_kept(num_read, window)])


def _begin(tokens: Tokens, form: Form, state: SelfState) -> tuple[Tensor, SelfState]:
    """Reads the first tokens of a sequence, with the kernels of the forward pass."""
    window = state.keys.shape[2]
    basis, bias, fused_form = fused.prepare(
        tokens.q, form.basis, form.bias, window or BLOCK, True, form.output, bool(window)
    )
    found = fused.attend(Tokens(*fused.alike(*tokens)), basis, bias, None, fused_form)
    sums = found.sums.sum(2, dtype=state.mean.dtype)
    if basis is not None:
        sums = torch.einsum("bhd,hrd->bhr", sums, basis.to(sums.dtype))
    return found.out, after_new_blocks(tokens, form, state, sums)
