"""No row and no table of a report mixes cells that different versions of the code made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import believable
import numpy as np
import pytest

from benchmark.registry import attention_declarations, task_declarations
from benchmark.report.comparison import compare
from benchmark.report.differences import against_exact
from benchmark.report.groups import group_records
from benchmark.report.sections import matrix
from benchmark.report.tables import metric_tables
from benchmark.report.versions import with_versions
from benchmark.results import DataSource, Efficiency, Versions, read_record, records
from benchmark.settings.cell import hash_of_record

RESULTS = Path(__file__).resolve().parents[1] / "results"
SITE = ("forecasting", "informer", "causal_self")
HERE = Versions(
    int(task_declarations("forecasting")["version"]),
    int(attention_declarations("lavo")["version"]),
    int(attention_declarations("softmax")["version"]),
)
OLD_ATTENTION, OLD_TASK = replace(HERE, attention=HERE.attention - 1), replace(HERE, task=HERE.task - 1)


def write(folder, attention, seed, versions, *, recorded=True, **changes):
    """Writes a cell whose hash is that of these versions.  recorded: whether the record also holds them, as new ones do."""
    made = believable.make_record(*SITE, attention, seed)
    record = replace(made.record, versions=versions if recorded else None, **changes)
    own = hash_of_record(record, versions, made.record.data.sha256)
    record = replace(record, cell=replace(record.cell, hash=own))
    believable.write(folder, made._replace(record=record))
    return record


def group_of(folder):
    (group,) = group_records(records([folder]))
    return group


def row_and_notes(folder, label="lavo"):
    table = metric_tables(group := group_of(folder), against_exact(group))[0]
    row = next((row for row in table.rows if row.label == label), None)
    return row, " ".join(note for note in table.notes if "left out" in note), table


@pytest.mark.parametrize("recorded", [True, False])
def test_a_row_holds_only_the_newest_version_of_its_attention(tmp_path, recorded):
    for seed in (0, 1, 2):
        write(tmp_path, "softmax", seed, replace(HERE, attention=HERE.reference), recorded=recorded)
        write(tmp_path, "lavo", seed, OLD_ATTENTION, recorded=recorded, started="2026-02-01T00:00:00+00:00")
    first = write(tmp_path, "lavo", 0, HERE, recorded=recorded)
    row, note, table = row_and_notes(tmp_path)
    assert row.printed[0].text == "1 of 3"
    values = next(values for values in table.values if values["attention"] == "lavo")
    assert (values["mse_mean"], values["mse_deviation"]) == (first.value("mse"), None)
    assert (values["seeds"], values["seeds_asked"]) == (1, 3)
    assert note == (
        f"lavo, seed 1, 2: left out, because another version of the code made them (version {OLD_ATTENTION.attention} of the "
        f"attention, not {HERE.attention}); to be run again."
    )
    assert matrix([group_of(tmp_path)]).values[0]["completed"] == "4 of 6"


def test_one_version_is_one_row_without_a_note(tmp_path):
    for seed in (0, 1, 2):
        write(tmp_path, "lavo", seed, OLD_ATTENTION, recorded=seed == 1)
    row, note, _ = row_and_notes(tmp_path)
    assert (row.printed[0].text, note) == ("3", "")


def test_an_edited_file_of_one_version_is_another_version(tmp_path):
    for seed, source in enumerate(("a" * 64, "a" * 64, "b" * 64)):
        versions = Versions(HERE.task, 1, HERE.reference, source)
        write(tmp_path, "my_att", seed, versions, started=f"2026-01-0{seed + 1}T00:00:00+00:00")
    row, note, _ = row_and_notes(tmp_path, "my_att")
    assert row.printed[0].text == "1 of 3"
    assert "(another file of the attention)" in note
    # A seed that was run again takes the place of the earlier one.
    write(tmp_path, "my_att", 1, Versions(HERE.task, 1, HERE.reference, "b" * 64))
    assert row_and_notes(tmp_path, "my_att")[0].printed[0].text == "2 of 3"


def test_a_record_of_before_counts_where_a_newer_one_tells_its_file(tmp_path):
    versions = Versions(HERE.task, 1, HERE.reference, "a" * 64)
    for seed in (0, 1):
        write(tmp_path, "my_att", seed, versions, recorded=seed == 1)
    assert row_and_notes(tmp_path, "my_att")[0].printed[0].text == "2"
    write(tmp_path, "my_att", 2, replace(versions, source="c" * 64), recorded=False)
    row, note, _ = row_and_notes(tmp_path, "my_att")
    assert row.printed[0].text == "2 of 3"
    assert "(which one is unknown)" in note


def test_a_table_holds_one_version_of_the_task(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "lavo", seed, OLD_TASK)
        write(tmp_path, "performer", seed, replace(OLD_TASK, attention=1))
    write(tmp_path, "lavo", 0, HERE)
    group = group_of(tmp_path)
    assert [(entry.label, len(entry.records)) for entry in group.entries] == [("lavo", 1)]
    row, note, _ = row_and_notes(tmp_path)
    assert row.printed[0].text == "1 of 2"
    of_task = f"(version {OLD_TASK.task} of the task, not {HERE.task})"
    assert note.count(of_task) == 2
    assert "performer, seed 0, 1: left out" in note


def test_an_attention_whose_records_are_all_of_before_stays(tmp_path):
    """Nothing says that another version of the task made them."""
    write(tmp_path, "softmax", 0, replace(HERE, attention=HERE.reference))
    for seed in (0, 1):
        write(tmp_path, "my_att", seed, Versions(HERE.task, 1, HERE.reference, "a" * 64), recorded=False)
    row, note, _ = row_and_notes(tmp_path, "my_att")
    assert (row.printed[0].text, note) == ("2", "")


def test_a_cell_without_figures_and_of_unknown_version_stays(tmp_path):
    write(tmp_path, "softmax", 0, replace(HERE, attention=HERE.reference))
    write(tmp_path, "cosformer", 0, HERE, recorded=False, status="unsupported", reason="it can't")
    made = read_record(next((tmp_path / "forecasting").glob("*cosformer*")))
    assert (made.data, made.efficiency) == (DataSource(), Efficiency())
    row, note, _ = row_and_notes(tmp_path, "cosformer")
    assert (row.message, note) == ("not supported: it can't", "")


def test_a_comparison_notes_other_versions(tmp_path):
    for seed in (0, 1, 2):
        write(tmp_path / "a", "lavo", seed, OLD_ATTENTION)
        write(tmp_path / "b", "lavo", seed, HERE)
    frame = compare([tmp_path / "a"], [tmp_path / "b"])
    assert set(frame.note) == {f"version {OLD_ATTENTION.attention} -> {HERE.attention} of the attention"}


def test_the_hash_tells_the_versions_of_every_committed_record():
    """A hash that changed would make all committed records useless: their cells would be run again."""
    found = records([folder for folder in RESULTS.iterdir() if any(folder.glob("*/*.s[0-9]*.json"))])
    assert len(found) >= 349
    assert all(record.versions is not None for record in with_versions(found))
    groups = group_records(records([RESULTS / "quick"]))
    assert sum(len(entry.outdated) for group in groups for entry in group.entries) == 0
    assert not any(group.left_out for group in groups)
    assert np.mean([len(group.records) for group in groups]) > 1
