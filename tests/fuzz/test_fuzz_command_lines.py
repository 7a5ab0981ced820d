"""Command lines of every command: options with values of any kind, up to where the work would begin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from fuzzing import ODD_TEXTS, answer_of, assert_told, examples, odd_texts
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_run_files import ODD_SETTINGS, SETTINGS, VALUES

from benchmark.cli.entry import app

COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
LEFT_OUT = {"--report", "--debug", "--help"}  # it would measure; they print tracebacks and help
SOUND = {  # values that are right, so that a fuzz comes further than the first fault
    "--attention": ["lavo", "softmax,lavo", "none", "all"],
    "--backbone": ["gpt", "informer", "gpt,informer"],
    "--pattern": ["causal_self", "noncausal_self,causal_self", "every"],
    "--grid": ["1/3,1,3", "1,2", "1", "0,1", "1/0,1", "nan,1", "inf,1", "-1,1"],
    "--tuned": ["tuned", "plain", "nowhere"],
    "--preset": ["smoke"],
    "--seeds": ["0", "0,1", "0,0"],
    "--name": ["etth1", "etth1,weather", "nothing"],
    "--set": ["train.steps=3", "lm.train.steps=3", "attentions.lavo.window=8"],
    "--config": ["good.yaml", "bad.yaml", "gone.yaml", "."],
    "--data-root": [".", "nowhere", "plain"],
    "--output": ["out", "out/below", "plain", "x.json", "good.yaml"],
    "-o": ["out", "plain"],
    "--device": ["cpu", "cuda", "cuda:99", "cpu:0", "meta", "mps", "cuda:-1"],
    "--jobs": ["1", "1000000"],
    "--limit": ["1", "2"],
    "--include-path": ["good.py", "bad.py", "gone.py", ".", "plain"],
    "--cell-timeout": ["1", "nan", "inf", "1e300"],
    "--cache": ["cache", "plain", "plain/x"],
    "--lengths": ["64", "64:256", "256:64", "0", "1:1:1", "64,64", "1:99999999999999999999", "-1:4"],
    "--mode": ["forward", "forward,decode", "training", "forward,forward"],
    "--dtype": ["float32", "bfloat16", "float64", "int8"],
    "--option": ["lavo.window=8", "lavo.x=1", "lavo=1", "lavo.window=x", "lavo.window", "softmax.a=1"],
    "--vary": [
        "lavo.window=8,16",
        "train.steps=3",
        "lm.train.steps=3,4",
        "lavo.window",
        "window=8",
        "lavo.rank=null,[1]",
        "=,",
        "a=[",
    ],
    "--log": ["tensorboard", "trackio,tensorboard", "wandb", ","],
    "--rounds": ["5", "4", "7"],
    "--budget": ["0.1", "nan", "inf"],
}
ARGUMENTS = {
    "list": ["tasks", "attentions", "presets", "sites"],
    "prepare": ["lstf"],
    "data": ["verify", "bare", "gone"],
    "run": ["lm", "lstf", "language_modeling"],
    "tune": ["lm", "lstf"],
    "sweep": ["lm", "lstf"],
    "work": ["bare", "plain", "gone"],
    "check": ["lavo", "all"],
    "efficiency": [],
    "report": ["bare", "plain", "gone", "."],
    "compare": ["bare", "plain", "gone"],
    "submit": ["bare", "plain", "gone"],
    "board": ["bare", "plain", "gone"],
    "validate": ["good.yaml", "bad.yaml", "plain", "bare", "gone.yaml"],
}
ODD_NAMES = [text for text in ODD_TEXTS if not text.startswith("/")]  # only names inside the folder


@pytest.fixture(scope="module", autouse=True)
def files(folder):
    """What the command lines may name."""
    (folder / "good.yaml").write_text("tasks: [lm]\npreset: smoke\nattentions: [lavo]\n")
    (folder / "bad.yaml").write_text("tasks: [lmm]\n")
    (folder / "plain").write_text("x")
    (folder / "bad.py").write_text("1 / 0\n")
    (folder / "bare").mkdir()
    before = {path.name for path in folder.parent.iterdir()}
    yield
    assert {path.name for path in folder.parent.iterdir()} == before


def values_of(option: Any) -> st.SearchStrategy[str]:
    """Sound values and odd ones; for folders that would be made, only names inside the working folder."""
    sound = [value for name in option.opts for value in SOUND.get(name, [])]
    makes = {"--output", "-o", "--cache", "--tuned"} & set(option.opts)
    odd = st.sampled_from(ODD_NAMES).filter(lambda text: ".." not in text and "/" not in text) if makes else odd_texts
    return st.sampled_from(sound) | odd if sound else odd


def options_of(name: str) -> st.SearchStrategy[list[str]]:
    """An option of the command, with or without a value."""
    wanted = []
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name != "option" or LEFT_OUT & set(parameter.opts):
            continue
        spelling = st.sampled_from(parameter.opts)
        if parameter.is_flag:
            wanted.append(spelling.map(lambda text: [text]))
        else:
            value = values_of(parameter)
            wanted.append(st.tuples(spelling, value).map(list))
            wanted.append(st.tuples(spelling, value).map(lambda pair: [f"{pair[0]}={pair[1]}"]))
    return st.one_of(wanted) | odd_texts.map(lambda text: [f"--{text}"])


@st.composite
def command_lines(draw: Any) -> list[str]:
    name = draw(st.sampled_from([*COMMANDS, "run", "run", "run", "efficiency"]))
    sound = ARGUMENTS[name]
    argument = st.sampled_from(sound) | odd_texts if sound else odd_texts
    if name in ("prepare", "run", "tune", "sweep"):
        argument = argument.filter(lambda text: text != "all")
    fewest = 2 if name == "compare" else 1 if sound else 0
    arguments = draw(st.lists(argument, min_size=draw(st.sampled_from([0, fewest, fewest])), max_size=max(fewest, 2)))
    if name == "prepare":
        arguments += ["--preset", "smoke"]
    if name == "run" and "smoke" not in arguments:
        arguments += ["--preset", "smoke", "-a", "lavo", "-o", "out"]
    if name == "sweep":
        arguments += ["--preset", "smoke", "-o", "out", "--tuned", "tuned", "--vary", "lavo.window=8"]
    if name == "tune":
        arguments += ["--preset", "smoke", "-a", "none", "-o", "out", "--tuned", "tuned"]
    given = draw(st.lists(options_of(name), max_size=3))
    return [name, *arguments, *(part for option in given for part in option)]


def is_about_help(line: list[str]) -> bool:
    return bool({"-h", "--help", "--debug"} & set(line))


@examples(170)
@given(command_lines().filter(lambda line: not is_about_help(line)))
def test_any_command_line_ends_at_once_or_would_begin(line):
    answer = answer_of(*[part.replace("\0", "") for part in line])  # no command line can hold a NUL
    assert_told(answer)


@examples(60)
@given(st.sampled_from(SETTINGS + list(ODD_SETTINGS)), st.sampled_from(VALUES) | odd_texts)
def test_any_assignment(key, value):
    answer = answer_of(
        "run", "lm", "-a", "lavo", "--preset", "smoke", "-o", "out", "--set", f"{key}={value}".replace("\0", "")
    )
    assert_told(answer)


@examples(60)
@given(
    odd_texts,
    st.sampled_from(["run", "efficiency", "sweep", "check", "list", "prepare", "validate", "compare", "report", ""]),
)
def test_a_name_alone(text, command):
    if "-h" in text or text == "all" or not command + text:
        return
    assert_told(answer_of(*[part for part in (command, text.replace("\0", "")) if part]))


@pytest.mark.parametrize("name", ["a b", "ä€😀", "-", "--", "-x", "x" * 255, "x" * 256, "é" * 127, "a'b", 'a"b', "a\nb", "\\", "$HOME", "*", "con", ".", "~", "\udcff"])  # fmt: skip
def test_an_output_of_any_name_is_used_or_refused(name, folder):
    assert_told(answer_of("run", "lm", "-a", "lavo", "--preset", "smoke", f"--output={name}"))
    assert_told(answer_of("efficiency", "-a", "lavo", "--lengths", "64", f"--output={name}"))


def test_nothing_was_written_elsewhere(folder):
    assert not Path("hacked").exists()
    assert not any(path.name.startswith(("out", "hacked")) for path in folder.parent.iterdir())
    assert os.getcwd() == str(folder)
