"""The notebook of docs/ runs from its first cell to its last, and what is stored of its outputs is small and names no machine."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
CPU_SECONDS = 120  # of all its processes
MOST_BYTES = 100_000

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def outputs_of(notebook):
    """The number of each cell with one of its outputs."""
    return [
        (number, output)
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


def texts_of(notebook) -> str:
    """All outputs but pictures as one text."""
    found = []
    for _, output in outputs_of(notebook):
        found.append(output.get("text", ""))
        found += [str(text) for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(found)


@pytest.mark.slow
def test_the_notebook_runs_and_my_attention_is_in_the_report(tmp_path, request, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
        record_timing=False,
    )
    client.execute()  # raises for a cell that fails
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS
    said = texts_of(notebook)
    assert "my_linear is in the report: True" in said
    assert "6 of 6 cells" in said
    assert (tmp_path / "reports" / "notebook" / "report.html").is_file()
    assert len(list((tmp_path / "results" / "notebook" / "sources").glob("my_linear.*.py"))) == 1
    assert any("image/png" in output.get("data", {}) for _, output in outputs_of(notebook))
    assert str(tmp_path) not in nbformat.writes(notebook)
    if request.config.getoption("--update-golden"):
        nbformat.write(notebook, NOTEBOOK)


def test_the_stored_outputs_are_small_and_name_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < MOST_BYTES
    assert "my_linear is in the report: True" in texts_of(notebook)
    assert [output for _, output in outputs_of(notebook) if output.output_type == "error"] == []
    assert [cell for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count is None] == []
    said = re.sub(r"https?://\S+", "", texts_of(notebook))
    assert re.findall(r"(?:^|[\s\"'(=])(?:/|[A-Z]:\\|~/)[\w.-]+(?:[/\\][\w.-]+)+", said) == []
    assert "Warning" not in said
