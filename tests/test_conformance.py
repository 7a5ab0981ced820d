"""The conformance suite catches each saboteur, passes correct attentions, and passes every attention of the registry."""

from __future__ import annotations

import broken
import broken_definition
import broken_dependence
import broken_numerics
import broken_refusals
import broken_streams
import broken_tensors
import pytest
import torch
from correct_attentions import Linear, Softmax
from torch import nn
from torch.nn import functional as F

from benchmark.checking.conformance import CHECKS, CheckResult, check_attention, check_class
from benchmark.checking.verdict import consequence, is_contract, sentence
from benchmark.interface import PATTERNS
from benchmark.registry import ATTENTIONS, attention_declarations, build_attention

SABOTEURS = broken.saboteurs(
    broken_definition, broken_dependence, broken_numerics, broken_refusals, broken_streams, broken_tensors
)
BY_NAME = {check.__name__: check for check in CHECKS}
SUPPORTED = [
    (name, pattern)
    for name in ATTENTIONS
    for pattern in PATTERNS
    if pattern not in attention_declarations(name)["unsupported"]
]


@pytest.fixture(autouse=True)
def _new_memory_is_nan(one_thread):
    """Deterministic algorithms fill new memory with NaN, so that memory that is read before it is written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def failures(results: list[CheckResult]) -> list[CheckResult]:
    """The rows that failed."""
    return [row for row in results if row.outcome == "failed"]


@pytest.mark.parametrize(("name", "pattern"), SUPPORTED)
def test_every_attention_of_the_registry_conforms(name, pattern):
    results = check_attention(name, patterns=[pattern])
    assert failures(results) == []
    assert [row.check for row in results] == list(BY_NAME)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_unsupported_pattern_is_a_row_with_its_reason(name):
    for pattern, reason in attention_declarations(name)["unsupported"].items():
        assert check_attention(name, patterns=[pattern]) == [
            CheckResult("pattern", pattern, "not applicable", f"unsupported: {reason}")
        ]


def test_correct_attentions_pass_and_every_check_applies_to_one_of_them():
    results = [row for correct in (Softmax, Linear) for row in check_class(correct)]
    assert failures(results) == []
    assert {row.check for row in results if row.outcome == "passed"} == set(BY_NAME)
    assert len(results) == 2 * len(PATTERNS) * len(CHECKS)


@pytest.mark.parametrize(
    ("check", "pattern", "cls"),
    SABOTEURS,
    ids=[f"{check}-{cls.__name__}-{pattern}" for check, pattern, cls in SABOTEURS],
)
def test_the_check_catches_its_saboteur(check, pattern, cls):
    (row,) = check_class(cls, patterns=[pattern], checks=[BY_NAME[check]])
    assert row.outcome == "failed", row.detail
    assert row.detail


def test_every_check_has_a_saboteur_and_one_sentence():
    assert {check for check, _, _ in SABOTEURS} == set(BY_NAME)
    for check in CHECKS:
        assert check.__doc__.endswith(".")
        assert "\n" not in check.__doc__


def test_a_failure_names_the_worst_case_with_its_figure_and_limit():
    (row,) = check_class(broken_definition.OffByOneBehindWindow, patterns=["causal_self"], checks=[BY_NAME["oracle"]])
    assert row.detail.startswith("65 queries, 65 keys: 0.")
    assert row.detail.endswith("limit 1e-10; 1 of 20 cases fail")


class Raises(nn.Module):
    """An attention whose forward always raises."""

    version = 1
    unsupported = {"causal_cross": "never tried"}
    checks_arguments = True  # so that the calls reach it

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
        self.pattern, self.num_heads, self.head_dim = pattern, num_heads, head_dim

    def forward(self, q, k, v, key_padding_mask=None):
        raise ZeroDivisionError("division by zero\nand a second line")


def test_an_exception_in_a_check_is_a_failed_row_with_its_first_line():
    results = check_class(Raises)
    assert len(results) == 3 * len(CHECKS) + 1
    by_check = {row.check: row for row in results if row.pattern == "noncausal_self"}
    assert by_check["padding"].outcome == "failed"
    assert by_check["padding"].detail == "ZeroDivisionError: division by zero"
    assert by_check["mask_refused"].detail == (
        "a float mask: raises ZeroDivisionError, not ValueError (division by zero)"
    )


class Plain(nn.Module):
    """A right linear attention, as a stranger writes it first: without streaming."""

    version = 1
    unsupported = {}
    normalised = linear_values = True

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
        self.pattern = pattern

    def forward(self, q, k, v, key_padding_mask=None):
        kind = q.dtype
        q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if key_padding_mask is not None:
            k, v = (x.masked_fill(key_padding_mask[:, None, :, None], 0) for x in (k, v))
        weights = q @ k.mT
        if self.pattern == "causal_self":
            weights = weights.tril()
        total = weights.sum(-1, keepdim=True)
        return (weights @ v / torch.where(total > 0, total, 1)).to(kind)


def test_a_plain_attention_without_streaming_is_right_and_lacks_only_that():
    results = check_class(Plain)
    assert failures(results) == []
    missing = {(row.check, row.pattern) for row in results if row.outcome == "missing"}
    streams = ("streaming", "branching", "select", "state_size")
    assert missing == {(check, pattern) for check in streams for pattern in ("causal_self", "causal_cross")}
    (row,) = (row for row in results if (row.check, row.pattern) == ("streaming", "causal_cross"))
    assert row.detail == "has no init_cross, no read, no select, no state_bytes"
    assert consequence(row) == "can’t be run: transformer_tts.causal_cross, transformer.causal_cross"
    assert sentence("plain", results) == (
        "plain can be used in fastspeech2, transformer_tts (noncausal self), transformer (noncausal self), pointr, informer, "
        "probe; gpt, transformer_tts (causal self, causal cross), transformer (causal self, causal cross) would need its "
        "streaming, which it lacks."
    )


class HalfStreaming(Plain):
    """Has a state that nothing can continue."""

    unsupported = {pattern: "no" for pattern in PATTERNS if pattern != "causal_self"}

    def init_state(self, batch_size, *, device=None, dtype=None):
        return torch.zeros(batch_size)


def test_a_part_of_streaming_is_a_failure_that_says_what_is_not_there():
    results = check_class(HalfStreaming, patterns=["causal_self"])
    by_check = {row.check: row for row in results}
    assert by_check["streaming"].outcome == "failed"
    assert (
        by_check["streaming"].detail
        == "has init_state, but no extend, no select, no state_bytes; streaming needs all of them"
    )
    assert "causal_self" in sentence("half", results)
    assert "can’t be used yet" in sentence("half", results)


def test_wrong_mathematics_are_told_first():
    results = check_class(broken_dependence.SwapsHeads, patterns=["noncausal_self"])
    assert sentence("swaps", results) == (
        "swaps can’t be used yet; noncausal_self computes something else than it says (oracle, exact, gradients, heads failed)."
    )
    assert all(not is_contract(row) and consequence(row) == "" for row in failures(results))


def test_everything_at_once_can_be_used_everywhere():
    found = sentence("softmax", check_attention("softmax"))
    assert found == "softmax can be used in gpt, fastspeech2, transformer_tts, transformer, pointr, informer, probe."


def test_options_reach_the_attention_and_wrong_ones_are_refused():
    with pytest.raises(ValueError, match=r"option 'windw' of attention lavo: unknown \(did you mean window\?\)"):
        check_attention("lavo", options={"windw": 8})
    with pytest.raises(ValueError, match="pattern 'causal': unknown"):
        check_attention("lavo", patterns=["causal"])
    with pytest.raises(ValueError, match=r"attention 'lovo': unknown \(did you mean lavo\?\)"):
        check_attention("lovo")
    small = check_attention("lavo", patterns=["causal_self"], options={"window": 5})
    assert failures(small) == []


def test_checks_leave_no_trace_in_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_class(Linear, patterns=["noncausal_cross"])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if attention_declarations(name).get("exact")])
def test_a_continuation_sees_all_keys_before_it(name):
    """Two queries after three tokens are the last of five, not the first (pytorch#103082)."""
    attention = build_attention(name, pattern="causal_self", num_heads=1, head_dim=8).eval()
    k = torch.zeros(1, 1, 5, 8)
    v = torch.arange(5.0)[None, None, :, None].expand_as(k)
    _, state = attention.extend(k[:, :, :3], k[:, :, :3], v[:, :, :3], attention.init_state(1, dtype=torch.float32))
    out, _ = attention.extend(k[:, :, 3:], k[:, :, 3:], v[:, :, 3:], state)
    torch.testing.assert_close(out[0, 0, :, 0], torch.tensor([1.5, 2.0]))
