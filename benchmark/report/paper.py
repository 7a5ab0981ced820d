"""Writes a report's tables and figures as a LaTeX document for a paper of two columns: ``main.tex`` and what it includes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.files import write_bytes
from benchmark.report.document import Block, Heading, Picture, Text, Warned
from benchmark.report.escapes import breakable, escape, inline, inline_plain, label_of
from benchmark.report.fitting import COLUMN, PAGE
from benchmark.report.groups import Group, words
from benchmark.report.latex import to_latex
from benchmark.report.sections import device_words
from benchmark.report.speed import Sweep
from benchmark.report.tables import Table, data_words

TEMPLATES = Path(__file__).with_name("templates")
BIBLIOGRAPHY = "references.bib"
_KINDS = {
    "attention": "Attentions",
    "backbone": "Backbones",
    "task": "Tasks",
    "data": "Data",
    "rule": "Simple rules",
    "statistics": "Statistics",
}
_MOST_SHARED = 6  # floats: a section with fewer shares its pages with the next one
_LONGEST_HEAD = 45  # characters; the head of a page holds two titles
_OF_THE_RUNS = ("environments", "data")  # tables that name these things in their rows
_SPREAD = "±: sample standard deviation over seeds."
_BOLD = ("Bold:", "Nothing is bold")  # how a note on bold figures begins


class Part(NamedTuple):
    """A subsection of ``main.tex``; the first of a section may have no title."""

    title: str
    shown: str  # which tables and figures belong to it
    inputs: tuple[str, ...]  # the lines that show them


class Section(NamedTuple):
    """A section of ``main.tex``."""

    title: str
    head: str  # the same, short enough for the head of a page
    parts: tuple[Part, ...]


def write_paper(
    output: Path, blocks: Sequence[Block], groups: Sequence[Group], sweeps: Sequence[Sweep], *, name: str, repeat: str
) -> Path:
    """Writes the folder ``paper`` into the folder of a report, and returns ``main.tex``.

    blocks, groups, sweeps: those of the report, whose figures are in ``output/figures``.  name: of the report.  repeat: the command.
    A folder ``paper`` of before is replaced, but for figures that the gallery has drawn for it.
    """
    folder = output / "paper"
    shutil.rmtree(folder / "tables", ignore_errors=True)
    told = _Captions(groups, sweeps)
    opening, sections = _outline(blocks)
    done = [
        Section(_heading(title), _head(title), tuple(_part(folder, output / "figures", told, *part) for part in parts))
        for title, parts in sections
    ]
    title = f"Attention benchmark: {name}"
    slugs = [block.slug for block in blocks if isinstance(block, Table)]
    filled = {
        "repeat": " ".join(repeat.split()),
        "title": escape(title),
        "extra_floats": 100 + 2 * sum(len(part.inputs) for section in done for part in section.parts),
        "opening": [inline(block.markdown) for block in opening],
        "sections": done,
        "sheets": _sheets(done),
        "sources": _sources(groups, slugs),
    }
    environment = _environment()
    write_bytes(folder / "main.tex", environment.get_template("paper.tex.jinja").render(filled).encode())
    plain = environment.get_template("paper-readme.md.jinja").render(title=title, repeat=repeat)
    write_bytes(folder / "README.md", plain.encode())
    write_bytes(folder / BIBLIOGRAPHY, (TEMPLATES / BIBLIOGRAPHY).read_bytes())
    return folder / "main.tex"


class Sheet(NamedTuple):
    """Pages of floats with one running head."""

    head: str
    inputs: tuple[str, ...]


def _sheets(sections: Sequence[Section]) -> list[Sheet]:
    """Returns the floats of the sections; neighbours that have few share their pages, so that little stays empty."""
    shared: list[list[Section]] = []
    for section in sections:
        if shared and sum(len(part.inputs) for one in shared[-1] for part in one.parts) < _MOST_SHARED:
            shared[-1].append(section)
        else:
            shared.append([section])
    return [
        Sheet(
            group[0].head if len(group) == 1 else f"{group[0].head} -- {group[-1].head}",
            tuple(line for section in group for part in section.parts for line in part.inputs),
        )
        for group in shared
    ]


def _head(title: str) -> str:
    return escape(title if len(title) <= _LONGEST_HEAD else title[: _LONGEST_HEAD - 1] + "…")


def _heading(title: str) -> str:
    """Returns the title of a section; where it has signs that a PDF's list of sections can't show, it has plain ones there."""
    simple = "".join(character if character.isascii() else "-" for character in title)
    return escape(title) if simple == title else rf"\texorpdfstring{{{escape(title)}}}{{{escape(simple)}}}"


def _environment() -> Any:
    """Returns Jinja with marks that LaTeX doesn't use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _outline(
    blocks: Sequence[Block],
) -> tuple[list[Text | Warned], list[tuple[str, list[tuple[str, list[Table | Picture]]]]]]:
    """Returns the paragraphs before the first heading, and sections of parts that have tables or figures.

    Headings of the lowest of several levels begin a part, all others a section.  What stands twice in the report is taken once.
    """
    opening: list[Text | Warned] = []
    sections: list[tuple[str, list[tuple[str, list[Table | Picture]]]]] = [("Overview", [("", [])])]
    levels = {block.level for block in blocks if isinstance(block, Heading)}
    lowest = max(levels) if len(levels) > 1 else 0
    seen: set[tuple[type, str]] = set()
    for block in (part for whole in blocks for part in _beside(whole)):
        if isinstance(block, Heading) and block.level == lowest:
            sections[-1][1].append((block.text, []))
        elif hasattr(block, "anchor"):  # a heading, or the title of a view
            sections.append((block.text, [("", [])]))
        elif isinstance(block, Table | Picture) and (type(block), block.slug) not in seen:
            seen.add((type(block), block.slug))
            sections[-1][1][-1][1].append(block)
        elif isinstance(block, Text | Warned) and len(sections) == 1:
            opening.append(block)
    kept = [(title, [part for part in parts if part[1]]) for title, parts in sections]
    return opening, [(title, parts) for title, parts in kept if parts]


def _beside(block: Any) -> list[Any]:
    """Returns the blocks that stand side by side, in their order, or the block itself."""
    return [*block.first, *block.second] if hasattr(block, "first") else [block]


def _part(folder: Path, figures: Path, told: _Captions, title: str, blocks: Sequence[Table | Picture]) -> Part:
    """Writes the tables and figures of a part, and returns it."""
    inputs, places = [], {"Table": [], "Figure": []}  # type: ignore[var-annotated]
    for block in blocks:
        name = label_of(block.slug)
        if isinstance(block, Table):
            write_bytes(folder / "tables" / f"{name}.tex", to_latex(told.of_table(block)).encode())
            inputs.append(rf"\input{{tables/{name}}}")
            places["Table"].append(rf"\ref{{tab:{name}}}")
        else:
            target = folder / "figures" / f"{name}.pdf"
            write_bytes(target, (figures / f"{block.slug}.pdf").read_bytes())
            inputs.append(_figure(target, name, told.of_picture(block)))
            places["Figure"].append(rf"\ref{{fig:{name}}}")
    listed = [f"{kind}{'s' if len(found) > 1 else ''}~{_and(found)}" for kind, found in places.items() if found]
    return Part(breakable(title), f"{_and(listed)}.", tuple(inputs))


def _and(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _figure(file: Path, name: str, caption: str) -> str:
    """Returns the float of a figure, in its natural size unless it is wider than the page."""
    wide = pdf_width(file)
    kind = "figure" if wide <= COLUMN + 1 else "figure*"
    size = r"[width=\textwidth]" if wide > PAGE + 1 else ""
    return (
        f"\\begin{{{kind}}}[tbp]\n\\centering\n\\includegraphics{size}{{figures/{name}.pdf}}\n"
        f"\\caption{{{caption}}}\n\\label{{fig:{name}}}\n\\end{{{kind}}}"
    )


def pdf_width(file: Path) -> float:
    """Returns the width of a figure's page in TeX's points.  Raises ValueError if the file names none."""
    box = re.search(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)", file.read_bytes())
    if box is None:
        raise ValueError(f"{file.name}: no MediaBox of a page")
    return float(box[1]) / 72 * 72.27


class _Captions:
    """Adds to captions what a reader needs who sees the table or figure alone: data, preset, seeds, signs and device."""

    def __init__(self, groups: Sequence[Group], sweeps: Sequence[Sweep]) -> None:
        self.groups = sorted(groups, key=lambda group: -len(group.slug))
        everything = sorted({"embedded" if group.data.embedded else (group.data.name or "unknown") for group in groups})
        self.data = ", ".join(everything)
        self.sweeps = "; ".join(dict.fromkeys(sweep.conditions for sweep in sweeps))
        self.presets = ", ".join(sorted({group.preset for group in groups}))
        self.seeds = ", ".join(str(seed) for seed in sorted({seed for group in groups for seed in group.seeds}))

    def of_table(self, table: Table) -> Table:
        """Returns the table with its whole caption; a note on bold figures moves into it."""
        notes = [note for note in table.notes if not note.startswith(_BOLD)]
        texts = [one.text for row in table.rows for one in row.printed]
        said = [table.caption, *self._conditions(table.slug, table.caption)]
        if any("±" in text for text in texts):
            said.append(_SPREAD)
        said += [plain(note) for note in table.notes if note.startswith(_BOLD)]
        return replace(table, caption=" ".join(said), notes=notes)

    def of_picture(self, picture: Picture) -> str:
        """Returns the whole caption of a figure, as LaTeX."""
        return inline_plain(" ".join([picture.caption, *self._conditions(picture.slug, picture.caption)]))

    def _conditions(self, slug: str, caption: str) -> Iterator[str]:
        """Yields data, preset, seeds and, for costs, the device, unless the caption names them; for sweeps, their sizes."""
        if slug.startswith("efficiency"):
            if self.sweeps and "heads of" not in caption:
                yield f"Measured with {self.sweeps}."
            return
        if not self.groups or slug in _OF_THE_RUNS:
            return
        group = next((one for one in self.groups if slug == one.slug or slug.startswith(f"{one.slug}-")), None)
        values = (
            {"Data": self.data, "Preset": self.presets, "Seeds": self.seeds}
            if group is None
            else {
                "Data": data_words(group.data),
                "Preset": group.preset,
                "Seeds": ", ".join(map(str, group.seeds)),
            }
        )
        for kind, value in values.items():
            if value and f"{kind}: " not in caption:
                yield f"{kind}: {value}."
        if group is not None and slug == f"{group.slug}-cost":
            devices = sorted(
                {device_words(record.environment) for record in group.records if record.environment.device}
            )
            yield f"Device: {'; '.join(devices) or 'not recorded'}."


def plain(markdown: str) -> str:
    """Returns the text of a note without the backslashes of markdown."""
    return re.sub(r"\\([\\`*_\[\]<>|~#])", r"\1", markdown)


def _sources(groups: Sequence[Group], tables: Iterable[str]) -> list[str]:
    """Returns a line for each kind of thing that is measured, with citations; what has no entry stands without one."""
    keys = citations((TEMPLATES / BIBLIOGRAPHY).read_text(encoding="utf-8"))
    named: dict[str, list[str]] = {
        "attention": [entry.attention for group in groups for entry in group.entries],
        "backbone": [group.backbone for group in groups],
        "task": [group.task for group in groups],
        "data": [group.data.name or "unknown" for group in groups],
        "rule": [rule for group in groups for rule in group.rules()],
        "statistics": list(tables),
    }
    always = ("attention", "backbone", "task", "data")  # also those without an entry
    lines = []
    for kind, names in named.items():
        found = dict.fromkeys(name for name in names if kind in always or f"{kind}:{name}" in keys)
        cited = [_cited(name, keys.get(f"{kind}:{name}", ())) for name in found]
        if cited:
            lines.append(rf"\textbf{{{_KINDS[kind]}.}} {', '.join(cited)}.")
    return lines


def _cited(name: str, keys: Sequence[str]) -> str:
    return breakable(words(name)) + (rf"~\cite{{{','.join(keys)}}}" if keys else "")


def citations(bibliography: str) -> Mapping[str, Sequence[str]]:
    """Returns for what the entries of a bibliography are cited: ``attention:lavo`` -> keys of entries."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"^(?=@)", bibliography, flags=re.MULTILINE)[1:]:
        key, keywords = re.match(r"@\w+\{([^,]+),", entry), re.search(r"keywords = \{([^}]*)\}", entry)
        for word in keywords[1].split(",") if key and keywords else ():
            found.setdefault(word.strip(), []).append(key[1] if key else "")
    return found
