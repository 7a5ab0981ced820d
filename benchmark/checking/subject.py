"""What a check works with: an attention under check, how it is built, fed and streamed; and measurements with limits.

``Subject`` knows of the attention only what ``benchmark.interface.Attention`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark.arguments import checked
from benchmark.interface import Pattern
from benchmark.registry import takes_max_length

TOLERANCES = {
    # Share of the expected result's root mean square.  What the same formula in another order of summation gives, with
    # room for some thousand terms.  An average over 781 unit values is 20 times smaller than its terms, whose rounding
    # (6e-8 in float32, times the exponents that went through an exponential) stays: 1e-5 was met by all but that case.
    torch.float64: 1e-10,
    torch.float32: 3e-5,
    # Weights and outputs have 8 and 11 bits, so single results are off by 4e-3 and 5e-4 before anything is summed.
    torch.bfloat16: 2e-2,
    torch.float16: 5e-3,
}
BATCH, NUM_HEADS, HEAD_DIM = 3, 2, 16
MAX_LENGTH = 1024  # for attentions that want one; longer than anything here but the long inputs
# One, two, primes, one beside the usual windows and chunks, and a length that is a multiple of none of them.
LENGTHS = (1, 2, 7, 8, 9, 31, 63, 64, 65, 127, 129, 257, 781)


class Measurement(NamedTuple):
    """Where a difference was taken, how large it is, and how large it may be."""

    where: str
    difference: float
    limit: float


class NotApplicable(Exception):
    """The check asks for something that this attention, or this pattern, doesn't have."""


class Broken(Exception):
    """A promise without a figure is not kept."""


Measurements = Iterator[Measurement]


@dataclass(frozen=True)
class Subject:
    """What is checked, one attention at one pattern, and how it is built, fed and streamed."""

    cls: type
    pattern: Pattern
    options: Mapping[str, Any]
    device: str

    @property
    def is_cross(self) -> bool:
        return self.pattern.endswith("cross")

    @property
    def linear_state(self) -> bool:
        return bool(getattr(self.cls, "linear_state", False))

    def build(self, dtype: torch.dtype = torch.float64, *, seed: int = 0, max_length: int = MAX_LENGTH) -> Any:
        """The module in evaluation mode.  Its parameters are moved: a bias that starts at zero would hide its faults."""
        options = dict(self.options)
        if self.takes_max_length:
            options.setdefault("max_length", max_length)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            module = checked(self.cls)(pattern=self.pattern, num_heads=NUM_HEADS, head_dim=HEAD_DIM, **options)
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
        return module.to(self.device, dtype).eval()

    @property
    def takes_max_length(self) -> bool:
        return takes_max_length(self.cls)

    def shapes(self, module: Any) -> list[tuple[int, int]]:
        """(target length, source length) around the usual boundaries and the module's own window and chunk."""
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
        """q, k and v, normal; where the lengths must be equal, ``source`` may be left out."""
        source = target if source is None else source
        generator = torch.Generator().manual_seed(seed)
        # Drawn in float64 and rounded, so that each dtype reads the same numbers.
        draws = (
            torch.randn(batch, NUM_HEADS, length, HEAD_DIM, generator=generator, dtype=torch.float64)
            for length in (target, source, source)
        )
        return [draw.to(self.device, dtype) for draw in draws]

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
        """All outputs, read in pieces of these lengths."""
        state, begin, outputs = self.start(module, inputs, mask), 0, []
        for length in pieces:
            out, state = self.advance(module, inputs, state, begin, begin + length)
            outputs.append(out)
            begin += length
        return torch.cat(outputs, 2)

    def must_stream(self) -> None:
        """Raises NotApplicable for noncausal patterns, Broken where a causal attention lacks what it owes."""
        if not self.pattern.startswith("causal"):
            raise NotApplicable("noncausal patterns have no state")
        own = ("init_cross", "read") if self.is_cross else ("init_state", "extend")
        missing = [name for name in (*own, "select", "state_bytes") if not callable(getattr(self.cls, name, None))]
        if missing:
            raise Broken(f"a causal attention streams, this one has no {', no '.join(missing)}; or declare the pattern "
                         "in `unsupported`")  # fmt: skip


def close(where: str, result: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> Measurement:
    """The largest difference as a share of the expected root mean square, with the limit of the result's dtype."""
    scale = expected.double().square().mean().sqrt().item() if expected.numel() else 1.0
    return Measurement(where, _difference(where, result, expected) / (scale or 1.0), TOLERANCES[dtype or result.dtype])


def same(where: str, result: Tensor, expected: Tensor) -> Measurement:
    """The largest difference where none is allowed."""
    return Measurement(where, _difference(where, result, expected), 0.0)


def _difference(where: str, result: Tensor, expected: Tensor) -> float:
    if result.shape != expected.shape:
        raise Broken(f"{where}: shape {tuple(result.shape)}, expected {tuple(expected.shape)}")
    if not expected.numel():
        return 0.0
    difference = (result.double() - expected.double()).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


def finite(where: str, *tensors: Tensor) -> Measurement:
    """The share of entries that are NaN or infinite: none is allowed."""
    share = max(1.0 - t.isfinite().double().mean().item() for t in tensors if t.numel())
    return Measurement(where, share, 0.0)


def gradients_of(call: Callable[..., Tensor], inputs: Sequence[Tensor], others: Iterable[Tensor] = ()) -> list[Tensor]:
    """Gradients of a fixed weighted sum of call(*inputs), to inputs and others; zeros for what plays no part."""
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        wanted = [*leaves, *others]
        total = weighted_sum(call(*leaves))
        if not total.requires_grad:  # a control may look at nothing
            return [torch.zeros_like(leaf) for leaf in wanted]
        return list(torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True))


def weighted_sum(out: Tensor) -> Tensor:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (out * weights.to(out)).sum()


def refusal(what: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """The message of the ValueError that the call raises; anything else is a failure."""
    try:
        call(*arguments, **named)
    except ValueError as error:
        return str(error)
    except Exception as error:  # the check's question is which exception it is
        raise Broken(
            f"{what}: raises {type(error).__name__}, not ValueError ({(str(error).splitlines() or [''])[0]})"
        ) from error
    raise Broken(f"{what}: accepted")


def must_say(what: str, message: str, words: Iterable[str]) -> Measurement:
    """Zero, where the message has all the words; raises Broken otherwise."""
    missing = [word for word in words if word not in message]
    if missing:
        raise Broken(f"{what}: refused, but the message doesn't say {', '.join(missing)}: {message}")
    return Measurement(what, 0.0, 0.0)


def padding_masks(length: int, device: str) -> Iterator[tuple[str, Tensor]]:
    """Masks of one row and of several with unequal numbers of padded tokens, True where padded."""
    steps = torch.arange(length)
    few, half, most = length // 9, length - 50, length - 2
    inside = torch.rand(BATCH, length, generator=torch.Generator().manual_seed(2)) < 0.5
    inside[:, 0] = inside[:, -1] = False
    counts = torch.tensor([[half], [few], [most]])
    for place, mask in (("right", steps >= length - counts), ("left", steps < counts), ("inside", inside)):
        yield f"padded {place}, batch {BATCH}", mask.to(device)
        yield f"padded {place}, batch 1", mask[:1].to(device)
    yield "a mask that pads nothing", torch.zeros(BATCH, length, dtype=torch.bool, device=device)


def padding_contents(x: Tensor) -> dict[str, Tensor]:
    """What padded places may hold, and what must not matter."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).to(x)
    return {
        "zeros": torch.zeros_like(x),
        "noise": noise,
        "noise of 1e4": noise * 1e4,
        "NaN": torch.full_like(x, math.nan),
        "infinity": torch.full_like(x, math.inf),
    }


Check = Callable[[Subject], Measurements]
"""One promise; it fails where a measurement is over its limit."""
