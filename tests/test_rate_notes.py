"""The note on learning rates says that there was one grid for all only where the files of ``tune`` bear it out."""

from __future__ import annotations

from dataclasses import replace

import believable
import pytest

from benchmark.report.groups import group_records
from benchmark.report.rates import rate_notes
from benchmark.results import records
from benchmark.settings.tuned import Chosen, TunedFile

RATE, GRID = 3e-4, (1e-4, 3e-4, 9e-4)


@pytest.fixture
def group(tmp_path):
    groups = group_records(records([believable.write_results(tmp_path / "quick")]))
    found = next(one for one in groups if (one.backbone, one.pattern) == ("gpt", "causal_self"))
    return with_rates(found, "tuned")


def with_rates(group, origin, *attentions):
    """The table with this origin of its rates, for these attentions or for all."""
    entries = [
        entry
        if attentions and entry.attention not in attentions
        else replace(
            entry,
            records=tuple(
                replace(record, config=replace(record.config, learning_rate_from=origin)) for record in entry.records
            ),
        )
        for entry in group.entries
    ]
    return replace(group, entries=tuple(entries))


def file(group, **changed):
    """A file of searches; ``changed``: attention -> fields of its search, or None for no search."""
    chosen = []
    for attention in dict.fromkeys("softmax" if entry.is_exact else entry.attention for entry in group.entries):
        fields = {
            "backbone": "gpt",
            "sites": ("causal_self",),
            "attention": attention,
            "data": group.data.sha256,
            "settings": "0" * 12,
            "seed": 0,
            "learning_rate": RATE,
            "grid": GRID,
            "tried": tuple((rate, 1.0) for rate in GRID),
        }
        own = changed.get(attention, {})
        chosen += [] if own is None else [Chosen(**{**fields, **own})]
    return TunedFile(task=group.task, preset="quick", metric="loss", higher_is_better=False, chosen=tuple(chosen))


def test_one_grid_for_all_is_said_only_if_it_was_one(group):
    longer = tuple(sorted((*GRID, 2.7e-3)))
    tried = {"tried": tuple((rate, 1.0) for rate in longer)}
    assert "from one grid for all" in rate_notes(group, [file(group)])[0]
    assert "(3 rates each)" in rate_notes(group, [file(group)])[0]
    assert "from one grid for all" in rate_notes(group, [file(group, lavo=tried)])[0]
    assert "(3 to 4 rates each)" in rate_notes(group, [file(group, lavo=tried)])[0]
    (note,) = rate_notes(group, [file(group, lavo={**tried, "grid": longer})])
    assert "one grid" not in note
    assert "different grids" in note
    assert "lavo 4" in note


def test_rates_of_an_unknown_search_are_not_said_to_be_from_one_grid(group):
    others = ({"grid": ()}, None, {"learning_rate": 9e-4}, {"data": "f" * 64}, {"sites": ("every",)})
    for own in others:
        (note,) = rate_notes(group, [file(group, lavo=own)])
        assert note.startswith("Learning rates, chosen on validation data: 0.0003: ")
    assert "grid" not in rate_notes(group, [])[0]


def test_what_was_not_tuned_is_named_and_so_is_none(group):
    for attention in ("none", "lavo"):
        partly = with_rates(group, "preset", attention)
        assert rate_notes(partly, [file(group)])[0].endswith(f"Not tuned: {attention}.")
    nothing = with_rates(group, "preset")
    assert rate_notes(nothing, []) == ["All at one learning rate, 0.0003: no attention was tuned."]
