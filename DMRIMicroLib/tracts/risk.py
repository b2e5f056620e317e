"""How near a bundle runs to a lesion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from .regions import Region, dense
from .tractogram import Tractogram

STEP = 0.5
"""Lines are followed in steps of this length [mm]."""

CANDIDATES = 8
"""Voxels of the nearest centres, among which the one is sought whose faces are nearest."""


@dataclass(frozen=True)
class AtRisk:
    """A bundle and the lesion.

    Attributes
    ----------
    name : str
    lines : int
        Streamlines of the bundle.
    distance_mm : float
        Least distance of any line from the lesion's border; 0 if one passes through it.
    nearest : (float, float, float)
        Where that is, RAS millimetres.
    lines_within, lines_through : int
        Lines within the distance asked for, and lines that pass through the lesion.
    near : bool
        Whether any line is within that distance.
    """

    name: str
    lines: int
    distance_mm: float
    nearest: tuple[float, float, float]
    lines_within: int
    lines_through: int
    near: bool


def at_risk(name: str, lines: Tractogram, lesion: Region, distance: float) -> AtRisk:
    """Measure how far a bundle of one line or more is from a lesion; `distance` in mm."""
    points, owner = dense(lines, STEP)
    near = _hopeful(lesion, points, owner)
    points, owner = points[near], owner[near]
    away = distance_from(lesion, points)
    closest = np.full(len(lines), np.inf)
    np.minimum.at(closest, owner, away)
    first = int(away.argmin())
    place = tuple(round(float(v), 2) for v in points[first])
    return AtRisk(
        name,
        len(lines),
        round(float(away[first]), 2),
        place,  # type: ignore[arg-type]
        int((closest <= distance).sum()),
        int((closest <= 0).sum()),
        bool(away[first] <= distance),
    )


def _hopeful(lesion: Region, points: NDArray, owner: NDArray) -> NDArray[np.bool_]:
    """Which points can be the nearest of their line: (n, 3), (n,) -> (n,) bool.

    The way to a voxel's face is shorter than that to its centre by half a diagonal at most.
    """
    spacing = np.linalg.norm(lesion.affine[:3, :3], axis=0)
    tree, index = _border(lesion)[0], _index(lesion, points)
    away = tree.query(index * spacing)[0]
    best = np.full(owner.max() + 1, np.inf)
    np.minimum.at(best, owner, away)
    return away <= best[owner] + 0.5 * float(np.linalg.norm(spacing))


def distance_from(lesion: Region, points: NDArray) -> NDArray[np.float64]:
    """Distance of points from the faces of a lesion's voxels [mm], 0 inside: (n, 3) -> (n,)."""
    spacing = np.linalg.norm(lesion.affine[:3, :3], axis=0)
    index = _index(lesion, points)
    tree, border = _border(lesion)
    which = tree.query(index * spacing, k=min(CANDIDATES, len(border)))[1]
    gap = np.abs(index[:, None] - border[which.reshape(len(index), -1)]) - 0.5
    away = np.linalg.norm(np.maximum(gap, 0) * spacing, axis=-1).min(1)
    return np.where(lesion.contains(points), 0.0, away)


def _index(lesion: Region, points: NDArray) -> NDArray[np.float64]:
    inverse = np.linalg.inv(lesion.affine)
    return points @ inverse[:3, :3].T + inverse[:3, 3]


def _border(lesion: Region) -> tuple[cKDTree, NDArray[np.int_]]:
    """Voxels that can be the nearest to a point outside: a tree in mm, and their indices."""
    border = np.argwhere(lesion.inside & ~binary_erosion(lesion.inside))
    return cKDTree(border * np.linalg.norm(lesion.affine[:3, :3], axis=0)), border
