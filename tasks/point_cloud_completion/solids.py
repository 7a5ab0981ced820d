"""The embedded shapes: a family of solids and of furniture-like assemblies, each with random proportions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

SIDES = 20  # a circle is drawn as a polygon with so many corners


class Mesh(NamedTuple):
    """Triangles in space; y is up."""

    vertices: np.ndarray  # float64 (V, 3)
    faces: np.ndarray  # int64 (F, 3)


def make_solid(category: str, rng: np.random.Generator) -> Mesh:
    """One shape of the category, in its unit box."""
    return unit_box(SOLIDS[category](rng))


def unit_box(mesh: Mesh) -> Mesh:
    """The mesh with the middle of its bounding box at the origin and its largest side 1."""
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    # Rounded, because mathematical libraries differ in the last bits.
    return Mesh(np.round((mesh.vertices - (low + high) / 2) / max(float((high - low).max()), 1e-12), 6), mesh.faces)


# Parts.  The middle of each is at the origin.


def box(width: float, height: float, depth: float) -> Mesh:
    """A box by its three sides."""
    corners = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    quads = np.array([(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)])
    return Mesh(corners * (width, height, depth), _split_quads(quads))


def frustum(bottom: float, top: float, height: float, *, open_ends: bool = False) -> Mesh:
    """A cylinder, a cone or a truncated cone along y, by its two radii."""
    turn = np.arange(SIDES) * (2 * np.pi / SIDES)
    ring = np.stack((np.cos(turn), np.zeros(SIDES), np.sin(turn)), axis=1)
    low, high = ring * bottom + (0, -height / 2, 0), ring * top + (0, height / 2, 0)
    now, after = np.arange(SIDES), (np.arange(SIDES) + 1) % SIDES
    faces = _split_quads(np.stack((now, after, after + SIDES, now + SIDES), axis=1))
    ends = [(low, (0, -height / 2, 0)), (high, (0, height / 2, 0))]
    vertices = [low, high, *(np.array([middle]) for _, middle in ends)]
    if not open_ends:
        fans = [
            np.stack((now + end * SIDES, after + end * SIDES, np.full(SIDES, 2 * SIDES + end)), 1) for end in (0, 1)
        ]
        faces = np.concatenate((faces, *fans))
    return Mesh(np.concatenate(vertices), faces)


def torus(ring: float, tube: float) -> Mesh:
    """A ring around y."""
    return _revolved(
        lambda turn: (ring + tube * np.cos(turn), tube * np.sin(turn)),
        2 * np.pi * np.arange(SIDES) / SIDES,
        closed=True,
    )


def ellipsoid(width: float, height: float, depth: float) -> Mesh:
    """An ellipsoid by its three diameters."""
    mesh = _revolved(lambda turn: (np.sin(turn), -np.cos(turn)), np.linspace(0, np.pi, SIDES // 2 + 1), closed=False)
    return Mesh(mesh.vertices * (width / 2, height / 2, depth / 2), mesh.faces)


def plate(root: float, tip: float, span: float, sweep: float, thickness: float) -> Mesh:
    """A wing from x = 0 to x = ``span``: its chord goes from root to tip, and the tip lies ``sweep`` further back (−z)."""
    mesh = box(span, thickness, 1.0)
    outside = mesh.vertices[:, 0] > 0
    chord = np.where(outside, tip, root)
    z = mesh.vertices[:, 2] * chord - np.where(outside, sweep, 0.0)
    return Mesh(np.stack((mesh.vertices[:, 0] + span / 2, mesh.vertices[:, 1], z), axis=1), mesh.faces)


def moved(mesh: Mesh, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
    """The mesh moved by (x, y, z)."""
    return Mesh(mesh.vertices + np.array((x, y, z)), mesh.faces)


def turned(mesh: Mesh, axis: str, angle: float) -> Mesh:
    """The mesh turned around the axis x, y or z."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    vertices = mesh.vertices.copy()
    cos, sin = np.cos(angle), np.sin(angle)
    vertices[:, first] = cos * mesh.vertices[:, first] - sin * mesh.vertices[:, second]
    vertices[:, second] = sin * mesh.vertices[:, first] + cos * mesh.vertices[:, second]
    return Mesh(vertices, mesh.faces)


def mirrored(mesh: Mesh) -> Mesh:
    """The mesh mirrored at the plane x = 0."""
    return Mesh(mesh.vertices * (-1, 1, 1), mesh.faces)


def joined(parts: Sequence[Mesh]) -> Mesh:
    """One mesh of all parts."""
    firsts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    faces = [part.faces + first for part, first in zip(parts, firsts, strict=True)]
    return Mesh(np.concatenate([part.vertices for part in parts]), np.concatenate(faces))


def _split_quads(quads: np.ndarray) -> np.ndarray:
    return np.concatenate((quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]))


def _revolved(
    profile: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], along: np.ndarray, *, closed: bool
) -> Mesh:
    """The surface that a profile makes when it turns around y; profile(along) gives distances from y, and heights."""
    radius, height = profile(along)
    turn = 2 * np.pi * np.arange(SIDES) / SIDES
    around = np.stack((np.cos(turn), np.zeros(SIDES), np.sin(turn)), axis=1)  # (sides, 3)
    vertices = radius[:, None, None] * around + height[:, None, None] * np.array((0.0, 1.0, 0.0))
    count = len(along)
    i, j = np.meshgrid(np.arange(count if closed else count - 1), np.arange(SIDES), indexing="ij")
    below, above, right = i * SIDES, (i + 1) % count * SIDES, (j + 1) % SIDES
    quads = np.stack((below + j, below + right, above + right, above + j), axis=-1).reshape(-1, 4)
    return Mesh(vertices.reshape(-1, 3), _split_quads(quads))


# Categories.


def _box(rng: np.random.Generator) -> Mesh:
    """A box, or two or three boxes on top of each other."""
    height, parts = 0.0, []
    width, depth = rng.uniform(0.4, 1.0, 2)
    for _ in range(rng.integers(1, 4)):
        tall = rng.uniform(0.2, 0.8)
        parts.append(moved(box(width, tall, depth), y=height + tall / 2))
        height += tall
        width, depth = width * rng.uniform(0.4, 0.9), depth * rng.uniform(0.4, 0.9)
    return joined(parts)


def _cylinder(rng: np.random.Generator) -> Mesh:
    """A cylinder or truncated cone, upright or lying, some with a second one on top."""
    radius, height = rng.uniform(0.15, 0.5), rng.uniform(0.5, 1.2)
    top = radius * rng.uniform(0.3, 1.0)
    parts = [frustum(radius, top, height)]
    if rng.uniform() < 0.5:
        neck, tall = top * rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.6)
        parts.append(moved(frustum(neck, neck * rng.uniform(0.5, 1.3), tall), y=(height + tall) / 2))
    mesh = joined(parts)
    return turned(mesh, "z", np.pi / 2) if rng.uniform() < 0.3 else mesh


def _torus(rng: np.random.Generator) -> Mesh:
    """A ring that lies, stands or leans."""
    return turned(torus(0.5, rng.uniform(0.06, 0.24)), "x", rng.uniform(0, np.pi / 2))


def _legs(rng: np.random.Generator, width: float, depth: float, height: float, thickness: float) -> list[Mesh]:
    """Four legs, square or round, below the corners of a board whose lower side is at y = 0; some are tied by bars."""
    x, z = width / 2 - thickness / 2, depth / 2 - thickness / 2
    square = rng.uniform() < 0.5
    leg = box(thickness, height, thickness) if square else frustum(thickness * 0.35, thickness / 2, height)
    parts = [moved(leg, sx * x, -height / 2, sz * z) for sx in (-1, 1) for sz in (-1, 1)]
    if rng.uniform() < 0.4:
        low = -height * rng.uniform(0.5, 0.8)
        bar = box(thickness * 0.6, thickness * 0.6, 2 * z - thickness)
        parts += [moved(bar, sx * x, low) for sx in (-1, 1)]
    return parts


def _pillar(rng: np.random.Generator, width: float, height: float) -> list[Mesh]:
    """One leg on a round foot, below y = 0."""
    foot = rng.uniform(0.03, 0.08)
    radius = width * rng.uniform(0.04, 0.1)
    leg = moved(frustum(radius, radius, height - foot), y=-(height - foot) / 2)
    return [leg, moved(frustum(width * rng.uniform(0.25, 0.45), radius * 1.2, foot), y=foot / 2 - height)]


def _chair(rng: np.random.Generator) -> Mesh:
    width, depth, height = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6), rng.uniform(0.3, 0.55)
    board, thickness = rng.uniform(0.03, 0.12), rng.uniform(0.03, 0.08)
    tall, lean = rng.uniform(0.3, 0.7), rng.uniform(0, 0.25)
    parts = [moved(box(width, board, depth), y=board / 2)]
    parts += _legs(rng, width, depth, height, thickness) if rng.uniform() < 0.75 else _pillar(rng, width, height)
    slats = int(rng.integers(1, 6))
    wide = width if slats == 1 else width / (2 * slats - 1)
    for slat in range(slats):
        back = moved(box(wide, tall, thickness), y=tall / 2)
        x = 0.0 if slats == 1 else 2 * slat * wide - (width - wide) / 2
        parts.append(moved(turned(back, "x", -lean), x, board, thickness / 2 - depth / 2))
    if slats > 1:
        top = moved(box(width, thickness * 1.5, thickness), y=tall)
        parts.append(moved(turned(top, "x", -lean), 0, board, thickness / 2 - depth / 2))
    if rng.uniform() < 0.4:
        high = rng.uniform(0.15, 0.28)
        rest = [
            moved(box(thickness, thickness, depth * 0.9), y=high),
            moved(box(thickness, high, thickness), 0, high / 2, depth * 0.4),
        ]
        arm = moved(joined(rest), width / 2 + thickness / 2, board)
        parts += [arm, mirrored(arm)]
    return joined(parts)


def _table(rng: np.random.Generator) -> Mesh:
    width, depth, height = rng.uniform(0.6, 1.4), rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.8)
    board, thickness = rng.uniform(0.02, 0.08), rng.uniform(0.03, 0.1)
    kind = rng.integers(3)
    if kind == 0:
        radius = depth * 0.7
        return joined([moved(frustum(radius, radius, board), y=board / 2), *_pillar(rng, 2 * radius, height)])
    parts = [moved(box(width, board, depth), y=board / 2), *_legs(rng, width, depth, height, thickness)]
    if kind == 2:
        low = height * rng.uniform(0.3, 0.8)
        parts.append(moved(box(width - 2 * thickness, board, depth - 2 * thickness), y=-low))
    return joined(parts)


def _lamp(rng: np.random.Generator) -> Mesh:
    height, radius = rng.uniform(0.5, 1.3), rng.uniform(0.12, 0.3)
    tall = rng.uniform(0.2, 0.4)
    foot = rng.uniform(0.02, 0.1)
    parts = [moved(frustum(radius * rng.uniform(0.5, 1.1), radius * rng.uniform(0.2, 0.5), foot), y=foot / 2)]
    stem = rng.uniform(0.01, 0.04)
    parts.append(moved(frustum(stem, stem, height), y=foot + height / 2))
    beads = int(rng.integers(0, 4))
    parts += [
        moved(ellipsoid(4.5 * stem, 4.5 * stem, 4.5 * stem), y=foot + height * (bead + 1) / (beads + 1))
        for bead in range(beads)
    ]
    top = foot + height
    if rng.uniform() < 0.7:
        parts.append(moved(frustum(radius, radius * rng.uniform(0.3, 0.9), tall, open_ends=True), y=top))
    else:
        parts.append(moved(ellipsoid(2 * radius, tall, 2 * radius), y=top + tall / 2))
    return joined(parts)


def _aeroplane(rng: np.random.Generator) -> Mesh:
    """A body along z with its nose at +z, two wings and a tail; some have engines below the wings."""
    radius, length = rng.uniform(0.045, 0.09), rng.uniform(0.7, 1.1)
    parts = [turned(ellipsoid(2 * radius, length, 2 * radius), "x", np.pi / 2)]
    span, root = rng.uniform(0.3, 0.6), rng.uniform(0.12, 0.25)
    sweep, at = rng.uniform(0.0, 0.3), rng.uniform(-0.05, 0.15) * length
    thickness, high = rng.uniform(0.01, 0.03), rng.uniform(-0.6, 0.6) * radius
    wing = moved(plate(root, root * rng.uniform(0.3, 0.9), span, sweep, thickness), 0.0, high, at)
    wing = turned(wing, "z", rng.uniform(-0.05, 0.15))
    parts += [wing, mirrored(wing)]
    for engine in range(int(rng.integers(0, 3))):
        share = 0.35 + 0.3 * engine
        size = radius * rng.uniform(0.35, 0.6)
        body = turned(frustum(size, size, size * 4), "x", np.pi / 2)
        body = moved(body, span * share, high - size * 1.3, at - sweep * share + root * 0.3)
        parts += [body, mirrored(body)]
    end, tail = -length * 0.42, span * rng.uniform(0.25, 0.45)
    fin = turned(plate(root * 0.6, root * 0.35, tail, tail * 0.6, thickness), "z", np.pi / 2)
    parts.append(moved(fin, 0, 0, end))
    flat = moved(plate(root * 0.5, root * 0.3, tail, sweep * 0.4, thickness), 0, tail * (rng.uniform() < 0.3), end)
    return joined([*parts, flat, mirrored(flat)])


SOLIDS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "aeroplane": _aeroplane,
    "box": _box,
    "chair": _chair,
    "cylinder": _cylinder,
    "lamp": _lamp,
    "table": _table,
    "torus": _torus,
}
