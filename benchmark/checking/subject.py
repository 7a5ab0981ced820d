"""The attention under check: how it is built, fed and streamed.

``Subject`` knows of the attention only what ``benchmark.interface.Attention`` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.arguments import checked
from benchmark.checking.measurement import Broken, NotApplicable
from benchmark.interface import Pattern
from benchmark.registry import takes_max_length

BATCH, NUM_HEADS, HEAD_DIM = 3, 2, 16
MAX_LENGTH = 1024  # for attentions that need one; longer than all inputs except those of ``long_inputs`` and the like
# One, two, primes, the neighbours of usual windows and chunks, and a length that is a multiple of none of them.
LENGTHS = (1, 2, 7, 8, 9, 31, 63, 64, 65, 127, 129, 257, 781)


@dataclass(frozen=True)
class Subject:
    """One attention at one pattern, with the options and the device that it is checked with."""

    cls: type
    pattern: Pattern
    options: Mapping[str, Any]
    device: str

    @property
    def is_cross(self) -> bool:
        """True where q comes from another sequence than k and v."""
        return self.pattern.endswith("cross")

    @property
    def is_causal(self) -> bool:
        """True for the patterns that can stream."""
        return self.pattern.startswith("causal")

    @property
    def linear_state(self) -> bool:
        """True where the class declares that its state doesn't grow with the tokens read."""
        return bool(getattr(self.cls, "linear_state", False))

    @property
    def takes_max_length(self) -> bool:
        """True where the constructor takes ``max_length``."""
        return takes_max_length(self.cls)

    def build(self, dtype: torch.dtype = torch.float64, *, seed: int = 0, max_length: int = MAX_LENGTH) -> Any:
        """The module in evaluation mode, with noise on its parameters: a bias that stays zero would hide its faults."""
        options = dict(self.options)
        if self.takes_max_length:
            options.setdefault("max_length", max_length)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            module = checked(self.cls)(pattern=self.pattern, num_heads=NUM_HEADS, head_dim=HEAD_DIM, **options)
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
        return module.to(self.device, dtype).eval()

    def shapes(self, module: Any) -> list[tuple[int, int]]:
        """Pairs (target length, source length) around the usual boundaries and the module's own window and chunk."""
        own = (getattr(module, name, None) for name in ("window", "chunk_size"))
        beside = {size + step for size in own if isinstance(size, int) and 1 < size < 512 for step in (-1, 0, 1)}
        lengths = sorted({*LENGTHS, *beside})
        if not self.is_cross:
            return [(length, length) for length in lengths]
        return [(length, 5) for length in lengths[::3]] + [(5, length) for length in lengths]

    def inputs(
        self,
        target: int,
        source: int | None = None,
        *,
        batch: int = BATCH,
        dtype: torch.dtype = torch.float64,
        seed: int = 1,
    ) -> list[Tensor]:
        """Normal q (batch, heads, target, head_dim), k and v (batch, heads, source, head_dim); source defaults to target."""
        source = target if source is None else source
        generator = torch.Generator().manual_seed(seed)
        # Drawn in float64 and then rounded, so that every dtype gets the same numbers.
        draws = (
            torch.randn(batch, NUM_HEADS, length, HEAD_DIM, generator=generator, dtype=torch.float64)
            for length in (target, source, source)
        )
        return [draw.to(self.device, dtype) for draw in draws]

    def padding_masks(self, length: int) -> Iterator[tuple[str, Tensor]]:
        """Named masks (batch, length), True where padded: right, left and inside, for a batch of several rows and of one."""
        steps = torch.arange(length)
        few, half, most = length // 9, length - 50, length - 2
        inside = torch.rand(BATCH, length, generator=torch.Generator().manual_seed(2)) < 0.5
        inside[:, 0] = inside[:, -1] = False
        counts = torch.tensor([[half], [few], [most]])
        for place, mask in (("right", steps >= length - counts), ("left", steps < counts), ("inside", inside)):
            yield f"padded {place}, batch {BATCH}", mask.to(self.device)
            yield f"padded {place}, batch 1", mask[:1].to(self.device)
        yield "a mask that pads nothing", torch.zeros(BATCH, length, dtype=torch.bool, device=self.device)

    def start(self, module: Any, inputs: Sequence[Tensor], mask: Tensor | None = None) -> Any:
        """The state before the first query."""
        q, k, v = inputs
        if self.is_cross:
            return module.init_cross(k, v, key_padding_mask=mask)
        return module.init_state(q.shape[0], device=q.device, dtype=q.dtype)

    def advance(self, module: Any, inputs: Sequence[Tensor], state: Any, begin: int, end: int) -> tuple[Tensor, Any]:
        """The outputs of the queries from begin to end, and the state after them."""
        q, k, v = inputs
        if self.is_cross:
            return module.read(q[:, :, begin:end], state)
        return module.extend(q[:, :, begin:end], k[:, :, begin:end], v[:, :, begin:end], state)

    def stream(
        self, module: Any, inputs: Sequence[Tensor], pieces: Iterable[int], mask: Tensor | None = None
    ) -> Tensor:
        """The outputs of all queries, streamed in pieces of these lengths."""
        state, begin, outputs = self.start(module, inputs, mask), 0, []
        for length in pieces:
            out, state = self.advance(module, inputs, state, begin, begin + length)
            outputs.append(out)
            begin += length
        return torch.cat(outputs, 2)

    def must_stream(self) -> None:
        """Raises NotApplicable for noncausal patterns, and Broken for a causal attention without the streaming methods."""
        if not self.is_causal:
            raise NotApplicable("noncausal patterns have no state")
        own = ("init_cross", "read") if self.is_cross else ("init_state", "extend")
        missing = [name for name in (*own, "select", "state_bytes") if not callable(getattr(self.cls, name, None))]
        if missing:
            raise Broken(
                f"a causal attention streams, this one has no {', no '.join(missing)}; "
                "or declare the pattern in `unsupported`"
            )
