"""Reads meshes (.npz, .obj, .off, .ply) and clouds (.pcd, .h5, .npy, .ply, .npz).

Every fault is one line that names the file.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmark.files import is_machine_fault
from benchmark.settings.messages import shortened
from tasks.array_files import check_size, npz_names, read_npy, read_npz
from tasks.point_cloud_completion.pcd import read_pcd
from tasks.point_cloud_completion.ply import read_ply
from tasks.point_cloud_completion.solids import Mesh
from tasks.text_files import number_lines

T = TypeVar("T")
MESHES = (".npz", ".obj", ".off", ".ply")
CLOUDS = (".pcd", ".h5", ".npy", ".ply", ".npz")
# HDF5's numbers of filters: shuffling and check sums keep the size; LZF, unlike gzip, unpacks to no more than 88 times the size.
PLAIN_FILTERS, GZIP, LZF = (2, 3), 1, 32000
# NumPy, h5py, zipfile and trimesh raise these for files that are cut off or have another format.
FAULTS = (
    ValueError,
    ArithmeticError,
    RuntimeError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    OSError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_mesh(path: Path, label: str | None = None) -> Mesh:
    """The mesh of a file, its polygons cut into fans of triangles.

    label: the file's name in messages; None: without its folders.
    Raises ValueError that names the file, the fault, and what is allowed.
    """
    label, suffix = label or path.name, path.suffix.lower()
    if suffix not in MESHES:
        raise ValueError(f"{label}: meshes are {', '.join(MESHES)}")
    return _checked(_read(path, label, lambda: _read_mesh(path, suffix)), label)


def read_cloud(path: Path, label: str | None = None) -> np.ndarray:
    """The cloud of a file, float32 (points, 3).

    label: the file's name in messages; None: without its folders.
    Raises ValueError that names the file, the fault, and what is allowed.
    """
    label, suffix = label or path.name, path.suffix.lower()
    if suffix not in CLOUDS:
        raise ValueError(f"{label}: clouds are {', '.join(CLOUDS)}")
    cloud = _read(path, label, lambda: _read_cloud(path, suffix))
    if cloud.ndim != 2 or cloud.shape[1] < 3 or not _is_real(cloud):
        raise ValueError(f"{label}: a cloud of numbers (points, 3) is needed, not {cloud.dtype} {cloud.shape}")
    with np.errstate(over="ignore"):  # too large a number becomes infinite, which is refused below
        cloud = np.ascontiguousarray(cloud[:, :3], dtype=np.float32)
    if not len(cloud):
        raise ValueError(f"{label}: no points; at least one is needed")
    if not np.isfinite(cloud).all():
        row = int(np.flatnonzero(~np.isfinite(cloud).all(1))[0])
        raise ValueError(f"{label}: point {row + 1} has a coordinate that is no finite number of single precision")
    return cloud


def _read(path: Path, label: str, read: Callable[[], T]) -> T:
    """What ``read`` gives; its faults become one line with the file's name, those of the machine stay."""
    try:
        return read()
    except FAULTS as error:
        if is_machine_fault(error):
            raise
        raise ValueError(f"{label}: can't be read as {path.suffix[1:].upper()}: {_line(error, path)}") from error


def _is_real(array: np.ndarray) -> bool:
    """Whether an array holds whole numbers or floating-point ones."""
    return np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)


def _read_mesh(path: Path, suffix: str) -> Mesh:
    if suffix == ".npz":
        arrays = read_npz(path, "vertices", "faces")
        return Mesh(arrays["vertices"], arrays["faces"])
    content = path.read_bytes()
    if suffix == ".off":
        return parse_off(content)
    if suffix == ".ply":
        return _ply_mesh(content)
    return _obj_mesh(content)


def _read_cloud(path: Path, suffix: str) -> np.ndarray:
    if suffix == ".pcd":
        return read_pcd(path)
    if suffix == ".h5":
        return _h5_cloud(path)
    if suffix == ".ply":
        return read_ply(path.read_bytes())[0]
    if suffix == ".npy":
        return read_npy(path)
    names = npz_names(path)
    if len(names) != 1 and "points" not in names:
        raise ValueError(f"one array is needed, or one called points; there are {', '.join(names)[:80] or 'none'}")
    (cloud,) = read_npz(path, "points" if "points" in names else names[0]).values()
    return cloud


def _h5_cloud(path: Path) -> np.ndarray:
    """The data set ``data`` of an HDF5 file; its numbers must lie in the file itself."""
    import h5py

    with h5py.File(path, "r") as file:
        link = file.get("data", getlink=True)
        if link is None:
            raise ValueError(f"no data set 'data' in it, but {', '.join(file)[:80] or 'nothing'}")
        if not isinstance(link, h5py.HardLink) or not isinstance(file["data"], h5py.Dataset):
            raise ValueError("its 'data' is a link to another place or a group; a data set is needed")
        found = file["data"]
        if found.external or found.is_virtual:
            raise ValueError("its 'data' lies in another file; a data set in the file itself is needed")
        check_size(found.nbytes)
        if found.chunks is not None:
            _check_chunks(found)
        return np.asarray(found)


def _check_chunks(found: Any) -> None:
    """Raises ValueError if a chunk of this data set unpacks to more than its shape says: HDF5 unpacks it whatever it gives."""
    most = math.prod(found.chunks) * found.dtype.itemsize
    check_size(most)
    properties = found.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    packers = [one for one in filters if one not in PLAIN_FILTERS]
    if len(packers) > 1 or not set(packers) <= {GZIP, LZF}:
        raise ValueError("its 'data' is packed by another method than gzip or lzf; convert with `h5repack -f GZIP=4`")
    chunks: list[Any] = []
    found.id.chunk_iter(chunks.append)
    for chunk in chunks:
        _, stored = found.id.read_direct_chunk(chunk.chunk_offset)
        is_packed = GZIP in packers and not chunk.filter_mask >> filters.index(GZIP) & 1
        if is_packed and len(zlib.decompressobj().decompress(stored, most + 1)) > most:
            raise ValueError(f"its chunks unpack to more than the {most:,} bytes of their shape")


def _ply_mesh(content: bytes) -> Mesh:
    from trimesh.geometry import triangulate_quads

    vertices, polygons = read_ply(content)
    faces = triangulate_quads(polygons) if len(polygons) else np.zeros((0, 3))
    return Mesh(vertices, np.asarray(faces, np.int64).reshape(-1, 3))


def _obj_mesh(content: bytes) -> Mesh:
    import trimesh

    # From bytes and not from a path, so that trimesh looks for no material or texture beside the file.
    loaded: Any = trimesh.load(io.BytesIO(plain_obj(content).encode()), file_type="obj", process=False)
    parts = list(loaded.geometry.values()) if isinstance(loaded, trimesh.Scene) else [loaded]
    if any(not isinstance(part, trimesh.Trimesh | trimesh.PointCloud) for part in parts):
        raise ValueError("it contains something other than triangles and points")
    vertices = [np.asarray(part.vertices, np.float64).reshape(-1, 3) for part in parts]
    faces = [np.asarray(getattr(part, "faces", np.zeros((0, 3))), np.int64) for part in parts]
    firsts = np.cumsum([0, *map(len, vertices)])
    return Mesh(
        np.concatenate([np.zeros((0, 3)), *vertices]),
        np.concatenate([np.zeros((0, 3), np.int64), *(f + first for f, first in zip(faces, firsts, strict=False))]),
    )


def plain_obj(content: bytes) -> str:
    """Only the vertices and faces of an OBJ, with positive vertex indices.

    trimesh counts a negative index back from the end of the file; the format counts it back from the vertices read so far.
    """
    lines, num_vertices = [], 0
    text = "\n".join(number_lines(content)).replace("\\\n", " ")  # a backslash continues the line
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if words and words[0] == "v":
            num_vertices += 1
            lines.append(" ".join(words[:4]))
        elif words and words[0] == "f":
            corners = [int(word.partition("/")[0]) for word in words[1:]]
            corners = [corner if corner > 0 else num_vertices + 1 + corner for corner in corners]
            if min(corners, default=1) < 1:
                raise ValueError(f"line {number}: a face names a vertex before the first")
            if len(corners) > 2:  # two corners make a line
                lines.append(" ".join(("f", *map(str, corners))))
    return "\n".join(lines) + "\n"


def parse_off(content: bytes) -> Mesh:
    """The mesh of Geomview's OFF: counts on the line of ``OFF`` or below it, comments, polygons; colours are ignored.

    It is our own because trimesh 5.2 with current NumPy reads no polygon of more than three corners.
    """
    lines = [words for line in number_lines(content) if (words := line.partition("#")[0].split())]
    head = lines[0][0] if lines else ""
    if not head.startswith("OFF"):
        raise ValueError(f"it begins with {head[:20]!r}, not with OFF")
    rest = [head[3:], *lines[0][1:]] if head != "OFF" else lines[0][1:]  # "OFF8 6 0" is found in ModelNet
    lines = ([rest] if rest else []) + lines[1:]
    if not lines or len(lines[0]) < 2:
        raise ValueError("the numbers of vertices and faces are missing")
    num_vertices, num_faces = int(lines[0][0]), int(lines[0][1])
    if min(num_vertices, num_faces) < 0 or len(lines) != 1 + num_vertices + num_faces:
        fault = "it ends early" if len(lines) < 1 + num_vertices + num_faces else "it goes on"
        raise ValueError(
            f"{fault}: {num_vertices} vertices and {num_faces} faces are announced, {len(lines) - 1} lines follow"
        )
    vertices = np.array([words[:3] for words in lines[1 : 1 + num_vertices]], dtype=np.float64).reshape(-1, 3)
    polygons = []
    for number, words in enumerate(lines[1 + num_vertices : 1 + num_vertices + num_faces]):
        corners = [int(word) for word in words[1 : 1 + int(words[0])]]
        if len(corners) != int(words[0]):
            raise ValueError(f"face {number + 1} announces {words[0]} corners and has {len(corners)}")
        polygons.append(corners)
    return Mesh(vertices, fans(polygons))


def fans(polygons: list[list[int]]) -> np.ndarray:
    """The triangles of polygons; a polygon of two corners has none.  int64 (F, 3)"""
    triangles = [(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)]
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def _checked(mesh: Mesh, label: str) -> Mesh:
    """The mesh without its unused vertices.  Raises ValueError for a mesh that has no surface."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not _is_real(vertices):
        raise ValueError(f"{label}: vertices: numbers (V, 3) are needed, not {vertices.dtype} {vertices.shape}")
    if faces.size == 0:
        raise ValueError(f"{label}: no faces; a mesh needs at least one triangle")
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(f"{label}: faces: integers (F, 3) are needed, not {faces.dtype} {faces.shape}")
    vertices, faces = vertices.astype(np.float64), faces.astype(np.int64)
    if not np.isfinite(vertices).all():
        row = int(np.flatnonzero(~np.isfinite(vertices).all(1))[0])
        raise ValueError(f"{label}: vertex {row + 1} has a coordinate that is no finite number")
    if faces.min() < 0 or faces.max() >= len(vertices):
        row = int(np.flatnonzero((faces < 0).any(1) | (faces >= len(vertices)).any(1))[0])
        raise ValueError(f"{label}: triangle {row + 1} names a vertex that is not there; there are {len(vertices)}")
    used = np.unique(faces)  # unused vertices would shift and enlarge the bounding box
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    if not area > 0:
        raise ValueError(f"{label}: its triangles have no area")
    return Mesh(vertices[used], np.searchsorted(used, faces))


def _line(error: BaseException, path: Path) -> str:
    """A library's message on one line, without the file's folders."""
    return shortened(str(error).replace(str(path), path.name).strip() or type(error).__name__, 200)
