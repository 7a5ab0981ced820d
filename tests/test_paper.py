r"""The paper of a report: everything is in ``main.tex``, captions stand alone, hostile text is escaped, and TeX compiles it.

Tests that compile need TeX and poppler; on Debian ``apt-get install --no-install-recommends`` with the packages in ``PACKAGES``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import believable
import pytest
from typer.testing import CliRunner

from benchmark.cli.commands import app
from benchmark.interface import NOTHING
from benchmark.registry import ATTENTIONS, TASKS, task_declarations
from benchmark.report import build_report
from benchmark.report.document import Heading, Picture
from benchmark.report.escapes import escape, inline
from benchmark.report.fitting import COLUMN, PAGE, fit, text_width
from benchmark.report.latex import to_latex
from benchmark.report.paper import TEMPLATES, citations, pdf_width, write_paper
from benchmark.report.tables import Printed, Row, Table
from benchmark.results import DataSource

PACKAGES = "texlive-latex-recommended texlive-fonts-recommended poppler-utils"
needs_tex = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("pdflatex", "bibtex", "pdffonts", "pdftotext")),
    reason=f"no pdflatex or no pdffonts here: apt-get install {PACKAGES}",
)
HOSTILE = r"lavo@1:1 50 % R&D #1 my_att $x {a} ~b ^c \d <e> |f| `g` 'h' \"i\" Жук é naïve 1–2 × 10⁻³ ≤ µs"
NAME_OF_DATA = r"книги_50 %&#{}$\x~^"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick_50%"
    believable.write_results(folder)
    for attention in ("softmax", "none", "lavo"):
        for seed in (0, 1):
            data = DataSource(NAME_OF_DATA, False, "a1b2c3d4" * 8)
            believable.write_cell(folder, "forecasting", "informer", "every", attention, seed, data=data)
    believable.write_sweep(folder)
    return folder


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    output = tmp_path_factory.mktemp("reports") / "quick_50%"
    assert build_report([results], output, for_paper=True).faults == []
    return output


@pytest.fixture(scope="module")
def source(report):
    """``main.tex`` with its tables in their places."""
    text = (report / "paper" / "main.tex").read_text(encoding="ascii")

    def included(match):
        return (report / "paper" / f"{match[1]}.tex").read_text(encoding="ascii")

    return re.sub(r"\\input\{([^}]+)\}", included, text)


def table_of(rows, columns=("attention", "figure"), **more):
    return Table(
        "t", "Words.", list(columns), [Row(label, tuple(map(Printed, texts))) for label, *texts in rows], **more
    )


def compiled(folder, name="main", bibliography=False):
    """Runs pdflatex until references are settled, and returns the log of the last run."""
    passes = [["pdflatex"], *([["bibtex"], ["pdflatex"]] if bibliography else []), ["pdflatex"]]
    for command in passes:
        options = ["-interaction=nonstopmode", "-halt-on-error"] if command == ["pdflatex"] else []
        done = subprocess.run(
            [*command, *options, name],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]
    return (folder / f"{name}.log").read_text(errors="replace")


def alone(folder, *tables):
    """Compiles a paper of these tables, and returns its log."""
    body = "\n".join(to_latex(table) for table in tables)
    preamble = (TEMPLATES / "paper.tex.jinja").read_text().partition(r"\hypersetup")[0].partition("\n")[2]
    text = f"{preamble}\\extrafloats{{100}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    (folder / "main.tex").write_text(text, encoding="ascii")
    return compiled(folder)


def overfull(log):
    """The points by which boxes are too wide or too high, and the lines that say so."""
    return [(float(points), line) for line, points in re.findall(r"(Overfull \\[hv]box \(([\d.]+)pt.*)", log)]


def test_every_table_and_figure_of_the_report_is_shown_once(report):
    text = (report / "paper" / "main.tex").read_text()
    tables = re.findall(r"\\input\{tables/([^}]+)\}", text)
    figures = re.findall(r"\\includegraphics(?:\[[^]]*\])?\{figures/([^}]+)\.pdf\}", text)
    assert sorted(tables) == sorted(file.stem for file in (report / "tables").glob("*.csv"))
    assert sorted(figures) == sorted(file.stem for file in (report / "figures").glob("*.pdf"))
    assert len(tables) > 10
    assert len(figures) > 5
    for figure in figures:
        assert (report / "paper" / "figures" / f"{figure}.pdf").read_bytes() == (
            report / "figures" / f"{figure}.pdf"
        ).read_bytes()
        assert "<text" not in (report / "paper" / "figures" / f"{figure}.svg").read_text()  # letters are outlines


def test_references_and_labels_are_the_same_set(source):
    labels = re.findall(r"\\label\{([^}]+)\}", source)
    assert len(labels) == len(set(labels))
    assert set(re.findall(r"\\ref\{([^}]+)\}", source)) == set(labels)


def caption_of(source, slug):
    (caption,) = re.findall(rf"\\caption\{{(.*)\}}\n\\label\{{tab:{slug}\}}", source)
    return caption.replace(r"\allowbreak{}", "")


def test_captions_stand_alone(source):
    caption = caption_of(source, "forecasting-informer-causal_self")
    for part in (
        "embedded (3f2a91c0)",
        "Preset: quick",
        "Seeds: 0, 1, 2",
        r"$\pm$: sample standard deviation over seeds",
        "bold",
    ):
        assert part.lower() in caption.lower()
    cost = caption_of(source, "forecasting-informer-causal_self-cost")
    for part in ("medians over seeds", "embedded (3f2a91c0)", "Preset: quick", "Device: Some CPU, 2 threads"):
        assert part in cost
    figure = re.search(r"\\caption\{(.*)\}\n\\label\{fig:forecasting-informer-causal_self-training\}", source)
    for part in ("mean over seeds", "the band is the range of the seeds", "Preset: quick", "Seeds: 0, 1, 2"):
        assert part in figure[1]
    for caption in re.findall(r"\\caption\{(.*)\}\n\\label\{tab:efficiency", source):
        assert "8 heads of 64, float32, cpu" in caption or "machine" in caption.lower()


def test_no_sentence_tells_a_result(source):
    """Between floats there is nothing but headings and references; the beginning says what was run."""
    text = re.sub(r"\\begin\{(table|figure)(\*?)\}.*?\\end\{\1\2\}", "", source, flags=re.DOTALL)
    body = text.partition(r"\maketitle")[2].partition(r"\section{Sources}")[0]
    lines = [line for line in body.splitlines() if line.startswith((r"\par\smallskip", "Table", "Figure"))]
    assert lines
    for line in lines:
        words = re.sub(
            r"\\par\\smallskip\\noindent\\textbf\{.*?\.\}|(Tables?|Figures?)~|\\ref\{[^}]*\}|and|[,. ]", "", line
        )
        assert words == "", line


def test_latex_is_ascii_whatever_the_text():
    assert escape("é ü ç ñ š") == r"\'{e} \"{u} \c{c} \~{n} \v{s}"
    assert escape("Ж") == "[U+0416]"
    assert escape("\u200bx\u0000") == "x"
    assert escape(HOSTILE).isascii()
    assert inline("**bold** *it* `a_b` [link](http://x) <b> 5 %") == (
        r"\textbf{bold} \emph{it} \texttt{a\_b} link \textless{}b\textgreater{} 5 \%"
    )


def test_figures_are_divided_at_the_decimal_point():
    text = to_latex(table_of([("a", "1.5"), ("b", "12.25 ± 0.01"), ("c", "–"), ("d", "−3"), ("e", "694 MiB")]))
    assert r"a & 1&.5 \\" in text
    assert r"b & 12&.25 $\pm$ 0.01 \\" in text
    assert r"c & \multicolumn{2}{c}{--} \\" in text
    assert r"d & $-$3& \\" in text
    assert r"e & 694&~MiB \\" in text
    assert "r@{}l" in text


def test_units_that_differ_are_not_aligned_at_the_point():
    assert "r@{}l" not in to_latex(table_of([("a", "1.50 ms"), ("b", "2.5 s")]))


def test_a_narrow_table_takes_one_column_and_a_wide_one_the_page():
    narrow = fit(table_of([("a", "1.5")]))
    wide = fit(table_of([("a", *["1.5"] * 12)], columns=["attention", *["a_long_heading"] * 12]))
    assert (narrow.is_wide, wide.is_wide) == (False, True)


def test_what_is_wider_than_the_page_stands_in_parts_with_all_its_columns():
    columns = ["attention", *(f"metric_number_{number} ↓" for number in range(30))]
    table = table_of([("a", *(f"{number}.25 ± 0.01" for number in range(30)))], columns=columns)
    chosen = fit(table)
    assert len(chosen.parts) > 1
    assert [column.place for part in chosen.parts for column in part.columns] == list(range(30))
    text = to_latex(table)
    assert all(text.count(f"& {number}&.25 $") == 1 for number in range(30))
    assert text.count(r"\begin{table*}") == 1


def test_differences_begin_a_part_of_their_own():
    columns = [
        "attention",
        *(f"metric_of_some_name_{number} ↓" for number in range(6)),
        "mse − softmax",
        "95 % over seeds",
    ]
    cells = [*["0.4321 ± 0.0123"] * 6, "+0.0123", "[−0.0123, +0.0432]"]
    chosen = fit(table_of([("performer (window 32)", *cells)], columns=columns))
    assert [len(part.columns) for part in chosen.parts] == [6, 2]


def test_a_long_table_becomes_several_floats_with_one_number():
    table = table_of([(f"row {number:03}", "1.5") for number in range(150)])
    text = to_latex(table)
    floats = text.count(r"\begin{table}")
    assert floats > 1
    assert text.count(r"\addtocounter{table}{-1}") == text.count("(continued)") == floats - 1
    assert text.count(r"\label{") == 1
    assert re.findall(r"^row (\d+)", text, re.MULTILINE) == [f"{number:03}" for number in range(150)]


def test_rows_of_paragraphs_count_with_all_their_lines():
    words = "some words that fill the lines of a paragraph " * 8
    long = Table("t", "c", ["a", "b", "c"], [Row(f"r{n}", (Printed(words), Printed(words))) for n in range(30)])
    chosen = fit(long)
    assert len(chosen.rows) > 1
    assert [row for start, stop in chosen.rows for row in range(start, stop)] == list(range(30))
    assert to_latex(long).count(r"\addlinespace") == 30 - len(chosen.rows)


def test_bold_controls_and_messages():
    rows = [
        Row("best", (Printed("0.50 ± 0.01", bold=True), Printed("1"))),
        Row("lost", message="failed: 50 % of a_b"),
        Row("bound", (Printed("0.1"), Printed("–")), is_control=True),
    ]
    lines = to_latex(Table("t", "c", ["attention", "x", "n"], rows, notes=["A **note** of 5 %."])).splitlines()
    assert r"best & \textbf{0}&\textbf{.50 $\pm$ 0.01} & 1 \\" in lines
    (lost,) = [line for line in lines if line.startswith("lost")]
    assert r"\multicolumn{3}" in lost
    assert r"\emph{failed: 50 \% of a\_b}" in lost
    assert lines[lines.index(lost) + 1] == r"\midrule"
    assert r"A \textbf{note} of 5 \%.\par" in lines


def test_every_entry_of_the_registries_is_cited():
    keys = citations((TEMPLATES / "references.bib").read_text())
    backbones = [backbone for task in TASKS for backbone in task_declarations(task)["backbones"]]
    wanted = [f"attention:{name}" for name in ATTENTIONS] + [f"task:{name}" for name in TASKS]
    wanted += [f"backbone:{name}" for name in backbones]
    assert [name for name in wanted if name not in keys] == [
        f"attention:{NOTHING}",
        "backbone:probe",
    ]  # the project's own


def test_references_are_those_that_the_project_names():
    """An entry's arXiv number stands in the code, the docs or a protocol of this project."""
    root = Path(__file__).parent.parent
    folders = ("docs", "tasks", "baselines", "lavo", "benchmark", "README.md")
    files = [
        file for name in folders for file in [root / name, *(root / name).rglob("*")] if file.suffix in (".md", ".py")
    ]
    known = " ".join(file.read_text(encoding="utf-8") for file in files)
    text = (TEMPLATES / "references.bib").read_text()
    numbers = re.findall(r"arXiv:(\d{4}\.\d{5})", text)
    elsewhere = {"2004.15011", "2104.05938", "1703.07015", "1808.00671"}  # of data sets, in the README of the data root
    assert len(numbers) > 10
    assert [number for number in numbers if number not in known and number not in elsewhere] == []


def test_the_bibliography_has_what_is_cited(source, report):
    text = (report / "paper" / "references.bib").read_text()
    entries = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    cited = {key for keys in re.findall(r"\\cite\{([^}]+)\}", source) for key in keys.split(",")}
    assert len(entries) == len(set(entries))
    assert cited <= set(entries)
    assert {"zhang2023lavo", "vaswani2017attention", "zhou2021informer"} <= cited


def test_an_empty_report_has_a_paper(tmp_path):
    main = write_paper(tmp_path, [Heading(2, "Nothing")], [], [], name="x_y", repeat="lavo-bench report")
    assert r"\title{Attention benchmark: x\_y}" in main.read_text()
    assert r"\section{Nothing}" not in main.read_text()


def test_a_figure_that_is_shown_twice_is_taken_once(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "f.pdf").write_bytes(b"<< /MediaBox [ 0 0 504 187.2 ] >>")
    blocks = [Heading(2, "A"), Picture("f", "50 %"), Heading(2, "B"), Picture("f", "50 %")]
    text = write_paper(tmp_path, blocks, [], [], name="x", repeat="r").read_text()
    assert text.count(r"\includegraphics{figures/f.pdf}") == 1
    assert text.count(r"\begin{figure*}") == 1
    assert r"50 \%" in text
    assert pdf_width(tmp_path / "figures" / "f.pdf") == pytest.approx(7 * 72.27)


def test_small_sections_share_pages_whose_head_stays_short(tmp_path):
    (tmp_path / "figures").mkdir()
    blocks = []
    for number in range(9):
        (tmp_path / "figures" / f"f{number}.pdf").write_bytes(b"<< /MediaBox [ 0 0 504 187.2 ] >>")
        blocks += [Heading(2, f"Section {number} of a long title " * 3), Picture(f"f{number}", "c")]
    text = write_paper(tmp_path, blocks, [], [], name="x", repeat="r").read_text()
    heads = re.findall(r"\\renewcommand\{\\rightmark\}\{(.*)\}", text)
    assert [(head[:9], head.count(r"\dots")) for head in heads] == [("Section 0", 2), ("Section 6", 2)]
    assert "-- Section 5" in heads[0]
    assert max(map(len, heads)) < 110


def test_figures_have_the_widths_of_a_paper(report):
    widths = {file.name: pdf_width(file) / 72.27 for file in (report / "figures").glob("*.pdf")}
    assert all(width <= 7.0 + 1e-6 for width in widths.values()), widths


def test_a_wide_figure_is_drawn_smaller_and_its_letters_stay():
    from matplotlib.figure import Figure

    from benchmark.report.style import fit_page

    figure = Figure(figsize=(14, 6))
    axes = figure.subplots()
    text, points = axes.set_title("t", fontsize=8), axes.scatter([0, 1], [0, 1], s=16)
    fit_page(figure)
    assert tuple(figure.get_size_inches()) == (7, 3)
    assert text.get_fontsize() == 8
    assert points.get_sizes().tolist() == [4]


def test_the_command_writes_the_paper_and_keeps_it_up_to_date(tmp_path):
    results, output = tmp_path / "results", tmp_path / "report"
    for attention in ("softmax", "lavo"):
        believable.write_cell(results, "forecasting", "informer", "causal_self", attention, 0)
    command = ["report", str(results), "-o", str(output)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert not (output / "paper").exists()
    assert CliRunner().invoke(app, [*command, "--for-paper"]).exit_code == 0
    main = output / "paper" / "main.tex"
    assert "Seeds: 0." in main.read_text()
    assert "up to date" in CliRunner().invoke(app, [*command, "--for-paper"]).output
    believable.write_cell(results, "forecasting", "informer", "causal_self", "none", 1)
    assert CliRunner().invoke(app, command).exit_code == 0  # without the option, for the folder is there
    assert "Seeds: 0, 1." in main.read_text()


@needs_tex
@pytest.mark.slow
def test_the_paper_compiles_with_fonts_embedded(report, tmp_path):
    folder = tmp_path / "paper"
    shutil.copytree(report / "paper", folder)
    log = compiled(folder, bibliography=True)
    assert [line for points, line in overfull(log) if points > 2] == []
    assert re.findall(r".*(?:undefined|multiply defined|Missing character|Rerun to get).*", log) == []
    assert re.findall(r"LaTeX Warning.*", log) == []
    fonts = subprocess.run(["pdffonts", "main.pdf"], cwd=folder, capture_output=True, text=True, check=True)
    for line in fonts.stdout.splitlines()[2:]:
        assert "Type 3" not in line
        assert re.search(r"\s(yes|no)\s+(yes|no)\s+(yes|no)\s", line)[1] == "yes", line  # emb
    for figure in (report / "figures").glob("*.pdf"):
        shown = subprocess.run(["pdffonts", figure], capture_output=True, text=True, check=True).stdout
        assert "Type 3" not in shown


@needs_tex
@pytest.mark.slow
def test_hostile_and_huge_tables_compile_within_their_columns(tmp_path):
    rows = [
        Row(HOSTILE, (Printed(HOSTILE), Printed("−1.5", bold=True))),
        Row("sha", (Printed("0123456789abcdef" * 4), Printed("20.25"))),
        Row("lost", message=" ".join([HOSTILE] * 4)),
        Row("bound", (Printed("–"), Printed("1.0")), is_control=True),
    ]
    columns = ["attention", *(f"metric_number_{number} ↓ (unit)" for number in range(30))]
    figures = [(f"performer {name}", *(f"{number}.25 ± 0.01" for number in range(30))) for name in "abc"]
    tables = [
        Table("hostile", HOSTILE, ["a_b", HOSTILE, "x ↓"], rows, notes=[HOSTILE], is_prose=False),
        Table("prose", HOSTILE, ["a", *["words"] * 5], [Row(HOSTILE, (Printed(HOSTILE),) * 5)] * 3, is_prose=True),
        table_of(figures, columns=columns),
        table_of([(f"row {number}", "1.5", "word") for number in range(150)], columns=["a", "b", "c"]),
        table_of([("only", "1.5")], notes=["A long note. " * 100]),
        Table(
            "paragraphs", "c", ["a", "b", "c"], [Row(f"r{n}", (Printed("some words " * 30),) * 2) for n in range(30)]
        ),
    ]
    for number, table in enumerate(tables):
        table.slug = f"t{number}"
    log = alone(tmp_path, *tables)
    assert [line for points, line in overfull(log) if points > 2] == []
    assert re.findall(r".*(?:Missing character|multiply defined).*|LaTeX Warning.*", log) == []


@needs_tex
@pytest.mark.slow
def test_decimal_points_stand_below_each_other_in_the_pdf(tmp_path):
    figures = ["1.5", "12.25", "123.125", "0.0625"]
    assert "Overfull" not in alone(tmp_path, table_of([(f"a{number}", one) for number, one in enumerate(figures)]))
    boxes = subprocess.run(
        ["pdftotext", "-bbox", "main.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    digit = 9 / 72.27 * 72 / 2  # Times at 9 points: a digit is half an em
    points = []
    for one in figures:
        left = float(re.search(rf'xMin="([\d.]+)"[^>]*>{re.escape(one)}<', boxes)[1])
        points.append(left + digit * one.index("."))
    assert max(points) - min(points) < 0.1


@needs_tex
@pytest.mark.slow
def test_widths_are_those_of_tex(tmp_path):
    """The measure of ``fitting`` agrees with TeX's own for figures and words in Times."""
    texts = ["0.7321 ± 0.0042", "performer (window 32)", "[−0.098, +0.189]", "bits_per_byte", "694 MiB"]
    lines = "\n".join(rf"\setbox0=\hbox{{\small {escape(text)}}}\typeout{{WIDTH \the\wd0}}" for text in texts)
    (tmp_path / "main.tex").write_text(
        "\\documentclass[10pt]{article}\\usepackage[T1]{fontenc}\\usepackage{textcomp,mathptmx}\n"
        f"\\begin{{document}}\n{lines}\nx\\end{{document}}\n"
    )
    found = [float(width) for width in re.findall(r"WIDTH ([\d.]+)pt", compiled(tmp_path))]
    for text, width in zip(texts, found, strict=True):
        assert text_width(text, 9) == pytest.approx(width, rel=0.05), text
    assert pytest.approx(238.5, abs=0.1) == COLUMN
    assert pytest.approx(505.9, abs=0.1) == PAGE
