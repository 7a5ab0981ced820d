"""The checks in front of every attention, on one that has none of its own; and what they leave as it was."""

from __future__ import annotations

import copy
import inspect
from typing import NamedTuple

import pytest
import torch
from torch import nn

from benchmark import registry
from benchmark.arguments import checked
from benchmark.checking.conformance import CHECKS, check_class
from benchmark.interface import PATTERNS, select_rows, state_bytes
from lavo import LAVOAttention

REFUSALS = {"unequal_lengths", "mask_refused", "max_length"}


class Sums(NamedTuple):
    """Σ k v, (b, h, d, d), and how many queries were answered."""

    kv: torch.Tensor
    position: int


class Plain(nn.Module):
    """Checks nothing: q Σ k v over the keys seen, without a normaliser, as short as it can be."""

    version = 1
    unsupported = {}
    linear_state = needs_max_length = True

    def __init__(self, *, pattern, num_heads, head_dim, max_length=64, gain=1.0):
        super().__init__()
        self.causal, self.sizes = pattern == "causal_self", (num_heads, head_dim, head_dim)
        self.gain = nn.Parameter(torch.full((num_heads, 1, 1), gain))

    def forward(self, q, k, v, key_padding_mask=None):
        """The author's own words."""
        if self.causal:
            empty = self.init_state(q.shape[0], device=q.device, dtype=q.dtype)
            padded = None if key_padding_mask is None else key_padding_mask[:, None, :, None]
            v = v if padded is None else v.masked_fill(padded, 0)
            return self.extend(q, k if padded is None else k.masked_fill(padded, 0), v, empty)[0]
        return self.read(q, self.init_cross(k, v, key_padding_mask))[0]

    def init_state(self, batch_size, *, device=None, dtype=None):
        return Sums(torch.zeros(batch_size, *self.sizes, device=device, dtype=dtype), 0)

    def extend(self, q, k, v, state):
        sums = state.kv[:, :, None] + (k[..., None] * v[..., None, :]).cumsum(2)
        out = self.gain.to(q) * (q[..., None, :] @ sums)[..., 0, :]
        return out, Sums(sums[:, :, -1] if q.shape[2] else state.kv, state.position + q.shape[2])

    def init_cross(self, k, v, key_padding_mask=None):
        if key_padding_mask is not None:
            k, v = (x.masked_fill(key_padding_mask[:, None, :, None], 0) for x in (k, v))
        return Sums(k.mT @ v, 0)

    def read(self, q, state):
        return self.gain.to(q) * (q @ state.kv), state._replace(position=state.position + q.shape[2])

    def select(self, state, rows):
        return select_rows(state, rows)

    def state_bytes(self, state):
        return state_bytes(state)


def build(pattern="causal_self", cls=Plain, **options):
    return checked(cls)(pattern=pattern, num_heads=2, head_dim=4, **options)


def tensor(length=5, *, batch=3, heads=2, width=4, dtype=torch.float32):
    return torch.ones(batch, heads, length, width, dtype=dtype)


X = tensor()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_attention_without_checks_passes_those_of_refusals(pattern):
    rows = check_class(Plain, patterns=[pattern], checks=[check for check in CHECKS if check.__name__ in REFUSALS])
    assert {row.check for row in rows} == REFUSALS
    assert [row for row in rows if row.outcome == "failed"] == []


REFUSED = {
    "q of three axes": (lambda a: a(X[0], X, X), r"q has shape \(2, 5, 4\).*heads = 2 and head_dim = 4"),
    "v of another width": (lambda a: a(X, X, tensor(width=5)), r"v has shape \(3, 2, 5, 5\)"),
    "whole numbers": (lambda a: a(X.long(), X, X), "q has dtype torch.int64"),
    "k and v of two lengths": (lambda a: a(X, X, tensor(4)), "k and v need equal lengths, got 5 and 4"),
    "q and k of two dtypes": (lambda a: a(X.double(), X, X), "q and k need equal batch size and dtype"),
    "q and k of two batches": (lambda a: a(X[:1], X, X), "got 1 and 3"),
    "fewer queries than keys": (
        lambda a: a(tensor(2), X, X),
        r"got 2 and 5; a sequence is continued through extend\(\)",
    ),
    "a mask of numbers": (
        lambda a: a(X, X, X, torch.zeros(3, 5)),
        r"torch.bool of shape \(batch, source length\) = \(3, 5\), True where padded",
    ),
    "too long": (lambda a: a(*[tensor(65)] * 3), "Plain was built for max_length 64 and is given 65 tokens"),
    "extended with another batch": (
        lambda a: a.extend(X, X, X, a.init_state(2)),
        "q has batch size 3, the state 2; they must be equal",
    ),
    "extended too far": (
        lambda a: a.extend(X, X, X, a.init_state(3)._replace(position=60)),
        "max_length 64 and is given 65 tokens",
    ),
    "extended by unequal tokens": (lambda a: a.extend(tensor(2), X, X, a.init_state(3)), "got 2 and 5"),
    "a source for self-attention": (
        lambda a: a.init_cross(X, X),
        r"init_cross\(\) belongs to the pattern 'causal_cross'",
    ),
    "rows that are no index": (lambda a: a.select(a.init_state(3), torch.zeros(2)), "rows has dtype torch.float32"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named_with_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call(build())


def test_a_source_and_its_queries_are_checked():
    attention = build("causal_cross")
    with pytest.raises(ValueError, match=r"key_padding_mask has dtype torch\.int64"):
        attention.init_cross(X, X, torch.zeros(3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="the state 3; they must be equal"):
        attention.read(X[:2], attention.init_cross(X, X))
    with pytest.raises(ValueError, match="max_length 64 and is given 70 tokens"):
        attention.init_cross(tensor(70), tensor(70))
    with pytest.raises(ValueError, match=r"extend\(\) belongs to the pattern 'causal_self'"):
        attention.extend(X, X, X, attention.init_cross(X, X))


def test_padded_tokens_do_not_count_for_max_length():
    padded = (torch.arange(70) >= 64).expand(3, -1)
    for pattern in PATTERNS:
        q = tensor(70 if pattern.endswith("_self") else 5)
        assert build(pattern)(q, tensor(70), tensor(70), padded).shape == q.shape
        with pytest.raises(ValueError, match="max_length 64 and is given 65 tokens"):
            build(pattern)(q, tensor(70), tensor(70), (torch.arange(70) >= 65).expand(3, -1))


def test_a_fault_leaves_the_checks_in_place():
    attention = build()
    for _ in range(2):
        with pytest.raises(AttributeError):
            attention.extend(X, X, X, None)  # which the author's own code stops at
        with pytest.raises(ValueError, match="got 2 and 5"):
            attention(tensor(2), X, X)


def test_a_length_of_its_own_and_none_at_all():
    assert build(max_length=100)(*[tensor(90)] * 3).shape == (3, 2, 90, 4)
    without = type("Endless", (Plain,), {"needs_max_length": False})
    assert build(cls=without)(*[tensor(90)] * 3).shape == (3, 2, 90, 4)


class ByHead(Plain):
    """Its state begins with the heads, so that the batch is not to be found where others have it."""

    def init_state(self, batch_size, *, device=None, dtype=None):
        return (torch.zeros(self.sizes[0], batch_size, *self.sizes[1:], device=device, dtype=dtype),)

    def extend(self, q, k, v, state):
        out, sums = super().extend(q, k, v, Sums(state[0].transpose(0, 1), 0))
        return out, (sums.kv.transpose(0, 1),)


def test_a_state_of_another_layout_is_left_to_its_author():
    attention = build(cls=ByHead)
    out, state = attention.extend(X, X, X, attention.init_state(3))
    more, _ = attention.extend(X, X, X, state)
    whole = build()(*[tensor(10)] * 3)
    torch.testing.assert_close(torch.cat((out, more), 2), whole)


def test_results_parameters_and_options_are_those_of_the_class():
    attention, plain = build(gain=3.0), Plain(pattern="causal_self", num_heads=2, head_dim=4, gain=3.0)
    assert isinstance(attention, Plain)
    assert type(attention).__name__ == "Plain"
    assert repr(attention) == repr(plain)
    assert torch.equal(attention(X, X, X), plain(X, X, X))
    assert attention.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(build(gain=5.0).state_dict())
    assert plain.gain[0].item() == 5.0
    assert inspect.signature(type(attention)) == inspect.signature(Plain)
    assert inspect.signature(type(attention).extend) == inspect.signature(Plain.extend)
    assert attention.init_state(batch_size=3).kv.shape == attention.init_state(3).kv.shape
    assert inspect.signature(type(attention).__init__) == inspect.signature(Plain.__init__)
    assert type(attention).forward.__doc__ == "The author's own words."
    assert registry.takes_max_length(type(attention))


def test_a_copy_is_checked_and_has_weights_of_its_own():
    attention = build()
    twin = copy.deepcopy(attention)
    with torch.no_grad():
        twin.gain.fill_(2.0)
    assert attention.gain[0].item() == 1.0
    assert torch.equal(twin(X, X, X), 2 * attention(X, X, X))
    with pytest.raises(ValueError, match="got 2 and 5"):
        twin(tensor(2), X, X)


def test_a_class_is_wrapped_once_and_one_that_checks_by_itself_never():
    assert checked(Plain) is checked(Plain)
    assert checked(checked(Plain)) is checked(Plain)
    assert checked(LAVOAttention) is LAVOAttention
    own = type("Own", (Plain,), {"checks_arguments": True})
    assert checked(own) is own


def test_a_method_that_is_replaced_on_the_class_is_called(monkeypatch):
    attention = build()
    monkeypatch.setattr(Plain, "forward", lambda self, q, k, v, key_padding_mask=None: q + 1)
    assert torch.equal(attention(X, X, X), X + 1)


def test_other_keywords_reach_the_author():
    class Gated(Plain):
        def forward(self, q, k, v, key_padding_mask=None, *, gate):
            return gate * super().forward(q, k, v, key_padding_mask)

    attention = build(cls=Gated)
    assert torch.equal(attention(X, X, X, gate=2.0), 2 * build()(X, X, X))
    with pytest.raises(TypeError, match="gate"):
        attention(X, X, X)


def test_build_attention_gives_a_checked_one(monkeypatch):
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))
    registry.register_attention("plain")(Plain)
    attention = registry.build_attention("plain", pattern="noncausal_self", num_heads=2, head_dim=4, max_length=9)
    with pytest.raises(ValueError, match="max_length 9 and is given 10 tokens"):
        attention(*[tensor(10)] * 3)
    with pytest.raises(ValueError, match="noncausal_self needs equal lengths of q and k, got 2 and 5"):
        attention(tensor(2), X, X)
