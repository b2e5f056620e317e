"""On which grids an enhancement works: the scan's, that of the networks, that of the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..masking import onto_grid
from ..scan import Scan
from .grid import SAME, Factors, Shape, edges_of, regridded, resized, same_edges
from .table import Method

ALIKE = 0.06
"""Relative difference of voxels up to which a network takes a scan's own grid (chosen: its training
knows no other, and resampling blurs)."""

KEEP, HIGH = "keep", "7T"
"""Resolutions with a name: the scan's own, and that of the scanner to be imitated."""

THICK = 1.5
"""Ratio of edges beyond which a voxel is far from a cube (chosen)."""

EXACT = 0.02
"""Relative difference of the factor of two grids from that of a super-resolution's training."""


@dataclass(frozen=True, eq=False)
class Place:
    """A grid along the scan's axes, about the same middle.

    Attributes
    ----------
    affine : (4, 4) array
    shape : (int, int, int)
    factors : (float, float, float)
        Edge of the scan's voxels over its own.
    mask : (x, y, z) bool tensor
    """

    affine: NDArray[np.float64]
    shape: Shape
    factors: Factors
    mask: Tensor

    @classmethod
    def of(cls, scan: Scan, edge: float | None) -> Place:
        """Return the grid of cubes of an edge [mm], or the scan's own."""
        if edge is None:
            affine, shape, factors = scan.affine, scan.shape, (1.0, 1.0, 1.0)
        else:
            affine, shape, factors = regridded(scan.affine, scan.shape, edge)
        assert scan.mask is not None
        mask = onto_grid(scan.mask, scan.affine, shape, affine)
        return cls(affine, shape, factors, torch.from_numpy(mask))

    def bring(self, images: Tensor, degree: int = 3) -> Tensor:
        """Bring images from the scan's grid: (..., x, y, z)."""
        return resized(images, self.factors, self.shape, degree)

    def to(self, other: Place, images: Tensor, degree: int = 1) -> Tensor:
        """Bring images from this grid to another place."""
        return resized(images, self.over(other), other.shape, degree)

    def over(self, other: Place) -> Factors:
        """Edge of this grid's voxels over that of another place."""
        there = zip(other.factors, self.factors, strict=True)
        return tuple(b / a for b, a in there)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which grids, and how the answer gets to the finer one.

    Attributes
    ----------
    work, out : Place
    sharpened : bool
        Whether the method's super-resolution knows the step from one to the other.
    notes : tuple of str
    """

    work: Place
    out: Place
    sharpened: bool
    notes: tuple[str, ...]


def plan(scan: Scan, method: Method, resolution: str | float) -> Plan:
    """Choose the grids of a scan with a mask."""
    low = method.setting.edges[0]
    notes = []
    own_grid = method.everywhere or same_edges(scan.affine, low, ALIKE)
    work = Place.of(scan, None if own_grid else low)
    if not own_grid:
        notes.append(
            f"{method.name} was trained on voxels of {low:g} mm: features of this scan, "
            f"{_size(scan.affine)}, were interpolated to them"
        )
    out = Place.of(scan, _edge(scan, resolution, method, notes))
    exact = all(abs(f / method.setting.factor - 1) < EXACT for f in work.over(out))
    return Plan(work, out, method.finer is not None and exact, tuple(notes))


def _edge(scan: Scan, resolution: str | float, method: Method, notes: list[str]) -> float | None:
    """Edge of the answer's voxels [mm], or None for the scan's own."""
    if resolution == KEEP:
        return None
    finest = min(edges_of(scan.affine))
    if resolution == HIGH:
        return _high(scan, method.setting.edges[1], notes)
    try:
        edge = float(resolution)
    except ValueError:
        edge = float("nan")
    if not 0.2 <= edge:
        raise InputError(
            f"the resolution is {resolution!r}", f"Give {HIGH}, {KEEP} or an edge in mm."
        )
    if edge > finest * (1 + SAME):
        raise InputError(
            f"the resolution is {edge:g} mm, the scan has {_size(scan.affine)}: detail would be "
            "lost",
            f"Give {finest:.4g} mm or less, or {KEEP}.",
        )
    _tell_slices(scan, edge, notes)
    return edge


def _high(scan: Scan, edge: float, notes: list[str]) -> float | None:
    """Edge for "7T": that of the scanner, or finer where the scan is; None if all of it is."""
    finest, coarsest = min(edges_of(scan.affine)), max(edges_of(scan.affine))
    if coarsest <= edge * (1 + SAME):
        notes.append(f"the scan, {_size(scan.affine)}, is as fine as {edge:g} mm: its grid is kept")
        return None
    if finest < edge * (1 - ALIKE):
        notes.append(
            f"the scan, {_size(scan.affine)}, is in part finer than {edge:g} mm: cubes of "
            f"{finest:.4g} mm were made, so that no detail is lost"
        )
        edge = finest
    _tell_slices(scan, edge, notes)
    return edge


def _tell_slices(scan: Scan, edge: float, notes: list[str]) -> None:
    """Say what is made of voxels much longer along one axis than along another."""
    finest, coarsest = min(edges_of(scan.affine)), max(edges_of(scan.affine))
    if coarsest > THICK * finest:
        notes.append(
            f"voxels of {_size(scan.affine)} became cubes of {edge:.4g} mm: along their long side "
            "that is interpolation, no method here was trained on such voxels"
        )


def _size(affine: NDArray[np.float64]) -> str:
    return " x ".join(f"{v:.3g}" for v in edges_of(affine)) + " mm"
