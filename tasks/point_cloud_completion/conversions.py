"""Makes ``pcc/PCN`` and ``pcc/ShapeNet55-34`` from the published archives and lists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.folders import folders_in
from tasks.point_cloud_completion.meshes import CLOUDS
from tasks.point_cloud_completion.sources import PCN_PARTS
from tasks.text_files import decoded, parse_json, split_lines

PCN_ARCHIVE, PCN_LIST = "ShapeNetCompletion.zip", "PCN.json"
SHAPENET_ARCHIVE = "ShapeNet55.zip"


def pcn(inputs: Mapping[str, Path], made: Path) -> None:
    """PCN as GRNet and PoinTr use it: the models that their list names, from the archive.

    Raises ValueError if the archive lacks a cloud of the list.
    """
    archive = _folder_with(inputs[PCN_ARCHIVE], Path("train", "complete"), PCN_ARCHIVE)
    target = made / "pcc" / "PCN"
    for category in _categories(inputs[PCN_LIST]):
        synset = str(category["taxonomy_id"])
        for part in PCN_PARTS.values():
            for model in category[part]:
                _move_pair(archive / part, target / part, synset, str(model))
    shutil.copyfile(inputs[PCN_LIST], target / PCN_LIST)


def _categories(path: Path) -> list[dict[str, Any]]:
    """The list's categories: ``taxonomy_id``, and the models of each part."""
    categories = parse_json(decoded(path.read_bytes(), PCN_LIST), PCN_LIST)
    needed = {"taxonomy_id", *PCN_PARTS.values()}
    if not isinstance(categories, list) or not all(isinstance(one, dict) and needed <= set(one) for one in categories):
        raise ValueError(f"{PCN_LIST}: is not the list of PCN: categories with {', '.join(sorted(needed))}")
    return categories


def _move_pair(source: Path, target: Path, synset: str, model: str) -> None:
    """Moves the complete cloud of a model, and its partial ones, which are a folder of views or one file."""
    if {synset, model} & {"", ".", ".."} or "/" in synset + model:
        raise ValueError(f"{PCN_LIST}: {synset}/{model} can't be the name of a model")
    complete = next(
        (path for end in CLOUDS if (path := source / "complete" / synset / f"{model}{end}").is_file()), None
    )
    views = source / "partial" / synset / model
    partial = views if views.is_dir() else None if complete is None else views.with_name(complete.name)
    if complete is None or partial is None or not partial.exists():
        raise ValueError(f"{PCN_ARCHIVE}: has no {source.name} clouds of {synset}/{model}, which {PCN_LIST} names")
    for path in (complete, partial):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, place)


def shapenet55(inputs: Mapping[str, Path], made: Path) -> None:
    """ShapeNet-55 as PoinTr uses it: the clouds of the archive, and PoinTr's lists of training and test models.

    Raises ValueError if the archive lacks a cloud of a list.
    """
    archive = _folder_with(inputs[SHAPENET_ARCHIVE], Path("shapenet_pc"), SHAPENET_ARCHIVE)
    target = made / "pcc" / "ShapeNet55-34"
    lists = target / "ShapeNet-55"
    lists.mkdir(parents=True)
    for name in ("train.txt", "test.txt"):
        text = decoded(inputs[f"ShapeNet-55/{name}"].read_bytes(), f"ShapeNet-55/{name}")
        for line in split_lines(text):
            if line.strip() and not (archive / "shapenet_pc" / Path(line.strip()).name).is_file():
                raise ValueError(
                    f"{SHAPENET_ARCHIVE}: has no shapenet_pc/{line.strip()}, which ShapeNet-55/{name} names"
                )
        (lists / name).write_text(text, encoding="utf-8")
    os.rename(archive / "shapenet_pc", target / "shapenet_pc")


def _folder_with(folder: Path, inside: Path, archive: str) -> Path:
    """The folder, or the one just below it, that holds ``inside``: archives differ in their topmost folder."""
    for candidate in (folder, *folders_in(folder)):
        if (candidate / inside).is_dir():
            return candidate
    raise ValueError(f"{archive}: has no folder {inside.as_posix()}/")
