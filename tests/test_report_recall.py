"""The report's view of recall: accuracy and state belong to the same texts."""

from __future__ import annotations

from dataclasses import replace

import believable
import numpy as np
import pytest

from benchmark.report.groups import group_records
from benchmark.report.recall import recalled, state_figure, state_table
from benchmark.results import CellConfig, MetricValue, records

BYTES_A_WORD = 512  # of softmax's state
STATE = 33_280  # of lavo, whatever the length


def row(family, length, attention, *, is_trained):
    """Accuracy falls with length."""
    size = STATE if attention == "lavo" else BYTES_A_WORD * length
    accuracy = 100 - length / 8
    return {
        "family": family,
        "pairs": 4,
        "length": length,
        "is_trained": is_trained,
        "accuracy": accuracy,
        "state_bytes": size,
    }


def group_of(folder, families, solvable=()):
    """families: family -> lengths, of which the first is trained."""
    for attention in ("softmax", "lavo"):
        for seed in (0, 1):
            made = believable.make_record("recall", "probe", "causal_self", attention, seed)
            rows = [
                row(family, length, attention, is_trained=length == lengths[0])
                for family, lengths in families.items()
                for length in lengths
            ]
            own = [one["accuracy"] for one in rows if one["is_trained"] and one["family"] in (solvable or families)]
            metrics = {"accuracy": MetricValue(float(np.mean(own)), 128, higher_is_better=True, unit="%")}
            record = replace(made.record, metrics=metrics, config=CellConfig(eval={"solvable": list(solvable)}))
            believable.write(folder, made._replace(record=record, columns={}, curves={"recall": rows}))
    (group,) = group_records(records([folder]))
    return group


def plotted(group):
    """Label -> (x, y) of its point."""
    (axis,) = [axis for axis in state_figure([group]).axes if axis.containers]
    lines = {box.get_label(): box.lines[0] for box in axis.containers}
    return {label: (line.get_xdata()[0], line.get_ydata()[0]) for label, line in lines.items()}


def test_the_state_is_that_of_the_texts_whose_accuracy_is_drawn(tmp_path):
    points = plotted(group_of(tmp_path, {"mqar": (32, 128, 512)}))
    x, y = points["softmax"]
    assert y == pytest.approx(100 - 32 / 8)
    assert x == 32 * BYTES_A_WORD
    assert points["lavo"] == (STATE, y)


def test_several_families_are_averaged_in_state_as_in_accuracy(tmp_path):
    group = group_of(tmp_path, {"mqar": (32, 128), "fused": (16, 64), "parity": (8, 256)}, solvable=("mqar", "fused"))
    assert plotted(group)["softmax"] == pytest.approx((24 * BYTES_A_WORD, 100 - 24 / 8))
    assert recalled(group)["lavo"].state_bytes == STATE
    table = state_table([group])
    assert "trained lengths" in table.notes[0]
    assert {one["attention"]: one["causal self: state bytes"] for one in table.values} == {
        "softmax": 24 * BYTES_A_WORD,
        "lavo": STATE,
    }
