"""Makes ``tts/LJSpeech-1.1`` from the published archive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tasks.text_to_speech.ljspeech import ARCHIVE, FULL, TABLE, read_table


def ljspeech(inputs: Mapping[str, Path], made: Path) -> None:
    """The archive as it is.  Raises ValueError if a recording of its table is missing."""
    folder = inputs[ARCHIVE] / FULL
    if not (folder / TABLE).is_file():
        raise ValueError(f"{ARCHIVE}: has no {FULL}/{TABLE}")
    read_table(folder / TABLE)
    (made / "tts").mkdir()
    os.rename(folder, made / "tts" / FULL)
