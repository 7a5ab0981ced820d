"""Exact softmax attention by fused kernels, with memory linear in the length (arXiv 2205.14135, 2307.08691).

The kernel is chosen here, because PyTorch's own choice may be the quadratic form, and its name is recorded:

flash_attn         the package flash-attn, half precision on CUDA, where installed
torch_flash        PyTorch's flash kernel, half precision on CUDA
memory_efficient   PyTorch's memory-efficient kernel on CUDA, if no flash kernel takes the input (as for float32)
cpu_flash          PyTorch's flash kernel on the CPU, any precision

No kernel gets a padding mask.  Instead padded tokens are removed, and rows with equally many real tokens run together.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from baselines.kv_cache import KeyValueCache, append, cache_bytes, cached, empty_cache, select_cached
from baselines.padding import empty_padded, real_tokens_first, reorder, without_padding, zeros_from
from baselines.precision import without_autocast
from baselines.softmax import padded_softmax_attention
from benchmark.interface import Pattern, select_rows, state_bytes

BACKENDS = {
    "cpu_flash": SDPBackend.FLASH_ATTENTION,
    "torch_flash": SDPBackend.FLASH_ATTENTION,
    "memory_efficient": SDPBackend.EFFICIENT_ATTENTION,
}
QUERY_BLOCK = 256  # queries of one block in ``continue_on_cpu``, which needs a mask with a row for each query


class Source(NamedTuple):
    """A complete source, with its real tokens before the padded ones."""

    keys: Tensor  # (b, h, m, d)
    values: Tensor  # (b, h, m, d)
    lengths: Tensor | None  # (b,), the number of real tokens; None if all are real


class FlashAttention(nn.Module):
    """o_i = Σ_j softmax_j( q_i·k_j / √d ) v_j, computed tile by tile.  ``kernel`` is the name of the kernel that ran last."""

    version = 1
    unsupported: dict[str, str] = {}
    exact = True
    normalised = True
    linear_values = True

    def __init__(self, *, pattern: Pattern, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim
        self.kernel: str | None = None

    def extra_repr(self) -> str:
        """Returns the options, as ``repr`` of the module shows them."""
        return f"pattern={self.pattern!r}"

    @without_autocast
    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the attention of q, (b, h, n, d), to k and v, (b, h, m, d).  Returns (b, h, n, d).

        key_padding_mask: (b, m), True where padded, or None.
        """
        if self.pattern == "causal_self":
            attend = functools.partial(self._attend, causal=True)
            if key_padding_mask is None:
                return attend(q, k, v)
            return without_padding(attend, q, k, v, key_padding_mask)
        if key_padding_mask is None:
            return self._attend(q, k, v)
        order, lengths = real_tokens_first(key_padding_mask), (~key_padding_mask).sum(1)
        k, v = (reorder(empty_padded(x, key_padding_mask), order) for x in (k, v))
        if self.pattern.endswith("_cross"):
            return self._attend_by_length(q, k, v, lengths)
        q = reorder(empty_padded(q, key_padding_mask), order)
        return reorder(self._attend_by_length(q, k, v, lengths, cut_queries=True), order.argsort(1))

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the same without a fused kernel: the reference that ``forward`` is checked against."""
        return padded_softmax_attention(q, k, v, key_padding_mask, pattern=self.pattern, weights_dtype=q.dtype)

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> KeyValueCache:
        """Returns an empty cache, the state for the pattern ``causal_self``."""
        return empty_cache(batch_size, self.num_heads, self.head_dim, device=device, dtype=dtype)

    @without_autocast
    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """Attends from the new tokens to all earlier tokens and to one another, causally.  q, k, v: (b, h, n, d)."""
        state = append(state, k, v)
        return self._attend(q, *cached(state), causal=True), state

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Source:
        """Returns the state for ``causal_cross``: the keys and values of a complete source.  k, v: (b, h, m, d)."""
        if key_padding_mask is None:
            return Source(k, v, None)
        order = real_tokens_first(key_padding_mask)
        k, v = (reorder(empty_padded(x, key_padding_mask), order) for x in (k, v))
        return Source(k, v, (~key_padding_mask).sum(1))

    @without_autocast
    def read(self, q: Tensor, state: Source) -> tuple[Tensor, Source]:
        """Attends from the next queries (b, h, n, d) to the source."""
        keys, values = state.keys.to(q.dtype), state.values.to(q.dtype)
        if state.lengths is None:
            return self._attend(q, keys, values), state
        return self._attend_by_length(q, keys, values, state.lengths), state

    def select(self, state: KeyValueCache | Source, rows: Tensor) -> KeyValueCache | Source:
        """Returns the state of these rows of the batch.  rows: (new batch,) int64."""
        return select_cached(state, rows) if isinstance(state, KeyValueCache) else select_rows(state, rows)

    def state_bytes(self, state: KeyValueCache | Source) -> int:
        """Returns the bytes of keys, values and lengths."""
        return cache_bytes(state) if isinstance(state, KeyValueCache) else state_bytes(state)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        """Runs the kernel and records its name.  If ``causal``, the last query has the position of the last key."""
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))  # the kernels need this stride
        self.kernel = choose_kernel(q, k, v)
        if 0 in (*q.shape, k.shape[2]):
            return zeros_from(q, k, v)  # fused kernels refuse empty inputs; queries that see no key get zeros
        causal = causal and q.shape[2] > 1  # a single query is the last one, so it sees all keys
        if self.kernel == "flash_attn":
            return flash_attn_package(q, k, v, causal=causal)
        with sdpa_kernel(BACKENDS[self.kernel]):
            if not causal:
                return F.scaled_dot_product_attention(q, k, v)
            if q.shape[2] == k.shape[2]:
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)
            if self.kernel == "cpu_flash":
                return continue_on_cpu(q, k, v)
            # Imported only here, because this module imports torch's compiler, which takes two seconds.
            from torch.nn.attention.bias import causal_lower_right

            # is_causal would give the first query the position of the first key (pytorch#108108).
            return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2]))

    def _attend_by_length(
        self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, *, cut_queries: bool = False
    ) -> Tensor:
        """Runs together those rows of the batch that have equally many real tokens, without the padding after them.

        lengths: (b,), the number of real tokens, which come first.
        cut_queries: whether the queries are the same tokens as the keys; then padded queries are removed, too, and get zeros.
        """
        if not len(lengths):
            return self._attend(q, k, v)  # an empty batch has no length
        outputs, rows_done = [], []
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            queries = q[rows, :, :length] if cut_queries else q[rows]
            out = self._attend(queries, k[rows, :, :length], v[rows, :, :length])
            outputs.append(F.pad(out, (0, 0, 0, q.shape[2] - out.shape[2])))
            rows_done.append(rows)
        return torch.cat(outputs)[torch.cat(rows_done).argsort()]


def choose_kernel(q: Tensor, k: Tensor, v: Tensor) -> str:
    """Returns the name of the fastest kernel for these tensors.

    Raises ValueError if no kernel with linear memory takes them.
    """
    if q.device.type == "cpu":
        return "cpu_flash"
    if q.device.type == "cuda":
        if q.dtype in (torch.float16, torch.bfloat16) and importlib.util.find_spec("flash_attn") is not None:
            return "flash_attn"
        parameters = SDPAParams(q, k, v, None, 0.0, False, False)
        if can_use_flash_attention(parameters):
            return "torch_flash"
        if can_use_efficient_attention(parameters):
            return "memory_efficient"
    raise ValueError(
        f"flash has no kernel for {q.dtype} with head_dim {q.shape[-1]} on {q.device.type}; use softmax there, "
        "or float32 or half precision on cuda, or the cpu"
    )


def flash_attn_package(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Runs the kernel of the package flash-attn.

    If ``causal``, the last query has the position of the last key, as ``extend`` needs it.  This is so from release 2.1 on.
    """
    from flash_attn import flash_attn_func

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (b, n, h, d)
    return flash_attn_func(q, k, v, causal=causal).transpose(1, 2)


def continue_on_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes causal attention of n queries that are the last of m tokens, one block of queries after another.

    On the CPU ``is_causal`` would give the first query the position of the first key, so a mask is needed.  In blocks of
    queries the size of the mask is linear in m.
    """
    old = k.shape[2] - q.shape[2]
    outputs = []
    for start in range(0, q.shape[2], QUERY_BLOCK):
        block = q[:, :, start : start + QUERY_BLOCK]
        seen = old + start + block.shape[2]
        visible = torch.ones(block.shape[2], seen, dtype=torch.bool, device=q.device).tril(old + start)
        outputs.append(F.scaled_dot_product_attention(block, k[:, :, :seen], v[:, :, :seen], attn_mask=visible))
    return torch.cat(outputs, 2)
