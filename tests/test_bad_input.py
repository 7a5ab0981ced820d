"""What a user can get wrong: one line that names the place, the key, the bad value and what is allowed; status 2.

Each table maps the kind of fault to the arguments (or the call) and the words that its message must hold.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import lavo_bench

from benchmark import build_attention, registry, results
from benchmark.multihead import MultiHeadAttention
from benchmark.running import workers
from benchmark.running.downloads import read_manifest
from lavo import LAVOAttention, lavo_attention, lavo_cross_attention
from tasks.forecasting.metrics import mae, mse

PATTERNS = "noncausal_self, causal_self, noncausal_cross, causal_cross"
RULE = "lower-case letters, digits and underscores"


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch, cache, tmp_path):
    def started(*_arguments, **_options):
        raise AssertionError("the fault was not noticed: cells were started")

    monkeypatch.setattr(workers, "run_cells", started)
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    monkeypatch.setenv("LAVO_BENCH_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)


def assert_refused(answer, words) -> None:
    assert answer.status == 2, answer
    assert answer.err.startswith("lavo-bench: "), answer.err
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.endswith("\n"), answer.err
    assert "Traceback" not in answer.err
    assert "please report it" not in answer.err, answer.err
    for word in words:
        assert word in answer.err, f"{word!r} is not in: {answer.err}"


def write(path: Path, content: str | bytes | list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "\n".join(content) + "\n"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cases(table):
    """The rows of a table as parameters, the kind as their id."""
    return pytest.mark.parametrize("case", [pytest.param(row, id=kind) for kind, row in table.items()])


# Options, commands and names.  "…" in the first place stands for `run lm`.

COMMAND_LINE = {
    "unknown command": ("rum", "No such command 'rum'", "Did you mean 'run'"),
    "unknown option": ("… --sed 0", "--sed", "--seeds"),
    "option that isn't one": ("… --steps=3", "--steps", "--set"),
    "short option that isn't one": ("… -q", "-q"),
    "option without its value": ("… --seeds", "--seeds", "argument"),
    "run without a task": ("run", "name a task", "--config"),
    "prepare without a task": ("prepare", "TASK"),
    "check without an attention": ("check", "ATTENTION"),
    "compare with one folder": ("compare a", "Missing argument 'B'"),
    "validate without a file": ("validate", "CONFIG"),
    "list of what can't be listed": ("list tusks", "tusks", "'tasks', 'attentions', 'presets', 'results'"),
    "one argument too many": ("list tasks more", "more"),
    "task misspelt": ("run forcasting", "task 'forcasting'", "did you mean forecasting?", "known: language_modeling"),
    "task in capitals": ("run LM", "task 'LM'", "known: language_modeling"),
    "task that is a path": ("run ../lm", "task '../lm'", "known:"),
    "second of two tasks unknown": ("run lm nope", "task 'nope'", "known:"),
    "task to prepare unknown": ("prepare nope", "task 'nope'", "known:"),
    "attention misspelt": ("… -a lavoo", "attention 'lavoo'", "did you mean lavo?", "known: lavo, softmax"),
    "one of two attentions unknown": ("… -a softmax,flsh", "'flsh'", "did you mean flash?"),
    "attention in capitals": ("… -a LAVO", "'LAVO'", "known: lavo"),
    "no attention": ("… -a ,", "--attention ','", "one or more"),
    "attention to check unknown": ("check lavoo", "'lavoo'", "did you mean lavo?"),
    "pattern to check unknown": ("check lavo --pattern causal", "'causal'", "did you mean causal_self?", PATTERNS),
    "backbone misspelt": ("… --backbone gtp", "backbone 'gtp'", "did you mean gpt?", "allowed: gpt"),
    "backbone of another task": ("… --backbone informer", "'informer'", "allowed: gpt"),
    "no backbone": ("… --backbone ,", "--backbone ','"),
    "pattern misspelt": ("… --pattern causal", "pattern 'causal'", "did you mean causal_self?", PATTERNS),
    "pattern that the task lacks": ("… --pattern noncausal_self", "'noncausal_self'", "allowed: causal_self"),
    "pattern that the chosen backbone lacks": (
        "run lm lstf --backbone gpt --pattern noncausal_cross",
        "'noncausal_cross'",
        "allowed: causal_self",
    ),
    "no pattern": ("… --pattern ,", "--pattern ','"),
    "preset misspelt": ("… --preset smok", "--preset", "'smok'", "did you mean smoke?", "allowed: smoke, quick"),
    "preset to prepare misspelt": ("prepare lm --preset smok", "--preset", "'smok'", "did you mean smoke?"),
    "seed below zero": ("… --seeds -1", "--seeds", "-1", "from 0 to 2^32 - 1"),
    "seed beyond 32 bits": ("… --seeds 4294967296", "--seeds", "4294967296", "from 0 to 2^32 - 1"),
    "seed that is text": ("… --seeds x", "--seeds", "'x'", "whole number"),
    "seed with a fraction": ("… --seeds 1.5", "--seeds", "'1.5'", "whole number"),
    "seeds with semicolons": ("… --seeds 0;1", "--seeds", "'0;1'", "whole number"),
    "range of seeds": ("… --seeds 0-2", "--seeds", "'0-2'", "whole numbers"),
    "no seed": ("… --seeds ,", "--seeds ','"),
    "limit of nothing": ("… --limit 0", "--limit 0", "greater than or equal to 1"),
    "limit below zero": ("… --limit=-3", "--limit -3", "greater than or equal to 1"),
    "limit that is text": ("… --limit many", "--limit many", "integer"),
    "limit with a fraction": ("… --limit 1.5", "--limit 1.5", "integer"),
    "no jobs": ("… --jobs 0", "--jobs 0", "greater than or equal to 1"),
    "jobs that are text": ("… --jobs two", "--jobs two", "integer"),
    "device unknown": ("… --device tpu", "--device tpu", "allowed: cpu, cuda, cuda:N"),
    "device of another kind": ("… --device mps", "--device mps", "allowed: cpu, cuda, cuda:N"),
    "processor with a number": ("… --device cpu:3", "--device cpu:3", "allowed: cpu, cuda, cuda:N"),
    "GPU that isn't there": ("… --device cuda:99", "--device cuda:99", "CUDA devices"),
    "sequences in parts for an attention that can't": (
        "… -a lavo,softmax --set train.parallel=sequence",
        "--set train.parallel=sequence: train.parallel = 'sequence'",
        "softmax at causal_self of gpt",
        "those that can: lavo",
        "'data' is allowed",
    ),
    "sequences in parts for a task that can't": (
        "run lm lstf -a lavo --set train.parallel=sequence",
        "train.parallel = 'sequence'",
        "forecasting can't cut",
        "allowed: 'data'",
    ),
    "data root that isn't there": ("… --data-root nowhere", "--data-root", "nowhere", "no such folder"),
}


@cases(COMMAND_LINE)
def test_a_wrong_command_line(case):
    line, *words = case
    assert_refused(lavo_bench(*line.replace("…", "run lm").split(" ")), words)


# --set

SETTINGS = {
    "key without a group": ("steps=3", "unknown key 'steps'", "data, model, eval, train"),
    "key of no setting": ("train.stepz=3", "'stepz' of train", "did you mean steps?", "batch_size"),
    "group misspelt": ("trian.steps=3", "'trian.steps'", "did you mean train?"),
    "no equals sign": ("train.steps", "must be key=value"),
    "no key": ("=3", "must be key=value"),
    "colon for an equals sign": ("train.steps: 3", "must be key=value"),
    "value below the least": ("train.steps=0", "train.steps = 0", "greater than or equal to 1"),
    "negative value": ("train.steps=-1", "train.steps = -1", "greater than or equal to 1"),
    "fraction for a whole number": ("train.steps=1.5", "train.steps = 1.5", "whole number"),
    "text for a whole number": ("train.steps=many", "'many'", "whole number"),
    "list for a number": ("train.steps=[1]", "[1]", "whole number"),
    "mapping for a number": ("train.steps={a: 1}", "{'a': 1}", "whole number"),
    "yes for a number": ("train.steps=yes", "True", "number"),
    "nothing for a number": ("train.steps=", "train.steps = ''", "whole number"),
    "parallel in no known way": ("train.parallel=both", "train.parallel = 'both'", "'data' or 'sequence'"),
    "neither steps nor epochs": ("train.steps=null", "steps None and epochs None", "exactly one"),
    "both steps and epochs": ("train.epochs=2", "steps 20 and epochs 2", "exactly one"),
    "NaN": ("train.learning_rate=.nan", "nan", "finite number"),
    "NaN as users write it": ("train.learning_rate=nan", "nan", "finite number"),
    "infinity": ("train.learning_rate=-.inf", "-inf", "finite number"),
    "number beyond double precision": ("train.learning_rate=1e999", "inf", "finite number"),
    "negative rate": ("train.learning_rate=-1e-3", "-0.001", "greater than 0"),
    "list that is too short": ("train.betas=[0.9]", "train.betas.1", "missing"),
    "number for a list": ("train.betas=0.9", "train.betas = 0.9", "must be a list"),
    "list whose values are out of range": ("train.betas=[0.9,1.0]", "[0.9, 1.0]", "from 0 to below 1"),
    "choice that isn't one": ("train.optimizer=sgd", "'sgd'", "'adam' or 'adamw'"),
    "choice misspelt": ("train.schedule=cosin", "'cosin'", "'cosine'"),
    "number for a choice": ("train.precision=16", "16", "'float32', 'bfloat16' or 'float16'"),
    "share above one": ("train.final_ratio=2", "2", "less than or equal to 1"),
    "more warm-up than steps": ("train.warmup_steps=100", "warmup_steps 100 is more than steps 20"),
    "group as a value": ("train=3", "must name a setting inside"),
    "value as a group": ("train.steps.more=3", "steps is a value, 20"),
    "key with a hole": ("train..steps=3", "must name a setting inside"),
    "value that isn't YAML": ("train.betas=[0.9", "not valid YAML"),
    "width that heads don't divide": ("model.embed_dim=33", "embed_dim 33 is not a multiple of num_heads 2"),
    "dropout of everything": ("model.dropout=1", "model.dropout = 1", "less than 1"),
    "unknown positions": ("model.positions=alibi", "'alibi'", "'sinusoidal', 'learned' or 'rotary'"),
    "unknown tokens": ("data.tokens=words", "'words'", "'bytes', 'bpe', 'gpt2'"),
    "tokens that need a data root": ("data.tokens=gpt2", "data.tokens gpt2", "data root", "bytes, bpe"),
    "blocks longer than any text": ("data.context_length=100000", "data.context_length 100000", "data.excerpt_bytes"),
    "lengths that don't grow": ("eval.lengths=[4,2]", "[4, 2]", "growing multiples"),
    "setting of another task": ("data.pred_len=3", "'pred_len' of data", "context_length"),
    "setting for a task that doesn't run": (
        "forecasting.train.steps=3",
        "forecasting is not among",
        "language_modeling",
    ),
    "task before a key misspelt": ("forecastin.train.steps=3", "did you mean forecasting?"),
    "task before no key": ("lm=3", "must name a setting inside"),
    "unknown key behind a task": ("lm.train.stepz=3", "'stepz' of train", "did you mean steps?"),
    "option of the command line as a setting": ("preset=quick", "unknown key 'preset'"),
    "unknown option of an attention": ("attentions.lavo.windw=3", "'windw'", "did you mean window?", "lavo has rank"),
    "option of an attention below the least": (
        "attentions.lavo.window=0",
        "window must be an integer of at least 1, got 0",
    ),
    "fraction for an option": ("attentions.lavo.window=1.5", "window = 1.5", "whole number"),
    "text for an option": ("attentions.lavo.window=big", "window = 'big'", "whole number"),
    "NaN for an option": ("attentions.lavo.window=.nan", "window = nan", "whole number"),
    "text for a switch": ("attentions.lavo.position_bias=maybe", "'maybe'", "true or false"),
    "number for a switch": ("attentions.lavo.dissect=3", "dissect = 3", "true or false"),
    "number for a word": ("attentions.lavo.basis=5", "basis = 5", "text"),
    "rank above the head's width": ("attentions.lavo.rank=17", "rank must be at most head_dim = 16, got 17"),
    "word that isn't one": ("attentions.lavo.output=jont", "'jont'", "joint, sum, memory"),
    "options that exclude each other": (
        "attentions.lavo.basis=none attentions.lavo.output=memory",
        "basis",
        "windows alone",
    ),
    "backend that isn't there": ("attentions.lavo.backend=triton", "triton", '"torch"'),
    "option of an attention that doesn't run": ("attentions.softmax.x=3", "softmax is not among", "lavo"),
    "option of no attention": ("attentions.lavoo.window=3", "lavoo", "lavo"),
    "attention without an option": ("attentions.lavo=3", "attentions.NAME.OPTION"),
}


@cases(SETTINGS)
def test_a_wrong_setting(case):
    texts, *words = case
    texts = [texts] if "{" in texts or ": " in texts else texts.split(" ")
    assignments = [part for text in texts for part in ("--set", text)]
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "lavo", "-o", "out", *assignments)
    assert_refused(answer, words)
    if "attention lavo at" not in answer.err and "language_modeling: " not in answer.err:  # told before data were read
        assert f"--set {texts[0].partition('=')[0]}" in answer.err


def test_a_longest_length_below_what_will_be_met():
    answer = lavo_bench(
        "run", "lm", "--preset", "smoke", "-a", "cosformer", "--set", "attentions.cosformer.max_length=3"
    )
    assert_refused(answer, ["cosformer", "max_length 3", "up to 1024"])


# Run files

RUN_FILES = {
    "empty": ("", "empty"),
    "comments alone": ("# nothing\n", "empty"),
    "a list": ("- a\n", "key: value", "list"),
    "text": ("hello", "key: value", "str"),
    "no YAML": ("tasks: [lm\npreset: smoke", "not valid YAML", "line 2"),
    "a tab": ("tasks:\n\t- lm\n", "not valid YAML", "line 2"),
    "a key twice": ("preset: smoke\ntasks: [lm]\npreset: quick\n", "line 3", "'preset'", "twice"),
    "Latin-1": ("preset: café".encode("latin-1"), "not UTF-8", "byte 11"),
    "UTF-16": ("preset: smoke".encode("utf-16"), "not UTF-8"),
    "a NUL": (b"preset: smoke\x00", "not valid YAML"),
    "code": ("preset: !!python/object:os.system x\n", "not valid YAML", "tag"),
    "unknown key": ("presett: smoke\n", "'presett'", "did you mean preset?", "allowed: attentions"),
    "key that is a number": ("1: smoke\n", "key 1", "text"),
    "text for a list": ("tasks: lm\n", "tasks = 'lm'", "must be a list"),
    "no tasks": ("tasks: []\n", "tasks = []", "at least one"),
    "unknown task": ("tasks: [lmm]\n", "'lmm'", "did you mean lm?"),
    "task that is a number": ("tasks: [3]\n", "tasks.0 = 3", "text"),
    "unknown preset": ("preset: smok\n", "'smok'", "did you mean smoke?"),
    "preset that is a list": ("preset: [smoke]\n", "['smoke']", "text"),
    "seeds that are a number": ("seeds: 3\n", "seeds = 3", "must be a list"),
    "seed that is true": ("seeds: [true]\n", "[True]", "number"),
    "limit of nothing": ("limit: 0\n", "limit = 0", "greater than or equal to 1"),
    "no patterns": ("patterns: []\n", "patterns = []", "at least one"),
    "unknown pattern": ("patterns: [causal]\n", "'causal'", "did you mean causal_self?"),
    "unknown backbone": ("backbones: [gtp]\n", "'gtp'", "did you mean gpt?"),
    "unknown attention": ("attentions: [lavoo]\n", "'lavoo'", "did you mean lavo?"),
    "attention without a name": ("attentions: [{label: x}]\n", "attentions.0.name is missing"),
    "attention that is a number": ("attentions: [3]\n", "attentions.0 = 3", "a name"),
    "unknown key of an attention": ("attentions: [{name: lavo, opts: {}}]\n", "'opts'", "did you mean options?"),
    "options that are no mapping": ("attentions: [{name: lavo, options: 3}]\n", "options = 3", "{key: value}"),
    "unknown option": ("attentions: [{name: lavo, options: {windw: 3}}]\n", "'windw'", "did you mean window?"),
    "option of a wrong type": ("attentions: [{name: lavo, options: {window: a}}]\n", "window = 'a'", "whole number"),
    "label with a space": ("attentions: [{name: lavo, label: My Label}]\n", "'My Label'", RULE),
    "label with a slash": ("attentions: [{name: lavo, label: a/b}]\n", "'a/b'", RULE),
    "one label for two variants": (
        "attentions: [{name: lavo, label: x}, {name: lavo, label: x, options: {window: 16}}]\n",
        "'x'",
        "give one a label",
    ),
    "two variants without a label": ("attentions: [lavo, {name: lavo, options: {window: 16}}]\n", "'lavo'", "label"),
    "label that is another's name": ("attentions: [{name: softmax, label: lavo}, lavo]\n", "'lavo'", "label"),
    "settings that are a list": ("set: [train.steps]\n", "set = ['train.steps']", "{key: value}"),
    "unknown setting": ("set: {train.stepz: 3}\n", "set.train.stepz", "did you mean steps?"),
    "setting of a wrong type": ("set: {train.steps: x}\n", "set.train.steps", "'x'", "whole number"),
    "sequences in parts for an attention that can't": (
        "tasks: [lm]\nattentions: [flash]\nset: {train.parallel: sequence}\n",
        "set.train.parallel",
        "flash at causal_self",
        "those that can: lavo",
    ),
    "settings by group": ("set: {train: {steps: 3}}\n", "set.train", "must name a setting inside"),
    "runs that are a number": ("runs: 3\n", "runs = 3", "must be a list"),
    "run that is a number": ("runs: [3]\n", "runs.0 = 3", "{key: value}"),
    "fault in the second run": ("runs: [{tasks: [lm]}, {preset: smok}]\n", "run 2", "'smok'"),
    "runs within a run": ("runs: [{runs: []}]\n", "run 1", "'runs'", "allowed:"),
    "settings of a run that are a number": ("runs: [{set: 3}]\n", "run 1", "set = 3"),
    "unsuitable pattern in the second run": (
        "tasks: [lm]\nruns: [{preset: smoke}, {patterns: [noncausal_self]}]\n",
        "run 2",
        "'noncausal_self'",
        "causal_self",
    ),
    "data root that isn't there": ("data_root: nowhere\n", "data_root", "nowhere", "no such folder"),
    "data root that is a number": ("data_root: 3\n", "data_root = 3", "path"),
    "an anchor inside itself": ("a: &a [*a]\n", "'a'", "allowed:"),
}


@cases(RUN_FILES)
def test_a_wrong_run_file(case, tmp_path):
    content, *words = case
    path = write(tmp_path / "runs.yaml", content)
    assert_refused(lavo_bench("validate", path), [str(path), *words])


def test_a_run_file_that_is_not_there(tmp_path):
    assert_refused(lavo_bench("validate", tmp_path / "no.yaml"), ["no.yaml", "no such file"])
    assert_refused(lavo_bench("run", "--config", tmp_path / "no.yaml"), ["no.yaml", "no such file"])


def test_a_run_file_that_is_a_folder(tmp_path):
    assert_refused(lavo_bench("validate", tmp_path), [str(tmp_path), "a folder"])


def test_a_run_file_nested_without_end(tmp_path):
    assert_refused(
        lavo_bench("validate", write(tmp_path / "deep.yaml", "[" * 800 + "]" * 800)), ["deep.yaml", "nested"]
    )


# Output and cache

OUTPUTS = {
    "output that is a table's name": (["-o", "x.json"], "-o x.json", "names a file (.json)", "a folder"),
    "output that is a file": (["-o", "plain"], "-o plain", "not a folder"),
    "output below a file": (["-o", "plain/below"], "-o plain/below", "Not a directory"),
    "output with a name too long": (["-o", "x" * 300], "xxx", "File name too long"),
    "cache that is a file": (["-o", "out", "--cache", "plain"], "--cache plain", "no folder can be made there"),
    "cache below a file": (["-o", "out", "--cache", "plain/x"], "--cache plain/x", "Not a directory"),
}


@cases(OUTPUTS)
def test_an_output_that_cannot_be_used(case, tmp_path):
    arguments, *words = case
    write(tmp_path / "plain", "x")
    assert_refused(lavo_bench("run", "lm", "--preset", "smoke", "-a", "none", *arguments), words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_without_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "none", "-o", "closed/out")
    assert_refused(answer, ["-o closed/out", "Permission denied"])


# Files of attentions

HEAD = "from benchmark import register_attention\nfrom torch import nn\n"
BODY = "class A(nn.Module):\n    version = 1\n    unsupported = {}\n"

INCLUDED = {
    "file that raises": ("1 / 0\n", "ZeroDivisionError", "division by zero"),
    "file that is no Python": ("def f(:\n", "SyntaxError", "line 1"),
    "file that ends the program": ("import sys; sys.exit(3)\n", "ends the program"),
    "file that isn't UTF-8": ("x = 'é'\n".encode("latin-1"), "SyntaxError"),
    "file that imports what isn't there": (
        "import nowhere_to_be_found\n",
        "ModuleNotFoundError",
        "nowhere_to_be_found",
    ),
    "file that registers nothing": ("x = 1\n", "registers no attention", "@register_attention"),
    "name with a slash": (f"{HEAD}@register_attention('a/b')\n{BODY}", "'a/b'", RULE),
    "name in capitals": (f"{HEAD}@register_attention('Mine')\n{BODY}", "'Mine'", RULE),
    "name of nothing": (f"{HEAD}@register_attention('')\n{BODY}", "''", RULE),
    "name too long": (f"{HEAD}@register_attention('a' * 65)\n{BODY}", "aaa", "at most 64"),
    "name that is a number": (f"{HEAD}@register_attention(3)\n{BODY}", "attention 3", RULE),
    "decorator without a name": (f"{HEAD}@register_attention\n{BODY}", RULE),
    "name that is taken": (f"{HEAD}@register_attention('lavo')\n{BODY}", "'lavo'", "choose another"),
    "name given twice": (
        f"{HEAD}@register_attention('tw')\n{BODY}@register_attention('tw')\nclass B(A): pass\n",
        "'tw'",
        "choose another",
    ),
    "no version": (
        f"{HEAD}@register_attention('v')\nclass A(nn.Module):\n    unsupported = {{}}\n",
        "A.version",
        "whole",
    ),
    "no declaration of patterns": (
        f"{HEAD}@register_attention('u')\nclass A(nn.Module):\n    version = 1\n",
        "A.unsupported",
        PATTERNS,
    ),
    "declaration of an unknown pattern": (
        f"{HEAD}@register_attention('p')\nclass A(nn.Module):\n    version = 1\n    unsupported = {{'causal': 'no'}}\n",
        "A.unsupported",
        PATTERNS,
    ),
}


@cases(INCLUDED)
def test_a_wrong_file_of_attentions(case, tmp_path):
    content, *words = case
    path = write(tmp_path / "mine.py", content)
    before = registry.attention_names()
    assert_refused(lavo_bench("list", "attentions", "--include-path", path), ["--include-path mine.py", *words])
    assert registry.attention_names() == before


@pytest.mark.parametrize("name", ["gone.py", "notes.txt", "."], ids=["not there", "not Python", "a folder"])
def test_a_file_of_attentions_that_is_none(name, tmp_path):
    write(tmp_path / "notes.txt", "x")
    assert_refused(lavo_bench("list", "--include-path", name), ["--include-path", "not a Python file"])


CONSTRUCTORS = {
    "constructor without the protocol's arguments": ("def __init__(self):", "super().__init__()", "'pattern'"),
    "constructor that raises": (
        "def __init__(self, *, pattern, num_heads, head_dim):",
        "raise KeyError('x')",
        "KeyError",
    ),
}


@cases(CONSTRUCTORS)
def test_an_attention_that_cannot_be_built(case, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))
    signature, body, word = case
    path = write(tmp_path / "mine.py", f"{HEAD}@register_attention('mine')\n{BODY}    {signature}\n        {body}\n")
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "mine", "--include-path", path, "-o", "out")
    assert_refused(answer, ["attention mine at causal_self of gpt", word])


# Series


def series(num_rows: int = 400) -> list[str]:
    start = datetime.datetime(2016, 7, 1)
    rows = (f"{start + datetime.timedelta(hours=i)},{i * 7 % 24 / 3:.3f},{i * 5 % 24 / 3:.3f}" for i in range(num_rows))
    return ["date,load,temperature", *rows]


def with_cell(text: str) -> list[str]:
    rows = series()
    return [*rows[:5], f"{rows[5].rsplit(',', 1)[0]}{text}", *rows[6:]]


ROWS = series()
SERIES = {
    "empty": ("", "the file is empty", "header"),
    "header alone": (ROWS[:1], "0 rows", "at least 3"),
    "too few rows for the lengths": (ROWS[:60], "41 rows in the training part", "at least 60"),
    "Latin-1": ("\n".join(ROWS).replace("load", "l\xe4d").encode("latin-1"), "line 1", "0xe4", "UTF-8"),
    "UTF-16": ("\n".join(ROWS).encode("utf-16"), "line 1", "0xff", "UTF-8"),
    "bytes that are no text": (bytes(range(256)) * 20, "not UTF-8"),
    "text in a column of numbers": (with_cell(",abc"), "line 6, column 'temperature'", "'abc'", "a number"),
    "NaN": (with_cell(",nan"), "line 6, column 'temperature'", "'nan'", "data.missing"),
    "infinity": (with_cell(",inf"), "line 6, column 'temperature'", "'inf'", "finite"),
    "empty cell": (with_cell(","), "line 6, column 'temperature'", "empty", "data.missing"),
    "comma for a decimal point": (with_cell(',"1,5"'), "line 6", "'1,5'", "decimal point"),
    "number beyond any scale": (with_cell(",1e300"), "'temperature'", "1e+300"),
    "row that ends early": (with_cell(""), "line 6", "2 cells", "3 columns"),
    "row with a cell too many": (with_cell(",1,2"), "line 6", "4 cells", "3 columns"),
    "gap": ([*ROWS[:50], *ROWS[55:]], "line 51", "2016-07-03 01:00:00 is missing", "1 hour", "data.missing"),
    "time stamp twice": ([*ROWS[:51], *ROWS[50:]], "line 52", "stands on line 51 already", "data.duplicates"),
    "rows out of order": ([*ROWS[:50], ROWS[51], ROWS[50], *ROWS[52:]], "line 52", "comes after", "in order"),
    "time stamp between two steps": (
        [*ROWS[:50], ROWS[50].replace(":00:00", ":30:00"), *ROWS[51:]],
        "line 51",
        "between two steps",
        "1 hour",
    ),
    "date that doesn't exist": (
        [*ROWS[:5], "2016-13-45 00:00:00,1,2", *ROWS[6:]],
        "line 6, column 'date'",
        "'2016-13-45 00:00:00'",
        "2016-07-01",
    ),
    "no column of dates": (["x,load,temperature", *ROWS[1:]], "line 1", "no column 'date'", "load, temperature"),
    "two columns of one name": (["date,load,load", *ROWS[1:]], "line 1", "'load'"),
    "column without a name": (["date,,load", *ROWS[1:]], "line 1", "column 2 has no name"),
    "dates alone": ([row.split(",")[0] for row in ROWS], "line 1", "no column of numbers"),
    "semicolons for commas": ([row.replace(",", ";") for row in ROWS], "line 1", "';'", "comma"),
}


def run_series(root: Path, file: str, *settings: str):
    assignments = [part for text in (f"data.file={file}", *settings) for part in ("--set", text)]
    return lavo_bench("run", "lstf", "--preset", "smoke", "-a", "none", "-o", "out", "--data-root", root, *assignments)


@cases(SERIES)
def test_a_wrong_series(case, tmp_path):
    content, *words = case
    write(tmp_path / "root" / "lstf" / "s.csv", content)
    assert_refused(run_series(tmp_path / "root", "s.csv"), ["forecasting", *words])


SERIES_OPTIONS = {
    "file that isn't there": ("data.file=gone.csv", "gone.csv", "no such file", "s.csv"),
    "file of another kind": ("data.file=s.xlsx", "s.xlsx", ".csv"),
    "gzip that is none": ("data.file=s.csv.gz", "s.csv.gz", "gzip"),
    "unknown target": ("data.target=zz", "data.target 'zz'", "load, temperature"),
    "unknown column": ("data.columns=[zz]", "'zz'", "load, temperature"),
    "text for columns": ("data.columns=load", "'load'", "must be a list"),
    "step that is a month": ("data.step=1month", "'1month'", "1h or 15min"),
    "shares that don't sum to one": ("data.ratio=[0.5,0.5,0.5]", "ratio", "sum to 1"),
    "horizon longer than the data": ("data.pred_len=1000", "at least 1048", "rows"),
    "label longer than the history": ("data.label_len=99", "label_len 99", "seq_len 48"),
    "one of two lengths": ("data.seq_len=null", "seq_len and label_len"),
    "months of too short a file": ("data.split=months", "400 rows", "14400", "data.split=ratio"),
    "no test window left": ("eval.drop_last=10000", "eval.drop_last 10000"),
}


@cases(SERIES_OPTIONS)
def test_an_option_that_the_series_cannot_meet(case, tmp_path):
    setting, *words = case
    folder = tmp_path / "root" / "lstf"
    write(folder / "s.csv", ROWS)
    write(folder / "s.xlsx", "x")
    write(folder / "s.csv.gz", "x")
    assert_refused(run_series(tmp_path / "root", "s.csv", setting), words)


def test_a_byte_order_mark_is_read_over(tmp_path):
    write(tmp_path / "root" / "lstf" / "s.csv", "\ufeff" + "\n".join(ROWS))
    assert "cells were started" in run_series(tmp_path / "root", "s.csv").err


def test_a_data_root_without_series(tmp_path):
    (tmp_path / "root").mkdir()
    assert_refused(run_series(tmp_path / "root", "s.csv"), ["s.csv", "no such file"])


# Books

TEXT = "the cat sat on the mat. " * 400
BOOKS = {"train/a.txt": TEXT + "1", "validation/b.txt": TEXT + "2", "test/c.txt": TEXT + "3"}

BOOK_FAULTS = {
    "no books": (dict.fromkeys(BOOKS), "lm/train", "no such folder"),
    "no test books": ({"test/c.txt": None}, "lm/test", "no such folder"),
    "no text files": ({"test/c.txt": None, "test/c.md": TEXT}, "lm/test", "no .txt file"),
    "empty book": ({"train/a.txt": ""}, "lm/train/a.txt", "empty"),
    "book in Latin-1": (
        {"train/a.txt": "caf\xe9 ".encode("latin-1") * 500},
        "lm/train/a.txt",
        "byte 3",
        "0xe9",
        "UTF-8",
    ),
    "book in UTF-16": ({"train/a.txt": TEXT.encode("utf-16")}, "lm/train/a.txt", "byte 0", "UTF-8"),
    "one book in two parts": ({"test/c.txt": TEXT + "1"}, "lm/test/c.txt", "lm/train/a.txt"),
    "test book shorter than the longest block": ({"test/c.txt": "abc"}, "lm/test", "3 tokens", "1024"),
    "book that is a folder": ({"train/a.txt": None, "train/a.txt/x": "1"}, "a.txt", "directory"),
}


@cases(BOOK_FAULTS)
def test_wrong_books(case, tmp_path):
    changes, *words = case
    (tmp_path / "root").mkdir()
    for name, content in {**BOOKS, **changes}.items():
        if content is not None:
            write(tmp_path / "root" / "lm" / name, content)
    answer = lavo_bench("run", "lm", "--preset", "smoke", "-a", "none", "-o", "out", "--data-root", tmp_path / "root")
    assert_refused(answer, words)


# Records

CELL = dict.fromkeys(results.CELL_NAMES, "x")
RECORD = {"schema_version": 1, "cell": CELL, "status": "completed", "metrics": {}}
RECORDS = {
    "record that breaks off": ("{", "not a record"),
    "empty record": ("", "not a record"),
    "record that is a list": ("[]", "'cell'"),
    "record that isn't UTF-8": (b"\xff\xfe{}", "not a record", "0xff"),
    "record of another version": (json.dumps({**RECORD, "schema_version": 99}), "schema_version 99", "reads 1"),
    "record without a status": (json.dumps({"schema_version": 1, "cell": CELL}), "'status'"),
    "record of an unknown status": (json.dumps({**RECORD, "status": "fine"}), "'fine'", "completed, failed"),
    "record without its cell's names": (json.dumps({**RECORD, "cell": {"task": "lm"}}), "lacks backbone, pattern"),
    "record whose cell is a number": (json.dumps({**RECORD, "cell": 3}), "lacks task"),
    "record with NaN": (json.dumps({**RECORD, "seconds": float("nan")}), "NaN", "null"),
    "record with half a metric": (json.dumps({**RECORD, "metrics": {"loss": {"value": 1}}}), "loss", "value and n"),
}


@pytest.mark.parametrize("command", ["report", "compare", "list"])
@cases(RECORDS)
def test_a_wrong_record(case, command, tmp_path):
    content, *words = case
    write(tmp_path / "runs" / "lm" / "a.json", content)
    arguments = {
        "report": ("report", "runs", "-o", "report"),
        "compare": ("compare", "runs", "runs"),
        "list": ("list", "results", "-o", "runs"),
    }
    assert_refused(lavo_bench(*arguments[command]), [str(Path("runs/lm/a.json")), *words])


FOLDERS = {
    "report of no folder": (["report", "gone"], "gone", "no such folder"),
    "comparison with no folder": (["compare", "gone", "bare"], "gone", "no such folder"),
    "list of no folder": (["list", "results", "-o", "gone"], "gone", "no such folder"),
    "report of a file": (["report", "plain"], "plain", "no such folder"),
    "report of an empty folder": (["report", "bare"], "bare", "no records"),
    "comparison of empty folders": (["compare", "bare", "bare"], "bare", "no records"),
    "report of the folder above": (["report", "above"], "above", "no records", "quick"),
    "report with a table that is none": (["report", "sweep"], "efficiency.csv", "columns a, b", "mode, pattern"),
}


@cases(FOLDERS)
def test_a_folder_without_results(case, tmp_path):
    arguments, *words = case
    (tmp_path / "bare").mkdir()
    write(tmp_path / "plain", "x")
    write(tmp_path / "above" / "quick" / "lm" / "a.json", "{}")
    write(tmp_path / "sweep" / "efficiency.csv", "a,b\n1,2\n")
    assert_refused(lavo_bench(*arguments), words)


# Efficiency

EFFICIENCY = {
    "no length": ("--lengths ,", "lengths", "FROM:TO"),
    "length that is text": ("--lengths abc", "'abc'", "FROM:TO"),
    "range without an end": ("--lengths 256:", "'256:'", "FROM:TO"),
    "range backwards": ("--lengths 1024:256", "'1024:256'", "at most TO"),
    "range of three": ("--lengths 256:512:1024", "'256:512:1024'", "FROM:TO"),
    "length of nothing": ("--lengths 0", "[0]", "at least 1"),
    "length with a fraction": ("--lengths 1.5", "'1.5'", "FROM:TO"),
    "unknown mode": ("--mode forwad", "mode 'forwad'", "forward, backward, prefill, decode"),
    "no mode": ("--mode ,", "--mode ','"),
    "unknown pattern to measure": ("--pattern causal", "'causal'", "did you mean causal_self?"),
    "unknown number format": ("--dtype float8", "dtype 'float8'", "float32"),
    "too few rounds": ("--rounds 2", "rounds 2", "at least 5"),
    "batch of nothing": ("--batch 0", "--batch 0", "greater than or equal to 1"),
    "time below zero": ("--budget=-1", "--budget -1", "greater than or equal to 0.1"),
    "tokens of nothing": ("--tokens 0", "--tokens 0", "greater than or equal to 1"),
    "option without a value": ("--option lavo.window", "--option lavo.window", "key=value"),
    "option of no attention": ("--option window=3", "--option window=3", "ATTENTION.OPTION=VALUE"),
    "option of one that isn't measured": ("--option flash.window=3", "--option flash.window=3", "that is measured"),
    "option that it doesn't have": ("--option lavo.windw=3", "'windw'", "did you mean window?"),
    "unknown attention to measure": ("-a lavoo", "'lavoo'", "did you mean lavo?"),
    "table of another program in the folder": ("-o sweep", "efficiency.csv", "columns a, b"),
}


@cases(EFFICIENCY)
def test_a_wrong_sweep(case, tmp_path):
    options, *words = case
    write(tmp_path / "sweep" / "efficiency.csv", "a,b\n1,2\n")
    given = options.split(" ")
    base = ["efficiency", "-o", "out", "-a", "lavo", "--lengths", "64"]
    assert_refused(lavo_bench(*base, *given), words)


# Manifests

SHA = "0" * 64
MANIFESTS = {
    "manifest with a path that leaves": (
        f"path: ../x, url: 'https://x', sha256: '{SHA}'",
        "'../x'",
        "below the data root",
    ),
    "manifest with an absolute path": (f"path: /x, url: 'https://x', sha256: '{SHA}'", "'/x'", "below the data root"),
    "manifest without encryption": (f"path: x, url: 'http://x', sha256: '{SHA}'", "'http://x'", "https"),
    "manifest with half a digest": ("path: x, url: 'https://x', sha256: abc", "'abc'", "sha256"),
    "manifest with an unknown key": (f"path: x, url: 'https://x', sha: '{SHA}'", "'sha'", "did you mean sha256?"),
}


@cases(MANIFESTS)
def test_a_wrong_manifest(case, tmp_path):
    content, *words = case
    path = write(tmp_path / "sources.yaml", f"files: [{{{content}, licence: none}}]\n")
    with pytest.raises(ValueError, match=r"sources\.yaml") as caught:
        read_manifest(path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


# In Python

HEADS = torch.zeros(2, 2, 8, 4)
WIDE = torch.zeros(2, 2, 8, 5)
SHORT = torch.zeros(2, 2, 5, 4)
NONE_PADDED = torch.zeros(2, 8, dtype=torch.bool)
BASIS = torch.eye(4).expand(2, 4, 4)


def built(name: str = "lavo", pattern: str = "causal_self", **options):
    if registry.takes_max_length(registry.load_attention(name)):
        options = {"max_length": 16, **options}
    return build_attention(name, **{"pattern": pattern, "num_heads": 2, "head_dim": 4, **options})


def layer(pattern: str = "causal_self", name: str = "softmax", **options) -> MultiHeadAttention:
    return MultiHeadAttention(8, 2, name, pattern=pattern, **options)


TENSORS = {
    "q of three axes": (lambda a: a(HEADS[0], HEADS[0], HEADS[0]), "q", "(2, 8, 4)", "head_dim"),
    "other number of heads": (lambda a: a(*[torch.zeros(2, 3, 8, 4)] * 3), "q", "(2, 3, 8, 4)", "head_dim"),
    "other head_dim": (lambda a: a(WIDE, WIDE, WIDE), "q", "(2, 2, 8, 5)", "head_dim"),
    "whole numbers": (lambda a: a(*[HEADS.long()] * 3), "q", "torch.int64", "floating"),
    "q and k of two precisions": (lambda a: a(HEADS, HEADS.double(), HEADS.double()), "k", "torch.float64"),
    "k shorter than q": (lambda a: a(HEADS, SHORT, SHORT), "q", "k", "8", "5"),
    "v shorter than k": (lambda a: a(HEADS, HEADS, SHORT), "v", "8", "5"),
    "k of another batch": (lambda a: a(HEADS, HEADS[:1], HEADS[:1]), "k", "2", "1"),
    "mask of numbers": (lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED.float()), "key_padding_mask", "float32", "bool"),
    "mask of whole numbers": (
        lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED.long()),
        "key_padding_mask",
        "int64",
        "True",
    ),
    "mask of another length": (lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED[:, :7]), "key_padding_mask", "(2, 7)"),
    "mask the wrong way round": (
        lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED.T),
        "key_padding_mask",
        "(8, 2)",
        "(2, 8)",
    ),
    "mask for scores": (
        lambda a: a(HEADS, HEADS, HEADS, NONE_PADDED[:, None, None]),
        "key_padding_mask",
        "(2, 1, 1, 8)",
    ),
}


def able(pattern: str) -> list[str]:
    """The attentions of the table that can do this pattern."""
    return [name for name in registry.ATTENTIONS if pattern not in registry.attention_declarations(name)["unsupported"]]


@pytest.mark.parametrize("name", able("noncausal_self"))
@cases(TENSORS)
def test_wrong_tensors_for_an_attention(case, name):
    call, *words = case
    with pytest.raises(ValueError) as caught:
        call(built(name, "noncausal_self"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_mask_of_the_targets_length_between_two_sequences():
    for name in able("noncausal_cross"):
        with pytest.raises(ValueError, match=r"key_padding_mask.*\(2, 5\)"):
            built(name, "noncausal_cross")(HEADS, SHORT, SHORT, NONE_PADDED)


IN_PYTHON = {
    "window of nothing": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=0), "window", "at least 1", "0"),
    "window that is true": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=True), "window", "True"),
    "window that is text": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window="64"), "window", "'64'"),
    "unknown output": (
        lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, output="both"),
        "output",
        "joint, sum",
        "both",
    ),
    "unknown backend": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, backend="x"), "backend", "auto", "'x'"),
    "basis of one matrix": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS[0]), "basis", "(4, 4)", "rank"),
    "basis of too few heads": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS[:1]), "basis", "(1, 4, 4)"),
    "basis of too high a rank": (lambda: lavo_attention(HEADS, HEADS, HEADS, torch.zeros(2, 5, 4)), "basis", "1 to 4"),
    "basis of whole numbers": (lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS.long()), "basis", "int64"),
    "bias of another window": (
        lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=4, bias=torch.zeros(2, 4)),
        "bias",
        "(2, 7)",
        "(2, 4)",
    ),
    "bias for another direction": (
        lambda: lavo_attention(HEADS, HEADS, HEADS, BASIS, window=4, causal=True, bias=torch.zeros(2, 7)),
        "bias",
        "causal=True",
        "(2, 4)",
    ),
    "source of another batch": (lambda: lavo_cross_attention(HEADS, SHORT[:1], BASIS), "q and v", "(1, 2, 5, 4)"),
    "source of another width": (lambda: lavo_cross_attention(HEADS, WIDE, BASIS), "v", "head_dim"),
    "mask of the target": (
        lambda: lavo_cross_attention(HEADS, SHORT, BASIS, key_padding_mask=NONE_PADDED),
        "key_padding_mask",
        "(2, 5)",
    ),
    "unknown pattern in Python": (
        lambda: LAVOAttention(pattern="causal", num_heads=2, head_dim=4),
        "pattern",
        "causal_self",
        "'causal'",
    ),
    "rank in Python": (
        lambda: LAVOAttention(pattern="causal_self", num_heads=2, head_dim=4, rank=5),
        "rank",
        "head_dim = 4",
        "5",
    ),
    "unknown name in Python": (lambda: built("lavvo"), "'lavvo'", "did you mean lavo?"),
    "pattern misspelt in Python": (lambda: built(pattern="causal"), "'causal'", "did you mean causal_self?"),
    "unknown option in Python": (lambda: built(windw=3), "'windw'", "did you mean window?"),
    "no heads": (lambda: built(num_heads=0), "num_heads is 0", "from 1"),
    "width that is true": (lambda: built(head_dim=True), "head_dim is True", "from 1"),
    "features of nothing": (lambda: built("performer", num_features=0), "num_features", "0", "from 1"),
    "longest length of nothing": (lambda: built("cosformer", max_length=0), "max_length", "0", "from 1"),
    "sequence beyond the longest length": (
        lambda: built("cosformer", max_length=4)(HEADS, HEADS, HEADS),
        "max_length 4",
        "8 tokens",
    ),
    "new tokens for another batch": (
        lambda: built().extend(*[HEADS] * 3, built().init_state(3, dtype=HEADS.dtype)),
        "batch",
        "3",
        "2",
    ),
    "new queries without their keys": (
        lambda: built().extend(HEADS, SHORT, SHORT, built().init_state(2, dtype=HEADS.dtype)),
        "q and k",
        "8",
        "5",
    ),
    "stream of what doesn't stream": (
        lambda: built(pattern="noncausal_self").init_state(2),
        "init_state",
        "causal_self",
    ),
    "source for self-attention": (lambda: built().init_cross(HEADS, HEADS), "init_cross", "causal_cross"),
    "layer that heads don't divide": (
        lambda: MultiHeadAttention(10, 3, "lavo", pattern="causal_self"),
        "embed_dim 10",
        "num_heads 3",
    ),
    "layer without a pattern": (lambda: MultiHeadAttention(8, 2, "lavo"), "'lavo'", "pattern="),
    "options for a built attention": (lambda: MultiHeadAttention(8, 2, built(), window=3), "window", "built already"),
    "rotation of an odd width": (
        lambda: MultiHeadAttention(6, 2, "softmax", pattern="causal_self", rotary=True),
        "rotary",
        "head_dim",
        "3",
    ),
    "prompts of unequal length": (
        lambda: layer().extend(
            torch.zeros(2, 3, 8),
            layer().init_state(2),
            key_padding_mask=torch.tensor([[False, False, True], [False, False, False]]),
        ),
        "key_padding_mask",
        "[2, 3]",
        "unequal",
    ),
    "source for a layer of self-attention": (
        lambda: layer("noncausal_self")(torch.zeros(2, 5, 8), torch.zeros(2, 6, 8)),
        "equal lengths",
        "5",
        "6",
    ),
    "forecast of another length": (lambda: mse(np.zeros(3), np.zeros(4)), "(3,)", "(4,)", "one shape"),
    "forecast that would broadcast": (lambda: mae(np.zeros((3, 1)), np.zeros(3)), "(3, 1)", "one shape"),
    "forecast of four axes": (lambda: mse(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1))), "(1, 1, 1, 1)", "steps"),
    "results that aren't there": (lambda: results.load("gone"), "gone", "no such folder"),
}


@cases(IN_PYTHON)
def test_a_wrong_argument_in_python(case):
    call, *words = case
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("pattern", ["causal_self", "causal_cross"])
def test_a_pattern_that_an_attention_cannot_do_is_refused_with_the_reason(pattern, monkeypatch):
    cls = registry.load_attention("none")
    monkeypatch.setattr(cls, "unsupported", {pattern: "has no memory"})
    with pytest.raises(registry.UnsupportedPattern, match=f"none can't do {pattern}: has no memory"):
        built("none", pattern)


# The command as a process, and what is not a fault


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "lmm"], "lmm"),
        (["run", "lm", "--set", "train.stepz=3"], "stepz"),
        (["validate", "gone.yaml"], "gone.yaml"),
    ],
    ids=["a name", "a setting", "a file"],
)
def test_the_command_itself_ends_with_status_2_and_one_line(arguments, word):
    program = Path(sys.executable).with_name("lavo-bench")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert word in done.stderr


def test_the_bare_command_shows_its_help():
    answer = lavo_bench()
    assert answer.status == 2
    assert "Usage:" in answer.err
    assert "prepare" in answer.err


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="lmm"):
        lavo_bench("run", "lmm", "--debug")


def test_a_hundred_kinds_and_more_are_covered():
    tables = (COMMAND_LINE, SETTINGS, RUN_FILES, OUTPUTS, INCLUDED, CONSTRUCTORS, SERIES, SERIES_OPTIONS, BOOK_FAULTS)
    tables += (RECORDS, FOLDERS, EFFICIENCY, MANIFESTS, TENSORS, IN_PYTHON)
    assert sum(map(len, tables)) >= 300
