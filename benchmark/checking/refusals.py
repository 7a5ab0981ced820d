"""Checks that bad input raises a ValueError whose message says what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmark.checking.measurement import Broken, Measurement, Measurements, NotApplicable, finite
from benchmark.checking.subject import BATCH, Subject


def unequal_lengths(subject: Subject) -> Measurements:
    """Checks that ``causal_self`` refuses q and k of unequal lengths, with both lengths in the message."""
    # Fewer queries than keys would be the continuation of a sequence, for which there is ``extend``.
    if subject.pattern != "causal_self":
        raise NotApplicable("the lengths may differ" if subject.is_cross else "required only for causal_self")
    module = subject.build()
    for num_queries, num_keys in ((23, 57), (57, 23), (1, 57)):
        q, k, v = subject.inputs(num_queries, num_keys)
        what = f"{num_queries} queries, {num_keys} keys"
        message = refusal(what, module, q, k, v)
        yield must_say(what, message, (str(num_queries), str(num_keys)))


def mask_refused(subject: Subject) -> Measurements:
    """Checks that a mask which is not boolean (batch, source length) is refused, and the message says what is allowed."""
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
    """Checks that longer inputs than ``max_length`` are refused, with both lengths in the message, also in streaming."""
    if not subject.takes_max_length:
        raise NotApplicable("has no max_length")
    if "max_length" in subject.options:
        raise NotApplicable("max_length is given as an option")
    module = subject.build(max_length=37)
    fitting, longer = subject.inputs(37), subject.inputs(41)
    yield finite("at the longest length", module(*fitting))
    yield must_say("forward", refusal("forward", module, *longer), ("37", "41"))
    if subject.streams:
        what = "streamed beyond it"
        if subject.is_cross:  # takes a source that fits, so that only the number of queries is too large
            longer[1:] = fitting[1:]
        yield must_say(what, refusal(what, subject.stream, module, longer, (30, 11)), ("37", "41"))


def refusal(what: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """Returns the message of the ValueError that the call raises.  Raises Broken if it raises nothing or anything else."""
    try:
        call(*arguments, **named)
    except ValueError as error:
        return str(error)
    except Exception as error:  # a wrong type of exception is what this check looks for
        raise Broken(
            f"{what}: raises {type(error).__name__}, not ValueError ({(str(error).splitlines() or [''])[0]})"
        ) from error
    raise Broken(f"{what}: accepted")


def must_say(what: str, message: str, words: Iterable[str]) -> Measurement:
    """Returns a measurement of zero if the message contains all these words.  Raises Broken otherwise."""
    missing = [word for word in words if word not in message]
    if missing:
        raise Broken(f"{what}: refused, but the message doesn't say {', '.join(missing)}: {message}")
    return Measurement(what, 0.0, 0.0)
