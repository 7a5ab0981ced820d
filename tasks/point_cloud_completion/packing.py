"""Clouds as short text, for the records."""

from __future__ import annotations

import base64

import numpy as np

DRAWN_POINTS = 1024  # of each cloud that a record keeps
DRAWN_STEP = 1e-4  # its coordinates are whole multiples


def pack(cloud: np.ndarray) -> str:
    """At most DRAWN_POINTS points (n, 3), evenly spaced in the cloud's order, as base64 of little-endian 16-bit steps."""
    if len(cloud) > DRAWN_POINTS:
        cloud = cloud[np.linspace(0, len(cloud) - 1, DRAWN_POINTS).astype(int)]
    steps = np.clip(np.round(cloud.astype(np.float64) / DRAWN_STEP), 1 - 2**15, 2**15 - 1)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """float64 (points, 3)"""
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, 3) * DRAWN_STEP
