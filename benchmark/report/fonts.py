"""A small copy of the font of figures, because a PDF file of each figure embeds the characters that it uses.

For every PDF file, matplotlib takes a font apart to keep a few of its characters.  With the 6,000 characters and layout rules of
DejaVu Sans that takes longer than to draw the figure; with the few hundred that reports use it takes a tenth of that.  A character
that the copy lacks is still taken from DejaVu Sans, if both are families of the text (``font.family``): of the list of a generic family
(``font.sans-serif``) matplotlib takes one font alone.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

FAMILY = "Report Sans"  # the font's licence asks for another name of a changed copy
_OTHERS = "−–—…×·µ≥≤≈≠→←↑↓±†‡•√∞∇⁰¹²³⁴⁵⁶⁷⁸⁹⁻′″‘’“”"
CHARACTERS = [*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x391, 0x3CA), *map(ord, _OTHERS)]


@cache
def families() -> list[str]:
    """Returns the families of the figures' text, best first, and makes the copy known to matplotlib."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont
    from matplotlib import font_manager

    options = Options(layout_features=[], hinting=False, name_IDs=["*"], notdef_outline=True)
    options.drop_tables += ["FFTM", "GDEF", "GPOS", "GSUB", "kern"]  # rules that the text of figures does without
    font = TTFont(font_manager.findfont("DejaVu Sans"))
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=CHARACTERS)
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 4, 6, 16):
            record.string = FAMILY.replace(" ", "" if record.nameID == 6 else " ")
    folder = _folder()
    path = Path(folder.name) / "report-sans.ttf"
    font.save(path)
    font_manager.fontManager.addfont(path)
    return [FAMILY, "DejaVu Sans"]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with the process, because matplotlib reads the font whenever it draws."""
    return tempfile.TemporaryDirectory(prefix="lavo-bench-font-")
