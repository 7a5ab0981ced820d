"""Finds real shapes in the layouts in which they are published: meshes by category and part, PCN, ShapeNet-55."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmark.files import is_machine_fault
from benchmark.settings.messages import shortened
from tasks.folders import files_in, folders_in, name_below
from tasks.point_cloud_completion.meshes import CLOUDS, MESHES, read_cloud
from tasks.text_files import decoded, read_content, split_lines

PARTS = ("train", "validation", "test")
PCN_PARTS = {"train": "train", "validation": "val", "test": "test"}

HELD_OUT = 20  # every 20th line of ShapeNet-55's training list is validation, because it has no list of its own

Layout = Literal["meshes", "pcn", "shapenet55"]


class Shape(NamedTuple):
    """The files of one shape."""

    category: str
    name: str
    complete: Path  # the mesh, or the complete cloud
    partials: tuple[Path, ...] = ()  # PCN: one file a view
    cropped: bool = False  # ShapeNet-55: the partial cloud is cut from the complete one
    top: Path = Path()  # messages name files below this folder

    @property
    def num_views(self) -> int:
        """How many partial clouds the shape has."""
        return max(1, len(self.partials))

    def label(self, view: int) -> str:
        """The name in messages of a view's file."""
        return name_below(self.partials[view] if self.partials else self.complete, self.top)


class ShapeSet(NamedTuple):
    """The shapes of a folder."""

    name: str
    layout: Layout
    parts: dict[str, list[Shape]]
    categories: tuple[str, ...]
    fingerprint: str
    notes: dict[str, Any]


def is_shape_set(folder: Path) -> bool:
    """Whether a folder looks like a set of shapes in one of the three layouts; its files are not read."""
    lists = folder / "ShapeNet-55" if (folder / "ShapeNet-55").is_dir() else folder
    if (folder / "train" / "complete").is_dir() or (lists / "train.txt").is_file():
        return True
    return any((category / "train").is_dir() for category in folders_in(folder))


def find_shapes(folder: Path, top: Path | None = None) -> ShapeSet:
    """The shapes of a folder, whose layout is recognised.

    top: messages name files below it; None: below the folder that holds this one.
    Raises ValueError, in one line, for any other layout.
    """
    top = folder.parent if top is None else top
    if (folder / "train" / "complete").is_dir():
        return _pcn(folder, top)
    lists = folder / "ShapeNet-55" if (folder / "ShapeNet-55").is_dir() else folder
    if (lists / "train.txt").is_file():
        return _shapenet(folder, lists, top)
    return _meshes(folder, top)


def read_pair(shape: Shape, view: int, num_input: int, num_target: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The partial cloud (n, 3), n at most num_input, and the complete one (num_target, 3), float32.

    The same arguments give the same points.  Raises ValueError for a complete cloud with too few points.
    """
    rng = np.random.default_rng([seed, view, *hashlib.sha256(f"{shape.category}/{shape.name}".encode()).digest()[:8]])
    label = name_below(shape.complete, shape.top)
    complete = read_cloud(shape.complete, label)
    if len(complete) < num_target:
        raise ValueError(
            f"{label}: a complete cloud of {len(complete)} points, data.num_target {num_target} are needed"
        )
    if shape.cropped:
        complete = _unit_ball(complete)
    target = complete if len(complete) == num_target else complete[rng.permutation(len(complete))[:num_target]]
    partial = _cropped(complete, rng) if shape.cropped else read_cloud(shape.partials[view], shape.label(view))
    return partial[rng.permutation(len(partial))[:num_input]], target


def _cropped(complete: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The cloud without its points nearest to a random viewpoint on the unit sphere, a quarter to three quarters of all."""
    viewpoint = rng.standard_normal(3)
    viewpoint /= np.linalg.norm(viewpoint)
    order = np.linalg.norm(complete - viewpoint, axis=1).argsort(kind="stable")
    return complete[order[int(len(complete) * rng.uniform(0.25, 0.75)) :]]


def _unit_ball(cloud: np.ndarray) -> np.ndarray:
    """ShapeNet-55's normalisation of a complete cloud: mean at the origin, farthest point at distance 1."""
    centred = cloud - cloud.mean(0)
    return (centred / max(float(np.linalg.norm(centred, axis=1).max()), 1e-12)).astype(np.float32)


def _meshes(folder: Path, top: Path) -> ShapeSet:
    """Meshes in <category>/{train,validation,test}/<name>.{npz,obj,off,ply}."""
    parts: dict[str, list[Shape]] = {part: [] for part in PARTS}
    for category in folders_in(folder):
        for part in PARTS:
            for path in files_in(category / part, *MESHES):
                parts[part].append(Shape(category.name, path.stem, path, top=top))
    _check_parts(
        folder,
        parts,
        f"<category>/{{{','.join(PARTS)}}}/<name>.{{{','.join(s[1:] for s in MESHES)}}} of meshes, PCN's or ShapeNet-55's",
    )
    digest = hashlib.sha256()
    for part in PARTS:
        for shape in parts[part]:
            digest.update(f"{shape.category}/{part}/{shape.complete.name}\0".encode())
            digest.update(hashlib.sha256(read_content(shape.complete, shape.label(0))).digest())
    return ShapeSet(folder.name, "meshes", parts, _categories(parts), digest.hexdigest(), {})


def _pcn(folder: Path, top: Path) -> ShapeSet:
    """PCN: {train,val,test}/{partial,complete}/<synset>/<model>[/00…07].{pcd,h5}."""
    parts: dict[str, list[Shape]] = {part: [] for part in PARTS}
    for part, own in PCN_PARTS.items():
        for path in (path for synset in folders_in(folder / own / "complete") for path in files_in(synset, *CLOUDS)):
            place = folder / own / "partial" / path.parent.name
            views = files_in(place / path.stem, *CLOUDS) or [p for p in [place / path.name] if p.is_file()]
            if not views:
                raise ValueError(
                    f"{name_below(path, top)}: no partial cloud of this model in {own}/partial/{path.parent.name}"
                )
            partials = tuple(views if part == "train" else views[:1])
            parts[part].append(Shape(path.parent.name, path.stem, path, partials, top=top))
    _check_parts(folder, parts, "{train,val,test}/{partial,complete}/<synset>/<model>[/00…07].{pcd,h5}, as PCN's")
    files = [path for part in PARTS for shape in parts[part] for path in (shape.complete, *shape.partials)]
    notes = {"fingerprint_of": "names and sizes of all files: reading them whole would take longer than training"}
    return ShapeSet(folder.name, "pcn", parts, _categories(parts), _digest_of_sizes(folder, files, top), notes)


def _shapenet(folder: Path, lists: Path, top: Path) -> ShapeSet:
    """ShapeNet-55: train.txt and test.txt (one <synset>-<model>.npy a line), and the clouds in shapenet_pc/."""
    parts: dict[str, list[Shape]] = {part: [] for part in PARTS}
    for name in ("train", "test"):
        path = lists / f"{name}.txt"
        label = name_below(path, top)
        content = read_content(path, label, advice="ShapeNet-55 has train.txt and test.txt")
        entries = [(n, one.strip()) for n, one in enumerate(split_lines(decoded(content, label)), 1) if one.strip()]
        for index, (number, line) in enumerate(entries):
            synset, dash, _ = line.partition("-")
            cloud = folder / "shapenet_pc" / line
            if not dash or Path(line).name != line or "\0" in line or not cloud.is_file():
                raise ValueError(f"{label}: line {number}: no cloud {shortened(repr(line))} in shapenet_pc/")
            part = "validation" if name == "train" and index % HELD_OUT == HELD_OUT - 1 else name
            parts[part].append(Shape(synset, Path(line).stem, cloud, cropped=True, top=top))
    _check_parts(folder, parts, f"at least {HELD_OUT} lines in train.txt and one in test.txt, as ShapeNet-55's")
    files = [shape.complete for part in PARTS for shape in parts[part]]
    notes = {"fingerprint_of": "names and sizes of all files", "validation": f"every {HELD_OUT}th line of train.txt"}
    return ShapeSet(folder.name, "shapenet55", parts, _categories(parts), _digest_of_sizes(folder, files, top), notes)


def _check_parts(folder: Path, parts: dict[str, list[Shape]], layout: str) -> None:
    for part in PARTS:
        if not parts[part]:
            raise ValueError(f"{folder.name}: no shape of the part {part}; the layout is {layout}")


def _categories(parts: dict[str, list[Shape]]) -> tuple[str, ...]:
    return tuple(sorted({shape.category for shapes in parts.values() for shape in shapes}))


def _digest_of_sizes(folder: Path, files: Sequence[Path], top: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            size = path.stat().st_size
        except OSError as error:
            if is_machine_fault(error):
                raise
            raise ValueError(f"{name_below(path, top)}: can't be read: {error.strerror}") from None
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\n".encode())
    return digest.hexdigest()
