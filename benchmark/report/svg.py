"""Makes matplotlib's SVG fit to stand in a page: small, without names that clash, and in the colours of the page's theme.

The files beside the page stay as matplotlib wrote them.  In the page, coordinates have one decimal (a fortieth of a millimetre in
print), names that nothing refers to are gone, images are WebP, and black, white and the grid are the theme's.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping

from benchmark.report.series import SERIES
from benchmark.report.style import GRID

_TAG = re.compile(r"(<[^>]+>)")
_ATTRIBUTE = re.compile(r'([\w:-]+)="([^"]*)"')
_NUMBER = re.compile(r"-?\d*\.\d+(?:e-?\d+)?")
_MEASURES = {"d", "x", "y", "width", "height", "transform", "points"}
_THEME = {"#ffffff": "var(--page)", "#000000": "currentColor", "#1d2329": "currentColor", GRID: "var(--grid)"}
WEBP_QUALITY = 80
SCALE = 1.65  # pixels of the page for a point of the figure, at most


class Inliner:
    """Makes figures fit to stand in one page, where they share their styles.

    ``css`` has the rules of all figures that were inlined before it is read.
    """

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}
        self._figures = 0

    @property
    def css(self) -> str:
        """The rules of the styles that the figures refer to."""
        return "".join(f".{name}{{{style}}}" for style, name in self._classes.items())

    def inline(self, text: str) -> str:
        """Returns the <svg> element alone.  Ids in it are unique in the page."""
        self._figures += 1
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
        used = dict.fromkeys(re.findall(r"(?:href=\"|url\()#([^\")]+)", text))
        ids = {name: f"f{self._figures}-{index}" for index, name in enumerate(used)}
        parts: list[str] = []
        kept: list[bool] = []  # for each open group, whether its tag was kept
        for part in _TAG.split(text):
            if part == "</g>":
                parts += [part] if kept.pop() else []
            elif part.startswith("<") and not part.startswith("</"):
                tag = self._tag(part, ids)
                is_group = re.match(r"<g[ >/]", part)
                if is_group and not part.endswith("/>"):
                    kept.append(tag != "<g>")
                parts += [] if is_group and tag in ("<g>", "<g/>") else [tag]
            else:
                parts.append(part.strip() if part.isspace() else part)
        shown = re.sub(r"<clipPath>.*?</clipPath>", "", "".join(parts), flags=re.DOTALL)
        return re.sub(r"<defs>\s*</defs>", "", shown)

    def _tag(self, tag: str, ids: Mapping[str, str]) -> str:
        name = re.match(r"<([\w:]+)", tag)
        if name is None:
            return tag
        written = [name[1]]
        width = re.search(r' width="([\d.]+)pt"', tag) if name[1] == "svg" else None
        if width is not None:  # the page makes figures as wide as it is, but their text no larger than its own
            written.append(f'style="max-width:{SCALE * float(width[1]):.0f}px"')
        for key, value in _ATTRIBUTE.findall(tag):
            name_here, content = self._attribute(key, value, ids)
            written += [f'{name_here}="{content}"'] if name_here else []
        return f"<{' '.join(written)}{'/>' if tag.endswith('/>') else '>'}"

    def _attribute(self, key: str, value: str, ids: Mapping[str, str]) -> tuple[str, str]:
        """Returns the attribute as it stands in the page; an empty name if it isn't needed there."""
        match key:
            case "id" if value.startswith(SERIES):
                return "data-series", value.removeprefix(SERIES).partition("-")[0]
            case "id":
                return ("id", ids[value]) if value in ids else ("", "")
            case "xlink:href" | "href" if value.startswith("data:image/png;base64,"):
                return "href", _webp(value)
            case "xlink:href" | "href":
                return "href", f"#{ids[value[1:]]}" if value.startswith("#") else value
            case "clip-path":
                return key, re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{ids[found[1]]})", value)
            case "style":
                style = _style(value, ids)
                return ("class", self._classes.setdefault(style, f"s{len(self._classes)}")) if style else ("", "")
            case "transform" if value.startswith(("rotate(-0 ", "rotate(0 ")):
                return "", ""
            case "xmlns:xlink" | "xmlns" | "version":
                return "", ""
            case _ if key in _MEASURES:
                return key, _short(value)
        return key, value


def _style(value: str, ids: Mapping[str, str]) -> str:
    kept = []
    for part in value.split(";"):
        name, _, content = (one.strip() for one in part.partition(":"))
        if name and name not in ("font-family", "stroke-linejoin"):
            kept.append(f"{name}:{_THEME.get(content, content)}")
    return re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{ids[found[1]]})", ";".join(kept))


def _short(value: str) -> str:
    """Returns coordinates with one decimal, or two below 10 (of markers), and without spaces that say nothing."""
    value = _NUMBER.sub(lambda found: _rounded(float(found[0])), value)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", re.sub(r"\s+", " ", value).strip()) if value[:1] in "Mm" else value


def _rounded(number: float) -> str:
    text = f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
    return text.rstrip("0").rstrip(".") or "0"


def _webp(source: str) -> str:
    """Returns a PNG image, given as a data URI, as a WebP image."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    content = io.BytesIO()
    picture.save(content, format="WEBP", quality=WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
