"""The page docs/add-an-attention.md, followed to the letter in a copy of the repository; and the smallest attention."""

from __future__ import annotations

import os
import re

import pytest
from followed_page import ROOT, Copy, read_page

from benchmark import registry
from benchmark.checking.conformance import CHECKS, check_attention
from benchmark.interface import PATTERNS

TEXT = (ROOT / "docs" / "add-an-attention.md").read_text(encoding="utf-8")
PAGE = read_page("add-an-attention.md")
followed_already = pytest.mark.skipif("linear" in registry.ATTENTIONS, reason="the page was followed here")

# Tests over the tables whose names do not say of which attention they are.
TABLE_TESTS = """
tests/test_registry.py
tests/test_cli.py::test_list_names_every_task_attention_pattern_and_preset
tests/test_config.py::test_all_attentions_are_every_known_one
tests/test_multihead.py::test_every_attention_has_the_same_projections
tests/test_runner.py::test_every_attention_starts_from_the_same_backbone
tests/bad_input/test_bad_arguments.py::test_a_mask_of_the_length_of_the_target_is_refused_by_every_cross_attention
"""

SMALLEST = '''
"""Linear attention with elu + 1 features (Katharopoulos et al., 2020, arXiv 2006.16236)."""

from einops import einsum
from torch import nn
from torch.nn import functional as F
from benchmark.registry import register_attention

@register_attention("smallest")
class LinearAttention(nn.Module):
    version = 1
    unsupported = {"causal_self": "has no extend()", "causal_cross": "has no read()"}  # build_attention raises these

    def __init__(self, *, pattern, num_heads, head_dim):  # the protocol's three; this mechanism has no parameters
        super().__init__()

    def forward(self, q, k, v, key_padding_mask=None):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if key_padding_mask is not None:
            padded = key_padding_mask[:, None, :, None]
            k, v = k.masked_fill(padded, 0), v.masked_fill(padded, 0)  # after the features: elu(0) + 1 is not 0
        context = einsum(k, v, "b h m d, b h m e -> b h d e")
        weight = einsum(q, k.sum(2), "b h n d, b h d -> b h n")
        return einsum(q, context, "b h n d, b h d e -> b h n e") / weight.clamp_min(1e-6)[..., None]  # 0/0: empty context
'''


@followed_already
def test_the_page_is_followed_to_its_end(tmp_path):
    copy = Copy(tmp_path)
    copy.write(PAGE)
    commands, tests, stranger = PAGE.commands
    said = copy.run(commands)
    assert re.search(r"linear .*yes .*no .*yes .*no .*has no extend\(\)", said)
    assert re.search(r"5 cells", said)
    assert "linear" in (copy.root / "reports" / "linear" / "report.md").read_text(encoding="utf-8")
    assert "softplus_linear" in copy.run(stranger)
    copy.run("ruff check baselines && ruff format --check baselines benchmark/registry.py")
    copy.check_types()
    table_tests = " ".join(TABLE_TESTS.split())
    copy.run(f"{tests.strip()} -n0 -m 'not slow'; python -m pytest -n0 -m 'not slow' {table_tests}")


@followed_already
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("LAVO_BENCH_WHOLE_SUITE_IN_COPY"), reason="asked for by an environment variable")
def test_the_whole_suite_passes_after_the_page_was_followed(tmp_path):
    copy = Copy(tmp_path)
    copy.write(PAGE)
    copy.run("ruff check . && ruff format --check . && mypy && lint-imports && python -m pytest -n 2", timeout=7200)


@pytest.mark.usefixtures("own_registry")
def test_the_smallest_attention_passes_without_a_check_of_its_own(tmp_path):
    (tmp_path / "my.py").write_text(SMALLEST, encoding="utf-8")
    registry.include_file(tmp_path / "my.py")
    results = check_attention("smallest")
    assert len(results) == 2 * len(CHECKS) + 2
    assert [row for row in results if row.outcome == "failed"] == []
    outcomes = {row.check: row.outcome for row in results if row.pattern == "noncausal_self"}
    assert outcomes["mask_refused"] == outcomes["padding"] == outcomes["gradients"] == "passed"
    assert outcomes["oracle"] == outcomes["streaming"] == outcomes["state_size"] == "not applicable"


def test_the_page_names_only_what_there_is():
    assert list(PAGE.files) == ["baselines/linear.py", "my.py"]
    checks = {check.__name__ for check in CHECKS}
    table = TEXT[TEXT.index("| row |") :]
    named = set(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, re.MULTILINE))
    assert named
    assert {name for cell in named for name in re.findall(r"`(\w+)`", cell)} <= checks
    for path in re.findall(r"`((?:benchmark|baselines|tests)/[\w/]+\.py)`", TEXT):
        assert (ROOT / path).exists() or path in PAGE.files
    assert set(re.findall(r"`((?:non)?causal_\w+)`", TEXT)) <= set(PATTERNS)


@pytest.mark.parametrize("name", re.findall(r"`((?:baselines|benchmark)\.\w+\.\w+)", TEXT))
def test_every_part_that_the_page_offers_is_there(name):
    module, _, function = name.rpartition(".")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
