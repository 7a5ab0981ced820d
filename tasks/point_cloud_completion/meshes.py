"""Reads meshes (.npz, .obj, .off, .ply) and clouds (.pcd, .h5, .npy, .ply, .npz).

Every fault is one line that names the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tasks.point_cloud_completion.pcd import read_pcd
from tasks.point_cloud_completion.solids import Mesh

MESHES = (".npz", ".obj", ".off", ".ply")
CLOUDS = (".pcd", ".h5", ".npy", ".ply", ".npz")
# NumPy and trimesh raise these for files that are cut off or have another format.
FAULTS = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    OSError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
)


def read_mesh(path: Path) -> Mesh:
    """The mesh of a file, its polygons cut into fans of triangles.

    Raises ValueError that names the file, the fault, and what is allowed.
    """
    suffix = path.suffix.lower()
    if suffix not in MESHES:
        raise ValueError(f"{path.name}: meshes are {', '.join(MESHES)}")
    try:
        if suffix == ".npz":
            mesh = _npz_mesh(path)
        elif suffix == ".off":
            mesh = parse_off(path.read_text(encoding="utf-8"))
        else:
            mesh = _trimesh(path)
    except FAULTS as error:
        raise ValueError(f"{path.name}: can't be read as {suffix[1:].upper()}: {_line(error)}") from error
    return _checked(mesh, path)


def read_cloud(path: Path) -> np.ndarray:
    """The cloud of a file, float32 (points, 3).  Raises ValueError that names the file, the fault, and what is allowed."""
    suffix = path.suffix.lower()
    if suffix not in CLOUDS:
        raise ValueError(f"{path.name}: clouds are {', '.join(CLOUDS)}")
    try:
        cloud = _read_cloud(path, suffix)
    except FAULTS as error:
        raise ValueError(f"{path.name}: can't be read as {suffix[1:].upper()}: {_line(error)}") from error
    if cloud.ndim != 2 or cloud.shape[1] < 3 or not np.issubdtype(cloud.dtype, np.number):
        raise ValueError(f"{path.name}: a cloud of numbers (points, 3) is needed, not {cloud.dtype} {cloud.shape}")
    cloud = np.ascontiguousarray(cloud[:, :3], dtype=np.float32)
    if not len(cloud):
        raise ValueError(f"{path.name}: no points; at least one is needed")
    if not np.isfinite(cloud).all():
        row = int(np.flatnonzero(~np.isfinite(cloud).all(1))[0])
        raise ValueError(f"{path.name}: point {row + 1} has a coordinate that is no finite number")
    return cloud


def _read_cloud(path: Path, suffix: str) -> np.ndarray:
    if suffix == ".pcd":
        return read_pcd(path)
    if suffix == ".h5":
        import h5py

        with h5py.File(path, "r") as file:
            if "data" not in file:
                raise ValueError(f"no data set 'data' in it, but {', '.join(file) or 'nothing'}")
            return np.asarray(file["data"])
    if suffix == ".ply":
        return _trimesh(path).vertices
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        names = list(content)
        if len(names) != 1 and "points" not in names:
            raise ValueError(f"one array is needed, or one called points; there are {', '.join(names) or 'none'}")
        return content["points" if "points" in names else names[0]]


def _npz_mesh(path: Path) -> Mesh:
    with np.load(path, allow_pickle=False) as content:
        missing = [name for name in ("vertices", "faces") if name not in content]
        if missing:
            raise ValueError(f"no array {' and no array '.join(missing)}; there are {', '.join(content) or 'none'}")
        return Mesh(content["vertices"], content["faces"])


def _trimesh(path: Path) -> Mesh:
    """Reads OBJ and PLY; a PLY without faces gives its points."""
    import trimesh

    suffix = path.suffix.lower()
    content = path.read_bytes()
    if suffix == ".obj":
        content = plain_obj(content.decode("utf-8")).encode()
    # From bytes and not from a path, so that trimesh looks for no material or texture beside the file.
    loaded: Any = trimesh.load(io.BytesIO(content), file_type=suffix[1:], process=False)
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


def plain_obj(text: str) -> str:
    """Only the vertices and faces of an OBJ, with positive vertex indices.

    trimesh counts a negative index back from the end of the file; the format counts it back from the vertices read so far.
    """
    lines, num_vertices = [], 0
    for number, line in enumerate(text.removeprefix("\ufeff").replace("\\\n", " ").splitlines(), 1):
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


def parse_off(text: str) -> Mesh:
    """The mesh of Geomview's OFF: counts on the line of ``OFF`` or below it, comments, polygons; colours are ignored.

    It is our own because trimesh 5.2 with current NumPy reads no polygon of more than three corners.
    """
    lines = [words for line in text.removeprefix("\ufeff").splitlines() if (words := line.partition("#")[0].split())]
    head = lines[0][0] if lines else ""
    if not head.startswith("OFF"):
        raise ValueError(f"it begins with {head[:20]!r}, not with OFF")
    rest = [head[3:], *lines[0][1:]] if head != "OFF" else lines[0][1:]  # "OFF8 6 0" is found in ModelNet
    lines = ([rest] if rest else []) + lines[1:]
    if not lines or len(lines[0]) < 2:
        raise ValueError("the numbers of vertices and faces are missing")
    num_vertices, num_faces = int(lines[0][0]), int(lines[0][1])
    if len(lines) < 1 + num_vertices + num_faces:
        raise ValueError(
            f"it ends early: {num_vertices} vertices and {num_faces} faces are announced, {len(lines) - 1} lines follow"
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


def _checked(mesh: Mesh, path: Path) -> Mesh:
    """The mesh without its unused vertices.  Raises ValueError for a mesh that has no surface."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.issubdtype(vertices.dtype, np.floating):
        raise ValueError(
            f"{path.name}: vertices: floating-point (V, 3) is needed, not {vertices.dtype} {vertices.shape}"
        )
    if faces.size == 0:
        raise ValueError(f"{path.name}: no faces; a mesh needs at least one triangle")
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(f"{path.name}: faces: integers (F, 3) are needed, not {faces.dtype} {faces.shape}")
    vertices, faces = vertices.astype(np.float64), faces.astype(np.int64)
    if not np.isfinite(vertices).all():
        row = int(np.flatnonzero(~np.isfinite(vertices).all(1))[0])
        raise ValueError(f"{path.name}: vertex {row + 1} has a coordinate that is no finite number")
    if faces.min() < 0 or faces.max() >= len(vertices):
        row = int(np.flatnonzero((faces < 0).any(1) | (faces >= len(vertices)).any(1))[0])
        raise ValueError(f"{path.name}: triangle {row + 1} names a vertex that is not there; there are {len(vertices)}")
    used = np.unique(faces)  # unused vertices would shift and enlarge the bounding box
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    if not area > 0:
        raise ValueError(f"{path.name}: its triangles have no area")
    return Mesh(vertices[used], np.searchsorted(used, faces))


def _line(error: BaseException) -> str:
    """The first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
