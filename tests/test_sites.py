"""Sites: what is trained once serves every table it belongs to, and ``every`` replaces all attentions of a backbone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
import toy_task
from torch import nn

from benchmark import registry, results
from benchmark.interface import PATTERNS
from benchmark.multihead import AttentionSites
from benchmark.report.groups import group_records
from benchmark.running import runner
from benchmark.settings.cell import Cell
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import RunSettings
from benchmark.settings.plan import check_runs, plan_cells
from benchmark.settings.resolve import presets
from benchmark.settings.yaml_files import parse_assignment

PRESETS = "smoke:\n  train: {steps: 3, batch_size: 8, learning_rate: 0.01}\n  seeds: [0, 1]\n"
OTHER_STEPS = PRESETS + "  patterns:\n    causal_self: {train: {steps: 5}}\n"
SITES = ("noncausal_self", "causal_self", "every")


@pytest.fixture
def toy(monkeypatch, tmp_path, own_registry):
    """Registers a class of toy_task with its presets."""

    def register(cls: str = "TwoSites", text: str = PRESETS) -> None:
        toy_task.register(monkeypatch, tmp_path / "toy", text, cls)

    return register


def plan(*attentions: str, **run) -> list[Cell]:
    settings = RunSettings(**{"tasks": ["toy"], "attentions": list(attentions), "preset": "smoke", **run})
    return plan_cells([(settings, [])], Path("/dev/null/unused"))


def test_exact_softmax_is_planned_once_for_all_sites(toy):
    toy()
    cells = plan("softmax", "none", "lavo")
    assert Counter(cell.attention for cell in cells) == {"softmax": 2, "none": 6, "lavo": 6}
    assert {(cell.pattern, cell.sites) for cell in cells if cell.attention == "softmax"} == {("every", SITES)}
    assert {cell.sites for cell in cells if cell.attention == "none"} == {(site,) for site in SITES}


@pytest.mark.usefixtures("own_registry")
def test_an_attention_without_streaming_is_unsupported_only_where_something_is_read_piece_by_piece(tmp_path):
    registry.register_attention("plain")(type("Plain", (Mean,), {}))
    settings = RunSettings(attentions=["plain"], preset="smoke")
    cells = plan_cells([(settings, [])], tmp_path)
    reasons = {f"{cell.backbone}.{cell.pattern}": cell.unsupported for cell in cells}
    assert {site for site, reason in reasons.items() if reason is None} == {
        *("fastspeech2.noncausal_self", "transformer_tts.noncausal_self", "transformer.noncausal_self"),
        *("pointr.noncausal_self", "pointr.noncausal_cross", "pointr.every"),
        *("informer.noncausal_self", "informer.causal_self", "informer.noncausal_cross", "informer.every"),
        *(f"probe.{pattern}" for pattern in PATTERNS),
    }
    assert reasons["gpt.causal_self"] == (
        "gpt is read piece by piece in causal_self, but it has no init_state, no extend, no select, no state_bytes"
    )
    (cell,) = (cell for cell in cells if (cell.backbone, cell.pattern) == ("probe", "causal_self"))
    record = runner.run_cell(cell, runner.Place(tmp_path / "out", tmp_path))
    assert record.status == "completed", record.reason
    assert {row["state_bytes"] for row in record.curves["recall"]} == {None}


class Mean(nn.Module):
    """The mean of all values, or of those so far; it doesn't stream."""

    version, unsupported = 1, {}

    def __init__(self, *, pattern, num_heads, head_dim):
        super().__init__()
        self.pattern = pattern

    def forward(self, q, k, v, key_padding_mask=None):
        if self.pattern == "causal_self":
            return v.cumsum(2) / torch.arange(1, v.shape[2] + 1)[:, None]
        return v.mean(2, keepdim=True).expand_as(q)


def test_no_cell_is_planned_twice_for_the_same_model(toy):
    """The models of a plan, by what decides their weights, are all different."""
    toy()
    cells = plan("softmax", "flash", "none", "lavo", "performer", seeds=[0, 1, 2])
    exact = ("softmax", "flash")
    models = Counter(
        (cell.backbone, cell.attention, "all" if cell.attention in exact else cell.pattern, cell.seed, str(cell.config))
        for cell in cells
    )
    assert set(models.values()) == {1}


def test_one_seed_of_another_exact_attention_shows_the_noise(toy):
    toy()
    assert [cell.seed for cell in plan("flash")] == [0]
    assert [cell.seed for cell in plan("flash", seeds=[3, 4])] == [3, 4]


def test_a_run_at_one_site_finds_the_softmax_of_all(toy):
    toy()
    (all_sites,) = plan("softmax", seeds=[0])
    for pattern in SITES:
        assert [cell.hash for cell in plan("softmax", patterns=[pattern], seeds=[0])] == [all_sites.hash]


def test_a_site_with_other_settings_has_a_softmax_of_its_own(toy):
    toy(text=OTHER_STEPS)
    cells = {cell.sites: cell.config["train"]["steps"] for cell in plan("softmax", seeds=[0])}
    assert cells == {("noncausal_self", "every"): 3, ("causal_self",): 5}
    none = {cell.pattern: cell.config["train"]["steps"] for cell in plan("none", seeds=[0])}
    assert none == {"noncausal_self": 3, "causal_self": 5, "every": 3}


def test_an_exact_attention_that_lacks_a_pattern_is_planned_site_by_site(toy, monkeypatch):
    toy()
    monkeypatch.setattr(registry.load_attention("flash"), "unsupported", {"causal_self": "not written yet"})
    found = {cell.pattern: (cell.sites, cell.unsupported) for cell in plan("flash", seeds=[0])}
    assert found == {
        "noncausal_self": (("noncausal_self",), None),
        "causal_self": (("causal_self",), "not written yet"),
        "every": (("every",), "causal_self: not written yet"),
    }


def test_separate_models_share_nothing_and_have_no_every(toy):
    toy("TwoModels")
    cells = plan("softmax", "none", seeds=[0])
    assert sorted((cell.attention, cell.pattern, cell.sites) for cell in cells) == [
        (name, pattern, (pattern,)) for name in ("none", "softmax") for pattern in ("causal_self", "noncausal_self")
    ]
    with pytest.raises(ConfigError, match="'every': no backbone of toy has it; allowed: noncausal_self, causal_self"):
        plan("none", patterns=["every"])


def test_counting_agrees_with_planning(toy):
    toy(text=OTHER_STEPS)
    run = RunSettings(tasks=["toy"], attentions=["softmax", "flash", "lavo"], preset="smoke")
    assert check_runs([(run, [])]) == len(plan("softmax", "flash", "lavo"))


def test_every_replaces_all_layers():
    for pattern, replaced in (("every", 2), ("causal_self", 1)):
        sites = AttentionSites("none", pattern, {})
        for site in ("noncausal_self", "causal_self"):
            sites(site, embed_dim=8, num_heads=2, max_length=5)
        assert len(sites.replaced) == replaced


def test_one_record_of_softmax_stands_in_the_table_of_every_site(toy, tmp_path):
    toy()
    place = runner.Place(tmp_path / "out", tmp_path / "cache")
    cells = plan("softmax", "none", seeds=[0])
    for cell in cells:
        runner.run_cell(cell, place)
    assert len(cells) == 4
    frame = results.load(tmp_path / "out")
    assert len(frame) == 4
    (softmax,) = [record for record in results.records([tmp_path / "out"]) if record.cell.attention == "softmax"]
    assert softmax.cell.sites == SITES
    groups = group_records(results.records([tmp_path / "out"]))
    assert [group.pattern for group in groups] == list(SITES)
    values = {group.pattern: {entry.label: entry.values("mse")[0] for entry in group.entries} for group in groups}
    assert all(set(found) == {"softmax", "none"} for found in values.values())
    assert len({found["softmax"] for found in values.values()}) == 1
    assert len({found["none"] for found in values.values()}) == 3


def test_an_attention_added_to_a_finished_folder_trains_only_its_cells(toy, tmp_path):
    toy()
    place = runner.Place(tmp_path / "out", tmp_path / "cache")
    for cell in plan("softmax", seeds=[0]):
        runner.run_cell(cell, place)
    waiting = runner.to_run(plan("softmax", "none", seeds=[0]), place.output)
    assert {cell.attention for cell in waiting} == {"none"}


def test_settings_of_a_pattern_change_those_of_its_backbone(monkeypatch, tmp_path):
    text = """
base: {model: {a: 1, b: 1}, patterns: {causal_self: {model: {b: 2}}}}
smoke:
  model: {c: 3}
  backbones:
    one: {model: {c: 4}, patterns: {every: {model: {a: 9}}, causal_self: {model: {c: 5}}}}
"""
    (tmp_path / "presets.yaml").write_text(text)
    monkeypatch.setattr("benchmark.settings.resolve.task_folder", lambda _: tmp_path)
    assert presets("any", "smoke", "one") == {"model": {"a": 1, "b": 1, "c": 4}}
    assert presets("any", "smoke", "one", "causal_self") == {"model": {"a": 1, "b": 2, "c": 5}}
    assert presets("any", "smoke", "one", "every") == {"model": {"a": 9, "b": 1, "c": 4}}
    assert presets("any", "smoke", "two", "causal_self") == {"model": {"a": 1, "b": 2, "c": 3}}


def test_rules_that_learn_see_what_the_model_has_seen(toy, tmp_path, monkeypatch):
    toy("Toy", PRESETS)
    seen = []

    def controls_after(self, num_examples):
        seen.append(num_examples)
        return self.controls()

    monkeypatch.setattr(toy_task.Toy, "controls_after", controls_after, raising=False)
    (cell,) = plan("none", seeds=[0])
    record = runner.run_cell(cell, runner.Place(tmp_path / "out", tmp_path / "cache"))
    assert record.controls["zero"]["mse"] > 0
    assert seen == [3 * 8]


def test_settings_given_by_hand_reach_every_site(toy):
    toy(text=OTHER_STEPS)
    settings = RunSettings(tasks=["toy"], attentions=["softmax"], preset="smoke", seeds=[0])
    (cell,) = plan_cells([(settings, [parse_assignment("train.steps=7")])], Path("/dev/null/unused"))
    assert (cell.sites, cell.config["train"]["steps"]) == (SITES, 7)
