"""Renders a report as one HTML page that needs no other file: figures are inlined, and the script fetches nothing.

The page has one view for each question.  A link at the top shows one and hides the others; without the script, and in print, all
stand one after another.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.interface import Sound
from benchmark.report.document import Beside, Block, Heading, Picture, View
from benchmark.report.svg import Inliner
from benchmark.report.tables import Table


class Placed(NamedTuple):
    """A block with what the template needs to know of it."""

    kind: str  # the name of its class
    block: Block
    anchor: str  # unique in the page for a heading, empty for any other block


class Section(NamedTuple):
    """A view with its blocks and its table of contents."""

    view: View
    blocks: Sequence[Placed]

    @property
    def contents(self) -> list[Placed]:
        """Its headings."""
        return [placed for placed in self.blocks if isinstance(placed.block, Heading)]


def render_html(title: str, blocks: Sequence[Block], figures: Path) -> str:
    """Returns the page.  figures: the folder of the SVG files."""
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
    head, sections = divided(blocks)
    inliner = Inliner()
    shown = {slug: inliner.inline((figures / f"{slug}.svg").read_text(encoding="utf-8")) for slug in _pictures(blocks)}
    page = {
        "placed": lambda some: [_placed(block) for block in some],
        "columns": lambda beside: max((len(one.columns) for one in beside.second if isinstance(one, Table)), default=1),
        "rendered": lambda text: Markup(markdown.render(text)),
        "rendered_inline": lambda text: Markup(markdown.renderInline(text)),
        "sound_source": sound_source,
        "is_sound": lambda shown: isinstance(shown, Sound),
        "svg": lambda slug: Markup(shown[slug]),
        "styles": Markup(inliner.css),
        # The only character that could end the element in which the JSON stands.
        "json": lambda text: Markup(text.replace("<", "\\u003c")),
    }
    template = environment.get_template("report.html.jinja")
    return template.render(title=title, head=head, sections=sections, page=page)


def _pictures(blocks: Sequence[Block]) -> list[str]:
    """Returns the slugs of all figures."""
    parts = [part for block in blocks if isinstance(block, Beside) for part in (*block.first, *block.second)]
    return [block.slug for block in (*blocks, *parts) if isinstance(block, Picture)]


def divided(blocks: Sequence[Block]) -> tuple[list[Placed], list[Section]]:
    """Returns the blocks before the first view, and the views with theirs.  A view without blocks is left out."""
    seen = {block.anchor: 1 for block in blocks if isinstance(block, View)}
    head: list[Placed] = []
    sections: list[Section] = []
    current = head
    for block in blocks:
        if isinstance(block, View):
            current = []
            sections.append(Section(block, current))
        else:
            current.append(_placed(block, seen))
    return head, [section for section in sections if section.blocks]


def _placed(block: Block, seen: dict[str, int] | None = None) -> Placed:
    anchor = block.anchor if isinstance(block, Heading) else ""
    if anchor and seen is not None:
        seen[anchor] = seen.get(anchor, 0) + 1
        anchor = anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}"
    return Placed(type(block).__name__, block, anchor)


def sound_source(sound: Sound) -> str:
    """Returns the sound as a data URI, so that the page needs no other file."""
    return f"data:{sound.media_type};base64,{base64.b64encode(sound.content).decode()}"
