"""The sounds of a report: the recording, the recording through the vocoder, and the synthesis by each attention."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benchmark.interface import Exhibit, Sound
from benchmark.results import Record
from tasks.text_to_speech.figures import comparable

CAPTION = (
    "Recording, recording through the vocoder (the best that any model here can sound), and each attention's synthesis "
    "from the text alone."
)
NOT_THERE = "not published; run the cell to hear it"


def exhibits(records: Sequence[Record]) -> list[Exhibit]:
    """One table for each backbone and pattern, with a row for each utterance and a column for each kind of sound."""
    made = []
    for group in comparable(records):
        backbone, pattern = group[0].cell.backbone, group[0].cell.pattern
        rows = []
        for number, truth in enumerate(group[0].curves["utterances"]):
            sounds = [_sound(group[0], truth, kind, file=kind) for kind in ("truth", "vocoded_truth")]
            for record in group:
                own = record.curves["utterances"][number]
                sounds.append(_sound(record, own, "synthesised", file=f"{backbone}-{pattern}-{record.cell.label}"))
            rows.append((truth["text"], *sounds))
        columns = ("text", "recording", "through the vocoder", *(record.cell.label for record in group))
        made.append(Exhibit(f"Speech: {backbone}, {pattern}", CAPTION, columns, tuple(rows)))
    return made


def _sound(record: Record, utterance: Any, kind: str, *, file: str) -> str | Sound:
    """The sound, or words where its file isn't there: recordings of a speaker are not published."""
    content = record.attachment(utterance["sounds"].get(kind))
    if content is None:
        return NOT_THERE
    name = re.sub(r"[^a-z0-9_-]", "_", f"{file}-{utterance['name']}".lower())
    return Sound(name, content, "audio/mpeg")
