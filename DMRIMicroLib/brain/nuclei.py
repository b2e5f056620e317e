"""Where the deep grey nuclei lie in MNI space: tissue maps do not tell them from cortex.

Centres after the regions of N. Tzourio-Mazoyer et al., NeuroImage 15 (2002) 273-289; half axes
were chosen so that the ellipsoids hold the nuclei and stay off the cortex. Inside them the tissue
map decides what is grey.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUCLEI = {
    "thalamus": ((11.5, -18.0, 7.5), (10.5, 14.5, 9.0)),
    "caudate head": ((12.5, 13.0, 6.0), (7.0, 11.0, 11.5)),
    "caudate body": ((16.0, -2.0, 20.0), (5.5, 16.0, 6.0)),
    "putamen": ((26.0, 3.0, 0.5), (7.5, 17.5, 11.5)),
    "pallidum": ((19.0, -2.5, -0.5), (6.5, 9.5, 7.0)),
    "red nucleus and substantia nigra": ((7.5, -18.5, -10.5), (7.0, 7.5, 6.0)),
    "dentate nucleus": ((16.0, -57.0, -35.0), (8.0, 9.0, 7.0)),
}
"""Right-hand centre and half axes [mm], RAS; the left ones are mirrored."""

MYELINATED = 0.5
"""Share of what a map calls white inside a nucleus that is grey there: iron and myelin make the
pallidum and the lateral thalamus look like white matter in T1 contrast (value chosen)."""

EDGE = 0.15
"""Softness of an ellipsoid's edge, as a share of its half axes."""


def deep_region(points: NDArray) -> NDArray[np.float32]:
    """How far points lie inside a nucleus, 0 to 1: (..., 3) MNI millimetres -> (...)."""
    inside = np.zeros(points.shape[:-1], np.float32)
    right = np.abs(points[..., 0])
    for centre, half in NUCLEI.values():
        radius = ((right - centre[0]) / half[0]) ** 2
        for axis in (1, 2):
            radius = radius + ((points[..., axis] - centre[axis]) / half[axis]) ** 2
        soft = 0.5 - 0.5 * np.tanh((np.sqrt(radius) - 1) / EDGE)
        inside = np.maximum(inside, soft.astype(np.float32))
    return inside


def with_deep(white: NDArray, grey: NDArray, csf: NDArray, points: NDArray) -> NDArray[np.float32]:
    """Split grey matter into cortex and deep nuclei: three (x, y, z) -> (4, x, y, z) fractions."""
    region = deep_region(points)
    taken = white * region * MYELINATED
    return np.stack([white - taken, grey * (1 - region), grey * region + taken, csf]).astype(
        np.float32
    )
