"""The README's figures are the records', its table is the writer's, links lead to tracked files, and the repository is small."""

from __future__ import annotations

import csv
import math
import re
import shutil
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pytest

from benchmark import results
from benchmark.measuring.points import read_points
from benchmark.report import numbers
from benchmark.report.readme import BEGIN, END, PAGES, TABLES, fill, main, written

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results" / "quick"
LINKED_FROM = ("README.md", "docs/**/*.md", "tasks/*/PROTOCOL.md", "reports/*/report.md")
MOST_BYTES = 19_000_000  # of all tracked files: records of two whole runs, on made and on real data; before figures and curves were made small one took 44 MB
MADE_AGAIN = (
    ".mp3",
    ".ogg",
    ".wav",
    ".html",
    ".pdf",
    ".svg",
    ".tex",
    ".parquet",
)  # by `lavo-bench report`, so never tracked


@pytest.fixture(scope="module")
def tracked():
    """Every file that git knows, as a path relative to the repository."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no git, or no repository of it: {error}")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def pages(tracked):
    found = {path.relative_to(ROOT).as_posix() for pattern in LINKED_FROM for path in ROOT.glob(pattern)}
    return sorted(found & tracked)


def links_of(text):
    """The targets of links and images, in markdown or HTML; code is no link."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
    targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    return targets + re.findall(r"""<(?:img|a|source|audio)\b[^>]*?\b(?:src|href)=["']([^"']+)""", text)


def target_of(page, link):
    """The file that a link of the page leads to, relative to the repository; None for other sites and the page itself."""
    link = unquote(link.partition("#")[0])
    if not link or re.match(r"[a-z][a-z0-9+.-]*:", link):
        return None
    return Path(*PurePosixPath(page).parent.parts, link)


def test_links_are_found_in_all_their_forms():
    text = "[a](b.md) ![c](d.png \"e\") `[no](code.md)` [f](<g.md>)\n```\n[no](block.md)\n```\n<img src='h.png'>\n[i]: j.md"
    assert links_of(text) == ["b.md", "d.png", "g.md", "j.md", "h.png"]
    assert target_of("docs/a.md", "../b.md#c") == Path("docs/../b.md")
    assert target_of("docs/a.md", "https://a.org") is target_of("docs/a.md", "#part") is None


def test_every_link_leads_to_a_tracked_file(tracked, pages):
    assert {"README.md", "docs/efficiency.md", "reports/quick/report.md"} <= set(pages)
    folders = {parent.as_posix() for name in tracked for parent in PurePosixPath(name).parents}
    broken = []
    for page in pages:
        for link in links_of((ROOT / page).read_text(encoding="utf-8")):
            target = target_of(page, link)
            if target is None:
                continue
            resolved = (ROOT / target).resolve()
            name = resolved.relative_to(ROOT).as_posix() if resolved.is_relative_to(ROOT) else str(target)
            if name not in tracked and name not in folders:
                broken.append(f"{page}: {link}")
    assert not broken


def test_a_tracked_figure_is_shown_somewhere(tracked, pages):
    shown = {
        (ROOT / target).resolve().relative_to(ROOT).as_posix()
        for page in pages
        for link in links_of((ROOT / page).read_text(encoding="utf-8"))
        if link.endswith(".png") and (target := target_of(page, link)) is not None
    }
    figures = {name for name in tracked if name.startswith("reports/") and "/figures/" in name}
    assert figures == {name for name in shown if name.startswith("reports/")}


def test_the_repository_is_small(tracked):
    sizes = {name: (ROOT / name).stat().st_size for name in tracked}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:10]
    assert sum(sizes.values()) <= MOST_BYTES, [(name, sizes[name]) for name in largest]


def test_nothing_that_is_made_again_is_tracked(tracked):
    assert [name for name in sorted(tracked) if name.lower().endswith(MADE_AGAIN)] == []


@pytest.mark.skipif(not RECORDS.is_dir(), reason="no committed records")
@pytest.mark.parametrize("path", TABLES)
def test_tables_in_texts_are_what_the_records_say(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    table = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert table == TABLES[path](RECORDS)
    assert table.count("\n") > 10


@pytest.mark.skipif(not RECORDS.is_dir(), reason="no committed records")
@pytest.mark.parametrize("page", PAGES)
def test_every_marked_figure_is_what_the_records_say(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert fill(text, written(page, RECORDS)) == text, "python -m benchmark.report.readme results/quick writes it anew"


RESULT = re.compile(  # what looks like a figure of a measurement
    r"± ?\d|\d[\d,.]*\s?(?:[mµ]?s|min|minutes?|hours?|[KMG]i?B|GFLOP/s|tokens/s|%|times|points)(?![\w/])|\d+\.\d+"
)
PUBLISHED = (
    "8.1",
    "19.4",
    "25.5",
    "37.6",
    "17.0",
    "51.6",
    "29.8",
    "94.1",
    "85.2",
    "99.6",
)  # of other papers, beside ours
# Settings, bounds by calculation and versions: no results of this code.
NO_RESULTS = {
    "README.md": ("3.11", "1:1", "5 GB", "2.6", "95 %"),
    "docs/recall.md": ("2209.11895", *PUBLISHED, "27 points"),
    "docs/small-real.md": ("0.5", "1.6", "2.0", "1.0", "20 %"),  # versions, licences and shares of the data
    "docs/efficiency.md": (
        "2.11",  # torch
        "25 s",  # budgets
        "60 s",
        "1.6 GB",  # bounds by calculation
        "13.5 GB",
        "3 GB",
        "4.8",
        "6.4",
        "2.0",
        "0.3",
        "3 times",  # a goal
        "95 %",  # of an interval
        "256 MiB",  # a setting
        "2,048 times",  # a ratio of settings
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_no_figure_stands_outside_the_marks(page):
    """A result that is typed by hand fails here: it belongs into ``quoted.py``, or between the marks of what is dated."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"<!-- results:.*?<!-- end of results -->", "", text, flags=re.DOTALL)
    text = re.sub(r"<!-- dated -->.*?<!-- end of dated -->", "", text, flags=re.DOTALL)
    text = re.sub(
        r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)|arXiv [\d.]+|\(\d{4}\.\d{5}\)", "", text, flags=re.DOTALL | re.MULTILINE
    )
    found = [match[0] for match in RESULT.finditer(text) if match[0] not in NO_RESULTS[page]]
    assert found == []


def test_a_figure_typed_by_hand_would_be_found():
    for typed in ("3.2", "0.4 ms", "98 %", "1 ± 2", "12 minutes", "590 MiB", "4 times as fast", "1,024.5"):
        assert RESULT.search(f"it has {typed} there"), typed
    for setting in ("window of 64", "131,072 tokens", "three seeds", "2 threads", "8 heads of 64", "4,096 bytes"):
        assert not RESULT.search(setting), setting


def test_changed_results_change_the_pages(tmp_path, monkeypatch):
    """The command writes each page from the results beside the records, and nothing outside the marks."""
    shutil.copytree(ROOT / "results" / "speed", tmp_path / "results" / "speed")
    for folder in ("quick", "small-real", "efficiency", "long-context", "recall-mqar"):
        (tmp_path / "results" / folder).symlink_to(ROOT / "results" / folder)
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    printed = tmp_path / "results" / "speed" / "versus_exact.txt"
    (figure,) = re.findall(r"^forward +8192 tokens  lavo  .* ([\d.]+) times", printed.read_text(), flags=re.MULTILINE)
    printed.write_text(printed.read_text().replace(f"{figure} times", "99.9 times"))
    monkeypatch.chdir(tmp_path)
    main(Path("results/quick"))
    changed = (tmp_path / "docs" / "efficiency.md").read_text()
    before = (ROOT / "docs" / "efficiency.md").read_text()
    assert changed == before.replace(f"| {figure} |", "| 99.9 |").replace(f"{figure} at 8,192", "99.9 at 8,192")
    assert "99.9 at 8,192" in changed


def test_the_readme_quotes_the_scores_across_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    with (ROOT / "reports" / "quick" / "tables" / "across.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["attention"]: row for row in csv.DictReader(file)}
    paragraph = text.partition("Across the ")[2].partition("\n\n")[0]
    for name, label in (("Performer", "performer"), ("cosFormer", "cosformer"), ("LAVO", "lavo")):
        value, low, high = (float(rows[label][column]) for column in ("interquartile_mean", "low", "high"))
        assert re.search(rf"{value:.2f} \[{low:.2f}, {high:.2f}\]\s+for {name}", paragraph), name


def test_the_readme_counts_the_verdicts_that_the_report_prints():
    report = (ROOT / "reports" / "quick" / "report.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ")[2:]
        for line in report.splitlines()
        if re.search(r"^\|[^|]*: [^|]*\| resolved \|.* % (open|worse|better)", line)
    ]
    inexact = [cell for row in rows for cell in row[1:]]  # the first one is flash
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"settles {sum('**' in cell for cell in inexact)} of the {len(inexact)} differences" in text


def test_the_page_on_efficiency_begins_with_the_speeds_that_were_printed():
    text = (ROOT / "docs" / "efficiency.md").read_text(encoding="utf-8")
    quoted = re.findall(r"\d+\.\d+", text.partition("**Speed on a CPU**")[2].partition("\n\n")[0])
    printed = (ROOT / "results" / "speed" / "versus_exact.txt").read_text(encoding="utf-8")
    training = (ROOT / "results" / "speed" / "training_speed.txt").read_text(encoding="utf-8")
    default = re.findall(r"lavo   .* (\S+) times", printed)
    learned = re.findall(r"lavo, learned basis .* (\S+) times", printed)
    trained = re.findall(r"lavo \S+ tokens/s \((\S+)\)", training)
    assert quoted == [*default[:4], *learned[:4], *default[4:], *learned[4:], *trained]


@pytest.mark.parametrize("text", ["no marks", f"{BEGIN} not closed", f"closed {END} {BEGIN} x {END}"])
def test_a_text_with_missing_marks_is_refused(text):
    with pytest.raises(ValueError, match="lacks the marks"):
        fill(text, lambda name: "| a |")


def test_an_unknown_name_of_results_is_refused():
    with pytest.raises(ValueError, match="no results are named 'nothing'"):
        fill(f"a <!-- results: nothing -->{END}", written("README.md", RECORDS))


def test_only_what_stands_between_the_marks_is_replaced():
    text = f"before {BEGIN}old{END} middle <!-- results: b: c -->old{END} after\n{BEGIN}\nold\n{END}"
    names = []
    filled = fill(text, lambda name: names.append(name) or f"new{len(names)}")
    assert filled == f"before {BEGIN}new1{END} middle <!-- results: b: c -->new2{END} after\n{BEGIN}\nnew3\n{END}"
    assert names[1] == "b: c"
    assert fill(f"{BEGIN}old{END}", lambda name: "| a |") == f"{BEGIN}\n| a |\n{END}"


def test_the_page_on_efficiency_quotes_what_was_printed():
    text = (ROOT / "docs" / "efficiency.md").read_text(encoding="utf-8")
    printed = (ROOT / "results" / "speed" / "versus_exact.txt").read_text(encoding="utf-8")
    for mode, words in (("forward", "forward"), ("forward+backward", "forward and backward")):
        for name, form in (("lavo ", ""), ("lavo, learned basis", ", learned basis")):
            (row,) = re.findall(rf"^\| {words}{form} \|(.*)\|$", text, re.MULTILINE)
            found = re.findall(rf"^{re.escape(mode)} .*  {name} .* (\S+) times", printed, re.MULTILINE)
            assert re.findall(r"\d+\.\d+", row) == found
    profile = (ROOT / "results" / "speed" / "profile.txt").read_text(encoding="utf-8")
    rates = re.findall(r"at (\d+) GFLOP/s, (\d+) %", profile)
    assert re.findall(r"(\d+) GFLOP/s, (\d+) % \|", text) == rates


def test_the_page_on_efficiency_quotes_the_points():
    text = (ROOT / "docs" / "efficiency.md").read_text(encoding="utf-8")
    points = {
        (p.mode, p.pattern, p.attention, p.length): p for p in read_points(ROOT / "results/efficiency/efficiency.csv")
    }
    tables = re.findall(r"^\| attention \| 256 .*?\n\n", text, re.MULTILINE | re.DOTALL)
    shown = [
        ("forward", "causal_self"),
        ("backward", "causal_self"),
        ("forward", "noncausal_self"),
        ("forward", "noncausal_cross"),
    ]
    for (mode, pattern), table in zip(shown, tables, strict=True):
        for line in table.splitlines()[2:]:
            name, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
            for length, cell in zip((256, 1024, 4096, 16384, 131072), cells, strict=False):
                point = points[mode, pattern, name, length]
                assert cell == (numbers.MISSING if point.seconds is None else numbers.duration(point.seconds))


def test_the_tables_of_decision_0001_are_those_of_its_records():
    rows = {
        256: ["overlap", "windows_overlap", "sum", "windows", "learned", "joint", "memory"],
        2048: ["overlap", "windows", "sum", "joint"],
    }
    validation, test = defaultdict(dict), defaultdict(list)
    for record in results.records([ROOT / "results" / "ablations"]):
        key = record.config.data["context_length"], record.cell.variant.removeprefix("lavo_")
        validation[key][record.cell.seed] = min(record.curves["validation"]["loss"]) / math.log(2)
        test[key].append(record.metrics["bits_per_byte"].value)

    def printed(values):
        mean = f"{statistics.mean(values):.3f}".replace("-0.000", "0.000").replace("-", "−")
        return f"{mean} ± {statistics.stdev(values):.3f}"

    expected = []
    for length, forms in rows.items():
        default = validation[length, "sum"]
        for form in forms:
            own = validation[length, form]
            difference = "" if form == "sum" else printed([own[seed] - default[seed] for seed in default])
            expected.append([printed(list(own.values())), difference, printed(test[length, form])])
    page = (ROOT / "docs" / "decisions" / "0001-sum-is-the-default-output.md").read_text(encoding="utf-8")
    found = [line.strip("|\n").split("|")[1:] for line in page.splitlines() if line.startswith("| ") and "±" in line]
    assert [[cell.strip() for cell in line] for line in found] == expected
