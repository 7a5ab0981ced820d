"""Run files that can't be read, or that ask for what isn't there."""

from __future__ import annotations

from command_line import lavo_bench
from refused import NAME_RULE, assert_refused, cases, write

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
    "label with a space": ("attentions: [{name: lavo, label: My Label}]\n", "'My Label'", NAME_RULE),
    "label with a slash": ("attentions: [{name: lavo, label: a/b}]\n", "'a/b'", NAME_RULE),
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
    "a number without digits": ("seeds: !!int ''\n", "line 1", "not of type int"),
    "more lines than any run has": ("- x\n" * 30_000, "line 20000", "over 10,000 values"),
    "an anchor inside itself": ("a: &a [*a]\n", "over 10,000 values", "aliases"),
}


@cases(RUN_FILES)
def test_a_wrong_run_file_is_refused(case, tmp_path):
    content, *words = case
    path = write(tmp_path / "runs.yaml", content)
    assert_refused(lavo_bench("validate", path), [str(path), *words])


def test_a_run_file_that_is_not_there_is_refused(tmp_path):
    assert_refused(lavo_bench("validate", tmp_path / "no.yaml"), ["no.yaml", "no such file"])
    assert_refused(lavo_bench("run", "--config", tmp_path / "no.yaml"), ["no.yaml", "no such file"])


def test_a_run_file_that_is_a_folder_is_refused(tmp_path):
    assert_refused(lavo_bench("validate", tmp_path), [str(tmp_path), "a folder"])


def test_a_run_file_that_is_nested_too_deeply_is_refused(tmp_path):
    assert_refused(
        lavo_bench("validate", write(tmp_path / "deep.yaml", "[" * 800 + "]" * 800)), ["deep.yaml", "nested"]
    )
