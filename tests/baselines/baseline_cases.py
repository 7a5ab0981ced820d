"""Shared by the tests of all baselines: how each is built, its oracle, inputs, tolerances."""

import functools
import itertools

import baseline_oracles
import torch

from benchmark.registry import build_attention

NAMES = ("softmax", "flash", "performer", "cosformer", "none")
PATTERNS = ("noncausal_self", "causal_self", "noncausal_cross", "causal_cross")
MAX_LENGTH = 1000
LENGTHS = (1, 7, 8, 9, 63, 64, 65, 127, 781)  # around the chunk of 64, the window of 8, and primes
# Largest absolute difference for values of order 1.  bfloat16 keeps 8 bits, so one rounding is 2^-8.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def build(name, pattern, *, num_heads=2, head_dim=8, **options):
    if name == "performer":
        options = {"num_features": 20, "seed": 3, **options}  # 20 is no multiple of 8, so that a block of Ω is cut
    if name == "cosformer":
        options = {"max_length": MAX_LENGTH, **options}
    return build_attention(name, pattern=pattern, num_heads=num_heads, head_dim=head_dim, **options).eval()


def oracle(name, attention, pattern):
    """The attention as a function of q, k, v and mask, in float64."""
    options = {"causal": pattern == "causal_self", "is_self": pattern.endswith("_self")}
    if name == "performer":
        options["omega"] = attention.omega.double().numpy()
    if name == "cosformer":
        options["max_length"] = attention.max_length
    return functools.partial(
        baseline_oracles.batched, getattr(baseline_oracles, "softmax" if name == "flash" else name), **options
    )


def inputs(
    pattern, length=13, *, batch_size=3, num_heads=2, head_dim=8, dtype=torch.float64, seed=0, requires_grad=False
):
    """q, k and v.  In cross-attention the source is longer than the target."""
    generator = torch.Generator().manual_seed(seed)
    source_len = length if pattern.endswith("_self") else length + 5
    return [
        torch.randn(batch_size, num_heads, n, head_dim, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_(requires_grad)
        for n in (length, source_len, source_len)
    ]


def mask_of(kind, batch_size, source_len):
    """True where padded.  Rows are padded by unequal amounts."""
    mask = torch.zeros(batch_size, source_len, dtype=torch.bool)
    for b in range(batch_size):
        amount = (b + 1) * source_len // (batch_size + 2)
        if kind == "right":
            mask[b, source_len - amount :] = True
        elif kind == "left":
            mask[b, :amount] = True
        elif kind == "inside":
            mask[b, 1 : 1 + amount] = True
        elif kind == "scattered":
            mask[b, b % 2 :: 2] = True
        elif kind == "all of one row":
            mask[b] = b == 1
    return mask


def parts_of(length, sizes):
    """Slices that cut a sequence into parts of these sizes and a rest."""
    cuts = [0]
    for size in sizes:
        cuts.append(min(cuts[-1] + size, length))
    cuts.append(length)
    return [slice(first, last) for first, last in itertools.pairwise(cuts)]


def stream(attention, q, k, v, sizes, state=None, *, dtype=None):
    """The outputs of extend() over these cuts, and the last state."""
    state = attention.init_state(q.shape[0], dtype=dtype or q.dtype) if state is None else state
    outputs = []
    for part in parts_of(q.shape[2], sizes):
        out, state = attention.extend(q[:, :, part], k[:, :, part], v[:, :, part], state)
        outputs.append(out)
    return torch.cat(outputs, 2), state
