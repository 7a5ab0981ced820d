"""The page docs/add-an-attention.md and the worked example of one file and one line, followed to the letter."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmark import registry
from benchmark.checking.conformance import CHECKS, check_attention
from benchmark.interface import PATTERNS, UnsupportedPattern

PAGE = Path(__file__).parents[1] / "docs" / "add-an-attention.md"

# The smallest thing that is an attention: it checks no argument, sums in the inputs' precision, and doesn't stream.
SMALLEST = '''
"""Linear attention with elu + 1 features (Katharopoulos et al., 2020, arXiv 2006.16236)."""

from einops import einsum
from torch import nn
from torch.nn import functional as F

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


pytestmark = pytest.mark.usefixtures("own_registry")


def page_code() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


def add_line(monkeypatch, folder: Path, code: str, module: str) -> None:
    """One file in the folder, one line in the table."""
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, module, raising=False)
    registry.ATTENTIONS["linear"] = f"{module}:LinearAttention"


def decorated(code: str) -> str:
    return "from benchmark.registry import register_attention\n" + code.replace(
        "class LinearAttention", '@register_attention("linear")\nclass LinearAttention'
    )


def test_one_file_and_one_line_are_enough(tmp_path, monkeypatch):
    add_line(monkeypatch, tmp_path, page_code(), "page_linear")
    assert "linear" in registry.attention_names()
    assert set(registry.attention_declarations("linear")["unsupported"]) == {"causal_self", "causal_cross"}
    with pytest.raises(UnsupportedPattern, match=r"linear can't do causal_self: has no extend\(\)"):
        registry.build_attention("linear", pattern="causal_self", num_heads=2, head_dim=8)
    results = check_attention("linear")
    assert [row for row in results if row.outcome == "failed"] == []
    assert {row.pattern: row.detail for row in results if row.check == "pattern"} == {
        "causal_self": "unsupported: has no extend()",
        "causal_cross": "unsupported: has no read()",
    }


def test_one_file_with_the_decorator_needs_no_line(tmp_path):
    file = tmp_path / "my.py"
    file.write_text(decorated(page_code()), encoding="utf-8")
    assert registry.include_file(file) == ("linear",)
    assert registry.include_file(file) == ("linear",)  # twice is as once
    assert [row for row in check_attention("linear") if row.outcome == "failed"] == []


@pytest.mark.parametrize("way", ["line", "decorator"])
def test_the_smallest_attention_is_told_what_it_lacks(way, tmp_path, monkeypatch):
    if way == "line":
        add_line(monkeypatch, tmp_path, SMALLEST, "smallest_linear")
    else:
        (tmp_path / "my.py").write_text(decorated(SMALLEST), encoding="utf-8")
        registry.include_file(tmp_path / "my.py")
    results = check_attention("linear")
    assert len(results) == 2 * len(CHECKS) + 2
    failed = {(row.check, row.pattern): row.detail for row in results if row.outcome == "failed"}
    # Only what its author left to others: a float mask meets masked_fill, which says so in words of its own.
    assert set(failed) == {("mask_refused", "noncausal_self"), ("mask_refused", "noncausal_cross")}
    assert all("a float mask: raises RuntimeError, not ValueError" in detail for detail in failed.values())
    outcomes = {row.check: row.outcome for row in results if row.pattern == "noncausal_self"}
    assert outcomes["padding"] == outcomes["gradients"] == outcomes["precision"] == "passed"
    assert outcomes["oracle"] == outcomes["streaming"] == outcomes["state_size"] == "not applicable"


def test_the_page_names_only_what_there_is():
    text = PAGE.read_text(encoding="utf-8")
    checks = {check.__name__ for check in CHECKS}
    table = text[text.index("| row |") :]
    named = set(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, re.MULTILINE))
    assert named
    assert {name for cell in named for name in re.findall(r"`(\w+)`", cell)} <= checks
    for path in re.findall(r"`((?:benchmark|baselines|tests)/[\w/]+\.py)`", text):
        assert (PAGE.parents[1] / path).exists() or path == "baselines/linear.py"
    assert set(re.findall(r"`((?:non)?causal_\w+)`", text)) <= set(PATTERNS)
