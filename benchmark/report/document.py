"""A report is a list of blocks, from which a markdown page is rendered (the HTML page: ``html.py``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmark.interface import Exhibit, Sound
from benchmark.report.tables import Table, escape, pipe_row, to_markdown


class View(NamedTuple):
    """The beginning of a view: the part of the page that answers one question, which the HTML page shows by itself."""

    text: str

    @property
    def anchor(self) -> str:
        """The anchor to which a link to this view points."""
        return anchor_of(self.text)


class Heading(NamedTuple):
    """The title of a section."""

    level: int  # 3 for a section of a view, 4 for a part of a section
    text: str

    @property
    def anchor(self) -> str:
        """The anchor to which a link to this heading points."""
        return anchor_of(self.text)


def anchor_of(text: str) -> str:
    """Returns the text as an anchor: ``Time and memory`` -> ``time-and-memory``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class Text(NamedTuple):
    """Paragraphs."""

    markdown: str


class Warned(NamedTuple):
    """A paragraph that must not be overlooked."""

    markdown: str


class Folded(NamedTuple):
    """Details that few readers want to see; a click on the summary opens them."""

    summary: str
    markdown: str


class Listing(NamedTuple):
    """Lines of commands."""

    lines: Sequence[str]


class Picture(NamedTuple):
    """A figure: the markdown page shows the PNG file, the HTML page the SVG one.

    data        JSON of what the figure shows, for values under the pointer (``series.py``); "" if it has no axes with series
    is_sample   True if it shows samples (pictures of outputs), which the HTML page folds
    """

    slug: str  # figures/SLUG.svg, .pdf, .png
    caption: str
    data: str = ""
    is_sample: bool = False


class Shown(NamedTuple):
    """An exhibit of the task.  Its sounds are files beside the markdown page, and contained in the HTML page."""

    slug: str
    exhibit: Exhibit

    def file(self, sound: Sound) -> str:
        """Returns the name of the sound's file."""
        return f"{self.slug}-{sound.name}.{SUFFIXES[sound.media_type]}"


class Beside(NamedTuple):
    """Two columns, which stand side by side in a wide window and below each other elsewhere."""

    first: Sequence[Block]
    second: Sequence[Block]


Block = View | Heading | Text | Warned | Folded | Listing | Picture | Shown | Beside | Table

SUFFIXES = {"audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/wav": "wav"}


def render_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Returns the page as markdown, which refers to figures and sounds in files beside it."""
    parts = [f"# {title}", *(_markdown(block) for block in blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case View():
            return f"## {block.text}"
        case Beside():
            return "\n\n".join(map(_markdown, (*block.first, *block.second)))
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Text():
            return block.markdown
        case Warned():
            return f"> **Note.** {block.markdown}"
        case Folded():
            return f"<details><summary>{block.summary}</summary>\n\n{block.markdown}\n\n</details>"
        case Listing():
            return "\n".join(["```bash", *block.lines, "```"])
        case Picture():
            return f"![{block.caption}](figures/{block.slug}.png)\n\n*{block.caption}*"
        case Shown():
            return _exhibit(block)
        case Table():
            notes = "\n".join(f"- {note}" for note in block.notes if note)
            return "\n\n".join(part for part in (escape(block.caption), to_markdown(block), notes) if part)


def _exhibit(shown: Shown) -> str:
    """Returns a markdown table in which sounds are links to their files, and line breaks become spaces."""
    columns, rows = shown.exhibit.columns, shown.exhibit.rows
    lines = [pipe_row(map(escape, columns)), pipe_row(["---"] * len(columns))]
    for row in rows:
        lines.append(
            pipe_row(
                f"[listen](sounds/{shown.file(one)})" if isinstance(one, Sound) else escape(" ".join(one.split()))
                for one in row
            )
        )
    title = f"**{escape(shown.exhibit.title)}** {escape(shown.exhibit.caption)}".rstrip()
    return title + "\n\n" + "\n".join(lines)
