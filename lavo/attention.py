"""LAVOAttention: LAVO as a module, in the four patterns, with a streaming state of constant size."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from lavo import streaming
from lavo.basis import BASES, fold_columns, fold_rows, make_basis
from lavo.blocks import Tokens, accumulation_dtype, carry_dtype
from lavo.cross import read_memory, source_mean
from lavo.functional import (
    OUTPUTS,
    alike,
    check_inputs,
    check_overlap,
    full_precision,
    lavo_attention,
    lavo_cross_attention,
    resolve_backend,
)
from lavo.parallel import Part, parallel_lavo_attention, split_length
from lavo.streaming import CrossState, Form, SelfState

State = TypeVar("State", SelfState, CrossState)
PATTERNS = ("noncausal_self", "causal_self", "noncausal_cross", "causal_cross")


def default_rank(head_dim: int) -> int:
    """Returns the rank of the memory if none is given."""
    return min(64, head_dim)


def default_basis(rank: int, head_dim: int) -> str:
    """Returns the kind of basis that "auto" stands for.

    For rank = head_dim a learned basis adds nothing but products: it is a rotation, which the projections absorb.
    """
    return "identity" if rank == head_dim else "learned"


class LAVOAttention(nn.Module):
    """Linear attention via orthogonal memory.

    pattern: "noncausal_self", "causal_self", "noncausal_cross" or "causal_cross".
    rank: the number of units of the memory; None means min(64, head_dim).
    window: the number of tokens that attend to each other exactly (self-attention only).
    window_overlap: True means that a token sees its own block of window / 2 tokens and the block before it (in
        noncausal_self also the block after it), so at least window / 2 tokens back (overlap.py).  It needs an even window,
        and runs in torch only: on a GPU "auto" is then "torch", and a sequence can't be split over several processes.
    output: "sum" (window plus memory), "joint" (one softmax over window and memory) or "memory" (the memory alone).
    basis: "learned" (stays orthonormal), "fixed" (random), "identity" (the head's first axes), "free" (trained without a
        constraint), or "none" (for ablations: the memory is empty, so only the windows give output).  "auto" is "identity"
        if rank = head_dim, because the projections then absorb a learned basis, and "learned" if rank < head_dim.  The
        attribute ``basis_kind`` says which one it is.
    position_bias: whether the windows have a learned bias by distance, which is zero at the start.
    dissect: False is for ablations: there are no windows, and the memory compresses the values themselves.
    backend: "auto" (triton on a CUDA device, else torch), "triton", "torch" or "reference".  The attribute ``kernel`` says
        which one ran last.
    basis_seed: the seed of a random basis; a learned basis starts from a random one.

    Raises ValueError for a bad option, with its value and what is allowed.
    """

    version = 2
    unsupported: ClassVar[Mapping[str, str]] = {}
    linear_state = True
    encodes_positions = True
    sequence_patterns: ClassVar[tuple[str, ...]] = ("causal_self",)
    # LAVO is also used without ``benchmark``, which checks the arguments of the other attentions for them.
    checks_arguments = True

    def __init__(
        self,
        *,
        pattern: str,
        num_heads: int,
        head_dim: int,
        rank: int | None = None,
        window: int = 64,
        output: str = "sum",
        basis: str = "auto",
        position_bias: bool = True,
        dissect: bool = True,
        window_overlap: bool = False,
        backend: str = "auto",
        basis_seed: int = 0,
    ) -> None:
        super().__init__()
        rank = default_rank(head_dim) if rank is None else rank
        for name, value, allowed in (
            ("pattern", pattern, PATTERNS),
            ("output", output, OUTPUTS),
            ("basis", basis, ("auto", *BASES)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, size in (("num_heads", num_heads), ("head_dim", head_dim), ("rank", rank), ("window", window)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
        for name, switch in (("position_bias", position_bias), ("dissect", dissect)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} must be true or false, got {switch!r}")
        check_overlap(window_overlap, window, dissect)
        if isinstance(basis_seed, bool) or not isinstance(basis_seed, int) or basis_seed < 0:
            raise ValueError(f"basis_seed must be an integer of at least 0, got {basis_seed!r}")
        if rank > head_dim:
            raise ValueError(f"rank must be at most head_dim = {head_dim}, got {rank}")
        if basis == "auto":
            basis = default_basis(rank, head_dim)
        if basis == "none":
            if output == "memory" or not dissect or pattern.endswith("cross"):
                raise ValueError(
                    'basis "none" leaves only the windows, and with this pattern, output or dissect there are no windows'
                )
            rank, output = 1, "sum"  # the memory is empty and reads as zero, so the sum is the output of the windows
        self.pattern, self.num_heads, self.head_dim, self.rank = pattern, num_heads, head_dim, rank
        self.window, self.output, self.dissect, self.backend = window, output, dissect, backend
        self.window_overlap = window_overlap and pattern.endswith("self")
        self.kernel = resolve_backend(backend, window_overlap=self.window_overlap)
        self.causal = pattern == "causal_self"
        self.basis_kind, self.identity = basis, basis == "identity" and rank == head_dim
        self.sequence_part: Part | None = None  # see lavo.parallel.sequence_part
        self.basis = make_basis(basis, num_heads=num_heads, rank=rank, head_dim=head_dim, seed=basis_seed)
        self.bias: nn.Parameter | None = None
        if position_bias and dissect and pattern.endswith("self"):
            self.bias = nn.Parameter(torch.zeros(num_heads, window if self.causal else 2 * window - 1))
        # Without the bias the order of tokens has no effect: a window is then a set, and the memory is a mean.
        self.encodes_positions = self.bias is not None

    @staticmethod
    def settled_options(options: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
        """Returns the options with those defaults filled in that depend on head_dim: ``rank`` and ``basis``."""
        rank = default_rank(head_dim) if options.get("rank") is None else options["rank"]
        basis = options.get("basis", "auto")
        return {**options, "rank": rank, "basis": default_basis(rank, head_dim) if basis == "auto" else basis}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the attention.  Returns a tensor of the shape and dtype of q.

        q: (batch, heads, target length, head_dim).  k, v: (batch, heads, source length, head_dim); cross-attention uses only
        the shape of k.
        key_padding_mask: bool (batch, source length), True where padded, or None.
        """
        return self._attend(q, k, v, key_padding_mask, self.backend)

    def definition(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Computes the same as ``forward`` directly by the formulas (reference.py), in O(n^2) time and memory.

        It is the reference that ``forward`` is checked against.
        """
        return self._attend(q, k, v, key_padding_mask, "reference")

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: str) -> Tensor:
        self._check_heads(q)
        if self.sequence_part is not None:
            return self._attend_in_parts(q, k, v, mask)
        basis = self.basis()
        window = self.window if self.dissect and self.pattern.endswith("self") else 1
        backend = resolve_backend(
            backend, q, window, 0 if basis is None else self.rank, window_overlap=self.window_overlap
        )
        self.kernel = backend
        if self.pattern.endswith("cross"):
            if k.shape != v.shape:
                raise ValueError(f"k and v must have one shape, got {tuple(k.shape)} and {tuple(v.shape)}")
            return lavo_cross_attention(q, v, basis, key_padding_mask=mask, backend=backend)
        return lavo_attention(
            q,
            k,
            v,
            basis,
            window=self.window,
            bias=self.bias,
            causal=self.causal,
            key_padding_mask=mask,
            output=self.output,
            dissect=self.dissect,
            window_overlap=self.window_overlap,
            backend=backend,
        )

    def _attend_in_parts(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        assert self.sequence_part is not None
        if self.pattern not in self.sequence_patterns or mask is not None:
            raise ValueError(
                'only "causal_self" without padding can attend over a sequence that is split into parts, '
                f"got {self.pattern!r} and key_padding_mask={'given' if mask is not None else None}"
            )
        self._check_parts()
        self.kernel = "torch"
        return parallel_lavo_attention(
            q,
            k,
            v,
            self.basis(),
            self.sequence_part,
            window=self.window,
            bias=self.bias,
            output=self.output,
            dissect=self.dissect,
        )

    def make_part(self, length: int, *, num_parts: int, rank: int) -> Part:
        """Returns the part of a sequence that the process of this rank takes, cut at whole windows.

        length: tokens of the whole sequence.  Set the result as ``sequence_part``, or use ``lavo.parallel.sequence_part``.
        Raises ValueError for windows that overlap.
        """
        self._check_parts()
        return Part(split_length(length, num_parts, self.window if self.dissect else 1), rank)

    def _check_parts(self) -> None:
        if self.window_overlap:
            raise ValueError(
                "window_overlap: a sequence that is split into parts needs windows that end where parts end, "
                "so a layer with overlapping windows can't be trained with train.parallel=sequence"
            )

    @torch.no_grad()
    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SelfState:
        """Returns the state before the first token (only for ``causal_self``).  dtype: the dtype of the tokens to come.

        Raises ValueError for another pattern.
        """
        if self.pattern != "causal_self":
            raise ValueError(f'init_state needs the pattern "causal_self", this attention has {self.pattern!r}')
        device = torch.device("cpu" if device is None else device)
        window = self.window if self.dissect else 0
        keys, values = (
            torch.zeros(batch_size, self.num_heads, window, self.head_dim, device=device, dtype=dtype) for _ in range(2)
        )
        mean = torch.zeros(batch_size, self.num_heads, 1, self.rank, device=device, dtype=carry_dtype(device))
        return SelfState(keys, values, mean, 0, [0])

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: SelfState) -> tuple[Tensor, SelfState]:
        """Reads any number of new tokens (0, 1 or more) after those that ``state`` has read.  Computes no gradients.

        q, k, v: (batch, heads, new tokens, head_dim).  Returns the output for the new tokens, and a new state.
        Raises ValueError if the shapes do not fit each other or the state.
        """
        if not alike(q, k, v) or q.shape[1] != self.num_heads or q.shape[3] != self.head_dim:
            self._check_heads(q)
            check_inputs({"q": q, "k": k, "v": v}, None, None)
            shapes = f"{q.shape[2]} and {k.shape[2]} of them, in {tuple(q.shape)} and {tuple(k.shape)}"
            raise ValueError(f"q and k must be the same new tokens, got {shapes}")
        self._check_batch(q, state.keys)
        # Entering these contexts takes a tenth of the time of a step, and a decoder is usually in them already.
        if not torch.is_grad_enabled() and not torch.is_autocast_enabled(q.device.type):
            return self._extend(Tokens(q, k, v), state)
        with torch.no_grad(), full_precision(q):
            return self._extend(Tokens(q, k, v), state)

    def _extend(self, tokens: Tokens, state: SelfState) -> tuple[Tensor, SelfState]:
        basis = None if self.identity else self.basis()
        # Detached, because torch's kernel takes a detour for a mask that wants a gradient, also where none is computed.
        bias: Tensor | None = self.bias
        bias = None if bias is None else bias.detach()
        form = Form(basis, bias, self.output if self.dissect else "memory", self.window_overlap)
        window = self.window if self.dissect else 1
        kernel = resolve_backend(
            self.backend, tokens.q, window, 0 if basis is None else self.rank, window_overlap=self.window_overlap
        )
        if kernel == "triton":
            from lavo import fused_streaming

            found = fused_streaming.extend(tokens, form, state)
            if found is not None:
                self.kernel = kernel
                return found
        if self.kernel != "torch":  # to set an attribute of a module takes longer than to compare it
            self.kernel = "torch"
        if basis is not None:
            form = form._replace(basis=basis.to(accumulation_dtype(tokens.q)))
        return streaming.extend(tokens, form, state)

    def init_cross(self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> CrossState:
        """Reads the whole source once and returns the state (only for ``causal_cross``).

        k, v: (batch, heads, source length, head_dim); LAVO uses only the shape of k.
        Raises ValueError for another pattern.
        """
        if self.pattern != "causal_cross":
            raise ValueError(f'init_cross needs the pattern "causal_cross", this attention has {self.pattern!r}')
        self._check_heads(v, "v")
        check_inputs({"k": k, "v": v}, None, key_padding_mask)
        with full_precision(v):
            return CrossState(source_mean(v, self.basis(), key_padding_mask))

    def read(self, q: Tensor, state: CrossState) -> tuple[Tensor, CrossState]:
        """Returns the output for the next queries, (batch, heads, any number, head_dim), and the same state."""
        self._check_heads(q)
        self._check_batch(q, state.mean)
        self.kernel = "torch"
        with full_precision(q):
            return read_memory(q, state.mean, self.basis()), state

    def select(self, state: State, rows: Tensor) -> State:
        """Returns the state of these rows of the batch, which may repeat or leave out some.  rows: (new batch,) int64."""
        parts: Any = (x.index_select(0, rows.to(x.device)) if isinstance(x, Tensor) else copy(x) for x in state)
        return type(state)(*parts)

    def state_bytes(self, state: SelfState | CrossState) -> int:
        """Returns the bytes of a state, counted from its tensors."""
        return sum(x.nbytes for x in state if isinstance(x, Tensor))

    @torch.no_grad()
    def fold_basis(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear) -> LAVOAttention:
        """Moves the basis into the projections around this attention, and returns the attention to use with them.

        A basis of rank head_dim is a rotation, and rotating both q and k does not change q . k.  Therefore the projections
        W_q, W_k, W_v and W_o can be replaced by B W_q, B W_k, B W_v and W_o Bᵀ.  The basis is then the identity, and no
        product with B remains to be computed.
        query, key, value: layers from embed_dim to heads * head_dim.  output: the layer back to embed_dim.  All four are
        changed in place.
        Raises ValueError if the basis is not a rotation.
        """
        basis = self.basis()
        if basis is None or self.rank != self.head_dim or self.basis_kind == "free":
            raise ValueError(
                f"fold_basis needs a basis that is a rotation: rank = head_dim = {self.head_dim} and a basis learned or "
                f"fixed, got rank {self.rank} and basis {self.basis_kind!r}"
            )
        for layer in (query, key, value):
            for x in (layer.weight, layer.bias):
                if x is not None:
                    x.copy_(fold_rows(x, basis))
        output.weight.copy_(fold_columns(output.weight, basis))
        folded = LAVOAttention(
            pattern=self.pattern,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            rank=self.rank,
            window=self.window,
            output=self.output,
            basis="identity",
            position_bias=self.bias is not None,
            dissect=self.dissect,
            window_overlap=self.window_overlap,
            backend=self.backend,
        )
        if self.bias is not None:
            folded.bias = nn.Parameter(self.bias.clone())
        return folded.train(self.training)

    def _check_heads(self, x: Tensor, name: str = "q") -> None:
        if x.ndim != 4 or (x.shape[1], x.shape[3]) != (self.num_heads, self.head_dim):
            raise ValueError(
                f"{name} must be (batch, heads, length, head_dim) with {self.num_heads} heads of {self.head_dim}, "
                f"got {tuple(x.shape)}"
            )

    def _check_batch(self, q: Tensor, stored: Tensor) -> None:
        if q.shape[0] != stored.shape[0]:
            raise ValueError(f"q must have the state's batch of {stored.shape[0]}, got {q.shape[0]}")
