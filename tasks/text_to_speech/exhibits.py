"""The sounds of a report: the recording, the recording through the vocoder, and the synthesis by each attention."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.interface import Exhibit, Sound
from tasks.text_to_speech.figures import comparable, label_of

CAPTION = (
    "Recording, recording through the vocoder (the best that any model here can sound), and each attention's synthesis "
    "from the text alone."
)


def exhibits(records: Sequence[Mapping[str, Any]]) -> list[Exhibit]:
    """A table for each backbone and pattern: a row an utterance, a column a voice."""
    made = []
    for group in comparable(records):
        backbone, pattern = (group[0]["cell"][key] for key in ("backbone", "pattern"))
        labels = [label_of(record) for record in group]
        rows = []
        for number, truth in enumerate(group[0]["curves"]["utterances"]):
            sounds: list[str | Sound] = [
                _sound(kind, truth["name"], truth["sounds"][kind]) for kind in ("truth", "vocoded_truth")
            ]
            for label, record in zip(labels, group, strict=True):
                own = record["curves"]["utterances"][number]["sounds"]["synthesised"]
                sounds.append(_sound(f"{backbone}-{pattern}-{label}", truth["name"], own))
            rows.append((truth["text"], *sounds))
        columns = ("text", "recording", "through the vocoder", *labels)
        made.append(Exhibit(f"Speech: {backbone}, {pattern}", CAPTION, columns, tuple(rows)))
    return made


def _sound(kind: str, utterance: str, content: str) -> Sound:
    name = re.sub(r"[^a-z0-9_-]", "_", f"{kind}-{utterance}".lower())
    return Sound(name, base64.b64decode(content), "audio/mpeg")
