"""Run files of any content, through ``validate`` and the planning of ``run``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzzing import ODD_TEXTS, answer_of, assert_told, examples, json_values
from hypothesis import given
from hypothesis import strategies as st

from benchmark.settings.models import AttentionSpec
from benchmark.settings.resolve import resolve

NAME = "runs.yaml"
KEYS = ("tasks", "backbones", "patterns", "attentions", "preset", "seeds", "limit", "data_root", "set", "runs")
ODD_KEYS = (
    "Tasks", "TASKS", "tasks[0]", "tasks.0", "'['", "'{'", "[a]", "{a: 1}", "? [a, b]", "1", "true", "null", "~", "1.5", "2024-01-01", "=",
    "!!binary aGk=", "&k key", "*k", "<<", "''", "k" * 3000, '"a\\u2028b"', '"\\e[31mred"', "'a b'", "!!python/name:os.system", "9" * 5000,
)  # fmt: skip
VALUES = (
    "", "~", "true", "yes", "0", "-1", "1.5", ".nan", "-.inf", "1e999", "9" * 5000, "-" + "9" * 400, "0x" + "f" * 4000, "0b1", "0o17", "017",
    "1_000", "190:20:30", "''", "'x'", "x" * 5000, "2024-01-01", "2024-13-45", "2001-12-14t21:59:43.10-05:00", "[]", "[[]]", "[1, a, null]",
    "{}", "{1: 2}", "{a: {b: {c: d}}}", "{[a]: b}", "[a, [b, [c]]]", "!!binary aGVsbG8=", "!!binary '%%'", "!!set {a, b}", "!!set [a]",
    "!!omap [a: 1]", "!!omap {a: 1}", "!!pairs [a: 1]", "!!pairs [3]", "!!timestamp x", "!!timestamp 2001-12-14", "!!int abc", "!!int ''",
    "!!int [1]", "!!float x", "!!float ''", "!!bool maybe", "!!null x", "!!str 3", "!!str [3]", "!!seq {a: 1}", "!!map [a]", "!!map x",
    "!custom x", "!!python/object/apply:os.system ['touch hacked']", "!!python/name:os.system", "!!python/module:os", "!!python/tuple [1]",
    "!!python/object/new:os.system [touch hacked]", "!<tag:yaml.org,2002:python/name:os.system> x", "*unknown", "&a [*a]", "&a {b: *a}",
    "{<<: 3}", "{<<: [3]}", "{<<: {a: 1}, a: 2}", "{<<: *unknown}", "{<<: {<<: {<<: {a: 1}}}}", "=", "<<", "|\n  a\n  b", ">-\n  a", "%TAG", "@x",
    "`x`", "\t", "[", "{", "}", "'", '"', '"\\x"', '"\\uD800"', '"\\0"', "? a", "- a", "a: b: c", "# c", "--- x", "...", "{a: 1, a: 2}",
    "{name: lavo, options: {window: []}}", "[{name: lavo, label: [x]}]", "[{name: [lavo]}]", "[{options: 3}]", "[lavo, {name: lavo, label: l}]",
    "[lm]", "[lm, lm]", "[gpt]", "[causal_self]", "[lavo]", "[all]", "smoke", "[0, 1]", "1", "[{}]", "[{tasks: [lm]}]", "[[]]", "[null]",
    "[-1]", "[4294967296]", "[1.5]", "['0']", "[true]", "nowhere", "/", "..", "'\\0'", "'<script>'", "'\u2028'", "é",
)  # fmt: skip


def settings_of_a_cell() -> list[str]:
    """Every key that ``set`` takes for two tasks and an attention."""
    keys = []
    for task, backbone in (("language_modeling", "gpt"), ("forecasting", "informer")):
        plain = resolve(task, backbone, "smoke", AttentionSpec(name="lavo"), []).plain()
        for group in ("data", "model", "eval", "train"):
            keys += [f"{prefix}{group}.{key}" for key in plain[group] for prefix in ("", f"{task}.")]
        keys += [f"attentions.lavo.{option}" for option in plain["options"]]
    return list(dict.fromkeys(keys))


SETTINGS = settings_of_a_cell()
ODD_SETTINGS = ("train", "train.", ".steps", "train..steps", "train.steps.more", "data.x", "x.y", "tts.train.steps", "attentions", "'['",
                "attentions.lavo", "attentions.lavo.x.y", "attentions.nope.window", "attentions.flash.x", "TRAIN.steps", "train.step[0]", "1", "''")  # fmt: skip
COMMON = "tasks: [lm, lstf]\npreset: smoke\nattentions: [lavo]\npatterns: [causal_self]\n"


def check(content: str | bytes, *places: str, command: str = "validate") -> None:
    path = Path(NAME)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    arguments = [command, NAME] if command == "validate" else ["run", "-c", NAME, "-o", "out"]
    assert_told(answer_of(*arguments), *places)
    assert not Path("hacked").exists()


@examples(60)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(content):
    check(content, NAME)


@examples(120)
@given(st.lists(st.tuples(st.sampled_from(KEYS + ODD_KEYS), st.sampled_from(VALUES)), min_size=1, max_size=3))
def test_any_value_at_any_key(pairs):
    given_keys = [key for key, _ in pairs]
    lines = COMMON.splitlines() if "tasks" not in given_keys else []
    lines = [line for line in lines if line.partition(":")[0] not in given_keys]
    check("\n".join([*lines, *(f"{key}: {value}" for key, value in pairs)]) + "\n", NAME)


@examples(70)
@given(st.sampled_from(SETTINGS + list(ODD_SETTINGS)), st.sampled_from(VALUES), st.sampled_from(["validate", "run"]))
def test_any_value_of_any_setting(key, value, command):
    check(f"{COMMON}set:\n  {key}: {value}\n", NAME, command=command)


@examples(60)
@given(st.sampled_from(KEYS), json_values)
def test_any_plain_value_at_any_key_names_the_key(key, value):
    lines = [line for line in COMMON.splitlines() if line.partition(":")[0] != key]
    check("\n".join([*lines, f"{key}: {json.dumps(value)}"]), NAME)


@examples(30)
@given(st.sampled_from(KEYS[:-1]), st.sampled_from(VALUES), st.integers(1, 3))
def test_any_value_in_one_of_several_runs(key, value, position):
    runs = [f"  - {{preset: smoke, {key}: {value}}}" if n == position else "  - {preset: smoke}" for n in (1, 2, 3)]
    check("\n".join(["attentions: [lavo]" if key != "attentions" else "", "runs:", *runs]), NAME)


def bomb(levels: int, width: int, leaf: str, opening: str) -> str:
    """Aliases of aliases: width to the power of levels values."""
    lines = [f"l0: &l0 {leaf}"]
    for level in range(1, levels + 1):
        inside = ", ".join([f"*l{level - 1}"] * width)
        lines.append(f"l{level}: &l{level} [{inside}]" if opening == "[" else f"l{level}: &l{level} {{<<: [{inside}]}}")
    return "\n".join(lines) + "\n"


@examples(25)
@given(
    st.integers(1, 30), st.integers(1, 12), st.sampled_from(["[a]", "x", "{a: 1, b: 2}", "'y' "]), st.sampled_from("[{")
)
def test_bombs_of_aliases_and_merges(levels, width, leaf, opening):
    if opening == "{":
        leaf = "{a: 1, b: 2}"
    check(COMMON + bomb(levels, width, leaf, opening), NAME)
    check(COMMON + bomb(levels, width, leaf, opening) + f"set: *l{levels}\n", NAME)


@examples(12)
@given(st.sampled_from(["[", "{a: ", "- ", "? ", "!!seq [", "a:\n "]), st.integers(1, 30_000), st.booleans())
def test_deep_nesting(opening, depth, closed):
    content = opening * depth
    if opening == "a:\n ":
        content = "".join(f"{' ' * level}a:\n" for level in range(min(depth, 300)))
    elif closed:
        content += "x" + {"[": "]", "{": "}", "!": "]"}.get(opening[0], "") * depth
    check(f"set: {content}" if opening[0] in "[{!" else content, NAME)


@pytest.mark.parametrize("number", [100, 9_000, 50_000])
@pytest.mark.parametrize("line", ["k{}: 1", "'{}': [a, b]", "- {}", "set: {{a{}: 1}}"])
def test_very_many_lines(line, number):
    check("\n".join(line.format(n) for n in range(number)), NAME)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_texts_as_the_whole_file(text):
    check(text, NAME)
