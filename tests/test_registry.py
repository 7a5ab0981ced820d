"""The registry's names and messages, and that reading declarations imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from correct_attentions import Softmax

from benchmark import registry
from benchmark.interface import PATTERNS, UnsupportedPattern

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("own_registry")


def stranger(**declared) -> type:
    return type("Stranger", (Softmax,), declared)


@pytest.mark.parametrize("name", ["Softmax", "my-att", "a/b", "..", "", "soft max", "a" * 65, "é", "x\n"])
def test_a_name_that_could_not_be_part_of_a_file_name_is_refused_with_the_rule(name):
    with pytest.raises(ValueError, match="lower-case letters, digits and underscores"):
        registry.register_attention(name)


@pytest.mark.parametrize("name", [*registry.ATTENTIONS, *registry.TASKS, *registry.SHORT_NAMES])
def test_our_own_names_keep_the_rule(name):
    assert registry.check_name(name) == name


def test_a_name_given_twice_is_refused():
    registry.register_attention("mine")(Softmax)
    with pytest.raises(ValueError, match="attention 'mine': there already is one of this name"):
        registry.register_attention("mine")(stranger())
    with pytest.raises(ValueError, match="attention 'softmax': there already is one of this name"):
        registry.register_attention("softmax")(Softmax)
    assert registry.load_attention("mine") is Softmax


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"version": None}, "Stranger.version must be a whole number"),
        ({"version": "1"}, "Stranger.version must be a whole number"),
        ({"unsupported": None}, "Stranger.unsupported must map patterns"),
        ({"unsupported": {"causal": "no"}}, "Stranger.unsupported must map patterns"),
    ],
)
def test_a_class_without_its_declarations_is_refused(declared, message):
    with pytest.raises(ValueError, match=message):
        registry.register_attention("mine")(stranger(**declared))
    assert "mine" not in registry.attention_names()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"attention 'preformer': unknown \(did you mean performer\?\); known: lavo"):
        registry.load_attention("preformer")
    with pytest.raises(ValueError, match=r"task 'forecast': unknown \(did you mean forecasting\?\)"):
        registry.task_name("forecast")


def test_short_names_of_tasks_are_the_long_ones():
    assert registry.task_name("lm") == registry.task_name("language_modeling") == "language_modeling"


def test_an_unknown_option_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"option 'windows' of attention lavo: unknown \(did you mean window\?\)"):
        registry.build_attention("lavo", pattern="causal_self", num_heads=2, head_dim=8, windows=3)
    with pytest.raises(ValueError, match="option 'window' of attention none: unknown; it has no options"):
        registry.build_attention("none", pattern="causal_self", num_heads=2, head_dim=8, window=3)


def test_an_unknown_pattern_is_answered_with_the_four():
    with pytest.raises(ValueError, match="allowed: noncausal_self, causal_self, noncausal_cross, causal_cross"):
        registry.build_attention("softmax", pattern="causal", num_heads=2, head_dim=8)


@pytest.mark.parametrize(("num_heads", "head_dim"), [(0, 8), (2, 0), (2.0, 8), (True, 8), (2, "8")])
def test_sizes_must_be_whole_numbers(num_heads, head_dim):
    with pytest.raises(ValueError, match="allowed are whole numbers from 1"):
        registry.build_attention("softmax", pattern="causal_self", num_heads=num_heads, head_dim=head_dim)


def test_an_unsupported_pattern_is_refused_with_its_reason():
    registry.register_attention("mine")(stranger(unsupported={"causal_cross": "has no read()"}))
    with pytest.raises(UnsupportedPattern, match=r"mine can't do causal_cross: has no read\(\)"):
        registry.build_attention("mine", pattern="causal_cross", num_heads=2, head_dim=8)
    assert registry.build_attention("mine", pattern="causal_self", num_heads=2, head_dim=8).pattern == "causal_self"


@pytest.mark.parametrize("name", registry.ATTENTIONS)
def test_declarations_read_from_the_source_are_those_of_the_class(name):
    cls = registry.load_attention(name)
    read = registry.attention_declarations(name)
    assert read["version"] == cls.version
    assert read["unsupported"] == cls.unsupported
    assert set(read["unsupported"]) <= set(PATTERNS)
    for flag in ("encodes_positions", "linear_state", "exact", "control", "needs_max_length", "checks_arguments"):
        assert read.get(flag, False) == getattr(cls, flag, False)


def test_reading_declarations_imports_no_torch():
    code = """
import sys
from benchmark import registry
for name in registry.ATTENTIONS:
    registry.attention_declarations(name)
for name in registry.TASKS:
    registry.task_declarations(name)
heavy = {"torch", "pandas", "numpy", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_table_entry_without_module_or_class_is_named(monkeypatch):
    monkeypatch.setitem(registry.ATTENTIONS, "lost", "baselines.nowhere:Lost")
    with pytest.raises(ValueError, match=r"registry entry 'baselines\.nowhere:Lost': no such module"):
        registry.attention_declarations("lost")
    monkeypatch.setitem(registry.ATTENTIONS, "lost", "baselines.softmax:Lost")
    with pytest.raises(ValueError, match=r"registry entry 'baselines\.softmax:Lost': the module has no such class"):
        registry.attention_declarations("lost")


FILE = """
from benchmark.registry import register_attention
from correct_attentions import Softmax

@register_attention("from_a_file")
class FromAFile(Softmax):
    pass
"""


def test_an_included_file_brings_its_attentions_and_its_digest(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(FILE, encoding="utf-8")
    assert registry.include_file(path) == ("from_a_file",)
    assert registry.include_file(tmp_path / "." / "my.py") == ("from_a_file",)
    assert "from_a_file" in registry.attention_names()
    inherited = registry.attention_declarations("from_a_file")
    assert (inherited["version"], inherited["unsupported"], inherited["exact"]) == (1, {}, True)
    first = registry.included_digest("from_a_file")
    path.write_text(FILE + "# another byte\n", encoding="utf-8")
    assert registry.included_digest("from_a_file") not in (first, None)
    assert registry.included_digest("softmax") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "my.py: registers no attention; decorate one with @register_attention"),
        ("import no_such_module_anywhere\n", "my.py: ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("def broken(:\n", "my.py: SyntaxError"),
        (FILE + "raise RuntimeError('too late')\n", "my.py: RuntimeError: too late"),
        (FILE.replace("from_a_file", "softmax"), "my.py: ValueError: attention 'softmax': there already is one"),
        (
            FILE.replace("from_a_file", "From-a-file"),
            "my.py: ValueError: attention 'From-a-file': a name is lower-case",
        ),
    ],
)
def test_an_included_file_that_can_not_be_used_is_told_in_a_line_and_leaves_nothing(tmp_path, text, message):
    path = tmp_path / "my.py"
    path.write_text(text, encoding="utf-8")
    before = registry.attention_names()
    with pytest.raises(ValueError) as raised:
        registry.include_file(path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert registry.attention_names() == before


@pytest.mark.parametrize("name", ["absent.py", "notes.txt", "."])
def test_a_path_that_is_no_python_file_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text(FILE, encoding="utf-8")
    with pytest.raises(ValueError, match="not a Python file"):
        registry.include_file(tmp_path / name)
