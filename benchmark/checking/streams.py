"""Checks of the streaming state: any split of the tokens, several continuations, selected rows, and its size."""

from __future__ import annotations

import math

import torch

from benchmark.checking.measurement import Broken, Measurement, Measurements, close
from benchmark.checking.subject import Subject
from benchmark.interface import state_tensors


def streaming(subject: Subject) -> Measurements:
    """Checks that streaming in pieces of any length, also of 0 and 1, gives the output of the whole sequence at once."""
    subject.must_stream()
    for dtype in (torch.float64, torch.float32):
        module = subject.build(dtype)
        inputs = subject.inputs(150, dtype=dtype)
        whole = module(*inputs)
        yield close("one token at a time", subject.stream(module, inputs, [1] * 150), whole)
        for pieces in ((150,), (0, 3, 2, 0, 59, 1, 64, 21, 0), (64, 64, 22), (63, 66, 21), (149, 1)):
            yield close(f"in pieces of {pieces}", subject.stream(module, inputs, pieces), whole)
    if subject.is_cross:
        module = subject.build(torch.float32)
        for place, mask in subject.padding_masks(97):
            inputs = subject.inputs(97, batch=len(mask), dtype=torch.float32)
            out = subject.stream(module, inputs, (1, 30, 66), mask)
            yield close(f"source {place}", out, module(*inputs, key_padding_mask=mask))


def branching(subject: Subject) -> Measurements:
    """Checks that a state stays valid after it was continued: two branches from one state don't affect each other."""
    subject.must_stream()
    module = subject.build()
    trunk, left, right = (subject.inputs(100, seed=seed) for seed in (1, 8, 9))
    branches = [
        [torch.cat((a[:, :, :70], b[:, :, 70:]), 2) for a, b in zip(trunk, x, strict=True)] for x in (left, right)
    ]
    if subject.is_cross:  # both branches have the same source
        branches = [[branch[0], *trunk[1:]] for branch in branches]
    expected = [module(*branch) for branch in branches]
    _, state = subject.advance(module, trunk, subject.start(module, trunk), 0, 70)
    # The branches advance in turn.  If one overwrites what both share, the output of the other is wrong.
    states = [state, state]
    for begin, end in ((70, 71), (71, 83), (83, 100)):
        for index, name in enumerate(("first", "second")):
            out, states[index] = subject.advance(module, branches[index], states[index], begin, end)
            yield close(f"{name} branch, tokens {begin} to {end}", out, expected[index][:, :, begin:end])
    out, _ = subject.advance(module, branches[0], state, 70, 100)
    yield close("the first branch again", out, expected[0][:, :, 70:])


def select(subject: Subject) -> Measurements:
    """Checks that selected rows of a state, repeated or left out, continue like the sequences of these rows."""
    subject.must_stream()
    module = subject.build()
    inputs = subject.inputs(90)
    _, state = subject.advance(module, inputs, subject.start(module, inputs), 0, 70)
    for rows in ([2, 0, 0, 1], [1], [0, 1, 2]):
        index = torch.tensor(rows, device=subject.device)
        # Each selected row continues with different tokens, so that mixed-up rows give a wrong output.
        later = subject.inputs(90, batch=len(rows), seed=10)
        chosen = [torch.cat((x[index][:, :, :70], new[:, :, 70:]), 2) for x, new in zip(inputs, later, strict=True)]
        if subject.is_cross:
            chosen[1:] = [x[index] for x in inputs[1:]]
        out, further = subject.advance(module, chosen, module.select(state, index), 70, 71)
        rest, _ = subject.advance(module, chosen, further, 71, 90)
        yield close(f"rows {rows}", torch.cat((out, rest), 2), module(*chosen)[:, :, 70:])
    out, _ = subject.advance(module, inputs, state, 70, 90)
    yield close("the state that was selected from", out, module(*inputs)[:, :, 70:])


def state_size(subject: Subject) -> Measurements:
    """Checks that a state which is declared linear has as many bytes after 16,384 tokens as after 1,024."""
    subject.must_stream()
    # At these lengths, powers of two, a cache that doubles its buffer is exactly full, so spare room can't hide its growth.
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
        if sizes[-1] < counted:  # ``state_bytes`` must not report less than the tensors hold
            raise Broken(f"state_bytes says {sizes[-1]:,}, its tensors hold {counted:,} bytes after {mark:,} tokens")
        if subject.linear_state and sizes[-1] != sizes[0]:
            break
    declared = "linear" if subject.linear_state else "not linear"
    after = ", ".join(f"{size:,} bytes after {mark:,} tokens" for mark, size in zip(marks, sizes, strict=False))
    limit = 0.0 if subject.linear_state else math.inf
    yield Measurement(f"{after}, declared {declared}", sizes[-1] - sizes[0], limit)
