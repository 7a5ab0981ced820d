"""LJSpeech and other folders of its layout: a table of transcripts, ``wavs/``, and alignments if there are any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from praatio import textgrid
from praatio.utilities.errors import PraatioException

from benchmark.files import is_machine_fault
from tasks.array_files import read_npy
from tasks.folders import folders_in, named
from tasks.text_files import decoded, read_content, split_lines
from tasks.text_to_speech.audio import HOP, SAMPLE_RATE
from tasks.text_to_speech.synthetic import PAUSE

ARCHIVE, FULL, TABLE = "LJSpeech-1.1.tar.bz2", "LJSpeech-1.1", "metadata.csv"
TEST_DOCUMENTS, VALIDATION_DOCUMENTS = ("LJ001", "LJ002"), ("LJ003",)  # as published
SILENCES = {"", "sil", "sp", "spn"}  # labels of phones in a TextGrid
COLUMNS = "id|text, id|text|normalised text or id|text|phonemes, no header, no quoting, UTF-8"
TEXTGRID_TIERS = ("phones", "phone", "phonemes")
PREPARE = "`lavo-bench prepare tts --name ljspeech --data-root DIR`"
LATE = 2 * HOP / SAMPLE_RATE  # seconds by which the phones of a TextGrid may end after the recording


class Row(NamedTuple):
    """One line of the table."""

    name: str
    text: str  # the normalised text if the table has it
    phonemes: str | None  # IPA, if the table has it


def find_folder(data_root: Path, folder: str | None) -> Path:
    """The named folder of ``tts/``; without a name the full LJSpeech, or the only folder there.

    Raises ValueError if there is no such folder, or several, or if LJSpeech is not unpacked yet or only in part.  Nothing is unpacked
    here: ``prepare`` compares the archive with its digest, and one process does it for all.
    """
    root = data_root / "tts"
    if folder in (None, FULL) and not (root / FULL / TABLE).is_file():
        if (root / FULL).is_dir():
            raise ValueError(f"tts/{FULL}: {TABLE} is missing{_way_out(root / FULL)}")
        if (root / ARCHIVE).is_file():
            other = "" if folder else "; or name another folder with data.folder"
            raise ValueError(f"tts/{ARCHIVE}: is not unpacked yet; {PREPARE} checks and unpacks it{other}")
    if folder is not None:
        if not (root / folder / TABLE).is_file():
            raise ValueError(f"data.folder {folder!r}: tts/{folder}/{TABLE} is missing; expected: {TABLE} and wavs/")
        return root / folder
    if (root / FULL / TABLE).is_file():
        return root / FULL
    found = _folders(root)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(
            f"tts/: one folder with {TABLE} and wavs/ is expected, found {names}; name it with data.folder"
        )
    return found[0]


def needs_archive(data_root: Path, folder: str | None) -> bool:
    """Whether ``find_folder`` needs the published archive: it is asked for, or nothing else is there."""
    root = data_root / "tts"
    return not (root / FULL / TABLE).is_file() and (folder == FULL or (folder is None and not _folders(root)))


def _way_out(folder: Path) -> str:
    """What to do about a folder in which files are missing, as the end of a message; nothing for folders but LJSpeech's."""
    if (folder.parent.name, folder.name) != ("tts", FULL):
        return ""
    return f" (unpacked in part?); remove tts/{FULL}, then {PREPARE} makes it anew"


def _folders(root: Path) -> list[Path]:
    return [path for path in folders_in(root) if (path / TABLE).is_file()]


def read_table(path: Path) -> list[Row]:
    """The utterances of the table, one a line, sorted by name; quotation marks are text.

    Raises ValueError with the number of the line that can't be an utterance.
    """
    rows: list[Row] = []
    seen: dict[str, int] = {}
    label = f"tts/{path.parent.name}/{path.name}"
    fields_by_line = _fields(path, label)
    is_phonemes = _third_is_phonemes(fields_by_line)
    for number, fields in fields_by_line:
        where, name = f"{label}, line {number}", fields[0].strip()
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise ValueError(f"{where}: {name[:40]!r} can't be the name of a wav file; expected: {COLUMNS}")
        if name in seen:
            raise ValueError(f"{where}: {name} is already on line {seen[name]}; expected: one line for each utterance")
        if wav_of(path.parent, name) is None:
            header = " (is it a header?)" if number == 1 else ""
            raise ValueError(
                f"{where}: wavs/{name}.wav is missing{header}{_way_out(path.parent) or f'; expected: {COLUMNS}'}"
            )
        seen[name] = number
        third = fields[2] if len(fields) > 2 else ""
        rows.append(Row(name, fields[1], third) if is_phonemes else Row(name, third or fields[1], None))
    if not rows:
        raise ValueError(f"{label}: has no line; expected: {COLUMNS}")
    return sorted(rows)


def _fields(path: Path, label: str) -> list[tuple[int, list[str]]]:
    """The number and the fields of each line that is not blank."""
    found = []
    try:
        text = decoded(read_content(path, label), label)
    except ValueError as error:
        raise ValueError(f"{error} (it is Latin-1, perhaps?); expected: {COLUMNS}") from None
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        fields = line.split("|")
        if not 2 <= len(fields) <= 3:
            raise ValueError(f"{label}, line {number}: {len(fields)} fields between |; expected: {COLUMNS}")
        found.append((number, fields))
    return found


def wav_of(folder: Path, name: str) -> Path | None:
    """The recording of an utterance, ``wavs/<name>.wav`` with its ending in any case; None if it isn't there."""
    return named(folder / "wavs", f"{name}.wav")


def _third_is_phonemes(fields_by_line: Sequence[tuple[int, Sequence[str]]]) -> bool:
    """Whether the third field is IPA: nearly every English word has a sign there that normalised text never has."""
    third = [fields[2] for _, fields in fields_by_line if len(fields) > 2 and fields[2].strip()]
    return bool(third) and sum(bool(re.search("[ˈˌəɪʊɛɑɔʃθðŋ]", text)) for text in third) > len(third) / 2


def split_rows(rows: Sequence[Row]) -> tuple[tuple[list[Row], list[Row], list[Row]], str]:
    """The training, validation and test part, and the rule that split them.  Raises ValueError for fewer than 3 rows."""
    documents = {row.name.partition("-")[0] for row in rows}
    if {*TEST_DOCUMENTS, *VALIDATION_DOCUMENTS} < documents:
        parts: tuple[list[Row], list[Row], list[Row]] = ([], [], [])
        for row in rows:
            document = row.name.partition("-")[0]
            parts[2 if document in TEST_DOCUMENTS else 1 if document in VALIDATION_DOCUMENTS else 0].append(row)
        return parts, "by document: LJ001 and LJ002 test, LJ003 validation, the others training"
    if len(rows) < 3:
        raise ValueError(f"{len(rows)} utterances can't be split into three parts; at least 3 are needed")
    step = min(8, len(rows))
    test, validation = rows[step - 1 :: step], rows[step // 2 - 1 :: step]
    others = [row for row in rows if row not in test and row not in validation]
    rule = f"by clip: of every {step} in order of their names the last is test, number {step // 2} validation"
    return (others, list(validation), list(test)), rule


def read_alignment(folder: Path, name: str, num_samples: int, num_frames: int) -> tuple[list[str] | None, np.ndarray]:
    """The phones of one utterance and their durations in frames, from ``<name>.npy`` or ``<name>.TextGrid``.

    An array gives no phones (None); it has one duration for each symbol of the utterance, speaker and end included.
    A TextGrid gives its phones, with PAUSE for silences, and durations int64 (phones + 2,): of the time before the first
    phone, of each phone, and of the time after the last one.
    Raises ValueError for a file that is missing, can't be read, or doesn't fit the recording.
    """
    if (path := alignment_of(folder, name, ".npy")) is not None:
        try:
            durations = read_npy(path)
        except (ValueError, OSError, EOFError) as error:
            if is_machine_fault(error):
                raise
            raise ValueError(f"{path.name}: not a NumPy array ({error})") from None
        if durations.ndim != 1 or durations.dtype.kind not in "iu" or durations.min(initial=0) < 0:
            raise ValueError(f"{path.name}: whole numbers of frames in one row are expected")
        if durations.sum() != num_frames:
            raise ValueError(f"{path.name}: durations sum to {durations.sum()}, the recording has {num_frames} frames")
        return None, durations.astype(np.int64)
    path = alignment_of(folder, name, ".TextGrid")
    if path is None:
        raise ValueError(f"{name}: no {name}.TextGrid or {name}.npy in {folder.name}/")
    phones, starts, end = _read_phones(path)
    seconds = num_samples / SAMPLE_RATE
    if end > seconds + LATE:
        raise ValueError(
            f"{path.name}: its phones end at {end:.3f} s, the recording at {seconds:.3f} s: durations do not sum to the frames"
        )
    # Frame i is centred on sample i * HOP; a frame belongs to the phone in which its centre lies.
    edges = np.ceil(np.array([*starts, end]) * SAMPLE_RATE / HOP - 1e-6).astype(np.int64).clip(0, num_frames)
    return phones, np.diff(np.concatenate(([0], edges, [num_frames])))


def alignment_of(folder: Path, name: str, ending: str) -> Path | None:
    """The file of an utterance in a folder of alignments, its ending in any case; None if it isn't there."""
    return named(folder, f"{name}{ending}")


def _read_phones(path: Path) -> tuple[list[str], list[float], float]:
    """The labels of the phones, their starts, and the end of the last one, in seconds."""
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
    except (PraatioException, OSError, ValueError, IndexError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).replace(str(path), path.name).split())[:120]
        raise ValueError(f"{path.name}: not a TextGrid ({reason or type(error).__name__})") from None
    tier = next((name for name in TEXTGRID_TIERS if name in grid.tierNames), None)
    entries = grid.getTier(tier).entries if tier else ()
    if not entries:
        raise ValueError(f"{path.name}: no intervals in a tier named phones (there are {', '.join(grid.tierNames)})")
    phones = [PAUSE if entry.label.strip() in SILENCES else entry.label.strip() for entry in entries]
    return phones, [entry.start for entry in entries], entries[-1].end
