"""Real data: SciTLDR, QMSum, Multi-News, and a user's own JSON lines or CSV, each read in its published layout.

Every fault ends in one ValueError that names file, line, fault and what is allowed.  A missing summary is a fault.  An
empty summary or an empty source is an example like any other.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.settings.messages import shortened
from tasks.folders import files_in, named
from tasks.summarization.pairs import Pair
from tasks.text_files import decoded, parse_json, read_content, split_lines

PARTS = ("train", "validation", "test")
PART_NAMES = {"train": ("train",), "validation": ("validation", "val", "dev"), "test": ("test",)}

# Training papers that occur again in dev, test or training under another id (same abstract, or more than half of its runs
# of 8 words in common), and one paper of dev that occurs again in test.  From the README of the data root.
SCITLDR_DUPLICATES = frozenset(
    """
    HyxaHGcij7 rylLud_moQ S1EERs09YQ Hye-LiR5Y7 SJf_XhCqKm HyesB2RqFQ HyGxNg9SiQ SkxwBgpmDE BJeypMU5wE HJxjSR5so7
    BJxDNxSFDH SklD9yrFPS HJxb8-o6s7
    """.split()  # noqa: SIM905  the formatter would put a list on a line for each word
)
SCITLDR_DEV_DUPLICATES = frozenset({"S1M7wGssim"})

MULTI_NEWS_ADVICE = (
    "`lavo-bench prepare sum --name multi_news --accept-terms --data-root DIR` fetches it into sum/, or put train/val/test .src and "
    ".tgt of alexfabbri/multi_news on the Hugging Face Hub there (huggingface/datasets#4585)"
)


class RealData(NamedTuple):
    """The pairs of each part, the SHA-256 of the files, and details for the record."""

    parts: Mapping[str, tuple[Pair, ...]]
    fingerprint: str
    details: Mapping[str, Any]


class _Files:
    """Reads text files, and makes one digest of all of them."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def text(self, path: Path, label: str, advice: str = "") -> str:
        """The text of a file: strict UTF-8, with or without a byte order mark; newlines stay as they are."""
        content = read_content(path, label, advice=advice)
        self.digest.update(f"{label}\0{len(content)}\0".encode() + hashlib.sha256(content).digest())
        return decoded(content, label)


def read_scitldr(data_root: Path) -> RealData:
    """``sum/scitldr/{train,dev,test}.jsonl``: one paper a line, with its abstract and one summary (train) or several."""
    files, parts = _Files(), {}
    for part, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        label = f"sum/scitldr/{name}.jsonl"
        left_out = {"train": SCITLDR_DUPLICATES, "validation": SCITLDR_DEV_DUPLICATES}.get(part, frozenset())
        pairs = []
        for line, row in _json_lines(files.text(data_root / label, label), label):
            sentences = _strings(row, "source", f"{label}, line {line}")
            targets = _strings(row, "target", f"{label}, line {line}", at_least=1)
            paper = str(row.get("paper_id", line))
            if paper not in left_out:
                pairs.append(Pair(paper, (" ".join(sentences),), tuple(targets)))
        parts[part] = tuple(pairs)
    return RealData(parts, files.digest.hexdigest(), {"left_out": "papers that stand twice, see PROTOCOL.md"})


def read_qmsum(data_root: Path) -> RealData:
    """``sum/qmsum/{train,val,test}/*.json``: one meeting a file; every question about it is an example."""
    files, parts = _Files(), {}
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        folder = data_root / "sum" / "qmsum" / name
        paths = files_in(folder, ".json")
        if not paths:
            raise ValueError(f"sum/qmsum/{name}: no .json file; one file a meeting is needed")
        parts[part] = tuple(
            pair
            for path in paths
            for pair in _meeting(f"sum/qmsum/{name}/{path.name}", files.text(path, f"sum/qmsum/{name}/{path.name}"))
        )
    return RealData(parts, files.digest.hexdigest(), {"examples": "one a question, general and specific ones"})


def _meeting(label: str, text: str) -> Iterator[Pair]:
    meeting = parse_json(text, label)
    turns = _field(meeting, "meeting_transcripts", list, label)
    transcript = "\n".join(
        f"{_field(turn, 'speaker', str, label)}: {_field(turn, 'content', str, label)}" for turn in turns
    )
    for kind in ("general_query_list", "specific_query_list"):
        for number, query in enumerate(_field(meeting, kind, list, label)):
            where = f"{label}, {kind}[{number}]"
            answer = _field(query, "answer", str, where)
            yield Pair(f"{label} {kind}[{number}]", (transcript,), (answer,), _field(query, "query", str, where))


def read_multi_news(folder: Path) -> RealData:
    """``{train,val,test}.{src,tgt}``: one example a line, documents divided by |||||, newlines written NEWLINE_CHAR.

    Raises ValueError, in one line, for a missing file and for files with unequal numbers of lines.
    """
    files, parts = _Files(), {}
    for part in PARTS:
        stem = next((name for name in PART_NAMES[part] if (folder / f"{name}.src").exists()), PART_NAMES[part][-1])
        lines = {}
        for ending in ("src", "tgt"):
            label = f"{folder.name}/{stem}.{ending}"
            text = files.text(folder / f"{stem}.{ending}", label, MULTI_NEWS_ADVICE)
            # splitlines() would also cut at characters such as U+2028, which the texts contain.
            lines[ending] = text.removesuffix("\n").split("\n") if text else []
        if len(lines["src"]) != len(lines["tgt"]):
            raise ValueError(
                f"{folder.name}/{stem}.tgt: {len(lines['tgt'])} lines beside {len(lines['src'])} of {stem}.src; line i of "
                "one belongs to line i of the other"
            )
        parts[part] = tuple(
            Pair(
                f"{stem}:{number}", tuple(multi_news_documents(source)), (_newlines(target.removeprefix("–").strip()),)
            )
            for number, (source, target) in enumerate(zip(lines["src"], lines["tgt"], strict=True), start=1)
        )
    return RealData(parts, files.digest.hexdigest(), {"documents": "divided by |||||, empty ones left out"})


def multi_news_documents(source: str) -> list[str]:
    """The documents of a line of ``.src``, without empty ones; a ||||| behind the last document changes nothing."""
    documents = [_newlines(document).strip() for document in source.split("|||||")]
    return [document for document in documents if document]


def _newlines(text: str) -> str:
    lines = text.replace("\r", "").split("NEWLINE_CHAR")
    return "\n".join(line.strip() for line in lines)


def read_own(folder: Path, source: str, target: str) -> RealData:
    """``{train,validation,test}.jsonl`` or ``.csv`` with a column of sources and one of summaries.

    source, target: the names of these columns.  In JSON both may be lists, of documents and of references.  CSV follows
    RFC 4180: quoted fields may contain newlines.  Endings may be in capitals.  Raises ValueError, in one line, for a file that can't be used.
    """
    files, parts = _Files(), {}
    for part in PARTS:
        wanted = [f"{name}{end}" for name in PART_NAMES[part] for end in (".jsonl", ".csv")]
        path = next((path for name in wanted if (path := named(folder, name)) is not None), None)
        if path is None:
            raise ValueError(f"{folder.name}: no file of the {part} part; one of {', '.join(wanted)} is needed")
        label = f"{folder.name}/{path.name}"
        is_json = path.suffix.lower() == ".jsonl"
        rows: Callable[[str, str], Iterable[tuple[int, Any]]] = _json_lines if is_json else _csv_rows
        parts[part] = tuple(
            Pair(
                f"{path.stem}:{line}",
                tuple(_strings(row, source, f"{label}, line {line}")),
                tuple(_strings(row, target, f"{label}, line {line}", at_least=1)),
            )
            for line, row in rows(files.text(path, label), label)
        )
    return RealData(parts, files.digest.hexdigest(), {"columns": [source, target]})


def _json_lines(text: str, label: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(split_lines(text), start=1):
        if line.strip():
            yield number, parse_json(line, label, line=number)


def _csv_rows(text: str, label: str) -> list[tuple[int, Any]]:
    """Each row with the line on which it begins; a blank line is no row."""
    before = csv.field_size_limit(len(text) + 1)  # by default a field ends at 128 kB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, line = [], 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise ValueError(f"{label}: is empty; a header line with the names of the columns is needed")
        if twice := [name for index, name in enumerate(header) if name and name in header[:index]]:
            raise ValueError(f"{label}, line 1: two columns are called {shortened(repr(twice[0]))}")
        line = reader.line_num + 1
        for row in reader:
            if row and not (len(row) == 1 and not row[0].strip()):
                if len(row) != len(header):
                    raise ValueError(f"{label}, line {line}: {len(row)} fields, the header has {len(header)}")
                rows.append((line, dict(zip(header, row, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{label}, line {line}: {error}; a field with commas, quotes or newlines must be in double quotes, with quotes in it doubled"
        ) from None
    finally:
        csv.field_size_limit(before)  # it holds for the whole process
    return rows


def _field(row: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}; an object with {key!r} is needed")
    if key not in row:
        raise ValueError(f"{where}: has no {key!r}; it has {shortened(', '.join(map(repr, row)), 120) or 'nothing'}")
    if not isinstance(row[key], kind):
        wanted = "a text" if kind is str else "a list"
        raise ValueError(f"{where}: {key!r} is a {type(row[key]).__name__}; {wanted} is needed")
    return row[key]


def _strings(row: Any, key: str, where: str, *, at_least: int = 0) -> Sequence[str]:
    """The value as a list of texts; a single text becomes a list of one."""
    value = _field(row, key, object, where)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or len(texts) < at_least:
        raise ValueError(f"{where}: {key!r} must be a text or a list of texts, got {str(value)[:40]!r}")
    return texts
