"""Draws figures into a folder, each in three formats.  If one fails, the others are still drawn."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.report.document import Block, Picture, Warned
from benchmark.report.escapes import label_of
from benchmark.report.series import describe
from benchmark.report.tables import escape

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

PALETTE = 128  # number of colours in a PNG file
DOTS_PER_INCH = 120  # of the PNG files: the widest are 840 pixels wide, about as wide as code hosts show a page


class Gallery:
    """The figures of one report, and a line about each one that failed.

    repeat    the command that draws them again
    outlines  a folder for SVG files whose letters are outlines, which look alike on every machine; None for no such files
    """

    def __init__(self, folder: Path, repeat: str, *, outlines: Path | None = None) -> None:
        self.folder, self.repeat, self.outlines = folder, repeat, outlines
        self.failures: list[str] = []
        if outlines is not None:
            shutil.rmtree(outlines, ignore_errors=True)
            outlines.mkdir(parents=True)
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, slug: str, caption: str, make: Callable[[], Figure | None]) -> list[Block]:
        """Draws a figure.  Returns its block, no block if there is nothing to draw, or a warning if drawing failed."""
        return self.draw_all(slug, lambda: {"": make()}, lambda _: caption)

    def draw_all(
        self, slug: str, make: Callable[[], Mapping[str, Figure | None]], caption: Callable[[str], str]
    ) -> list[Block]:
        """Does the same as ``draw`` for a function that returns several figures by name."""
        import matplotlib

        from benchmark.report.fonts import families
        from benchmark.report.style import SETTINGS

        logging.getLogger(__name__).info("drawing %s", slug)
        with matplotlib.rc_context({**SETTINGS, "font.family": [*families(), "sans-serif"]}):
            try:
                figures = make()
            except Exception as error:  # a task's figure may raise anything, and the report goes on
                return [self.failed(slug, error)]
            blocks: list[Block] = []
            for name, figure in figures.items():
                if figure is None:
                    continue
                own = f"{slug}-{name}" if name else slug
                try:
                    data = self._save(figure, own)
                    blocks.append(Picture(own, caption(name), data, is_sample=shows_pixels(figure)))
                except Exception as error:  # as above
                    blocks.append(self.failed(own, error))
        return blocks

    def _save(self, figure: Figure, slug: str) -> str:
        """Writes the figure in all formats, and returns the data of its series (``series.describe``)."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_pdf import FigureCanvasPdf
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        from benchmark.report.style import fit_page

        canvas = FigureCanvasAgg(figure)  # replaces the canvas that a task's pyplot may have given it
        print_dollars(figure)
        fit_page(figure)
        figure.set_dpi(DOTS_PER_INCH)  # the layout depends on the resolution; this is the PNG file's
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # keeps this layout for all three formats
        data = describe(figure)
        # ``Figure.savefig`` would draw the figure once more for each format, to find a layout that it already has.
        canvas.draw()
        save_png(canvas, self.folder / f"{slug}.png")
        FigureCanvasSVG(figure).print_svg(self.folder / f"{slug}.svg", metadata={"Date": None})
        FigureCanvasPdf(figure).print_pdf(self.folder / f"{slug}.pdf", metadata={"CreationDate": None})
        if self.outlines is not None:
            with matplotlib.rc_context({"svg.fonttype": "path"}):
                FigureCanvasSVG(figure).print_svg(self.outlines / f"{label_of(slug)}.svg", metadata={"Date": None})
        return data

    def failed(self, slug: str, error: Exception) -> Warned:
        """Remembers a failure, and returns the block that reports it."""
        reason = f"{slug}: {type(error).__name__}: {error}"
        self.failures.append(reason)
        return Warned(f"The figure {escape(reason)} could not be drawn. To repeat: `{self.repeat}`")


def save_png(canvas: FigureCanvasAgg, path: Path) -> None:
    """Saves what is drawn on the canvas as a PNG file with a palette, which makes it about five times smaller.

    Dithering is off, because it would speckle plain areas.
    """
    from PIL import Image

    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # Of Pillow's methods this one keeps black text black, and its files are the smallest.
    small = picture.quantize(PALETTE, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, format="PNG", optimize=True)


def shows_pixels(figure: Figure) -> bool:
    """Returns whether the figure has images or clouds of points, which are samples and no series of figures."""
    return any(axes.images or any(part.get_rasterized() for part in axes.collections) for axes in figure.axes)


def print_dollars(figure: Figure) -> None:
    """Turns off mathematical text, so that dollar signs in names (a column ``$x_{``) are printed; axis numbers keep it."""
    from matplotlib.text import Text

    ticks = {
        id(label)
        for axes in figure.get_axes()
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    }
    for text in figure.findobj(Text):
        if id(text) not in ticks:
            text.set_parse_math(False)
