"""Words of data in other scripts than Latin are drawn, although figures use a small copy of the font."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from benchmark.report.fonts import FAMILY
from benchmark.report.gallery import Gallery


@pytest.mark.parametrize("words", ["мир", "ʃˈtʊp", "plain → α"])  # letters, phonemes, what the copy has
def test_words_of_any_script_are_drawn(tmp_path, words):
    families = []

    def make():
        families.extend(mpl.rcParams["font.family"])
        figure = Figure(figsize=(3, 2), layout="constrained")
        figure.subplots().set_title(words)
        return figure

    gallery = Gallery(tmp_path, "nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a letter that it can't draw
        gallery.draw("words", "Words.", make)
    assert gallery.failures == []
    assert families[0] == FAMILY
    assert words in (tmp_path / "words.svg").read_text(encoding="utf-8")
    assert "sans-serif" in (tmp_path / "words.svg").read_text(encoding="utf-8")
