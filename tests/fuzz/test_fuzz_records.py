"""Records of any content through ``list results``, ``compare`` and ``report``: what is damaged is named, nothing runs or leaks."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command_line import Answer
from fuzzing import FACTOR, MARKUP, MOST_CHARACTERS, answer_of, examples, json_values, odd_texts
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from benchmark import results
from benchmark.report import document

QUICK = Path(__file__).parents[2] / "results" / "quick"
Keys = tuple[Any, ...]


def one_of_each_task() -> dict[str, dict[str, Any]]:
    """The first two records of each task of results/quick, by their place in the folder."""
    found = {}
    for task in sorted(path for path in QUICK.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for file in sorted(task.glob("*.json"))[:2]:
            found[f"{task.name}/{file.name}"] = json.loads(file.read_text(encoding="utf-8"))
    return found


WHOLE = one_of_each_task()
NAMES = sorted(WHOLE)


def places(value: Any, path: Keys = ()) -> Iterator[Keys]:
    """The path of every value inside, of the innermost ones last."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from places(below, (*path, key))


PLACES = {name: list(places(record)) for name, record in WHOLE.items()}


def changed(record: Any, path: Keys, value: Any) -> Any:
    """A copy with another value at this place, or without the place where the value is Ellipsis."""
    record = copy.deepcopy(record)
    group = record
    for key in path[:-1]:
        group = group[key]
    if value is ...:
        del group[path[-1]]
    else:
        group[path[-1]] = value
    return record


def marked(value: Any, markup: str, path: Keys = ()) -> Any:
    """The same with the markup in every text and every key, but for the few words that make it a record."""
    if isinstance(value, dict):
        kept = path in ((), ("cell",), ("config",), ("data",), ("efficiency",), ("environment",))
        kept = kept or (len(path) == 2 and path[0] == "metrics")
        return {key if kept else f"{key}{markup}": marked(inner, markup, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner, markup, path) for inner in value]
    fixed = path in (("status",), ("examples",), ("curves",)) or path[:1] == ("cell",)  # names are checked on reading
    return f"{value}{markup}" if isinstance(value, str) and not fixed else value


@st.composite
def changes(draw: Any) -> tuple[str, Any]:
    """A record's place in the folder, and another content."""
    name = draw(st.sampled_from(NAMES))
    record = WHOLE[name]
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(PLACES[name]))
        try:
            record = changed(record, path, draw(st.just(...) | json_values | odd_texts))
        except (KeyError, TypeError, IndexError):  # the first change has taken the place away
            continue
    return name, record


def write(folder: Path, name: str, record: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, default=str), encoding="utf-8", errors="surrogatepass")


def make(folder: Path, contents: list[tuple[str, Any]]) -> Path:
    """A folder of results with whole records beside changed ones."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, record in {**WHOLE, **dict(contents)}.items():
        write(folder, name, record)
        for part in ("examples", "curves"):
            shutil.copy(QUICK / Path(name).parent / WHOLE[name][part], folder / Path(name).parent)
    for attachments in QUICK.glob(f"*/{results.ATTACHMENTS}"):
        shutil.copytree(attachments, folder / attachments.parent.name / attachments.name)
    return folder


def assert_left_out(answer: Answer, names: set[str]) -> None:
    """The command has ended by itself; each damaged file has one line, and no other file."""
    assert answer.status in (0, 1), answer
    assert "Traceback" not in answer.err
    lines = answer.err.splitlines()
    for line in lines:
        assert line.startswith(("left out: ", "not drawn: ")), line
        assert line.isprintable(), line
        assert len(line) <= MOST_CHARACTERS + len("left out: "), f"{len(line)} characters: {line}"
    for name in names:
        assert sum(name in line for line in lines if line.startswith("left out: ")) == 1, (name, lines)
    assert answer.status == (1 if lines else 0)


def damaged(contents: list[tuple[str, Any]]) -> set[str]:
    """The names of those that are no records."""
    found = set()
    for name, record in dict(contents).items():
        try:
            results.from_json(json.loads(json.dumps(record, default=str), parse_constant=results._refuse_constant))
        except ValueError:
            found.add(name)
    return found


@examples(300)
@given(changes())
def test_any_record_is_read_or_refused_in_a_line(change):
    name, record = change
    write(Path("one"), name, record)
    try:
        results.read_record(Path("one") / name)
    except ValueError as error:
        line = str(error)
        assert line.startswith(f"one/{name}: "), line
        assert len(line) <= MOST_CHARACTERS, f"{len(line)} characters: {line}"
        assert line.isprintable(), line


@examples(60)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_no_record(content):
    path = Path("one") / NAMES[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"record|schema") as caught:
        results.read_record(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) <= MOST_CHARACTERS
    assert str(caught.value).isprintable()


@examples(8)
@given(st.lists(changes(), min_size=8, max_size=8))
def test_any_records_are_listed_and_compared_or_left_out(contents):
    folder = make(Path("some"), contents)
    for file in folder.rglob(f"*{results.EXAMPLES_SUFFIX}"):  # the test over examples takes seconds
        file.unlink()
    names = damaged(contents)
    assert_left_out(answer_of("list", "results", "-o", folder), names)
    assert_left_out(answer_of("compare", folder, folder), names)


TEMPLATES = Path(document.__file__).parent / "templates"
OWN_SCRIPTS = (
    'document.documentElement.className = "script";',
    "".join(
        (TEMPLATES / name).read_text(encoding="utf-8").removesuffix("\n")
        for name in ("views.js", "report.js", "figures.js")
    ),
)


class Page(HTMLParser):
    """What a browser would run or load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.alive: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes scripts, frames, handlers and addresses elsewhere; the numbers of a figure are no script."""
        if (tag, attrs) == ("script", [("type", "application/json")]):  # by HTML a data block, which nothing runs
            return
        if tag in ("script", "iframe", "object", "embed", "base", "form", "link"):
            self.alive.append(f"<{tag}>")
        for name, value in attrs:
            value = (value or "").strip().lower()
            if name.startswith("on") or "javascript:" in value:
                self.alive.append(f"<{tag} {name}={value}>")
            if name in ("src", "srcset", "href", "xlink:href", "poster", "action") and "evil.example" in value:
                self.alive.append(f"<{tag} {name}={value}>")


def assert_dead(report: Path) -> None:
    """Nothing of the records is alive in the pages, wherever they are shown."""
    page = (report / "report.html").read_text(encoding="utf-8")
    for own in OWN_SCRIPTS:
        head, script, tail = page.partition(own)
        assert script, "the page's own script is not there as it stands in the template"
        page = f"{head.rstrip().removesuffix('<script>')}{tail.lstrip().removeprefix('</script>')}"
    assert Page(page).alive == []
    text = (report / "report.md").read_text(encoding="utf-8")
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert Page(shown).alive == []
    for table in report.glob("tables/*.tex"):
        assert "\\input{" not in table.read_text(encoding="utf-8"), table


def snapshot(folder: Path, without: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and without not in path.parents}


def reported(folder: Path) -> Answer:
    """The answer of ``report``; it has written nothing outside its folder."""
    shutil.rmtree("report", ignore_errors=True)
    before = snapshot(Path.cwd().parent, Path.cwd() / "report")
    answer = answer_of("report", folder, "-o", "report")
    assert snapshot(Path.cwd().parent, Path.cwd() / "report") == before
    return answer


@examples(1)
@given(st.lists(changes(), min_size=8, max_size=8))
def test_any_records_make_a_report_without_the_damaged_ones(contents):
    answer = reported(make(Path("some"), contents))
    assert_left_out(answer, damaged(contents))
    assert_dead(Path("report"))


@pytest.mark.parametrize("markup", MARKUP if FACTOR > 1 else (*MARKUP[:7:2], "\r\n- x"), ids=ascii)
def test_markup_in_every_text_of_records_is_dead(markup):
    contents = [(name, marked(record, markup)) for name, record in WHOLE.items()]
    folder = make(Path("some"), contents)
    for name in NAMES:  # in the curves too: titles, texts and words of the tasks' figures and examples
        path = folder / Path(name).parent / WHOLE[name]["curves"]
        curves = json.loads(gzip.decompress(path.read_bytes()))
        path.write_bytes(gzip.compress(json.dumps(marked(curves, markup, ("curves", "of", "it"))).encode()))
    answer = reported(folder)
    assert_left_out(answer, damaged(contents))
    assert_dead(Path("report"))


ELSEWHERE = (
    "../secret",
    "/etc/passwd",
    "..",
    ".",
    "a/../../secret",
    "..\\secret",
    "x\0y",
    "~/secret",
    "",
)


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_record_can_name_no_file_elsewhere(where):
    """In ``examples``, in ``curves``, and as an attachment of the curves."""
    name = next(name for name in NAMES if "attachment" in curves_of(name))
    Path("secret").write_text("SECRET", encoding="utf-8")
    for part in ("examples", "curves"):
        with pytest.raises(ValueError, match=part):
            results.from_json(changed(WHOLE[name], (part,), where))
    record = results.read_record(QUICK / name)
    assert record.attachment({"attachment": where}) is None


def curves_of(name: str) -> str:
    return gzip.decompress((QUICK / Path(name).parent / WHOLE[name]["curves"]).read_bytes()).decode()


@examples(1)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["examples", "curves"]), st.binary(max_size=40)), min_size=5, max_size=5))  # fmt: skip
def test_any_bytes_beside_a_record_are_named(contents):
    folder = make(Path("some"), [])
    for number, (name, part, content) in enumerate(contents):
        content = gzip.compress(content) if number % 2 else content
        (folder / Path(name).parent / WHOLE[name][part]).write_bytes(content)
    assert_left_out(reported(folder), set())
    answer = answer_of("compare", folder, folder)
    assert_left_out(answer, set())


@examples(1)
@given(st.sampled_from(NAMES), st.data())
def test_any_curves_make_a_report(name, data):
    folder = make(Path("some"), [])
    curves = json.loads(curves_of(name))
    every = list(places(curves))
    for _ in range(4):
        path = data.draw(st.sampled_from(every))
        try:
            curves = changed(curves, path, data.draw(st.just(...) | json_values))
        except (KeyError, TypeError, IndexError):
            continue
    path = folder / Path(name).parent / WHOLE[name]["curves"]
    path.write_bytes(gzip.compress(json.dumps(curves).encode()))
    assert_left_out(reported(folder), set())
    assert_dead(Path("report"))
