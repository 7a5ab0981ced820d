"""The checks of ``lavo-bench check``: what every attention must keep, whoever wrote it, one function a promise.

A check is a generator of measurements, and fails where one is over its limit.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from einops import einsum
from torch import Tensor

from benchmark.interface import PATTERNS, state_tensors
from benchmark.registry import check_declarations, check_options, check_pattern, load_attention
from benchmark.subject import (
    BATCH,
    HEAD_DIM,
    TOLERANCES,
    Broken,
    Measurement,
    Measurements,
    NotApplicable,
    Subject,
    close,
    finite,
    gradients_of,
    must_say,
    padding_contents,
    padding_masks,
    refusal,
    same,
    weighted_sum,
)

Outcome = Literal["passed", "failed", "not applicable"]


class CheckResult(NamedTuple):
    """One row of the table: a check, the pattern it ran at, what came out, and the figure with its limit."""

    check: str
    pattern: str
    outcome: Outcome
    detail: str


Check = Callable[["Subject"], Measurements]


def check_attention(
    name: str,
    *,
    patterns: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[CheckResult]:
    """All checks on the attention of this name, at each pattern.

    Raises ValueError for an unknown name, pattern or option; whatever the attention does wrong is a row.
    """
    cls = load_attention(name)
    check_options(name, cls, options or {})
    return check_class(cls, patterns=patterns, options=options, device=device)


def check_class(
    cls: type,
    *,
    patterns: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    checks: Sequence[Check] | None = None,
    device: str = "cpu",
) -> list[CheckResult]:
    """All checks (or ``checks``) on a class that need not be registered."""
    check_declarations(cls.__name__, cls)
    results = []
    for pattern in PATTERNS if patterns is None else patterns:
        check_pattern(pattern)
        if pattern in cls.unsupported:  # type: ignore[attr-defined]
            reason = cls.unsupported[pattern]  # type: ignore[attr-defined]
            results.append(CheckResult("pattern", pattern, "not applicable", f"unsupported: {reason}"))
            continue
        subject = Subject(cls, pattern, options or {}, device)  # type: ignore[arg-type]
        results += [run_check(check, subject) for check in checks or CHECKS]
    return results


def run_check(check: Check, subject: Subject) -> CheckResult:
    """One row.  An exception inside a check is the attention's failure, told in a line."""
    outcome: Outcome
    try:
        with torch.no_grad():
            measurements = list(check(subject))
        beyond = [m for m in measurements if not m.difference <= m.limit]
        outcome, detail = ("failed" if beyond else "passed"), _figures(measurements, beyond)
    except NotApplicable as reason:
        outcome, detail = "not applicable", str(reason)
    except Broken as reason:
        outcome, detail = "failed", str(reason)
    except Exception as error:  # a stranger's module may raise anything, and the other checks still tell something
        outcome, detail = "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return CheckResult(check.__name__, subject.pattern, outcome, detail)


def _figures(measurements: Sequence[Measurement], beyond: Sequence[Measurement]) -> str:
    """The worst case with its figure and limit, and how many there were."""
    worst = max(measurements, key=_excess)
    figure = f"{worst.where}: {worst.difference:.2g}, limit {worst.limit:g}"
    if beyond:
        return f"{figure}; {len(beyond)} of {len(measurements)} cases fail"
    if worst.limit == math.inf:  # asked for the figure's sake
        return worst.where
    if worst.limit == 0:
        return f"{worst.where}: holds" if len(measurements) == 1 else f"{len(measurements)} cases, all hold"
    return f"{len(measurements)} cases; worst: {figure}"


def _excess(measurement: Measurement) -> float:
    """How far over its limit; where only equality will do, any difference is infinitely far."""
    if measurement.limit:
        return measurement.difference / measurement.limit
    return math.inf if measurement.difference else 0.0


def shape_and_dtype(subject: Subject) -> Measurements:
    """The output has the shape, dtype and device of q, also where the inputs' precision is below the parameters'."""
    for dtype, parameters in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        module = subject.build(parameters)
        target, source = (7, 5) if subject.is_cross else (7, 7)
        inputs = subject.inputs(target, source, dtype=dtype)
        results = [("forward", module(*inputs))]
        if subject.pattern.startswith("causal"):
            subject.must_stream()
            results.append(("streamed", subject.stream(module, inputs, (4, 1, 2))))
        for way, out in results:
            what = f"{way}, {str(dtype).removeprefix('torch.')} inputs"
            if (out.shape, out.dtype, out.device) != (inputs[0].shape, dtype, inputs[0].device):
                raise Broken(f"{what}: gives {tuple(out.shape)} {out.dtype}, q is {tuple(inputs[0].shape)} {dtype}")
            yield Measurement(what, 0.0, 0.0)


def oracle(subject: Subject) -> Measurements:
    """``forward`` is the attention's own ``definition``, in float64, with and without padding."""
    module = subject.build()
    definition = _definition(module)
    for target, source in subject.shapes(module):
        inputs = subject.inputs(target, source, batch=1)
        yield close(f"{target} queries, {source} keys", module(*inputs), definition(*inputs))
    for place, mask in padding_masks(97, subject.device):
        q, k, v = subject.inputs(97, batch=len(mask))
        real = torch.ones_like(mask) if subject.is_cross else ~mask
        result, expected = (call(q, k, v, key_padding_mask=mask).transpose(1, 2) for call in (module, definition))
        yield close(place, result[real], expected[real])


def _definition(module: Any) -> Callable[..., Tensor]:
    if not callable(getattr(module, "definition", None)):
        raise NotApplicable("declares no definition()")
    return module.definition


def exact(subject: Subject) -> Measurements:
    """What declares itself exact is softmax attention, in float64."""
    if not getattr(subject.cls, "exact", False):
        raise NotApplicable("doesn't declare itself exact")
    module = subject.build()
    for target, source in subject.shapes(module):
        q, k, v = subject.inputs(target, source)
        scores = einsum(q, k, "b h n d, b h m d -> b h n m") * HEAD_DIM**-0.5
        if subject.pattern == "causal_self":
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        yield close(f"{target} queries, {source} keys", module(q, k, v), scores.softmax(-1) @ v)


def gradients(subject: Subject) -> Measurements:
    """Gradients of inputs and parameters are the definition's; without one, those of finite differences."""
    module = subject.build()
    if not callable(getattr(module, "definition", None)):
        yield from _finite_differences(subject, module)
        return
    for length in (7, 65, 130):
        inputs = subject.inputs(length, batch=2)
        ways = (gradients_of(call, inputs, module.parameters()) for call in (module, module.definition))
        names = ["q", "k", "v", *(name for name, _ in module.named_parameters())]
        for name, result, expected in zip(names, *ways, strict=True):
            yield close(f"to {name}, length {length}", result, expected)


def _finite_differences(subject: Subject, module: Any) -> Measurements:
    shape = (7, 5) if subject.is_cross else (7, 7)
    inputs, direction = subject.inputs(*shape, batch=1), subject.inputs(*shape, batch=1, seed=5)
    analytic = gradients_of(module, inputs)
    step = 1e-6  # in float64 the rounding and the curvature are then both about 1e-9 of the slope
    for index, name in enumerate("qkv"):
        ahead, behind = list(inputs), list(inputs)
        ahead[index], behind[index] = (inputs[index] + sign * step * direction[index] for sign in (1, -1))
        slope = (weighted_sum(module(*ahead)) - weighted_sum(module(*behind))) / (2 * step)
        difference = ((analytic[index] * direction[index]).sum() - slope).abs() / slope.abs().clamp_min(1.0)
        yield Measurement(f"to {name}, finite differences", difference.item(), 1e-6)


def causality(subject: Subject) -> Measurements:
    """What comes later, noise or 1e4 times larger, changes no output, not by one bit; nor has it a gradient."""
    if not subject.pattern.startswith("causal"):
        raise NotApplicable("the pattern is noncausal")
    # What is later than query t: all of q, k and v in self-attention, queries alone in front of a finished source.
    moved = (0,) if subject.is_cross else (0, 1, 2)
    module = subject.build(torch.float32)
    inputs = subject.inputs(150, dtype=torch.float32)
    before = module(*inputs)
    for seen in (1, 40, 64, 129):
        for what, scale in (("noise", 1.0), ("noise of 1e4", 1e4)):
            noise = subject.inputs(150, dtype=torch.float32, seed=7)
            changed = [x.clone() for x in inputs]
            for index in moved:
                changed[index][:, :, seen:] = noise[index][:, :, seen:] * scale
            after = module(*changed)[:, :, :seen]
            yield same(f"{what} after token {seen}", after, before[:, :, :seen])
        slopes = gradients_of(lambda *x, seen=seen: module(*x)[:, :, :seen], inputs)
        for index in moved:
            later = slopes[index][:, :, seen:]
            yield same(f"gradient to {'qkv'[index]} after token {seen}", later, torch.zeros_like(later))


def padding(subject: Subject) -> Measurements:
    """The result at real positions is that of the sequence without its padded tokens, whatever those hold."""
    module = subject.build()
    length = 97
    for place, mask in padding_masks(length, subject.device):
        inputs = subject.inputs(length, batch=len(mask))
        expected = [_without_padding(subject, module, inputs, mask, row) for row in range(len(mask))]
        contents = [padding_contents(x) for x in inputs]
        for content in contents[0]:
            filled = _fill(subject, inputs, [each[content] for each in contents], mask)
            out = module(*filled, key_padding_mask=mask)
            for row, wanted in enumerate(expected):
                yield close(f"{place}, {content}", _real(subject, out, mask, row), wanted)


def padding_gradients(subject: Subject) -> Measurements:
    """Padded tokens get no gradient, and the real ones that of the sequence without padding."""
    module = subject.build()
    for place, mask in padding_masks(70, subject.device):
        inputs = subject.inputs(70, batch=len(mask))
        filled = _fill(subject, inputs, [padding_contents(x)["noise of 1e4"] for x in inputs], mask)
        for row in range(len(mask)):
            real = ~mask[row]

            def padded(*x: Tensor, mask: Tensor = mask, row: int = row) -> Tensor:
                return _real(subject, module(*x, key_padding_mask=mask), mask, row)

            def bare(*x: Tensor, mask: Tensor = mask, row: int = row) -> Tensor:
                return _without_padding(subject, module, x, mask, row)

            ways = zip("qkv", gradients_of(padded, filled), gradients_of(bare, inputs), strict=True)
            for name, result, expected in ways:
                kept = slice(None) if name == "q" and subject.is_cross else real
                yield close(f"{place}, to {name}", result[row][:, kept], expected[row][:, kept])
                if kept is real:
                    lost = result[row][:, ~real]
                    yield same(f"{place}, to padded {name}", lost, torch.zeros_like(lost))


def _fill(subject: Subject, inputs: Sequence[Tensor], contents: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """The inputs with padded places overwritten; the queries of a cross-attention have none."""
    filled = [torch.where(mask[:, None, :, None], fill, x) for x, fill in zip(inputs, contents, strict=True)]
    return [inputs[0], *filled[1:]] if subject.is_cross else filled


def _real(subject: Subject, out: Tensor, mask: Tensor, row: int) -> Tensor:
    return out[row] if subject.is_cross else out[row][:, ~mask[row]]


def _without_padding(subject: Subject, module: Any, inputs: Sequence[Tensor], mask: Tensor, row: int) -> Tensor:
    """The output for one row alone with its padded tokens taken out."""
    q, k, v = (x[row : row + 1] for x in inputs)
    real = ~mask[row]
    return module(q if subject.is_cross else q[:, :, real], k[:, :, real], v[:, :, real])[0]


def empty_context(subject: Subject) -> Measurements:
    """A query without any visible key gives zeros with zero gradients, and leaves the other rows as they were."""
    module = subject.build()
    inputs = subject.inputs(70)
    mask = torch.zeros(BATCH, 70, dtype=torch.bool, device=subject.device)
    mask[1] = True

    def masked(*x: Tensor) -> Tensor:
        return module(*x, key_padding_mask=mask)

    out = masked(*inputs)
    yield same("a row that is all padding", out[1], torch.zeros_like(out[1]))
    yield close("the rows beside it", out[[0, 2]], module(*inputs)[[0, 2]])
    slopes = gradients_of(masked, inputs)
    yield finite("gradients of the batch", *slopes)
    for name, slope in zip("qkv", slopes, strict=True):
        yield same(f"gradient to {name} of that row", slope[1], torch.zeros_like(slope[1]))
    if subject.pattern == "causal_self":
        mask[1], mask[0, :9] = False, True
        lost = masked(*inputs)[0, :, :9]
        yield same("queries before the first real token", lost, torch.zeros_like(lost))
    if subject.pattern == "causal_cross":
        subject.must_stream()
        out = subject.stream(module, inputs, (1, 69), mask)
        yield same("read from a source that is all padding", out[1], torch.zeros_like(out[1]))
    if subject.is_cross:
        q, k, v = inputs
        out = module(q, k[:, :, :0], v[:, :, :0])
        yield same("a source of length 0", out, torch.zeros_like(q))


def batch_invariance(subject: Subject) -> Measurements:
    """A sample alone and in a batch give the same, whatever its neighbours hold."""
    module = subject.build()
    inputs = subject.inputs(70)
    alone = [module(*(x[row : row + 1] for x in inputs))[0] for row in range(BATCH)]
    for row, expected in enumerate(alone):
        for what, scale in (("its neighbours", 1.0), ("neighbours of 1e4", 1e4)):
            scaled = [x * scale for x in inputs]
            for x, whole in zip(inputs, scaled, strict=True):
                whole[row] = x[row]
            yield close(f"beside {what}", module(*scaled)[row], expected)


def streaming(subject: Subject) -> Measurements:
    """Any number of tokens at a time, none and one included, give what the whole gives."""
    subject.must_stream()
    for dtype in (torch.float64, torch.float32):
        module = subject.build(dtype)
        inputs = subject.inputs(150, dtype=dtype)
        whole = module(*inputs)
        yield close("one token at a time", subject.stream(module, inputs, [1] * 150), whole)
        for pieces in ((150,), (0, 3, 2, 0, 59, 1, 64, 21, 0), (64, 64, 22), (63, 66, 21), (149, 1)):
            yield close(f"in pieces of {pieces}", subject.stream(module, inputs, pieces), whole)
    if subject.is_cross:
        for place, mask in padding_masks(97, subject.device):
            inputs = subject.inputs(97, batch=len(mask), dtype=dtype)
            out = subject.stream(module, inputs, (1, 30, 66), mask)
            yield close(f"source {place}", out, module(*inputs, key_padding_mask=mask))


def branching(subject: Subject) -> Measurements:
    """A state stays valid after it was read on: two branches from one state don't know of each other."""
    subject.must_stream()
    module = subject.build()
    trunk, left, right = (subject.inputs(100, seed=seed) for seed in (1, 8, 9))
    branches = [[torch.cat((a[:, :, :70], b[:, :, 70:]), 2) for a, b in zip(trunk, x, strict=True)]
                for x in (left, right)]  # fmt: skip
    if subject.is_cross:  # one finished source for both
        branches = [[branch[0], *trunk[1:]] for branch in branches]
    expected = [module(*branch) for branch in branches]
    _, state = subject.advance(module, trunk, subject.start(module, trunk), 0, 70)
    # Both branches go on by turns, so that what one writes in place of the other's shows.
    states = [state, state]
    for begin, end in ((70, 71), (71, 83), (83, 100)):
        for index, name in enumerate(("first", "second")):
            out, states[index] = subject.advance(module, branches[index], states[index], begin, end)
            yield close(f"{name} branch, tokens {begin} to {end}", out, expected[index][:, :, begin:end])
    out, _ = subject.advance(module, branches[0], state, 70, 100)
    yield close("the first branch again", out, expected[0][:, :, 70:])


def select(subject: Subject) -> Measurements:
    """Rows of a state, repeated or left out, go on as the selected prefixes would."""
    subject.must_stream()
    module = subject.build()
    inputs = subject.inputs(90)
    _, state = subject.advance(module, inputs, subject.start(module, inputs), 0, 70)
    for rows in ([2, 0, 0, 1], [1], [0, 1, 2]):
        index = torch.tensor(rows, device=subject.device)
        # The selected prefixes go on with tokens of their own.
        later = subject.inputs(90, batch=len(rows), seed=10)
        chosen = [torch.cat((x[index][:, :, :70], new[:, :, 70:]), 2) for x, new in zip(inputs, later, strict=True)]
        if subject.is_cross:
            chosen[1:] = [x[index] for x in inputs[1:]]
        out, further = subject.advance(module, chosen, module.select(state, index), 70, 71)
        rest, _ = subject.advance(module, chosen, further, 71, 90)
        yield close(f"rows {rows}", torch.cat((out, rest), 2), module(*chosen)[:, :, 70:])
    out, _ = subject.advance(module, inputs, state, 70, 90)
    yield close("the state that was selected from", out, module(*inputs)[:, :, 70:])


def lengths(subject: Subject) -> Measurements:
    """Lengths beside every boundary work in float32, agree with float64, and keep the queries' length."""
    single, double = subject.build(torch.float32), subject.build()
    for target, source in subject.shapes(single):
        inputs = subject.inputs(target, source, dtype=torch.float32)
        out, where = single(*inputs), f"{target} queries, {source} keys"
        if out.shape != inputs[0].shape:
            raise Broken(f"{where}: gives {tuple(out.shape)}, q is {tuple(inputs[0].shape)}")
        yield close(where, out, double(*(x.double() for x in inputs)))


def precision(subject: Subject) -> Measurements:
    """Sums over 2,600 tokens (1,300 where the state isn't linear) are kept in float32 at least, in the state as well."""
    length = 2600 if subject.linear_state else 1300  # a float16 sum of ones stops at 2,048, one in bfloat16 at 256
    ramp = torch.linspace(0, 2, length)[:, None]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inputs = subject.inputs(64 if subject.is_cross else length, length, batch=1, dtype=dtype)
        inputs = [(x * 0.1).to(dtype) for x in inputs]  # nearly equal weights, so that all terms count
        inputs[2] = (inputs[2] + ramp.to(inputs[2])).to(dtype)
        expected = subject.build(max_length=length)(*(x.double() for x in inputs))
        module = subject.build(torch.float32, max_length=length)
        yield close(f"forward, {str(dtype).removeprefix('torch.')} inputs", module(*inputs), expected, dtype)
        if subject.pattern.startswith("causal"):
            subject.must_stream()
            whole, left = divmod(inputs[0].shape[2], 20)
            out = subject.stream(module, inputs, [20] * whole + [left])
            yield close(f"streamed, {str(dtype).removeprefix('torch.')} inputs", out, expected, dtype)


def long_inputs(subject: Subject) -> Measurements:
    """Constant inputs of 65,536 tokens (2,048 where the state isn't linear): finite, and the value that is known."""
    length = 65_536 if subject.linear_state else 2048
    double = subject.build(max_length=length)

    def constant(n: int, dtype: torch.dtype) -> list[Tensor]:
        row = subject.inputs(1, batch=1)
        return [x.expand(-1, -1, size, -1).to(dtype) for x, size in zip(row, (8 if subject.is_cross else n, n, n))]  # noqa: B905

    few = constant(5, torch.float64)
    averages = close("", double(*few), few[2][:, :, :1].expand_as(few[0])).difference <= TOLERANCES[torch.float64]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = constant(length, dtype)
        out = subject.build(torch.float32, max_length=length)(*inputs)
        # A mechanism that averages gives back the constant; any other is held against itself in float64.
        expected = inputs[2][:, :, :1].expand_as(inputs[0]) if averages else double(*(x.double() for x in inputs))
        measured = close(f"{length} tokens, {str(dtype).removeprefix('torch.')}", out, expected)
        # Rounding of a sum grows with its terms: three times what some hundred terms are allowed in float32.
        yield measured if dtype == torch.bfloat16 else measured._replace(limit=3 * measured.limit)


def large_inputs(subject: Subject) -> Measurements:
    """Queries and keys 30 times larger than usual give finite outputs and gradients in float32."""
    module = subject.build(torch.float32)
    q, k, v = subject.inputs(70, dtype=torch.float32)
    yield finite("outputs", module(q * 30, k * 30, v))
    yield finite("gradients", *gradients_of(module, [q * 30, k * 30, v]))


def determinism(subject: Subject) -> Measurements:
    """One seed gives one module, and in evaluation two calls are equal to the last bit."""
    inputs = subject.inputs(70, dtype=torch.float32)
    module = subject.build(torch.float32)
    first = module(*inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield same("a second call", module(*inputs), first)
    yield same("a second module of the same seed", subject.build(torch.float32)(*inputs), first)


def state_dict(subject: Subject) -> Measurements:
    """A module of another seed that loads the saved state gives the same to the last bit."""
    inputs = subject.inputs(70, dtype=torch.float32)
    saved, other = subject.build(torch.float32, seed=1), subject.build(torch.float32, seed=2)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    yield same("after loading", other(*inputs), saved(*inputs))


def state_size(subject: Subject) -> Measurements:
    """A state that is declared linear has as many bytes after 16,384 tokens as after 1,024, counted from its tensors."""
    subject.must_stream()
    # Powers of two: a cache that doubles its buffer has no room to spare there.
    marks = (1024, 4096, 16_384) if subject.linear_state else (1024, 4096)
    sizes: list[int] = []
    for mark in marks:
        module = subject.build(torch.float32, max_length=mark)
        inputs = subject.inputs(256 if subject.is_cross else mark, mark, batch=1, dtype=torch.float32)
        state = subject.start(module, inputs)
        for begin in range(0, inputs[0].shape[2], 256):
            _, state = subject.advance(module, inputs, state, begin, begin + 256)
        sizes.append(module.state_bytes(state))
        counted = sum(tensor.nbytes for tensor in state_tensors(state))
        if sizes[-1] < counted:
            raise Broken(f"state_bytes says {sizes[-1]:,}, its tensors hold {counted:,} bytes after {mark:,} tokens")
        if subject.linear_state and sizes[-1] != sizes[0]:
            break
    declared = "linear" if subject.linear_state else "not linear"
    after = ", ".join(f"{size:,} bytes after {mark:,} tokens" for mark, size in zip(marks, sizes, strict=False))
    limit = 0.0 if subject.linear_state else math.inf
    yield Measurement(f"{after}, declared {declared}", sizes[-1] - sizes[0], limit)


def unequal_lengths(subject: Subject) -> Measurements:
    """``causal_self`` refuses q and k of unequal lengths, with both numbers: what continues goes through ``extend``."""
    if subject.pattern != "causal_self":
        raise NotApplicable("the lengths may differ" if subject.is_cross else "asked of causal_self alone")
    module = subject.build()
    for target, source in ((23, 57), (57, 23), (1, 57)):
        q, k, v = subject.inputs(target, source)
        what = f"{target} queries, {source} keys"
        message = refusal(what, module, q, k, v)
        yield must_say(what, message, (str(target), str(source)))


def mask_refused(subject: Subject) -> Measurements:
    """A mask that isn't boolean (batch, source length) is refused, saying dtype, shape and what True means."""
    module = subject.build()
    q, k, v = subject.inputs(9)
    good = torch.zeros(BATCH, 9, dtype=torch.bool, device=subject.device)
    bad = {
        "a float mask": good.double(),
        "an integer mask": good.long(),
        "a mask of another length": good[:, :8],
        "a mask of another batch": good[:2],
        "a mask without batch": good[0],
        "a mask of (batch, 1, 1, source length)": good[:, None, None],
        "a mask of (batch, target length, source length)": good[:, None].expand(-1, 9, -1),
    }
    for what, mask in bad.items():
        message = refusal(what, module, q, k, v, key_padding_mask=mask)
        yield must_say(what, message.lower(), ("bool", "batch, source", "true where padded"))


def max_length(subject: Subject) -> Measurements:
    """What has a longest length refuses longer inputs with both numbers, in ``forward`` and when streaming."""
    if not subject.takes_max_length:
        raise NotApplicable("has no max_length")
    if "max_length" in subject.options:
        raise NotApplicable("max_length is given as an option")
    module = subject.build(max_length=37)
    fitting, longer = subject.inputs(37), subject.inputs(41)
    yield finite("at the longest length", module(*fitting))
    yield must_say("forward", refusal("forward", module, *longer), ("37", "41"))
    if subject.pattern.startswith("causal"):
        subject.must_stream()
        what = "streamed beyond it"
        if subject.is_cross:  # a source that fits, and one query too many
            longer[1:] = fitting[1:]
        yield must_say(what, refusal(what, subject.stream, module, longer, (30, 11)), ("37", "41"))


def strides(subject: Subject) -> Measurements:
    """Tensors that aren't contiguous give what contiguous ones give."""
    module = subject.build()
    inputs = subject.inputs(70)
    expected = module(*inputs)
    layouts: dict[str, Callable[[Tensor], Tensor]] = {
        "heads split from (batch, length, embed_dim)": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "every second of a wider head": lambda x: x.repeat_interleave(2, -1)[..., ::2],
        "length last in memory": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for what, layout in layouts.items():
        yield close(what, module(*(layout(x) for x in inputs)), expected)
    row = [x[:1].expand(BATCH, -1, -1, -1) for x in inputs]
    yield close("one row expanded to a batch", module(*row), expected[:1].expand(BATCH, -1, -1, -1))


def inputs_untouched(subject: Subject) -> Measurements:
    """Inputs and mask hold afterwards what they held before."""
    module = subject.build()
    mask = next(padding_masks(70, subject.device))[1]
    given = [*subject.inputs(70), mask]
    before = [x.clone() for x in given]
    module(*given[:3], key_padding_mask=mask)
    ways = ["forward"]
    if subject.pattern.startswith("causal"):
        subject.must_stream()
        subject.stream(module, given[:3], (1, 69), mask)
        ways.append("streamed")
    for name, after, was in zip(("q", "k", "v", "the mask"), given, before, strict=True):
        yield same(f"{name}, {' and '.join(ways)}", after, was)


CHECKS: tuple[Check, ...] = (
    shape_and_dtype,
    oracle,
    exact,
    gradients,
    causality,
    padding,
    padding_gradients,
    empty_context,
    batch_invariance,
    streaming,
    branching,
    select,
    lengths,
    precision,
    long_inputs,
    large_inputs,
    determinism,
    state_dict,
    state_size,
    unequal_lengths,
    mask_refused,
    max_length,
    strides,
    inputs_untouched,
)
