"""Attentions whose streaming states lose, mix up or overstate what they have read."""

from __future__ import annotations

import torch
from broken import fails
from correct_attentions import Cache, Linear, Softmax, Sums
from torch.nn import functional as F

from benchmark.interface import select_rows


@fails("streaming", "causal_self")
class RestartsPositions(Linear):
    """Counts positions from zero again at each call."""

    def read_on(self, q, k, v, state, padded=None):
        out, after = super().read_on(q, k, v, state, padded)
        return out * (1 + 0.01 * torch.arange(q.shape[2], dtype=out.dtype))[:, None], after


@fails("streaming", "causal_self")
@fails("select", "causal_self")
class AlignsTopLeft(Softmax):
    """Aligns new queries with the beginning of the cache."""

    def hidden(self, target, source, padded, device):
        hidden = torch.ones(1, 1, target, source, dtype=torch.bool, device=device).triu(1)
        return hidden if padded is None else hidden | padded[:, None, None, :]


@fails("streaming", "causal_self")
class NeedsNewTokens(Linear):
    """Fails when it is given no new token."""

    def extend(self, q, k, v, state):
        assert q.shape[2] > 0
        return super().extend(q, k, v, state)


@fails("streaming", "causal_cross")
class ForgetsSourceMask(Softmax):
    """Ignores the padding of the source when streaming."""

    def init_cross(self, k, v, key_padding_mask=None):
        return super().init_cross(k, v, None if key_padding_mask is None else torch.zeros_like(key_padding_mask))


@fails("streaming", "causal_self", "causal_cross")
class NoStream(Softmax):
    """Claims causal patterns, but has no streaming methods."""

    init_state = extend = init_cross = read = None


@fails("branching", "causal_self")
class AddsInPlace(Linear):
    """Adds new tokens to the sums of the state that it was given."""

    def read_on(self, q, k, v, state, padded=None):
        out, after = super().read_on(q, k, v, state, padded)
        return out, Sums(state.kv.copy_(after.kv), state.k.copy_(after.k), after.position)


@fails("branching", "causal_self")
class SharesBuffer(Softmax):
    """Grows its cache in one buffer, even where another branch has written there already."""

    def extend(self, q, k, v, state):
        read, room = state.k.shape[2], 400
        if read == 0:
            self.buffers_of = [torch.zeros(*k.shape[:2], room, self.head_dim, dtype=k.dtype) for _ in "kv"]
        grown = []
        for buffer, held, new in zip(self.buffers_of, (state.k, state.v), (k, v), strict=True):
            if held.shape[0] != buffer.shape[0]:
                return super().extend(q, k, v, state)
            buffer[:, :, read : read + new.shape[2]] = new
            grown.append(buffer[:, :, : read + new.shape[2]])
        state = Cache(*grown, F.pad(state.padded, (0, k.shape[2])))
        return self.attend(q, *state), state


@fails("branching", "causal_cross")
class CountsOnModule(Linear):
    """Counts queries on the module, which all branches share."""

    def read(self, q, state):
        answered = 0 if state.position == 0 else self.answered
        self.answered = answered + q.shape[2]
        out, state = super().read(q, state)
        steps = torch.arange(answered, answered + q.shape[2], dtype=out.dtype)
        return out * (1 + 0.01 * steps)[:, None], state


@fails("select", "causal_self", "causal_cross")
class SelectsInOrder(Softmax):
    """Selects rows in the order of the batch, and not in the order asked for."""

    def select(self, state, rows):
        return select_rows(state, rows.sort().values)


@fails("select", "causal_self", "causal_cross")
class SelectsPartOfState(Linear):
    """Selects the rows of one part of the state and not of the other."""

    def select(self, state, rows):
        chosen = select_rows(state, rows)
        return chosen._replace(k=state.k[: len(rows)] if len(rows) <= len(state.k) else chosen.k.flip(0))


@fails("select", "causal_self", "causal_cross")
class SelectsInPlace(Linear):
    """Destroys the state from which rows were selected."""

    def select(self, state, rows):
        chosen = select_rows(state, rows)
        state.kv.zero_()
        return chosen


@fails("state_size", "causal_self", "causal_cross")
class GrowsThoughLinear(Softmax):
    """Declares a linear state, but its cache grows."""

    linear_state = True


@fails("state_size", "causal_self", "causal_cross")
class StateByFormula(Softmax):
    """Counts the bytes of its state by a formula that forgets the values."""

    def state_bytes(self, state):
        return state.k.nbytes
