"""The battery catches each saboteur, lets right attentions pass, and holds every attention in the registry to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.checking.conformance import CHECKS, CheckResult, check_attention, check_class
from benchmark.interface import PATTERNS
from benchmark.registry import ATTENTIONS, attention_declarations, build_attention
from tests.broken import SABOTEURS, Linear, Softmax

BY_NAME = {check.__name__: check for check in CHECKS}
SUPPORTED = [
    (name, pattern)
    for name in ATTENTIONS
    for pattern in PATTERNS
    if pattern not in attention_declarations(name)["unsupported"]
]


@pytest.fixture(autouse=True)
def _new_memory_is_nan_and_one_thread_works():
    """What is read before it was written shows; and a second thread costs more than it brings on small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def failures(results: list[CheckResult]) -> list[CheckResult]:
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


def test_right_attentions_pass_and_every_check_applies_to_one_of_them():
    results = [row for control in (Softmax, Linear) for row in check_class(control)]
    assert failures(results) == []
    assert {row.check for row in results if row.outcome == "passed"} == set(BY_NAME)
    assert len(results) == 2 * len(PATTERNS) * len(CHECKS)


@pytest.mark.parametrize(
    ("check", "pattern", "saboteur"),
    SABOTEURS,
    ids=[f"{check}-{saboteur.__name__}-{pattern}" for check, pattern, saboteur in SABOTEURS],
)
def test_the_check_catches_its_saboteur(check, pattern, saboteur):
    (row,) = check_class(saboteur, patterns=[pattern], checks=[BY_NAME[check]])
    assert row.outcome == "failed", row.detail
    assert row.detail


def test_every_check_has_a_saboteur_and_one_sentence():
    assert {check for check, _, _ in SABOTEURS} == set(BY_NAME)
    for check in CHECKS:
        assert check.__doc__.endswith(".")
        assert "\n" not in check.__doc__


def test_a_failure_names_the_worst_case_with_its_figure_and_limit():
    wrong = next(saboteur for check, _, saboteur in SABOTEURS if saboteur.__name__ == "OffByOneBehindWindow")
    (row,) = check_class(wrong, patterns=["causal_self"], checks=[BY_NAME["oracle"]])
    assert row.detail.startswith("65 queries, 65 keys: 0.")
    assert row.detail.endswith("limit 1e-10; 1 of 20 cases fail")


class Raises(nn.Module):
    """A stranger's attention that stops at everything."""

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
    """2 queries after 3 tokens are aligned with the end: pytorch#103082."""
    attention = build_attention(name, pattern="causal_self", num_heads=1, head_dim=8).eval()
    k = torch.zeros(1, 1, 5, 8)
    v = torch.arange(5.0)[None, None, :, None].expand_as(k)
    _, state = attention.extend(k[:, :, :3], k[:, :, :3], v[:, :, :3], attention.init_state(1, dtype=torch.float32))
    out, _ = attention.extend(k[:, :, 3:], k[:, :, 3:], v[:, :, 3:], state)
    torch.testing.assert_close(out[0, 0, :, 0], torch.tensor([1.5, 2.0]))
