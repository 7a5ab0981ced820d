"""Racks: what one half hides, the other half shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.point_cloud_completion.scan import sample_surface
from tasks.point_cloud_completion.solids import Mesh, box, joined, moved

NUM_RAILS = 8  # heights at which rails may lie
NUM_RIDERS = 4  # rails that carry a block
PITCH = 6  # from one rail to the next
COLUMN = 24  # from one column of the right half to the next
RIGHT = 64
PLACES = (4, 44)  # the least and the greatest place of a rider on its rail
SIZE = 4  # of all blocks
MIDDLE = (70, 23, -24)  # of the whole rack; becomes the origin
UNIT = 80  # so many units are 1 in the clouds' coordinates
SUBUNIT = 16  # seen points lie at whole multiples of 1 / SUBUNIT units


class Rack(NamedTuple):
    """The riders' rails and places, in the order of the lower half's columns."""

    rails: tuple[int, ...]
    places: tuple[int, ...]


def make_rack(rng: np.random.Generator) -> Rack:
    """A rack with random rails and places."""
    rails = rng.permutation(NUM_RAILS)[:NUM_RIDERS].tolist()
    places = rng.integers(PLACES[0], PLACES[1], NUM_RIDERS, endpoint=True).tolist()
    return Rack(tuple(rails), tuple(places))


def mesh_of_rack(rack: Rack) -> Mesh:
    """The surface of all blocks, in the clouds' coordinates: x to the right, y up, z towards the camera."""
    parts = []
    for column, (rail, place) in enumerate(zip(*rack, strict=True)):
        y, x = rail * PITCH, RIGHT + column * COLUMN
        parts += [_block(place, y, 0, 1), _block(x, y, 0, 1), _block(x, y, -place, SIZE)]
    mesh = joined(parts)
    return Mesh((mesh.vertices - MIDDLE) / UNIT, mesh.faces)


def seen_of_rack(rack: Rack, num: int, rng: np.random.Generator) -> np.ndarray:
    """What a camera in front of the rack sees.  float64 (n, 3), n at most num

    It sees a point in each square unit of the blocks' front sides; farthest-point sampling keeps ``num`` of them.
    """
    places = []
    for column, (rail, place) in enumerate(zip(*rack, strict=True)):
        y, x = rail * PITCH, RIGHT + column * COLUMN
        for left in (place, x):
            right, up = np.meshgrid(np.arange(SIZE) + left, np.arange(SIZE) + y)
            places.append(np.stack((right.ravel(), up.ravel(), np.zeros(SIZE * SIZE, np.int64)), axis=1))
    corners = np.concatenate(places)
    points = corners * SUBUNIT + rng.integers(0, SUBUNIT, corners.shape, endpoint=True) * (1, 1, 0)
    points = points[_spread(points, min(num, len(points)))]
    return (points / SUBUNIT - MIDDLE) / UNIT


def scan_rack(
    rack: Rack, num_input: int, num_target: int, num_views: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Partial clouds of a rack, which differ in the points that are kept, and the complete one (num_target, 3)."""
    complete = sample_surface(mesh_of_rack(rack), num_target, rng)
    return [seen_of_rack(rack, num_input, rng) for _ in range(num_views)], complete


def _block(x: int, y: int, z: int, thickness: int) -> Mesh:
    """A block by its left, lower and front sides."""
    return moved(box(SIZE, SIZE, thickness), x + SIZE / 2, y + SIZE / 2, z - thickness / 2)


def _spread(points: np.ndarray, num: int) -> np.ndarray:
    """Farthest-point sampling in whole numbers, which has no rounding: the indices of the points that are kept.

    points: int64 (n, 3).  Starts at the first point.
    """
    x, y, z = points.T
    distance = np.full(len(points), np.iinfo(np.int64).max)
    chosen = np.zeros(num, np.int64)
    for number in range(1, num):
        last = chosen[number - 1]
        np.minimum(distance, (x - x[last]) ** 2 + (y - y[last]) ** 2 + (z - z[last]) ** 2, out=distance)
        chosen[number] = distance.argmax()
    return chosen
