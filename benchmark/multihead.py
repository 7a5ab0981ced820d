"""The multi-head layer around an attention: projections, heads and dropout, which are the same for every attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from benchmark.interface import EVERY, Pattern, select_rows
from benchmark.registry import build_attention, load_attention, takes_max_length


class MultiHeadState(NamedTuple):
    """The number of tokens read so far, and the attention's own state."""

    position: int
    attention: Any


class MultiHeadAttention(nn.Module):
    """An attention with the projections of its q, k and v, and of its output.

    embed_dim   width of the queries' input, and of the source if ``source_dim`` is not given
    attention   a module built by ``build_attention``; or a name, together with ``pattern``
    dropout     probability on the output, the same for every attention
    bias        on the projections of q, k and v; the output projection always has one
    rotary      turns q and k by their positions (RoFormer, arXiv 2104.09864); self-attention only

    Raises ValueError if embed_dim is not a multiple of num_heads.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attention: nn.Module | str,
        *,
        pattern: Pattern | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        source_dim: int | None = None,
        rotary: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        if rotary and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, this one is {self.head_dim}")
        if isinstance(attention, str):
            if pattern is None:
                raise ValueError(f"attention {attention!r} is a name: say pattern= as well")
            attention = build_attention(
                attention, pattern=pattern, num_heads=num_heads, head_dim=self.head_dim, **options
            )
        elif options or pattern is not None:
            raise ValueError(
                f"{', '.join(options) or 'pattern'}: the attention is built already, so it takes no options"
            )
        for name, own in (("num_heads", self.num_heads), ("head_dim", self.head_dim)):
            if getattr(attention, name, own) != own:
                raise ValueError(f"attention was built for {name} {getattr(attention, name)}, this layer has {own}")
        self.attention: Any = attention  # Any: the protocol's methods are not nn.Module's
        self.rotary = rotary
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(source_dim or embed_dim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(source_dim or embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    @property
    def encodes_positions(self) -> bool:
        """True if the layer encodes positions, so that the backbone need not."""
        return self.rotary or bool(getattr(self.attention, "encodes_positions", False))

    @property
    def first_position(self) -> int:
        """Position of the first token that ``forward`` is given; above 0 in later parts of a sequence (``PartedAttention``)."""
        part = getattr(self.attention, "sequence_part", None)
        return 0 if part is None else part.start

    @property
    def kernel(self) -> str:
        """The name of the kernel that ran last."""
        return str(getattr(self.attention, "kernel", None) or "torch")

    def forward(self, query: Tensor, source: Tensor | None = None, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """Returns the layer's output, with the shape of ``query``.

        query: (batch, target length, embed_dim).  source: (batch, source length, …); the query if it is left out.
        key_padding_mask: bool (batch, source length), True where padded.
        """
        if source is None:
            source = query
        elif self.rotary and source is not query:
            raise ValueError("rotary=True is for self-attention: target and source have no positions in common")
        q = self._heads("query", query, self.q_proj)
        k, v = (self._heads("source", source, project) for project in (self.k_proj, self.v_proj))
        if self.rotary:
            positions = self.first_position + _real_positions(source, key_padding_mask)
            q, k = rotate(q, positions), rotate(k, positions)
        return self._merge(self.attention(q, k, v, key_padding_mask=key_padding_mask))

    def init_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> MultiHeadState:
        """Returns the empty state of causal self-attention."""
        weight = self.q_proj.weight
        state = self.attention.init_state(batch_size, device=device or weight.device, dtype=dtype or weight.dtype)
        return MultiHeadState(0, state)

    def extend(
        self, x: Tensor, state: MultiHeadState, *, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, MultiHeadState]:
        """Reads any number of new tokens.  x: (batch, new tokens, embed_dim).  Returns their output and the next state.

        Raises ValueError for a mask with a padded token: the rows of a batch advance together, so prompts of unequal
        length can't be read into one state.
        """
        if key_padding_mask is not None and bool(key_padding_mask.any()):
            lengths = (~key_padding_mask).sum(-1).tolist()
            raise ValueError(
                f"key_padding_mask: prompts of unequal or padded length (real tokens by row: {lengths}) can't extend a "
                "state, because the rows of a batch advance together; stream rows of equal length in a batch of their own"
            )
        q, k, v = (self._heads("x", x, project) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.rotary:
            positions = torch.arange(state.position, state.position + x.shape[1], device=x.device)
            q, k = rotate(q, positions), rotate(k, positions)
        out, attention = self.attention.extend(q, k, v, state.attention)
        return self._merge(out), MultiHeadState(state.position + x.shape[1], attention)

    def init_cross(self, source: Tensor, *, key_padding_mask: Tensor | None = None) -> MultiHeadState:
        """Reads the whole source once and returns the state.  source: (batch, source length, …)."""
        if self.rotary:
            raise ValueError("rotary=True is for self-attention: target and source have no positions in common")
        k, v = (self._heads("source", source, project) for project in (self.k_proj, self.v_proj))
        return MultiHeadState(0, self.attention.init_cross(k, v, key_padding_mask=key_padding_mask))

    def read(self, x: Tensor, state: MultiHeadState) -> tuple[Tensor, MultiHeadState]:
        """Returns the output for the next queries, and the next state.  x: (batch, new tokens, embed_dim)."""
        out, attention = self.attention.read(self._heads("x", x, self.q_proj), state.attention)
        return self._merge(out), MultiHeadState(state.position + x.shape[1], attention)

    def select(self, state: MultiHeadState, rows: Tensor) -> MultiHeadState:
        """Returns the state of these rows of the batch, which may be repeated or left out."""
        select = getattr(self.attention, "select", select_rows)
        return MultiHeadState(state.position, select(state.attention, rows))

    def state_bytes(self, state: MultiHeadState) -> int:
        """Returns the number of bytes that the attention's state holds."""
        return self.attention.state_bytes(state.attention)

    def _heads(self, name: str, x: Tensor, project: nn.Linear) -> Tensor:
        """Returns x projected and split into heads: (b, h, n, d)."""
        if x.dim() != 3 or x.shape[-1] != project.in_features or not x.is_floating_point():
            raise ValueError(
                f"{name} must be floating, of shape (batch, length, {project.in_features}), "
                f"got {x.dtype} {tuple(x.shape)}"
            )
        return rearrange(project(x), "b n (h d) -> b h n d", h=self.num_heads)

    def _merge(self, x: Tensor) -> Tensor:
        return self.dropout(self.out_proj(rearrange(x, "b h n d -> b n (h d)")))


def _real_positions(x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
    """Returns the number of real tokens before each token: (n,), or (b, n) if there is a mask."""
    if key_padding_mask is None:
        return torch.arange(x.shape[1], device=x.device)
    return ((~key_padding_mask).cumsum(-1) - 1).clamp_min(0)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position encoding: turns the pairs (i, i + d/2) by position / 10,000^(2i/d).

    x: (b, h, n, d).  positions: (n,) or (b, n).  The angle is computed in float32, because half precision can't
    represent every position up to 4,096.
    """
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = positions[..., None].float() * frequencies  # (n, d/2) or (b, n, d/2)
    angle = angle if angle.dim() == 2 else angle[:, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class AttentionSites:
    """The factory from which a backbone gets its attention layers.

    Layers of the cell's pattern (all layers, if that is ``every``) hold the cell's attention and are collected in ``replaced``.
    All other layers hold ``others``, exact softmax.
    """

    def __init__(self, attention: str, pattern: str, options: dict[str, Any], *, others: str = "softmax") -> None:
        self.attention, self.pattern, self.options, self.others = attention, pattern, options, others
        self.replaced: list[MultiHeadAttention] = []

    def __call__(
        self,
        pattern: Pattern,
        *,
        embed_dim: int,
        num_heads: int,
        max_length: int,
        dropout: float = 0.0,
        bias: bool = True,
        source_dim: int | None = None,
        rotary: bool = False,
    ) -> MultiHeadAttention:
        """Returns a layer for this pattern.  max_length: the length of the longest sequence that it will be given."""
        is_site = self.pattern in (pattern, EVERY)
        name = self.attention if is_site else self.others
        options = dict(self.options) if is_site else {}
        cls = load_attention(name)
        if takes_max_length(cls):
            options.setdefault("max_length", max_length)
        # The attention's random draws must not shift those of later layers, so that for one seed the backbone has the
        # same initial weights, whatever attention is inside.
        with torch.random.fork_rng(devices=[]):
            attention = build_attention(
                name, pattern=pattern, num_heads=num_heads, head_dim=embed_dim // num_heads, **options
            )
        # An attention that encodes positions itself must not get rotary ones as well.
        rotary = rotary and not getattr(attention, "encodes_positions", False)
        layer = MultiHeadAttention(
            embed_dim, num_heads, attention, dropout=dropout, bias=bias, source_dim=source_dim, rotary=rotary
        )
        if is_site:
            self.replaced.append(layer)
        return layer
