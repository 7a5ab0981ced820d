"""From shapes to pairs of a partial and a complete cloud: sampling, views, the model's frame, padding, prepared groups."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from benchmark.files import replacing
from benchmark.interface import Splits
from benchmark.settings import Settings
from benchmark.settings.messages import shortened
from tasks.folders import folders_in
from tasks.point_cloud_completion.grouping import Groups, GroupSizes, find_groups
from tasks.point_cloud_completion.racks import make_rack, scan_rack
from tasks.point_cloud_completion.scan import sample_surface, view_direction, visible_points
from tasks.point_cloud_completion.solids import SOLIDS, Mesh, make_solid, unit_box
from tasks.point_cloud_completion.sources import PARTS, Shape, ShapeSet, find_shapes, is_shape_set, read_pair

DATA_VERSION = 1  # raised when the same settings give other clouds; the cached file's name depends on it
MIN_POINTS = 16  # of a partial cloud; a neighbourhood of the published grouper has as many
MAX_RESOLUTION = 1024


class DataSettings(Settings):
    """Which shapes are read or made, how many of their points, and the model's frame of coordinates."""

    name: Literal["solids", "racks"] = Field(
        default="solids", description="the embedded shapes, which serve where there is neither a data root nor a folder"
    )
    folder: str | None = Field(
        default=None,
        description="in pcc/ of the data root, or a path; null: sweethome3d of the data root, or the only set that it has",
    )
    num_shapes: int = Field(default=512, ge=1, description="number of embedded shapes for training")
    num_eval_shapes: int = Field(default=64, ge=1, description="number of embedded shapes for validation, and for test")
    num_views: int = Field(default=1, ge=1, description="partial clouds of a training mesh; validation and test: one")
    num_input: int = Field(default=256, ge=MIN_POINTS, le=2**15 - 1, description="most points of a partial cloud")
    num_target: int = Field(default=512, ge=1, description="points of a complete cloud")
    resolution: int = Field(default=64, ge=8, le=MAX_RESOLUTION, description="pixels of the camera along a side")
    frame: Literal["partial", "given"] = Field(
        default="partial",
        description="partial: the partial cloud's centre and size make the frame; given: the data's own coordinates",
    )
    mirror: bool = Field(default=False, description="mirror x and z of training pairs, each with probability 1/2")
    seed: int = Field(default=0, ge=0, description="for embedded shapes, sampled points and views")

    @field_validator("folder")
    @classmethod
    def _folder_is_named(cls, folder: str | None) -> str | None:
        if folder is not None and not folder.strip():
            raise ValueError("the name of a folder in pcc/, a path, or null")
        return folder


class Example(NamedTuple):
    """One pair in the model's frame; coordinates · scale + centre are the data's coordinates."""

    partial: Tensor  # float32 (num_input, 3), 0 where padded
    padding: Tensor  # bool (num_input,), True where padded
    complete: Tensor  # float32 (num_target, 3)
    centre: Tensor  # float32 (3,)
    scale: Tensor  # float32 ()
    groups: Groups | None  # without the batch axis, indices in 16 bits; None: the model finds them


class Prepared(Sequence[Example]):
    """Pairs in memory, with their groups: E examples of S shapes."""

    def __init__(self, arrays: dict[str, np.ndarray], frame: str) -> None:
        """arrays: partial (E, num_input, 3), count (E,), complete (S, num_target, 3), shape (E,), category (S,), groups.

        count: how many points of a partial cloud are real.  shape: each example's index into complete and category.
        """
        self.partial, self.counts = arrays["partial"], arrays["count"]
        self.complete, self.shape, self.category = arrays["complete"], arrays["shape"], arrays["category"]
        self.groups = [torch.from_numpy(arrays[name]) for name in Groups._fields]
        self.frame = frame

    def __len__(self) -> int:
        return len(self.partial)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        index = range(len(self))[index]
        groups = Groups(*(array[index] for array in self.groups))
        complete = self.complete[self.shape[index]]
        return make_example(
            self.partial[index, : self.counts[index]], complete, self.partial.shape[1], self.frame, groups
        )

    @property
    def clusters(self) -> np.ndarray:
        """The shape of each example, because views of one shape depend on each other.  (examples,)"""
        return self.shape

    def category_of(self, index: int) -> int:
        """The category of an example."""
        return int(self.category[self.shape[index]])

    def shapes_of(self, category: int, limit: int) -> list[int]:
        """The first example of each shape of the category, for at most ``limit`` shapes."""
        first = np.unique(self.shape, return_index=True)[1]
        return [int(i) for i in first if self.category[self.shape[i]] == category][:limit]


class OnDemand(Sequence[Example]):
    """Pairs that are read each time they are asked for; the model finds their groups."""

    def __init__(self, shapes: Sequence[Shape], categories: Sequence[str], settings: DataSettings) -> None:
        self.shapes, self.categories, self.settings = shapes, categories, settings
        self.views = [(number, view) for number, shape in enumerate(shapes) for view in range(shape.num_views)]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        number, view = self.views[index]
        settings = self.settings
        shape = self.shapes[number]
        partial, complete = read_pair(shape, view, settings.num_input, settings.num_target, settings.seed)
        check_partial(partial, shape.label(view))
        return make_example(partial, complete, settings.num_input, settings.frame, None)

    @property
    def clusters(self) -> np.ndarray:
        """The shape of each example, because views of one shape depend on each other.  (examples,)"""
        return np.array([number for number, _ in self.views])

    def category_of(self, index: int) -> int:
        """The category of an example."""
        return self.categories.index(self.shapes[self.views[index][0]].category)

    def shapes_of(self, category: int, limit: int) -> list[int]:
        """The first example of each shape of the category, for at most ``limit`` shapes."""
        found = (i for i, (_, view) in enumerate(self.views) if view == 0 and self.category_of(i) == category)
        return [index for index, _ in zip(found, range(limit), strict=False)]


class CompletionData(NamedTuple):
    """The loaded data of the task."""

    splits: Splits
    parts: tuple[Prepared | OnDemand, ...]  # train, validation and test of the splits
    categories: tuple[str, ...]  # their names
    key: str  # names the data in caches: everything that the clouds depend on


def load_completion_data(
    settings: DataSettings, sizes: GroupSizes, data_root: Path | None, cache: Path
) -> CompletionData:
    """The pairs of the three parts.

    They come from the folder that the settings name, or from ``pcc/`` of the root; without both they are embedded.
    Raises ValueError, in one line, for data that can't be used.
    """
    folder = _folder(settings, data_root)
    if folder is None:
        return _embedded(settings, sizes, cache)
    is_inside = data_root is not None and folder.is_relative_to(data_root)
    found = find_shapes(folder, data_root if is_inside else None)
    counts = {part: len(found.parts[part]) for part in PARTS}
    details = {"layout": found.layout, "shapes": counts, **found.notes, **_details(settings)}
    key = [found.fingerprint, settings.model_dump(exclude={"name", "folder", "num_shapes", "num_eval_shapes"})]
    parts: tuple[Prepared | OnDemand, ...]
    if found.layout != "meshes":
        parts = tuple(OnDemand(found.parts[part], found.categories, settings) for part in PARTS)
    else:
        arrays = _cached(cache, [*key, sizes], lambda: _scan_all(_read_meshes(found, settings), settings, sizes))
        parts = tuple(Prepared(_of_part(arrays, part), settings.frame) for part in PARTS)
        details |= _counts(parts)
    train, validation, test = parts
    splits = Splits(train, validation, test, found.name, found.fingerprint, False, details)
    return CompletionData(splits, parts, found.categories, _digest(key))


def make_example(
    partial: np.ndarray, complete: np.ndarray, num_input: int, frame: str, groups: Groups | None
) -> Example:
    """A pair in the model's frame, the partial cloud padded to num_input points.

    partial: (n, 3), n at most num_input.  complete: (num_target, 3).  Both are in the data's coordinates.
    """
    centre, scale = model_frame(partial) if frame == "partial" else (np.zeros(3), 1.0)
    points = np.zeros((num_input, 3), np.float32)
    points[: len(partial)] = (partial - centre) / scale
    padding = torch.arange(num_input) >= len(partial)
    inside = torch.from_numpy(((complete - centre) / scale).astype(np.float32))
    return Example(
        torch.from_numpy(points), padding, inside, torch.tensor(centre).float(), torch.tensor(scale).float(), groups
    )


def model_frame(partial: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle (3,) of the partial cloud's bounding box, and half of its largest side.

    The complete cloud has no part in it: that would tell the model how large the missing part is.
    """
    low, high = partial.min(0).astype(np.float64), partial.max(0).astype(np.float64)
    size = float((high - low).max())
    # Points that differ by single precision's rounding alone are one place, which has no size.
    is_place = size <= np.finfo(np.float32).eps * float(np.abs(partial).max())
    return (low + high) / 2, 1.0 if is_place else size / 2


def check_partial(partial: np.ndarray, origin: str) -> None:
    """Raises ValueError for a partial cloud with too few points for the grouper."""
    if len(partial) < MIN_POINTS:
        raise ValueError(f"{origin}: the partial cloud has {len(partial)} points, at least {MIN_POINTS} are needed")


def _folder(settings: DataSettings, data_root: Path | None) -> Path | None:
    """The folder of the real data; None for the embedded data."""
    if settings.folder is None:
        return None if data_root is None else _default_folder(data_root)
    name = settings.folder
    inside = None if data_root is None else data_root / "pcc" / name
    if inside is not None and inside.is_dir():
        return inside
    if Path(name).is_dir():
        return Path(name)
    where = "no such folder" if data_root is None else f"no such folder in {Path(data_root.name) / 'pcc'}"
    raise ValueError(f"data.folder {name}: {where}; give a folder there, or a path")


def _default_folder(data_root: Path) -> Path:
    """The set of a data root that serves where no setting names one: sweethome3d, or else the only set in ``pcc/``."""
    inside = data_root / "pcc"
    if (inside / "sweethome3d").is_dir():
        return inside / "sweethome3d"
    sets = [folder for folder in folders_in(inside) if is_shape_set(folder)]
    if len(sets) == 1:
        return sets[0]
    where = Path(data_root.name) / "pcc"
    if not sets:
        raise ValueError(f"data.folder: no set of shapes in {where}; give a folder there, or a path")
    names = shortened(", ".join(folder.name for folder in sets), 120)
    raise ValueError(f"data.folder: {where} has {len(sets)} sets, {names}; choose one with data.folder")


class Scan(NamedTuple):
    """The clouds that were measured on one shape."""

    partials: list[np.ndarray]  # float32 (n, 3) each
    complete: np.ndarray  # float32 (num_target, 3)
    category: int
    origin: str  # for messages


def scan_mesh(
    mesh: Mesh, num_views: int, settings: DataSettings, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Partial clouds of a mesh in its unit box, and its complete cloud.

    Each partial cloud is float32 (n, 3), n at most num_input.  The complete one is float32 (num_target, 3).
    """
    complete = sample_surface(mesh, settings.num_target, rng)
    partials = []
    for _ in range(num_views):
        direction, resolution = view_direction(rng), settings.resolution
        seen = visible_points(mesh, direction, resolution)
        # Something thin (a wing seen from its edge, a candlestick) may fill too few pixels: take smaller ones.
        while len(seen) < MIN_POINTS and resolution < MAX_RESOLUTION:
            resolution *= 2
            seen = visible_points(mesh, direction, resolution)
        seen = seen[rng.permutation(len(seen))[: settings.num_input]]
        partials.append(_coarse(seen))
    return partials, _coarse(complete)


def _coarse(points: np.ndarray) -> np.ndarray:
    """Rounded so coarsely that mathematical libraries, which differ in their last bits, give the same clouds."""
    return np.round(points, 5).astype(np.float32)


def _embedded(settings: DataSettings, sizes: GroupSizes, cache: Path) -> CompletionData:
    key = ["embedded", settings.model_dump(exclude={"folder"}), sizes]
    make, categories, layout = EMBEDDED[settings.name]
    arrays = _cached(cache, key, lambda: _scan_all(make(settings), settings, sizes))
    parts = tuple(Prepared(_of_part(arrays, part), settings.frame) for part in PARTS)
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.partial, part.counts, part.complete, part.shape, part.category):
            digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
    details = {"layout": layout, **_details(settings), **_counts(parts)}
    train, validation, test = parts
    splits = Splits(train, validation, test, "embedded", digest.hexdigest(), True, details)
    return CompletionData(splits, parts, categories, _digest(key))


def _solids(settings: DataSettings) -> Iterator[tuple[str, Scan]]:
    """The part and the scan of each embedded shape; the categories take turns."""
    names = list(SOLIDS)
    for number, part in enumerate(PARTS):
        views = settings.num_views if part == "train" else 1
        for index in range(settings.num_shapes if part == "train" else settings.num_eval_shapes):
            rng = np.random.default_rng([settings.seed, number, index])
            mesh = make_solid(names[index % len(names)], rng)
            partials, complete = scan_mesh(mesh, views, settings, rng)
            yield part, Scan(partials, complete, index % len(names), "embedded")


def _racks(settings: DataSettings) -> Iterator[tuple[str, Scan]]:
    """The part and the scan of each rack."""
    for number, part in enumerate(PARTS):
        views = settings.num_views if part == "train" else 1
        for index in range(settings.num_shapes if part == "train" else settings.num_eval_shapes):
            rng = np.random.default_rng([settings.seed, number, index])
            partials, complete = scan_rack(make_rack(rng), settings.num_input, settings.num_target, views, rng)
            # Seen points are multiples of a power of 1/2, which single precision holds exactly.
            yield part, Scan([seen.astype(np.float32) for seen in partials], _coarse(complete), 0, "embedded")


# name -> what makes the scans, the categories, and the layout as records name it
EMBEDDED: dict[str, tuple[Callable[[DataSettings], Iterator[tuple[str, Scan]]], tuple[str, ...], str]] = {
    "solids": (_solids, tuple(SOLIDS), "procedural solids"),
    "racks": (_racks, ("rack",), "procedural racks of bars"),
}


def _read_meshes(found: ShapeSet, settings: DataSettings) -> Iterator[tuple[str, Scan]]:
    from tasks.point_cloud_completion.meshes import read_mesh

    for number, part in enumerate(PARTS):
        views = settings.num_views if part == "train" else 1
        for index, shape in enumerate(found.parts[part]):
            rng = np.random.default_rng([settings.seed, number, index])
            mesh = unit_box(read_mesh(shape.complete, shape.label(0)))
            partials, complete = scan_mesh(mesh, views, settings, rng)
            yield part, Scan(partials, complete, found.categories.index(shape.category), shape.label(0))


def _scan_all(scans: Iterator[tuple[str, Scan]], settings: DataSettings, sizes: GroupSizes) -> dict[str, np.ndarray]:
    """The arrays of all three parts, by "<part>.<name>"."""
    by_part: dict[str, list[Scan]] = {part: [] for part in PARTS}
    for part, scan in scans:
        for partial in scan.partials:
            check_partial(partial, scan.origin)
        by_part[part].append(scan)
    return {
        f"{part}.{name}": array for part in PARTS for name, array in _arrays(by_part[part], settings, sizes).items()
    }


def _arrays(scans: Sequence[Scan], settings: DataSettings, sizes: GroupSizes) -> dict[str, np.ndarray]:
    """The arrays that ``Prepared`` takes."""
    partials = [partial for scan in scans for partial in scan.partials]
    padded = np.zeros((len(partials), settings.num_input, 3), np.float32)
    for row, partial in zip(padded, partials, strict=True):
        row[: len(partial)] = partial
    count = np.array([len(partial) for partial in partials], np.int32)
    return {
        "partial": padded,
        "count": count,
        "complete": np.stack([scan.complete for scan in scans]),
        "shape": np.repeat(np.arange(len(scans), dtype=np.int32), [len(scan.partials) for scan in scans]),
        "category": np.array([scan.category for scan in scans], np.int32),
        **_prepared_groups(padded, count, sizes),
    }


def _prepared_groups(padded: np.ndarray, count: np.ndarray, sizes: GroupSizes) -> dict[str, np.ndarray]:
    """The groups of all partial clouds, indices in 16 bits."""
    padding = torch.from_numpy(np.arange(padded.shape[1]) >= count[:, None])
    pieces = [
        find_groups(points, sizes, padding=padded_points)
        for points, padded_points in zip(torch.from_numpy(padded).split(64), padding.split(64), strict=True)
    ]
    joined = (torch.cat(tensors).numpy() for tensors in zip(*pieces, strict=True))
    return {
        name: array if array.dtype == np.bool_ else array.astype(np.int16)
        for name, array in zip(Groups._fields, joined, strict=True)
    }


def _of_part(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}


def _details(settings: DataSettings) -> dict[str, Any]:
    return {
        "num_input": settings.num_input,
        "num_target": settings.num_target,
        "frame": settings.frame,
        "positions": "a map of each point's coordinates, whatever the attention",
        "unit": "the largest side of a complete shape's bounding box is 1, where shapes are meshes",
    }


def _counts(parts: Sequence[Any]) -> dict[str, Any]:
    """The least, mean and greatest number of points of the partial clouds."""
    counts = np.concatenate([part.counts for part in parts])
    return {
        "partial_points": {
            "least": int(counts.min()),
            "mean": round(float(counts.mean()), 1),
            "most": int(counts.max()),
        }
    }


def _cached(cache: Path, key: list[Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays from the cache; what is not there is made and kept."""
    path = cache / f"pcc-{_digest(key)}.npz"
    if not path.is_file():
        arrays = make()
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def _digest(key: list[Any]) -> str:
    text = json.dumps([DATA_VERSION, *key], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
