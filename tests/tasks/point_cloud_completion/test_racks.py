"""Racks of rails: what is hidden follows from what is seen, by plain Python; the same bytes on every machine."""

import hashlib

import numpy as np

from tasks.point_cloud_completion.racks import (
    COLUMN,
    MIDDLE,
    NUM_RAILS,
    NUM_RIDERS,
    PITCH,
    PLACES,
    RIGHT,
    SIZE,
    UNIT,
    make_rack,
    scan_rack,
    seen_of_rack,
)


def racks(count):
    """Racks of the seeds 0, 1, …"""
    return [make_rack(np.random.default_rng(seed)) for seed in range(count)]


def in_units(cloud):
    """The cloud's points as lists of whole units, with the rack's corner at the origin."""
    return [
        [c * UNIT + middle for c, middle in zip(point, MIDDLE, strict=True)] for point in np.asarray(cloud).tolist()
    ]


def hidden_places(seen):
    """How deep the hidden block of each column lies, from the seen points alone."""
    place_on, rail_of = {}, {}
    for x, y, z in in_units(seen):
        assert z == 0
        rail = int(y // PITCH)
        if x >= RIGHT:
            rail_of[int((x - RIGHT) // COLUMN)] = rail
        else:
            place_on[rail] = min(place_on.get(rail, x), x)
    assert sorted(place_on) == sorted(rail_of.values())
    return [int(place_on[rail_of[column]]) for column in range(NUM_RIDERS)]


def test_what_is_seen_tells_every_hidden_place():
    for seed, rack in enumerate(racks(30)):
        seen = seen_of_rack(rack, 10_000, np.random.default_rng(seed))  # all points that the camera sees
        assert hidden_places(seen) == list(rack.places)


def test_the_complete_cloud_has_a_hidden_block_where_the_left_half_says():
    for seed, rack in enumerate(racks(5)):
        _, complete = scan_rack(rack, 64, 3000, 1, np.random.default_rng(seed))
        right = [point for point in in_units(complete) if point[0] >= RIGHT]
        for column, (rail, place) in enumerate(zip(rack.rails, rack.places, strict=True)):
            own = [point for point in right if (point[0] - RIGHT) // COLUMN == column]
            assert {y // PITCH for _, y, _ in own} == {rail}
            behind = [-z for _, _, z in own if -z > SIZE + 1e-3]
            assert place - 1e-3 <= min(behind) <= place + 1
            assert place + SIZE - 1 <= max(behind) <= place + SIZE + 1e-3


def test_neither_column_nor_rail_tells_the_place():
    everything = racks(800)
    assert all(len(set(rack.rails)) == NUM_RIDERS and set(rack.rails) <= set(range(NUM_RAILS)) for rack in everything)
    places = np.array([rack.places for rack in everything], float)
    rails = np.array([rack.rails for rack in everything], float)
    assert (places.min(), places.max()) == PLACES
    assert np.abs(places.mean(0) - sum(PLACES) / 2).max() < 1.5
    assert abs(np.corrcoef(places.ravel(), rails.ravel())[0, 1]) < 0.06
    assert np.abs(rails.mean(0) - (NUM_RAILS - 1) / 2).max() < 0.2


def test_kept_points_are_seen_points_and_spread():
    rack = racks(1)[0]
    everything = {tuple(point) for point in seen_of_rack(rack, 10_000, np.random.default_rng(3)).tolist()}
    kept = seen_of_rack(rack, 32, np.random.default_rng(3))
    assert len({tuple(point) for point in kept.tolist()} & everything) == 32
    apart = np.linalg.norm(kept[:, None] - kept, axis=2) + np.eye(32)
    assert apart.min() > 1 / UNIT
    in_half = [int(x >= RIGHT) * 100 + int(y // PITCH) for x, y, _ in in_units(kept)]
    assert min(in_half.count(place) for place in set(in_half)) >= 3
    assert len(set(in_half)) == 2 * NUM_RIDERS


def test_a_seed_gives_the_same_bytes_on_every_machine(make_task):
    digest = hashlib.sha256()
    for seed, rack in enumerate(racks(20)):
        (seen,), complete = scan_rack(rack, 32, 64, 1, np.random.default_rng(seed))
        digest.update(repr(tuple(rack)).encode())
        digest.update(seen.astype("<f4").tobytes())
        digest.update(np.round(complete, 5).astype("<f4").tobytes())
    assert digest.hexdigest() == "aa14c835b6558fa5f5a0113921ae23af6368cc7fef47a604c855c4ee5d1b6f65"
    task = make_task(data={"name": "racks"})
    assert task.data.splits.fingerprint == "70c089f0200857ba0de58576c790cd369e95b739ff022a79b578208b81c2bbb8"
    assert task.data.splits.embedded
    assert task.data.categories == ("rack",)
