"""Measures a mesh: points spread evenly over its surface, and the points that a depth camera sees from one side."""

from __future__ import annotations

import numpy as np

from tasks.point_cloud_completion.solids import Mesh

PAIRS_AT_ONCE = 2_000_000  # pairs of a triangle and a pixel, which take about 100 MB


def sample_surface(mesh: Mesh, num: int, rng: np.random.Generator) -> np.ndarray:
    """Random points on the surface, uniform by area.  float64 (num, 3)"""
    corners = mesh.vertices[mesh.faces]  # (F, 3, 3)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.linalg.norm(np.cross(first, second), axis=1)
    until = np.cumsum(area)
    # One draw in each of num equal parts of the surface spreads the points more evenly than independent draws.
    places = (np.arange(num) + rng.uniform(size=num)) * (until[-1] / num)
    face = np.searchsorted(until, places, side="right").clip(max=len(area) - 1)
    u, v = rng.uniform(size=(2, num, 1))
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    return corners[face, 0] + u * first[face] + v * second[face]


def view_direction(rng: np.random.Generator) -> np.ndarray:
    """The direction of a camera: from any side, from a little below to well above.  Unit vector (3,)"""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.9)
    return np.array([np.cos(elevation) * np.cos(azimuth), np.sin(elevation), np.cos(elevation) * np.sin(azimuth)])


def visible_points(mesh: Mesh, direction: np.ndarray, resolution: int) -> np.ndarray:
    """The surface points that a parallel camera of resolution² pixels sees: one a pixel, found with a z-buffer.

    direction points from the object to the camera.  Hidden surface is missing.  Returns float64 (n, 3).
    """
    right, up = _camera_axes(direction)
    axes = np.stack((right, up, direction))  # rows; depth grows towards the camera
    corners = (mesh.vertices @ axes.T)[mesh.faces]  # (F, 3, 3): x, y, depth
    flat = corners[..., :2].reshape(-1, 2)
    low, extent = flat.min(0), max(float(np.ptp(flat, axis=0).max()), 1e-12)
    pixel = extent / resolution
    grid = (corners[..., :2] - low) / pixel  # in pixels; the middle of pixel i is at i + 0.5
    first = np.ceil(grid.min(1) - 0.5).astype(np.int64).clip(0)
    last = np.floor(grid.max(1) - 0.5).astype(np.int64).clip(max=resolution - 1)
    size = (last - first + 1).clip(0)
    counts = size.prod(1)
    depth = np.full(resolution * resolution, -np.inf)
    for faces in _chunks(counts):
        _draw(depth, resolution, grid[faces], corners[faces, :, 2], first[faces], size[faces], counts[faces])
    seen = np.flatnonzero(np.isfinite(depth))
    x, y = (low + (np.stack((seen % resolution, seen // resolution), axis=1) + 0.5) * pixel).T
    return np.stack((x, y, depth[seen]), axis=1) @ axes


def _draw(
    depth: np.ndarray,
    resolution: int,
    grid: np.ndarray,
    corner_depth: np.ndarray,
    first: np.ndarray,
    size: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Draws triangles into the z-buffer, with all pixels of their bounding rectangles at once.

    A pixel inside a triangle keeps the depth that is nearest to the camera.
    depth: (pixels,), changed in place.  grid: (f, 3, 2).  corner_depth: (f, 3).  first, size: (f, 2).  counts: (f,).
    """
    face = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = first[face, 0] + number % size[face, 0]
    row = first[face, 1] + number // size[face, 0]
    a, b, c = grid[:, 0], grid[:, 1], grid[:, 2]
    double_area = _cross(b - a, c - a)
    double_area = np.where(double_area == 0, np.nan, double_area)  # a triangle seen edge-on has no pixel inside
    point = np.stack((column + 0.5, row + 0.5), axis=1)
    weight_b = _cross(point - a[face], (c - a)[face]) / double_area[face]
    weight_c = _cross((b - a)[face], point - a[face]) / double_area[face]
    inside = (weight_b >= 0) & (weight_c >= 0) & (weight_b + weight_c <= 1)
    face, weight_b, weight_c = face[inside], weight_b[inside], weight_c[inside]
    za, zb, zc = corner_depth[face].T
    np.maximum.at(depth, (row * resolution + column)[inside], za + weight_b * (zb - za) + weight_c * (zc - za))


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


def _chunks(counts: np.ndarray) -> list[slice]:
    """Slices of consecutive triangles whose rectangles have about PAIRS_AT_ONCE pixels together."""
    group = np.cumsum(counts) // PAIRS_AT_ONCE
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(counts)], strict=True)]


def _camera_axes(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and up of a camera that is held upright (y is up); if it looks straight down, z takes the place of y."""
    upright = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.999 else np.array([0.0, 0.0, 1.0])
    right = np.cross(upright, direction)
    right /= np.linalg.norm(right)
    return right, np.cross(direction, right)
