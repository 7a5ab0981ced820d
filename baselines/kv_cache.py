"""The growing cache of keys and values, which is the streaming state of exact attentions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

SMALLEST_CAPACITY = 64  # tokens; in a smaller buffer, the doublings at the start would copy at nearly every token


class KeyValueCache(NamedTuple):
    """The first ``length`` tokens of two buffers.  Several states may share the buffers: a state and its continuations.

    ``filled`` is a list of one number, the tokens that have been written to the buffers.  All states on these buffers share
    the list object.  A state whose length is this number may append in place, because no other state uses the places after
    its own tokens.  Any other state must copy its tokens first.
    """

    keys: Tensor  # (b, h, capacity, d)
    values: Tensor  # (b, h, capacity, d)
    length: int
    filled: list[int]


def empty_cache(batch_size: int, num_heads: int, head_dim: int, *, device: Any, dtype: Any) -> KeyValueCache:
    """Returns a cache without tokens, for ``init_state``."""
    keys, values = (torch.empty(batch_size, num_heads, 0, head_dim, device=device, dtype=dtype) for _ in range(2))
    return KeyValueCache(keys, values, 0, [0])


def cached(cache: KeyValueCache) -> tuple[Tensor, Tensor]:
    """Returns the keys and values that were read, each (b, h, length, d)."""
    return cache.keys[:, :, : cache.length], cache.values[:, :, : cache.length]


def append(cache: KeyValueCache, k: Tensor, v: Tensor) -> KeyValueCache:
    """Returns a cache that has these tokens after those of ``cache``, which stays valid.  k, v: (b, h, n, d)."""
    if k.shape[2] == 0:
        return cache
    if torch.is_grad_enabled():  # autograd may have saved the buffers, so they are copied and not changed
        keys, values = (torch.cat((old.to(new.dtype), new), 2) for old, new in zip(cached(cache), (k, v), strict=True))
        return KeyValueCache(keys, values, keys.shape[2], [keys.shape[2]])
    length = cache.length + k.shape[2]
    if not _can_append_in_place(cache, k, length):
        cache = _copy_with_room(cache, k, max(2 * cache.length, length, SMALLEST_CAPACITY))
    cache.keys[:, :, cache.length : length] = k
    cache.values[:, :, cache.length : length] = v
    cache.filled[0] = length
    return cache._replace(length=length)


def select_cached(cache: KeyValueCache, rows: Tensor) -> KeyValueCache:
    """Returns the cache of these rows of the batch, in new buffers.  rows: (new batch,) int64."""
    keys, values = (x.index_select(0, rows.to(x.device)) for x in cached(cache))
    return KeyValueCache(keys, values, cache.length, [cache.length])


def cache_bytes(cache: KeyValueCache) -> int:
    """Returns the bytes of the tokens that were read.  Unused places of the buffers are not counted."""
    return sum(x.nbytes for x in cached(cache))


def _can_append_in_place(cache: KeyValueCache, k: Tensor, length: int) -> bool:
    """Returns whether the buffers can take the new tokens k.  length: the number of tokens after that."""
    return (
        cache.filled[0] == cache.length
        and length <= cache.keys.shape[2]
        and cache.keys.dtype == k.dtype
        and cache.keys.is_inference() == torch.is_inference_mode_enabled()
    )


def _copy_with_room(cache: KeyValueCache, k: Tensor, capacity: int) -> KeyValueCache:
    """Returns a copy in new buffers of this capacity.

    It has the dtype of the new tokens k, which may differ from that of the cache, for example under autocast.
    """
    b, h, _, d = cache.keys.shape
    keys, values = (torch.empty(b, h, capacity, d, device=k.device, dtype=k.dtype) for _ in range(2))
    for buffer, old in zip((keys, values), cached(cache), strict=True):
        buffer[:, :, : cache.length] = old
    return KeyValueCache(keys, values, cache.length, [cache.length])
