"""Published figures: the ledger is checked, and a figure stands beside ours only where data, size, settings, protocol and metric agree."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmark.report.claims import claims_blocks
from benchmark.report.document import Folded, render_markdown
from benchmark.report.groups import group_records
from benchmark.report.published import LEDGER, Ledger, place, published_blocks, read_ledger
from benchmark.results import CellConfig, CellName, DataSource, MetricValue, Record
from benchmark.settings.messages import ConfigError
from benchmark.settings.models import AttentionSpec
from benchmark.settings.resolve import resolve

ROOT = Path(__file__).parents[1]
FOUND = read_ledger()


def ours(attention="softmax", *, preset="paper", name="ETTh1", embedded=False, limit=None, seeds=(0, 1, 2), **changes):
    """Records of Informer on ETTh1, horizon 24, one column: the settings of the preset, but for ``changes``."""
    spec = AttentionSpec(name=attention)
    config = resolve("forecasting", "informer", "paper", spec, [], "noncausal_self").plain()
    config["data"]["features"] = "S"
    for key, value in changes.items():
        group, _, last = key.partition("__")
        config[group][last] = value
    settings = {part: config[part] for part in ("data", "model", "eval", "train")}
    return [
        Record(
            CellName("forecasting", "informer", "noncausal_self", attention, preset, seed, f"h{seed}"),
            "completed",
            CellConfig(**settings, limit=limit),
            metrics={"mse": MetricValue(0.09 + 0.01 * seed, 2857), "mae": MetricValue(0.25, 2857)},
            data=DataSource(name, embedded, "b" * 64),
            started="2026-01-01T00:00:00+00:00",
        )
        for seed in seeds
    ]


def beside(records):
    return [one for one in place(FOUND, group_records(records)) if one.is_beside]


def reasons(records):
    """All reasons of the figure for ETTh1, S, horizon 24, MSE."""
    wanted = {"data": "ETTh1", "features": "S", "horizon": 24, "metric": "MSE", "protocol": "informer"}
    (one,) = (p for p in place(FOUND, group_records(records)) if {k: getattr(p.published, k) for k in wanted} == wanted)
    return one.differs


def test_every_figure_of_the_ledger_has_a_source_and_a_table():
    assert len(FOUND.entries) == len(yaml.safe_load(LEDGER.read_text())["entries"]) > 700
    assert all(entry.table and FOUND.sources[entry.source] for entry in FOUND.entries)
    assert not any(entry.attention == "lavo" for entry in FOUND.entries)  # none of the paper's figures could be read


def test_figures_read_off_a_plot_are_marked():
    plotted = [entry for entry in FOUND.entries if entry.table.endswith(".png")]
    assert plotted
    assert all(entry.approximate for entry in plotted)
    assert all(entry.approximate == (entry in plotted) for entry in FOUND.entries)


def test_the_ledger_agrees_with_the_figures_of_the_tasks_protocols():
    """PROTOCOL.md of forecasting has Informer's table for ETTh1, written by hand."""
    text = (ROOT / "tasks" / "forecasting" / "PROTOCOL.md").read_text()
    for features in ("S", "M"):
        row = re.search(rf"^\| {features}, softmax \| (.+) \|$", text, re.MULTILINE).group(1)
        printed = [float(value) for cell in row.split(" | ") for value in cell.split(" / ")]
        found = [
            entry.value
            for horizon in (24, 48, 168, 336, 720)
            for metric in ("MSE", "MAE")
            for entry in FOUND.entries
            if (entry.protocol, entry.data, entry.features, entry.attention)
            == ("informer", "ETTh1", features, "softmax")
            and (entry.horizon, entry.metric) == (horizon, metric)
        ]
        assert found == printed


def test_a_figure_stands_beside_ours_if_everything_agrees():
    found = beside(ours())
    assert {(one.published.metric, one.published.value) for one in found} == {("MSE", 0.092), ("MAE", 0.246)}
    text = render_markdown("Published", published_blocks(group_records(ours()), FOUND))
    assert "0.0920 ± 0.0" not in text  # the published figure has no spread of ours
    row = next(line for line in text.splitlines() if line.startswith("| softmax |") and "MSE" in line)
    assert "| 0.092 | 0.100 ± 0.010 (3 seeds) |" in row
    assert "every test window is scored" in row
    assert "img/result" in row


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"preset": "gpu"}, "size: preset gpu, not paper"),
        ({"name": "ETTm1"}, "data: ETTm1, not ETTh1"),
        ({"name": "embedded", "embedded": True}, "data: made up here (embedded), not ETTh1"),
        ({"limit": 50}, "examples: the first 50 only"),
        ({"data__pred_len": 48}, "horizon: 48, not 24"),
        ({"data__features": "M"}, "features: M, not S"),
        ({"data__seq_len": 96}, "data.seq_len: 96, not None"),
        ({"data__target": "HULL"}, "data.target: HULL, not None"),
        ({"train__epochs": 1}, "train.epochs: 1, not 6"),
        ({"train__learning_rate": 0.01}, "train.learning_rate: 0.01, not 0.0001"),
        ({"model__num_encoder_layers": 3}, "model.num_encoder_layers: 3, not 2"),
        ({"eval__stride": 24}, "eval.stride: 24, not 1"),
        ({"model__mix": False}, "model.mix: False, not True"),
    ],
)
def test_a_figure_stands_apart_if_one_thing_differs(changes, reason):
    records = ours(**changes)
    assert reasons(records) == (reason,)
    theirs = {
        "data": changes.get("name"),
        "horizon": changes.get("data__pred_len"),
        "features": changes.get("data__features"),
    }
    for one in beside(records):  # figures of the other data or horizon, which then agree
        assert any(value is not None and getattr(one.published, key) == value for key, value in theirs.items())


def test_the_same_batches_in_other_pieces_are_the_same_protocol():
    assert reasons(ours(train__micro_batch_size=8, train__eval_batch_size=64, eval__drop_last=32)) == ()


def test_another_protocol_stands_apart_on_the_same_data():
    records = [
        replace(r, cell=replace(r.cell, pattern="noncausal_cross")) for r in ours("performer", data__pred_len=720)
    ]
    found = place(FOUND, group_records(records))
    assert found
    assert not any(one.is_beside for one in found)
    near = next(one for one in found if one.published.data == "ETTh1" and one.published.features == "S")
    assert near.differs == ("protocol: the other attentions of their Informer are ProbSparse, ours are exact",)


def test_an_attention_or_site_that_the_report_lacks_is_not_shown():
    assert published_blocks(group_records(ours("lavo")), FOUND) == []
    assert published_blocks([], FOUND) == []
    assert claims_blocks([], [], []) == []


def test_the_committed_records_of_the_paper_preset_stand_apart_because_they_trained_less():
    from benchmark.results import records

    found = place(FOUND, group_records(records([ROOT / "results" / "paper-etth1"])))
    near = [
        one
        for one in found
        if (one.published.data, one.published.horizon, one.published.features) == ("ETTh1", 24, "S")
    ]
    assert {one.differs for one in near} == {("train.epochs: 1, not 6",)}
    assert not any(one.is_beside for one in found)


def test_figures_that_stand_apart_are_all_listed_with_what_differs():
    groups = group_records(ours(preset="gpu"))
    blocks = published_blocks(groups, FOUND)
    (folded,) = (block for block in blocks if isinstance(block, Folded))
    placed = place(FOUND, groups)
    table = next(block for block in blocks if getattr(block, "slug", "") == "published")
    assert len(table.values) == len(placed) == int(folded.summary.split()[0])
    assert all(row["differs"] for row in table.values)
    assert all("Differs: " in line for line in folded.markdown.splitlines())
    assert "0.092" in folded.markdown


def test_a_doubted_figure_stands_beside_nothing():
    doubted = [entry for entry in FOUND.entries if entry.note in ("suspect", "disputed, see notes", "before the fix")]
    assert len(doubted) > 5
    made = FOUND.model_copy(update={"entries": tuple(e.model_copy(update={"note": "suspect"}) for e in FOUND.entries)})
    assert not any(one.is_beside for one in place(made, group_records(ours())))


def test_published_figures_are_read_by_no_average():
    """Only the view of claims and the digests of a report's inputs know the ledger."""
    users = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "benchmark").rglob("*.py")
        if "report.published" in path.read_text()
    }
    assert users == {"benchmark/report/claims/__init__.py", "benchmark/report/inputs.py"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "nowhere"}, "source 'nowhere': unknown"),
        ({"protocol": "mine"}, "protocol 'mine': unknown"),
        ({"source": None}, "entries.0.source"),
        ({"table": ""}, "entries.0.table"),
        ({"value": "high"}, "entries.0.value = 'high'"),
        ({"aproximate": True}, "unknown key 'aproximate'"),
    ],
)
def test_a_damaged_ledger_is_refused_in_one_line(tmp_path, change, said):
    content = yaml.safe_load(LEDGER.read_text())
    content["contexts"], content["entries"] = {}, [content["entries"][0] | change]
    (tmp_path / "ledger.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        read_ledger(tmp_path / "ledger.yaml")
    assert said in str(caught.value)
    assert "ledger.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ledger_without_a_needed_key_or_file(tmp_path):
    (tmp_path / "ledger.yaml").write_text("sources: {a: b}\n")
    with pytest.raises(ConfigError, match="is missing"):
        read_ledger(tmp_path / "ledger.yaml")
    (tmp_path / "ledger.yaml").write_text("a: [\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_ledger(tmp_path / "ledger.yaml")
    assert read_ledger(tmp_path / "none.yaml") is None
    assert isinstance(FOUND, Ledger)
