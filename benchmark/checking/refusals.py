"""Checks that bad input is refused with a message that says what is allowed."""

from __future__ import annotations

import torch

from benchmark.checking.subject import (
    BATCH,
    Measurements,
    NotApplicable,
    Subject,
    finite,
    must_say,
    refusal,
)


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
