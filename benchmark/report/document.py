"""A report is a list of blocks, from which a markdown page and a self-contained HTML page are rendered."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.interface import Exhibit, Sound
from benchmark.report.tables import Table, escape, pipe_row, to_markdown


class Heading(NamedTuple):
    """The title of a section."""

    level: int  # 2 for a section of the page
    text: str

    @property
    def anchor(self) -> str:
        """The anchor to which a link to this heading points."""
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")


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
    """A figure: the markdown page shows the PNG file, the HTML page the SVG one."""

    slug: str  # figures/SLUG.svg, .pdf, .png
    caption: str


class Shown(NamedTuple):
    """An exhibit of the task.  Its sounds are files beside the markdown page, and contained in the HTML page."""

    slug: str
    exhibit: Exhibit

    def file(self, sound: Sound) -> str:
        """Returns the name of the sound's file."""
        return f"{self.slug}-{sound.name}.{SUFFIXES[sound.media_type]}"


Block = Heading | Text | Warned | Folded | Listing | Picture | Shown | Table

SUFFIXES = {"audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/wav": "wav"}


def render_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Returns the page as markdown, which refers to figures and sounds in files beside it."""
    parts = [f"# {title}", *(_markdown(block) for block in blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> str:
    match block:
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


def sound_source(sound: Sound) -> str:
    """Returns the sound as a data URI, so that the page needs no other file."""
    return f"data:{sound.media_type};base64,{base64.b64encode(sound.content).decode()}"


def render_html(title: str, blocks: Sequence[Block], figures: Path) -> str:
    """Returns an HTML page that needs no other file: figures are inlined as SVG.

    Its script lets a reader sort, filter and copy tables; nothing is fetched.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    markdown = MarkdownIt("commonmark", {"html": False})
    anchors = _anchors(blocks)
    template = environment.get_template("report.html.jinja")
    return template.render(
        title=title,
        blocks=[(type(block).__name__, block) for block in blocks],
        anchors=anchors,
        heading_anchors=[anchor for anchor in anchors if anchor],
        rendered=lambda text: Markup(markdown.render(text)),
        rendered_inline=lambda text: Markup(markdown.renderInline(text)),
        sound_source=sound_source,
        is_sound=lambda shown: isinstance(shown, Sound),
        svg=lambda slug: Markup(inline_svg((figures / f"{slug}.svg").read_text(encoding="utf-8"), slug)),
    )


def _anchors(blocks: Sequence[Block]) -> list[str]:
    """Returns an anchor for each block: unique in the page for a heading, empty for any other block."""
    seen: dict[str, int] = {}
    anchors = []
    for block in blocks:
        anchor = block.anchor if isinstance(block, Heading) else ""
        if anchor:
            seen[anchor] = seen.get(anchor, 0) + 1
            anchor = anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}"
        anchors.append(anchor)
    return anchors


def inline_svg(text: str, prefix: str) -> str:
    """Returns the <svg> element alone, with a prefix in every id, so that ids of different figures don't clash."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    return re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
