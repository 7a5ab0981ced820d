"""Packs clouds into few bytes for the records."""

from __future__ import annotations

import numpy as np

DRAWN_POINTS = 1024  # a record keeps at most so many points of a cloud
DRAWN_STEP = 1e-4  # their coordinates are rounded to whole multiples of this


def pack(cloud: np.ndarray) -> bytes:
    """The coordinates as little-endian 16-bit multiples of DRAWN_STEP.

    cloud: (n, 3).  Of more than DRAWN_POINTS points, evenly spaced ones in the cloud's order are kept.
    """
    if len(cloud) > DRAWN_POINTS:
        cloud = cloud[np.linspace(0, len(cloud) - 1, DRAWN_POINTS).astype(int)]
    steps = np.clip(np.round(cloud.astype(np.float64) / DRAWN_STEP), 1 - 2**15, 2**15 - 1)
    return steps.astype("<i2").tobytes()


def unpack(content: bytes) -> np.ndarray:
    """The cloud that ``pack`` made into bytes.  float64 (points, 3)"""
    return np.frombuffer(content, "<i2").reshape(-1, 3) * DRAWN_STEP
