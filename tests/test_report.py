"""The report: its tables by hand, its escapes, what goes wrong, and its axes."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import believable
import numpy as np
import pytest

from benchmark.interface import Exhibit, Sound
from benchmark.report import build_report, compare, comparison_table
from benchmark.report.document import Shown, render_markdown
from benchmark.report.escapes import escape
from benchmark.report.groups import group_records
from benchmark.report.html import render_html
from benchmark.report.latex import to_latex
from benchmark.report.svg import Inliner
from benchmark.report.tables import Printed, Row, Table, to_markdown
from benchmark.results import records
from benchmark.statistics import holm

pytestmark = pytest.mark.filterwarnings("error:Glyph")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    believable.write_results(folder)
    believable.write_sweep(folder)
    return folder


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    output = tmp_path_factory.mktemp("reports") / "quick"
    assert build_report([results], output).faults == []
    return output


def test_the_words_and_tables_of_a_report_stay(report, golden):
    golden("report.md", (report / "report.md").read_text())


def test_report_holds_everything_in_one_page(report):
    html = (report / "report.html").read_text()
    assert html.count("<svg") == len(list((report / "figures").glob("*.svg"))) > 4
    # Nothing is fetched: sources and images are in the page, and a link leads to a place in it or to a file beside it.
    assert not re.search(r'\bsrc="(?!data:)', html)
    assert not re.search(r'<(?!a )[^>]*href="(?!#|data:)', html)
    beside = re.findall(r'<a href="(?!#)([^"]+)"', html)
    assert beside
    assert all((report / link).is_file() for link in beside)
    ids = re.findall(r'(?<![\w-])id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }
    for figure in (report / "figures").glob("*.svg"):
        assert figure.with_suffix(".pdf").stat().st_size > 1000
        assert figure.with_suffix(".png").stat().st_size > 1000


def test_report_says_what_its_figures_are_not(report):
    markdown = (report / "report.md").read_text()
    assert "are **embedded**" in markdown
    assert "not reproductions of published" in markdown
    assert "3f2a91c0" in markdown
    assert "Positions: sinusoidal" in markdown
    assert "lavo-bench run forecasting --backbone informer --pattern noncausal_self,causal_self" in markdown


def test_report_names_no_folder_of_this_machine(report, results):
    for file in (report / "report.md", report / "report.html", report / "inputs.json"):
        assert str(results.parent) not in file.read_text()
        assert str(Path.home()) + "/" not in file.read_text()


def test_reasons_stand_in_the_report_as_text(report):
    html, markdown = (report / "report.html").read_text(), (report / "report.md").read_text()
    assert "it has &lt;no&gt; such form &amp; says_so" in html
    assert "not supported: cosformer" in markdown
    assert "FloatingPointError: the loss is not finite at step 12" in markdown
    assert "NaN" not in html
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL))


SPECIAL = r"my_att 50 % R&D #1 $x {a} ~b ^c \d <e> |f|"


def special_table():
    rows = [
        Row("my_att", (Printed("0.50 ± 0.01", bold=True), Printed("12 %"))),
        Row(SPECIAL, message=SPECIAL),
        Row("control", (Printed("−1.0"), Printed("–")), is_control=True),
    ]
    return Table(
        "special", f"R&D: {SPECIAL} (2.85 ± 0.35)·10⁻¹⁴", ["attention", "F-score@1 % ↑", "extra (B − A)"], rows
    )


def test_latex_escapes_every_special_character():
    assert escape("_%&#${}~^\\") == (r"\_\%\&\#\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}")
    text = to_latex(special_table())
    assert r"my\_att & \textbf{0}&\textbf{.50 $\pm$ 0.01} & 12&~\% \\" in text
    assert r"F-score@1 \% $\uparrow$" in text
    assert r"R\&D" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(report, tmp_path):
    (tmp_path / "special.tex").write_text(to_latex(special_table()))
    tables = [tmp_path / "special.tex", *sorted((report / "tables").glob("*.tex"))]
    body = "\n".join(f"\\input{{{table.as_posix()}}}" for table in tables)
    document = (
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{array,booktabs,textcomp}\n\\extrafloats{100}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    (tmp_path / "main.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "main.log").read_text(errors="replace")


def test_markdown_escapes_what_would_break_a_table():
    lines = to_markdown(special_table()).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}


def test_a_failing_figure_loses_nothing_else(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no <ink> left")

    results, output = tmp_path / "results", tmp_path / "report"
    for attention in ("softmax", "lavo"):
        believable.write_cell(results, "forecasting", "informer", "causal_self", attention, 0)
    monkeypatch.setattr("benchmark.report.figures.overview", broken)
    assert build_report([results], output).faults == ["overview: RuntimeError: no <ink> left"]
    markdown, html = (output / "report.md").read_text(), (output / "report.html").read_text()
    assert "could not be drawn" in markdown
    assert "To repeat: `lavo-bench report" in markdown
    assert "no &lt;ink&gt; left" in html
    assert html.count("<svg") == 2  # the training curves, and quality against cost
    assert (output / "tables" / "forecasting-informer-causal_self.tex").exists()
    monkeypatch.undo()
    again = build_report([results], output)  # the same inputs, but the last one wasn't whole
    assert again.changed
    assert again.faults == []


def test_tables_are_written_before_any_figure(results, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr("benchmark.report.gallery.Gallery._save", killed)
    with pytest.raises(Killed):
        build_report([results], tmp_path)
    assert (tmp_path / "tables" / "forecasting-informer-causal_self.csv").exists()


def test_nothing_is_built_where_nothing_changed(tmp_path):
    source = tmp_path / "results"
    believable.write_cell(source, "forecasting", "informer", "causal_self", "softmax", 0)
    output = tmp_path / "report"
    assert build_report([source], output).changed
    before = (output / "report.html").stat().st_mtime_ns
    assert not build_report([source], output).changed
    assert (output / "report.html").stat().st_mtime_ns == before
    believable.write_cell(source, "forecasting", "informer", "causal_self", "lavo", 0)
    assert build_report([source], output).changed
    assert build_report([source], output, force=True).changed


def test_unchanged_report_needs_neither_torch_nor_matplotlib(report, results):
    code = (
        "import sys; from pathlib import Path; from benchmark.report import build_report;"
        f"build_report([Path({str(results)!r})], Path({str(report)!r}));"
        "assert not {'torch', 'matplotlib'} & sys.modules.keys(), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        build_report([tmp_path / "nowhere"], tmp_path / "report")


def test_a_damaged_record_costs_one_line_and_nothing_else(tmp_path):
    results, output = tmp_path / "results", tmp_path / "report"
    paths = [
        believable.write_cell(results, "forecasting", "informer", "causal_self", name, 0)
        for name in ("softmax", "lavo")
    ]
    torn, wrong = paths[1].with_name("torn.json"), paths[1].with_name("wrong.json")
    torn.write_bytes(paths[0].read_bytes()[:200])
    wrong.write_text(paths[0].read_text().replace('"seed": 0', '"seed": "none"'))
    paths[1].with_name(f"{paths[1].stem}.curves.json.gz").write_bytes(b"no gzip")
    (results / "forecasting" / "notes.json").write_text('{"of": "another program"}')
    built = build_report([results], output)
    assert built.faults == []
    names = ["torn.json", "wrong.json", f"{paths[1].stem}.curves.json.gz"]
    assert [line.split(": ")[0].rpartition("/")[2] for line in built.damaged] == names
    markdown, html = built.markdown.read_text(), built.html.read_text()
    for page in (markdown, html):
        assert str(tmp_path) not in page
    notes = [line for line in markdown.splitlines() if "Damaged, and so left out" in line]
    assert [name in note.replace("\\", "") for name, note in zip(names, notes, strict=True)] == [True] * 3
    assert "cell.seed" in notes[1].replace("\\", "")
    assert html.count("Damaged, and so left out") == 3
    assert "| lavo | 1 |" in markdown  # its figures stand, though its curves are lost
    assert build_report([results], output) == built._replace(changed=False)


def test_the_terminal_names_a_damaged_record(tmp_path):
    path = believable.write_cell(tmp_path / "a", "forecasting", "informer", "causal_self", "softmax", 0)
    path.with_name("torn.json").write_text("{")
    command = [sys.executable, "-m", "benchmark.cli", "report", str(tmp_path / "a"), "-o", str(tmp_path / "report")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "torn.json" in line]
    assert line.startswith("left out: ")
    assert (tmp_path / "report" / "report.md").exists()


def test_a_report_is_built_again_where_curves_or_attachments_changed(tmp_path):
    path = believable.write_cell(tmp_path / "a", "forecasting", "informer", "causal_self", "softmax", 0)
    assert build_report([tmp_path / "a"], tmp_path / "report").changed
    (path.parent / "attachments").mkdir()
    for file in (path.parent / "attachments" / "sound.mp3", path.with_name(f"{path.stem}.curves.json.gz")):
        file.write_bytes(gzip.compress(b"{}"))
        assert build_report([tmp_path / "a"], tmp_path / "report").changed
        assert not build_report([tmp_path / "a"], tmp_path / "report").changed


def test_inputs_are_strict_json(report):
    def refuse(constant):
        raise AssertionError(constant)

    state = json.loads((report / "inputs.json").read_text(), parse_constant=refuse)
    assert state["inputs"]["version of lavo-bench"]


def test_inlined_figures_share_no_id_but_their_styles():
    text = (
        '<?xml version="1.0"?><svg><g id="axes_1"><path id="a" style="stroke: #123456" clip-path="url(#b)"/><use xlink:href="#a"/></g>'
        '<defs><clipPath id="b"><rect x="1.23456" y="20.0678"/></clipPath></defs></svg>'
    )
    inliner = Inliner()
    first, second = inliner.inline(text), inliner.inline(text)
    expected = (
        '<svg><path id="f1-1" class="s0" clip-path="url(#f1-0)"/><use href="#f1-1"/>'
        '<defs><clipPath id="f1-0"><rect x="1.23" y="20.1"/></clipPath></defs></svg>'
    )
    assert first == expected
    assert second == expected.replace("f1-", "f2-")
    assert inliner.css == ".s0{stroke:#123456}"


def test_words_and_numbers_of_a_figure_stay():
    text = '<svg><g id="t"><text style="font-size: 8px; font-family: \'A\', b" x="1.2345678" y="2">0.1234567 &lt; 1</text></g></svg>'
    assert Inliner().inline(text) == '<svg><text class="s0" x="1.23" y="2">0.1234567 &lt; 1</text></svg>'


def test_comparison_tests_over_seeds_and_examples(results, tmp_path):
    shutil.copytree(results, tmp_path / "b")
    for file in (tmp_path / "b" / "forecasting").glob("informer.causal_self.lavo.*.json"):
        file.unlink()
    for seed in believable.SEEDS:
        made = believable.make_record("forecasting", "informer", "causal_self", "lavo", seed)
        shift = 0.05 + 0.001 * seed
        mse = replace(made.record.metrics["mse"], value=made.record.metrics["mse"].value + shift)
        record = replace(made.record, metrics={**made.record.metrics, "mse": mse})
        columns = {**made.columns, "mse": made.columns["mse"] + shift}
        believable.write(tmp_path / "b", made._replace(record=record, columns=columns))
    frame = compare([results], [tmp_path / "b"])
    cell = frame[(frame.task == "forecasting") & (frame.pattern == "causal_self") & (frame.metric == "mse")]
    row = cell[cell.attention == "lavo"].iloc[0]
    assert row.difference == pytest.approx(0.051)
    assert row.seeds == 3
    assert row.p_seeds < 0.001
    assert row.examples == 200
    assert row.p_examples < 0.01
    same = cell[cell.attention == "softmax"].iloc[0]
    assert (same.difference, same.p_seeds, same.p_examples) == (0, 1, 1)
    assert "B − A" in to_markdown(comparison_table(frame))
    assert row.verdict == "worse"
    assert row.p_holm < 0.05
    assert set(frame[(frame.attention != "lavo") | (frame.pattern != "causal_self")].verdict) == {""}


def test_two_attentions_of_one_set_are_compared_table_by_table(results):
    frame = compare([results], attentions=["softmax", "performer"])
    assert set(frame.attention) == {"performer against softmax"}
    row = frame[(frame.pattern == "noncausal_self") & (frame.metric == "mse")].iloc[0]
    group = next(
        group
        for group in group_records(records([results]))
        if (group.task, group.pattern) == ("forecasting", "noncausal_self")
    )
    first, second = (
        next(entry for entry in group.entries if entry.label == label).values("mse")
        for label in ("softmax", "performer")
    )
    assert row.difference == pytest.approx(np.mean([second[seed] - first[seed] for seed in first]))
    shown = comparison_table(frame[frame.headline], ("softmax", "performer"), all_metrics=False)
    assert max(map(len, to_markdown(shown).splitlines())) < 200
    with pytest.raises(ValueError, match="two attentions"):
        compare([results], attentions=["softmax"])


def test_holm_counts_first_metrics_and_the_others_apart(results):
    frame = compare([results], attentions=["softmax", "lavo"])
    for is_headline in (True, False):
        part = frame[(frame.headline == is_headline) & frame.p_seeds.notna()]
        assert part.p_holm.tolist() == pytest.approx(holm(part.p_seeds.tolist()))
    assert frame.headline.sum() == 3


def test_comparison_says_what_only_one_side_has(results, tmp_path):
    believable.write_cell(tmp_path, "forecasting", "informer", "causal_self", "softmax", 0)
    frame = compare([results], [tmp_path])
    assert "only in A" in set(frame.note)
    assert math.isnan(frame[frame.note == "only in A"].difference.iloc[0])


def exhibited():
    rows = (
        ("truth", "One line.\nA second | one, with <b> and *stars*.", Sound("truth", b"\xff\xfbsound", "audio/mpeg")),
        ("lavo", "", Sound("lavo", b"OggSsound", "audio/ogg")),
    )
    return Exhibit("Utterance 7.", "What was read out.", ("attention", "text", "sound"), rows)


def test_exhibits_are_tables_with_players(tmp_path):
    shown = Shown("tts-1", exhibited())
    html = render_html("title", [shown], tmp_path)
    sources = re.findall(r'<audio controls preload="none" src="data:([a-z/]+);base64,([^"]+)"', html)
    assert [(kind, base64.b64decode(content)) for kind, content in sources] == [
        ("audio/mpeg", b"\xff\xfbsound"),
        ("audio/ogg", b"OggSsound"),
    ]
    assert "A second | one, with &lt;b&gt; and *stars*." in html
    markdown = render_markdown("title", [shown])
    assert "[listen](sounds/tts-1-truth.mp3)" in markdown
    assert "[listen](sounds/tts-1-lavo.ogg)" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {4}


@pytest.fixture
def exhibits_of_forecasting(monkeypatch):
    """A module ``tasks.forecasting.exhibits`` with this function in it, found as a file's would be."""

    def add(function):
        module = ModuleType("tasks.forecasting.exhibits")
        module.exhibits = function
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return add


def test_a_tasks_exhibits_stand_in_its_report(tmp_path, exhibits_of_forecasting):
    exhibits_of_forecasting(lambda records: [exhibited()] if records else [])
    believable.write_cell(tmp_path / "a", "forecasting", "informer", "causal_self", "softmax", 0)
    assert build_report([tmp_path / "a"], tmp_path / "report").faults == []
    files = {file.name: file.read_bytes() for file in (tmp_path / "report" / "sounds").iterdir()}
    assert files == {
        "forecasting-informer-causal_self-1-truth.mp3": b"\xff\xfbsound",
        "forecasting-informer-causal_self-1-lavo.ogg": b"OggSsound",
    }
    assert (tmp_path / "report" / "report.html").read_text().count("<audio") == 2


def test_failing_exhibits_lose_nothing_else(tmp_path, exhibits_of_forecasting):
    exhibits_of_forecasting(lambda records: records[0].curves["no such"])
    believable.write_cell(tmp_path / "a", "forecasting", "informer", "causal_self", "softmax", 0)
    built = build_report([tmp_path / "a"], tmp_path / "report")
    assert built.faults == ["forecasting-informer-causal_self-exhibits: KeyError: 'no such'"]
    assert "mse" in built.markdown.read_text()


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"inputs": 3, "faults": [], "damaged": []}', '{"inputs": {}, "faults": [1], "damaged": []}', "\x00"],
)
def test_a_damaged_state_of_a_report_is_as_good_as_none(tmp_path, content):
    from benchmark.report.inputs import FILE_NAME, State, read_state, write_state

    state = State({"a": "b"}, ["fault"], [])
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    (tmp_path / FILE_NAME).write_text(content)
    assert read_state(tmp_path) is None
