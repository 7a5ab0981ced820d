"""What a refactor must not change: the losses of smoke cells, and a record; test_report.py has the report.

The files of tests/golden/losses say which cells are compared; a new attention or task needs none.  ``pytest
tests/test_golden.py --update-golden -n0`` writes the files again, and with ``-k NAME`` also files for cells of that name that
have none.  The change is read as a diff, and the version of what changed is raised.  Losses of the text's cells hold for one
release of Python, because the embedded text is its library.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.interface import Pattern, Splits
from benchmark.multihead import AttentionSites
from benchmark.registry import ATTENTIONS, TASKS, load_attention, load_task, task_declarations
from benchmark.results import as_json
from benchmark.running.runner import Place, run_cell
from benchmark.running.trainer import Trainer
from benchmark.settings.models import AttentionSpec, Override, RunSettings
from benchmark.settings.plan import plan_cells
from benchmark.settings.resolve import resolve

LOSSES = Path(__file__).parent / "golden" / "losses"
TOLERANCE = 2e-4  # relative, of a loss after up to 20 steps: other processors add in another order
# A model that chooses neighbours may choose others when sums round differently, and from there on its losses differ.
FEW_STEPS = {"point_cloud_completion": (2, 2e-3)}  # task -> steps that are compared, and their tolerance
# The losses were stored on these data; the presets have taken others since.
DATA = {"summarization": {"data.name": "docstrings"}, "text_to_speech": {"data.name": "sentences"}}
VOLATILE = ("environment", "started", "seconds", "efficiency")


def cells() -> dict[str, tuple[str, str, Pattern, str]]:
    """Every cell of the registry: the name of its file -> task, backbone, pattern, attention."""
    return {
        ".".join((task, backbone, pattern, attention)): (task, backbone, pattern, attention)
        for task in TASKS
        for backbone, patterns in task_declarations(task)["backbones"].items()
        for pattern in patterns
        for attention in ATTENTIONS
        if pattern not in load_attention(attention).unsupported
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each stored file; to write files of a name (``-k``), for each cell of the registry as well."""
    if "cell" in metafunc.fixturenames:
        names = {path.stem for path in LOSSES.glob("*.json")}
        if metafunc.config.getoption("--update-golden") and metafunc.config.getoption("keyword"):
            names |= set(cells())
        metafunc.parametrize("cell", sorted(names))


@functools.cache
def smoke(task_name: str, backbone: str, attention: str) -> tuple[Any, Any, Splits]:
    """The task, its settings in the smoke preset, and its data."""
    chosen = [Override(key, value, "tests/test_golden.py") for key, value in DATA.get(task_name, {}).items()]
    resolved = resolve(task_name, backbone, "smoke", AttentionSpec(name=attention), chosen)
    task = load_task(task_name)(resolved.settings, backbone=backbone)
    return task, resolved, task.load_data(None, Path(tempfile.mkdtemp()))


@pytest.mark.usefixtures("one_thread")
def test_losses_of_smoke_cells_stay(golden, cell: str):
    known = cells()
    assert cell in known, f"tests/golden/losses/{cell}.json: there is no such cell any more; delete the file"
    task_name, backbone, pattern, attention = known[cell]
    task, resolved, splits = smoke(task_name, backbone, attention)
    torch.manual_seed(0)
    model = task.build_model(AttentionSites(attention, pattern, resolved.options))
    losses = Trainer(task, model, splits, resolved.train, seed=0).run().curve["loss"]
    assert len(losses) == resolved.train.steps
    path = LOSSES / f"{cell}.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    if stored and stored["data"] != splits.fingerprint and task_name in ("language_modeling", "summarization"):
        pytest.skip("the embedded text is another one: the library of another release of Python")
    count, tolerance = FEW_STEPS.get(task_name, (len(losses), TOLERANCE))
    compared = {"data": splits.fingerprint, "loss": [round(loss, 6) for loss in losses[:count]]}
    golden(f"losses/{cell}.json", compared, tolerance)


def test_cells_of_the_attentions_that_came_with_the_project_are_stored():
    assert {name.rpartition(".")[2] for name in (path.stem for path in LOSSES.glob("*.json"))} >= {"lavo", "softmax"}


@pytest.mark.usefixtures("one_thread")
def test_a_record_stays(golden, tmp_path):
    """Its keys, settings, hash, data and metrics, but only the names of curves: rounding moves a last step of Adam by 2 %."""
    chosen = RunSettings(tasks=["forecasting"], attentions=["lavo"], patterns=["causal_self"], preset="smoke")
    (cell,) = plan_cells([(chosen, [])], tmp_path)
    record = run_cell(cell, Place(output=tmp_path, cache=tmp_path / ".cache"))
    kept = {key: value for key, value in as_json(record).items() if key not in VOLATILE}
    golden("record.json", {**kept, "curves": sorted(record.curves)}, 1e-2)
