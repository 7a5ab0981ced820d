"""The attention that is checked: how it is built, gets its inputs, and streams.

``Subject`` uses only the parts of an attention that ``benchmark.interface.Attention`` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.arguments import checked
from benchmark.checking.measurement import Broken, Missing, NotApplicable
from benchmark.interface import STREAMING, Pattern, missing_methods
from benchmark.registry import takes_max_length

BATCH, NUM_HEADS, HEAD_DIM = 3, 2, 16
# For attentions that need a longest length.  Checks with longer inputs, like ``long_inputs``, set a larger one.
MAX_LENGTH = 1024
# One, two, primes, the lengths next to usual windows and chunks, and 781, which is a multiple of none of them.
LENGTHS = (1, 2, 7, 8, 9, 31, 63, 64, 65, 127, 129, 257, 781)


@dataclass(frozen=True)
class Subject:
    """One attention at one pattern, with the options and on the device for the checks."""

    cls: type
    pattern: Pattern
    options: Mapping[str, Any]
    device: str

    @property
    def is_cross(self) -> bool:
        """True if q comes from another sequence than k and v."""
        return self.pattern.endswith("cross")

    @property
    def is_causal(self) -> bool:
        """True for the patterns that can stream."""
        return self.pattern.startswith("causal")

    @property
    def linear_state(self) -> bool:
        """True if the class declares that its state doesn't grow with the number of tokens that were read."""
        return bool(getattr(self.cls, "linear_state", False))

    @property
    def takes_max_length(self) -> bool:
        """True if the constructor takes ``max_length``."""
        return takes_max_length(self.cls)

    def build(self, dtype: torch.dtype = torch.float64, *, seed: int = 0, max_length: int = MAX_LENGTH) -> Any:
        """Builds the module in evaluation mode.

        Noise is added to the parameters, because a parameter that is zero, like a new bias, would hide faults in its use.
        """
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
        """Returns pairs (target length, source length): LENGTHS, and lengths around the module's own window and chunk."""
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
        """Returns random q (batch, heads, target, head_dim), and k and v (batch, heads, source, head_dim).

        target, source: the numbers of queries and of keys; source defaults to target.
        """
        source = target if source is None else source
        generator = torch.Generator().manual_seed(seed)
        # Drawn in float64 and then rounded, so that the numbers are the same for every dtype.
        draws = (
            torch.randn(batch, NUM_HEADS, length, HEAD_DIM, generator=generator, dtype=torch.float64)
            for length in (target, source, source)
        )
        return [draw.to(self.device, dtype) for draw in draws]

    def padding_masks(self, length: int) -> Iterator[tuple[str, Tensor]]:
        """Yields named masks (batch, length), True where padded: on the right, on the left, and inside the sequence.

        Each comes for a batch of several rows and for one row.  The last mask pads nothing.
        """
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
        """Returns the state before the first query.  mask: of the source, in a cross-attention."""
        q, k, v = inputs
        if self.is_cross:
            return module.init_cross(k, v, key_padding_mask=mask)
        return module.init_state(q.shape[0], device=q.device, dtype=q.dtype)

    def advance(self, module: Any, inputs: Sequence[Tensor], state: Any, begin: int, end: int) -> tuple[Tensor, Any]:
        """Returns the outputs of the queries from ``begin`` to ``end``, and the state after them."""
        q, k, v = inputs
        if self.is_cross:
            return module.read(q[:, :, begin:end], state)
        return module.extend(q[:, :, begin:end], k[:, :, begin:end], v[:, :, begin:end], state)

    def stream(
        self, module: Any, inputs: Sequence[Tensor], pieces: Iterable[int], mask: Tensor | None = None
    ) -> Tensor:
        """Returns the outputs of all queries, streamed in pieces of these lengths."""
        state, begin, outputs = self.start(module, inputs, mask), 0, []
        for length in pieces:
            out, state = self.advance(module, inputs, state, begin, begin + length)
            outputs.append(out)
            begin += length
        return torch.cat(outputs, 2)

    @property
    def streams(self) -> bool:
        """Whether the pattern is causal and the class has all methods of streaming.  Raises Broken if it has some of them."""
        wanted, missing = STREAMING.get(self.pattern, ()), missing_methods(self.cls, self.pattern)
        if missing and len(missing) < len(wanted):
            present = [name for name in wanted if name not in missing]
            raise Broken(f"has {' and '.join(present)}, but no {', no '.join(missing)}; streaming needs all of them")
        return bool(wanted) and not missing

    def must_stream(self) -> None:
        """Raises NotApplicable for noncausal patterns, Missing if the attention can't stream."""
        if not self.is_causal:
            raise NotApplicable("noncausal patterns have no state")
        if not self.streams:
            raise Missing(f"has no {', no '.join(STREAMING[self.pattern])}")
