"""Every shipped data set in small, in the format of its source: what a server gives, and what must lie in the data root afterwards."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import tarfile
import wave
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmark.fetching.manifest import DataSet


class Miniature(NamedTuple):
    """files: the downloads by name.  made: the files of the data root, all of them."""

    files: Mapping[str, bytes]
    made: Mapping[str, bytes]


def zipped(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def pcd(points: int, seed: int) -> bytes:
    cloud = np.random.default_rng(seed).random((points, 3)).astype("<f4")
    head = f"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {points}\nHEIGHT 1\nPOINTS {points}\nDATA binary\n"
    return f"# .PCD v.7\n{head}".encode() + cloud.tobytes()


def sound(seed: int) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(seed).integers(-9000, 9000, 8_000, dtype=np.int16).tobytes())
    return content.getvalue()


def series(step_minutes: int, rows: int, columns: str = "HUFL,HULL,MUFL,MULL,LUFL,LULL,OT") -> bytes:
    start = np.datetime64("2016-07-01T00:00:00")
    lines = [
        str(start + np.timedelta64(step_minutes * i, "m")).replace("T", " ")
        + "".join(f",{(i * k) % 17 + 0.5}" for k in range(1, columns.count(",") + 2))
        for i in range(rows)
    ]
    return "\n".join([f"date,{columns}", *lines, ""]).encode()


def plain(folder: str, files: Mapping[str, bytes]) -> Miniature:
    """Files that are placed as they come."""
    return Miniature(files, {f"{folder}/{name}": content for name, content in files.items()})


def wikitext() -> Miniature:
    """Articles as in wiki.*.raw: blank lines are a space, a title has one sign, sections have more."""
    article = " \n = {} = \n \n Text of {} , with @-@ signs . \n \n = = Section = = \n \n More text of {} . \n \n"
    raw = {
        name: "".join(
            article.replace("{}", f"{title} {name}") for title in ("Robert <unk> Boulter", "A = B", "7")
        ).encode()
        for name in ("train", "valid", "test")
    }
    archive = zipped(
        {f"wikitext-103-raw/wiki.{name}.raw": text for name, text in raw.items()} | {"wikitext-103-raw/": b""}
    )
    parts = {"train": "train", "valid": "validation", "test": "test"}
    made = {f"lm/{parts[name]}/wiki.{name}.0000.txt": text for name, text in raw.items()}
    return Miniature({"wikitext-103-raw-v1.zip": archive}, made)


def ljspeech() -> Miniature:
    names = [f"LJ{document:03d}-{clip:04d}" for document in (1, 2, 3, 4, 5) for clip in (1, 2)]
    table = "".join(f'{name}|He said "{i}" to Dr. No|He said "{i}" to Doctor No\n' for i, name in enumerate(names))
    files = {f"LJSpeech-1.1/wavs/{name}.wav": sound(i) for i, name in enumerate(names)}
    files |= {"LJSpeech-1.1/metadata.csv": table.encode(), "LJSpeech-1.1/README": b"LJ Speech"}
    archive = bz2.compress(tarred(files))
    return Miniature({"LJSpeech-1.1.tar.bz2": archive}, {f"tts/{name}": content for name, content in files.items()})


def pcn() -> Miniature:
    """Eight views in training and one elsewhere; the archive has a model more than the list, which is left out."""
    models = {"train": ("1a04", "1a6a"), "val": ("4bae",), "test": ("1d63",)}
    clouds = {}
    for part, names in models.items():
        for model in (*names, f"{part}unlisted"):
            clouds[f"{part}/complete/02691156/{model}.pcd"] = pcd(600, len(clouds))
            for view in range(8 if part == "train" else 1):
                clouds[f"{part}/partial/02691156/{model}/{view:02d}.pcd"] = pcd(300, len(clouds))
    listed = json.dumps([{"taxonomy_id": "02691156", "taxonomy_name": "airplane", **models}]).encode()
    archive = zipped({f"ShapeNetCompletion/{name}": content for name, content in clouds.items()})
    made = {f"pcc/PCN/{name}": content for name, content in clouds.items() if "unlisted" not in name}
    return Miniature({"ShapeNetCompletion.zip": archive, "PCN.json": listed}, made | {"pcc/PCN/PCN.json": listed})


def shapenet55() -> Miniature:
    names = [f"02828884-{i:04d}.npy" for i in range(45)]
    clouds = {
        f"shapenet_pc/{name}": npy(np.random.default_rng(i).random((600, 3), dtype=np.float32))
        for i, name in enumerate(names)
    }
    lists = {
        "ShapeNet-55/train.txt": "".join(f"{name}\n" for name in names[:42]).encode(),
        "ShapeNet-55/test.txt": "".join(f"{name}\n" for name in names[42:]).encode(),
    }
    made = {f"pcc/ShapeNet55-34/{name}": content for name, content in (clouds | lists).items()}
    archive = zipped({f"ShapeNet55/{name}": content for name, content in clouds.items()})
    return Miniature({"ShapeNet55.zip": archive, **lists}, made)


def electricity() -> Miniature:
    rows = [[(i * k) % 23 for k in range(1, 6)] for i in range(500)]
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    hours = [np.datetime64("2012-01-01T00") + i for i in range(500)]
    lines = [
        f"{str(hour)[:10]} {str(hour)[11:13]}:00:00,{','.join(map(str, row))}"
        for hour, row in zip(hours, rows, strict=True)
    ]
    table = "\n".join(["date,c1,c2,c3,c4,c5", *lines, ""])
    return Miniature({"electricity.txt.gz": gzip.compress(text.encode())}, {"lstf/electricity.csv": table.encode()})


def scitldr() -> Miniature:
    def row(part: str, i: int) -> str:
        return json.dumps(
            {
                "source": [f"We study the {part} paper number {i}.", "It has results."],
                "source_labels": [1, 0],
                "rouge_scores": [0.5, 0.1],
                "paper_id": f"{part}{i}",
                "target": [f"A study of {part} {i}."],
                "title": f"Paper {i}",
            }
        )

    files = {
        f"scitldr/{part}.jsonl": "".join(row(part, i) + "\n" for i in range(12)).encode()
        for part in ("train", "dev", "test")
    }
    return plain("sum", files)


def multi_news() -> Miniature:
    files = {}
    for part in ("train", "val", "test"):
        sources = [f"First of {part} {i} . NEWLINE_CHAR And more . ||||| Second of {i} ." for i in range(12)]
        files[f"multi_news/{part}.src"] = ("\n".join(sources) + "\n").encode()
        files[f"multi_news/{part}.tgt"] = "".join(f"– What {part} {i} says .\n" for i in range(12)).encode()
    return plain("sum", files)


def pg19() -> Miniature:
    text = "CHAPTER {} OF {}\r\n\r\nIt was a dark and stormy night.\n" * 60
    return plain(
        "lm",
        {
            f"{part}/{i}.txt": text.replace("{}", f"{part}{i}").encode()
            for part, count in (("train", 5), ("validation", 2), ("test", 3))
            for i in range(10, 10 + count)
        },
    )


MINIATURES = {
    "language_modeling/pg19": pg19,
    "language_modeling/wikitext-103": wikitext,
    "language_modeling/gpt2": lambda: plain("lm", {"gpt2/vocab.json": b"{}", "gpt2/merges.txt": b"#version: 0.2\n"}),
    "text_to_speech/ljspeech": ljspeech,
    "summarization/scitldr": scitldr,
    "summarization/multi_news": multi_news,
    "point_cloud_completion/pcn": pcn,
    "point_cloud_completion/shapenet-55": shapenet55,
    "forecasting/etth1": lambda: plain("lstf", {"ETTh1.csv": series(60, 15_000)}),
    "forecasting/etth2": lambda: plain("lstf", {"ETTh2.csv": series(60, 15_000)}),
    "forecasting/ettm1": lambda: plain("lstf", {"ETTm1.csv": series(15, 60_000)}),
    "forecasting/ettm2": lambda: plain("lstf", {"ETTm2.csv": series(15, 60_000)}),
    "forecasting/exchange": lambda: plain(
        "lstf",
        {"exchange_rate.txt.gz": gzip.compress(b"".join(b"0.%d,1.%d,2.%d\n" % (i, i, i) for i in range(500)), mtime=0)},
    ),
    "forecasting/electricity": electricity,
    "forecasting/ecl": lambda: plain("lstf", {"ECL.csv": series(60, 500, "MT_000,MT_001,MT_320")}),
    "forecasting/wth": lambda: plain("lstf", {"WTH.csv": series(60, 500, "Visibility,DryBulb,WetBulbCelsius")}),
    "forecasting/weather": lambda: plain("lstf", {"weather.csv": series(10, 500, "p (mbar),T (degC),OT")}),
}


def shrunk(dataset: DataSet, small: Miniature, address: str) -> DataSet:
    """The shipped set with the sizes and digests of the miniature, fetched from this address instead of its own."""
    files = []
    for source in dataset.files:
        content = small.files[source.name]
        changed = {
            "urls": tuple(f"{address}/{source.name}" for _ in source.urls[:1]),
            "bytes": None if source.bytes is None else len(content),
            "sha256": source.sha256 and hashlib.sha256(content).hexdigest(),
            "md5": source.md5 and hashlib.md5(content).hexdigest(),
            "git_sha1": source.git_sha1 and hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest(),
        }
        files.append(source.model_copy(update=changed))
    listing = dataset.listing and dataset.listing.model_copy(
        update={
            "url": f"{address}/listing",
            "files_at": f"{address}/",
            "prefixes": {
                prefix: sum(name.startswith(prefix) for name in small.files) for prefix in dataset.listing.prefixes
            },
        }
    )
    return dataset.model_copy(update={"files": tuple(files), "listing": listing})


def listing_page(files: Mapping[str, bytes], prefix: str, start: int, length: int) -> bytes:
    """A page of the bucket's listing, as Google's storage gives it."""
    names = sorted(name for name in files if name.startswith(prefix))
    items = [
        {
            "name": name,
            "size": str(len(files[name])),
            "md5Hash": base64.b64encode(hashlib.md5(files[name]).digest()).decode(),
        }
        for name in names[start : start + length]
    ]
    more = {"nextPageToken": str(start + length)} if start + length < len(names) else {}
    return json.dumps({"items": items, **more}).encode()
