"""Settings: how text becomes values, how layers merge, and that everything shipped is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.interface import PRESETS
from benchmark.registry import TASKS, attention_names, task_declarations, task_folder
from benchmark.settings.choices import choose_attentions
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec, Override, RunSettings, TrainSettings
from benchmark.settings.options import full_options
from benchmark.settings.plan import check_runs
from benchmark.settings.resolve import merge, presets, resolve
from benchmark.settings.yaml_files import parse_assignment, read_run_file, read_yaml

NO_RUNS = ("claims.yaml", "published.yaml")  # test_claims.py and test_published.py read these
CONFIGS = sorted(p for p in (Path(__file__).parents[1] / "configs").glob("*.yaml") if p.name not in NO_RUNS)
BACKBONES = [(task, backbone) for task in TASKS for backbone in task_declarations(task)["backbones"]]
LAVO = AttentionSpec(name="lavo")


def resolved(
    *assignments: str, task: str = "language_modeling", backbone: str = "gpt", attention: AttentionSpec = LAVO
):
    return resolve(task, backbone, "smoke", attention, [parse_assignment(text) for text in assignments])


# --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        ("-2", -2),
        (".5", 0.5),
        ("5E3", 5000.0),
        ("1_000", 1000),
        ("null", None),
        ("~", None),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("{a: 1}", {"a": 1}),
        ("cosine", "cosine"),
        ("", ""),
        ("none", "none"),
        ("'1'", "1"),  # quoted twice, for the shell and for YAML: text, as a column called 1
        ("2020-01-01", "2020-01-01"),
        ("a=b", "a=b"),
        ("1h", "1h"),
    ],
)
def test_a_value_is_what_yaml_says_and_numbers_are_what_users_mean(text, value):
    found = parse_assignment(f"train.steps={text}").value
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


def test_an_assignment_remembers_where_it_was_written():
    assert parse_assignment(" train.steps = 3") == Override("train.steps", 3, "--set train.steps = 3")


# Merging


def test_later_mappings_win_and_inputs_stay():
    first, second = {"a": {"b": 1, "c": 2}, "d": [1, 2]}, {"a": {"c": 3}, "d": [4], "e": None}
    assert merge(first, second) == {"a": {"b": 1, "c": 3}, "d": [4], "e": None}
    assert first == {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    assert second == {"a": {"c": 3}, "d": [4], "e": None}


def test_a_value_replaces_a_group_and_a_group_a_value():
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert merge({"a": 2}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_presets_lay_base_preset_and_backbone_over_each_other(tmp_path, monkeypatch):
    (tmp_path / "presets.yaml").write_text(
        "base: {model: {a: 1, b: 1, c: 1, d: 1}, backbones: {one: {model: {b: 2, c: 2, d: 2}}}}\n"
        "smoke: {model: {c: 3, d: 3}, backbones: {one: {model: {d: 4}}, two: {model: {d: 9}}}}\n"
    )
    monkeypatch.setattr("benchmark.settings.resolve.task_folder", lambda _: tmp_path)
    assert presets("any", "smoke", "one") == {"model": {"a": 1, "b": 2, "c": 3, "d": 4}}
    assert presets("any", "smoke", "two") == {"model": {"a": 1, "b": 1, "c": 3, "d": 9}}
    with pytest.raises(ConfigError, match="no preset 'quick'; it has smoke"):
        presets("any", "quick", "one")


def test_a_misspelt_preset_of_a_file_is_told(tmp_path, monkeypatch):
    (tmp_path / "presets.yaml").write_text("smok: {}\n")
    monkeypatch.setattr("benchmark.settings.resolve.task_folder", lambda _: tmp_path)
    with pytest.raises(ConfigError, match=r"presets\.yaml: unknown preset 'smok' \(did you mean smoke\?\)"):
        presets("any", "smoke", "one")


def test_settings_replace_the_presets():
    before, after = resolved(), resolved("train.steps=7", "model.embed_dim=64", "eval.lengths=[1, 2]")
    assert (before.train.steps, after.train.steps) == (20, 7)
    assert (before.settings.model.embed_dim, after.settings.model.embed_dim) == (32, 64)
    assert after.settings.eval.lengths == (1, 2)
    assert after.settings.data == before.settings.data


def test_of_two_settings_of_one_key_the_later_counts():
    assert resolved("train.steps=7", "train.steps=8").train.steps == 8


@pytest.mark.parametrize("prefix", ["", "lm.", "language_modeling."])
def test_a_task_in_front_of_a_key_limits_it_to_that_task(prefix):
    assert resolved(f"{prefix}train.steps=7").train.steps == 7
    other = resolved(f"{prefix}train.steps=7", task="forecasting", backbone="informer")
    assert other.train.steps == (20 if prefix else 7)


def test_options_of_an_attention_reach_that_attention_alone():
    assert resolved("attentions.lavo.window=16").options["window"] == 16
    softmax = resolved("attentions.lavo.window=16", attention=AttentionSpec(name="softmax"))
    assert "window" not in softmax.options


def test_options_on_the_command_line_win_over_a_run_files():
    spec = AttentionSpec(name="lavo", options={"window": 16, "rank": 8})
    options = resolved("attentions.lavo.window=32", attention=spec).options
    assert (options["window"], options["rank"]) == (32, 8)


def test_defaults_of_an_attention_stand_in_its_options():
    assert full_options("lavo", [])["window"] == 64
    assert list(full_options("lavo", [])) == sorted(full_options("lavo", []))
    assert "max_length" not in full_options("cosformer", [])  # the task's affair


# Where a fault was written


@pytest.mark.parametrize(
    ("assignments", "origin"),
    [
        (["train.steps=x"], "--set train.steps=x: "),
        (["train.warmup_steps=99"], "--set train.warmup_steps=99: "),  # a fault of the group, caused by this key
        (["lm.train.steps=x"], "--set lm.train.steps=x: "),
        (["train.batch_size=4", "train.steps=x"], "--set train.steps=x: "),
        (["attentions.lavo.window=x"], "--set attentions.lavo.window=x: "),
    ],
)
def test_a_fault_names_the_option_that_brought_it(assignments, origin):
    with pytest.raises(ConfigError) as caught:
        resolved(*assignments)
    assert str(caught.value).startswith(origin)


def test_a_fault_of_a_preset_names_its_file(tmp_path, monkeypatch):
    (tmp_path / "presets.yaml").write_text("smoke: {train: {steps: 0, batch_size: 1, learning_rate: 1}}\n")
    monkeypatch.setattr("benchmark.settings.resolve.task_folder", lambda _: tmp_path)
    with pytest.raises(ConfigError, match=r"^tasks/language_modeling/presets\.yaml: train\.steps = 0: "):
        resolved()


def test_runs_of_a_file_share_what_stands_beside_them(tmp_path):
    path = tmp_path / "runs.yaml"
    path.write_text(
        "preset: smoke\nseeds: [3]\nset: {train.steps: 5, train.batch_size: 2}\n"
        "runs:\n- {tasks: [lm], set: {train.steps: 6}}\n- {tasks: [lstf], seeds: [1, 2]}\n"
    )
    (first, first_set), (second, second_set) = read_run_file(path)
    assert (first.tasks, first.preset, first.seeds) == (["lm"], "smoke", [3])
    assert (second.tasks, second.preset, second.seeds) == (["lstf"], "smoke", [1, 2])
    assert {o.key: o.value for o in first_set} == {"train.steps": 6, "train.batch_size": 2}
    assert {o.key: o.value for o in second_set} == {"train.steps": 5, "train.batch_size": 2}
    assert first_set[0].origin == f"{path}, run 1: set.train.steps"


def test_anchors_and_merge_keys_of_yaml_work(tmp_path):
    path = tmp_path / "runs.yaml"
    path.write_text("set: &short {train.steps: 5}\nruns:\n- {set: {<<: *short, train.batch_size: 2}}\n")
    assert read_yaml(path)["runs"] == [{"set": {"train.steps": 5, "train.batch_size": 2}}]


# Contenders


def test_all_attentions_are_every_known_one():
    assert [spec.name for spec in choose_attentions(["all"])] == attention_names()


def test_an_attention_given_twice_runs_once():
    assert [spec.name for spec in choose_attentions(["lavo", "softmax", "lavo"])] == ["lavo", "softmax"]


def test_variants_of_one_attention_need_labels():
    wide = AttentionSpec(name="lavo", label="lavo_wide", options={"window": 128})
    assert [spec.variant for spec in choose_attentions([LAVO, wide])] == ["lavo", "lavo_wide"]
    with pytest.raises(ConfigError, match="two different ones are called 'lavo'"):
        choose_attentions([LAVO, AttentionSpec(name="lavo", options={"window": 128})])


def test_seeds_keep_their_order_and_come_once():
    assert RunSettings(seeds=[2, 0, 2, 1]).seeds == [2, 0, 1]


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TrainSettings(steps=1, batch_size=1, learning_rate=1).steps = 2


# What is shipped


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("task", "backbone"), BACKBONES)
def test_every_preset_resolves_for_every_backbone(task, backbone, preset):
    found = resolve(task, backbone, preset, AttentionSpec(name="softmax"), [])
    assert found.seeds
    assert found.plain()["train"]["batch_size"] >= 1


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_five_presets_and_no_other(task):
    assert set(read_yaml(task_folder(task) / "presets.yaml")) - {"base"} == set(PRESETS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_run_file_is_valid(path):
    runs = read_run_file(path)
    assert check_runs(runs) > 0
    assert all(settings.data_root is None for settings, _ in runs)  # data lie elsewhere on every machine


def test_the_ablations_are_those_that_the_report_shows():
    runs = [settings for settings, _ in read_run_file(CONFIGS[0].with_name("ablations.yaml"))]
    forms, *others = [[spec.variant for spec in choose_attentions(settings.attentions)] for settings in runs]
    assert forms == [
        *("lavo_sum", "lavo_joint", "lavo_memory", "lavo_windows"),
        *("lavo_learned", "lavo_overlap", "lavo_windows_overlap"),
    ]
    assert all(set(labels) <= set(forms) for labels in others)
    assert all(settings.seeds == [0, 1, 2] for settings in runs)
    assert not any("train.learning_rate" in settings.set for settings in runs)  # each variant has its own, by `tune`
    assert [settings.set.get("data.context_length") for settings in runs] == [None, 2048]
