"""Racks: the place of a hidden block is seen elsewhere.

A rack has rails at several heights.  On the left the rails run across, and on some of them stands a block, the rider.  On the
right each of these rails is there once more, but runs away from the viewer: a plate at its front end hides a block behind it.
These rails stand in columns, in random order.  A hidden block is as far from its plate as the rider of the same height is from
the left end of its rail.  So the height of a plate tells the rail, and the rail's rider tells the hidden place.  Everything is
measured in whole units, so that all machines make the same bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.point_cloud_completion.scan import sample_surface
from tasks.point_cloud_completion.solids import Mesh, box

NUM_RAILS = 8  # heights at which rails may lie
NUM_RIDERS = 4  # rails that are there
PITCH = 6  # from one height to the next
RIGHT = 64  # where the right half begins
COLUMN = 24  # from one column of the right half to the next
PLACES = (4, 44)  # least and greatest distance of a rider from the left, and of a hidden block from the front
SIZE = 4  # width and height of riders, plates and blocks
MIDDLE = (70, 23, -24)  # of the whole rack; becomes the origin
UNIT = 80  # so many units are 1 in the clouds' coordinates
SUBUNIT = 16  # seen points lie at whole multiples of 1 / SUBUNIT units
CUBE = box(1, 1, 1)


class Rack(NamedTuple):
    """The rails in the order of the columns on the right."""

    rails: tuple[int, ...]  # numbers of their heights, from the lowest
    places: tuple[int, ...]  # of their riders and hidden blocks


def make_rack(rng: np.random.Generator) -> Rack:
    """A rack with random rails, places and order."""
    rails = rng.permutation(NUM_RAILS)[:NUM_RIDERS].tolist()
    places = rng.integers(PLACES[0], PLACES[1], NUM_RIDERS, endpoint=True).tolist()
    return Rack(tuple(rails), tuple(places))


def mesh_of_rack(rack: Rack) -> Mesh:
    """The surface of riders, plates and hidden blocks, in the clouds' coordinates: x to the right, y up, z towards the camera.

    Riders and plates are 1 unit thick, hidden blocks are cubes.
    """
    low, size = [], []
    for column, (rail, place) in enumerate(zip(*rack, strict=True)):
        x, y = RIGHT + column * COLUMN, rail * PITCH
        low += [(place, y, -1), (x, y, -1), (x, y, -place - SIZE)]
        size += [(SIZE, SIZE, 1), (SIZE, SIZE, 1), (SIZE, SIZE, SIZE)]
    corners = (np.array(low)[:, None] + np.array(size)[:, None] * (CUBE.vertices + 0.5)).reshape(-1, 3)
    firsts = len(CUBE.vertices) * np.arange(len(low))
    return Mesh((corners - MIDDLE) / UNIT, (firsts[:, None, None] + CUBE.faces).reshape(-1, 3))


def seen_of_rack(rack: Rack, num: int, rng: np.random.Generator) -> np.ndarray:
    """What a camera in front of the rack sees.  float64 (n, 3), n at most num, all at z = 0 of the rack

    It sees a point in each square unit of the fronts of riders and plates; farthest-point sampling keeps ``num`` of them.
    """
    # From the lowest rail to the highest, so that the order tells nothing about the columns.
    riders = [(place, rail) for rail, place in sorted(zip(*rack, strict=True))]
    plates = [(RIGHT + column * COLUMN, rail) for column, rail in enumerate(rack.rails)]
    corners = []
    for left, rail in (*riders, *plates):
        x, y = np.meshgrid(np.arange(SIZE) + left, np.arange(SIZE) + rail * PITCH)
        corners.append(np.stack((x.ravel(), y.ravel()), axis=1))
    points = np.concatenate(corners) * SUBUNIT
    points += rng.integers(0, SUBUNIT, points.shape, endpoint=True)
    points = points[_spread(points, min(num, len(points)))]
    front = np.concatenate((points / SUBUNIT, np.zeros((len(points), 1))), axis=1)
    return (front - MIDDLE) / UNIT


def scan_rack(
    rack: Rack, num_input: int, num_target: int, num_views: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Partial clouds of a rack, which differ in the points that are kept, and the complete one (num_target, 3)."""
    complete = sample_surface(mesh_of_rack(rack), num_target, rng)
    return [seen_of_rack(rack, num_input, rng) for _ in range(num_views)], complete


def _spread(points: np.ndarray, num: int) -> np.ndarray:
    """Farthest-point sampling in whole numbers, which has no rounding: the indices of the points that are kept.

    points: int64 (n, 2).  Starts at the first point.
    """
    x, y = points.T
    distance = np.full(len(points), np.iinfo(np.int64).max)
    chosen = np.zeros(num, np.int64)
    for number in range(1, num):
        last = chosen[number - 1]
        np.minimum(distance, (x - x[last]) ** 2 + (y - y[last]) ** 2, out=distance)
        chosen[number] = distance.argmax()
    return chosen
