"""An anatomy made ready to be looked up at points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .anatomy import Anatomy
from .fields import Image, grid_points
from .sulci import outside

SAME_AXIS = 0.7
"""Fibres of neighbouring voxels are one population where the cosine of their angle is above this
(45 degrees: crossings are seldom sharper than that)."""

EMPTY = 1e-3
"""Tissue below this share counts as none."""


class Head:
    """Tissue, fibres and bundles of an anatomy at any points.

    Parameters
    ----------
    anatomy : Anatomy
    device : torch.device or str
    """

    def __init__(self, anatomy: Anatomy, device: torch.device | str = "cpu") -> None:
        self.anatomy = anatomy
        self.device = torch.device(device)
        affine = anatomy.affine.to(device, torch.float64)
        tissue = anatomy.tissue.to(device, torch.float32)
        size = anatomy.affine[:3, :3].norm(dim=0).cpu().numpy()
        hull = torch.from_numpy(outside(anatomy.tissue.float().sum(0).cpu().numpy(), size))
        scalars = torch.cat([tissue, anatomy.coherence.to(tissue)[None], hull.to(tissue)[None]])
        self.scalars = Image(scalars, affine)
        self.axes = Image(anatomy.peaks.to(tissue).flatten(0, 1), affine)
        self.bundles = anatomy.bundle.to(device).flatten()
        self.points = grid_points(affine, tuple(tissue.shape[1:]))
        brain = tissue.sum(0).flatten()
        self.centre = (brain[:, None] * self.points).sum(0) / brain.sum()

    def tissue(self, points: Tensor) -> Tensor:
        """Fractions of `anatomy.CLASSES`: (n, 3) RAS [mm] -> (n, 4)."""
        return self.scalars(points)[:, :4]

    def tissue_and_hull(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """`tissue`, and the distance from the hull (n,), negative within [mm]."""
        scalars = self.scalars(points)
        return scalars[:, :4], scalars[:, 5]

    def at(self, points: Tensor) -> Spots:
        """All that is known of points: (n, 3) RAS [mm]."""
        row, weight = self.scalars.corners(points)
        near = row.gather(1, weight.argmax(1, keepdim=True))[:, 0]
        scalars = self.scalars.at(row, weight)
        directions, size = _populations(self.axes.rows.unflatten(1, (-1, 3)), row, weight, near)
        bundle = self.bundles[near].long()
        return Spots(scalars[:, :4], scalars[:, 4], scalars[:, 5], bundle, directions, size)


def _populations(axes: Tensor, row: Tensor, weight: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Directions (n, k, 3) and sizes (n, k) of fibre populations between voxels.

    The populations of the nearest voxel are averaged with those of its neighbours that run along
    the same axis, whichever sign they have and wherever they stand in their voxel's order.
    """
    own = axes[near]
    own = own / own.norm(dim=-1, keepdim=True).clamp_min(EMPTY)
    around = axes[row].flatten(1, 2)  # (n, 8 k, 3)
    length = around.norm(dim=-1)
    along = around @ own.mT  # (n, 8 k, k)
    same = along.abs() > SAME_AXIS * length[..., None].clamp_min(EMPTY)
    sign = along.sign() * same * weight.repeat_interleave(axes.shape[1], 1)[..., None]
    mean = sign.mT @ around
    size = mean.norm(dim=-1)
    return mean / size.clamp_min(EMPTY)[..., None], torch.where(size > EMPTY, size, 0.0)


@dataclass(frozen=True, eq=False)
class Spots:
    """What an anatomy holds at n points.

    Attributes
    ----------
    tissue : (n, 4) tensor
        Fractions of `anatomy.CLASSES`.
    coherence : (n,) tensor
        Parallelism of the fibres, 0 to 1.
    hull : (n,) tensor
        Distance from the brain's hull, negative within [mm].
    bundle : (n,) int64 tensor
        Label of the nearest voxel.
    directions : (n, k, 3) tensor
        Fibre populations, unit vectors; zero where there is none.
    size : (n, k) tensor
        Relative size of each.
    """

    tissue: Tensor
    coherence: Tensor
    hull: Tensor
    bundle: Tensor
    directions: Tensor
    size: Tensor


@lru_cache(maxsize=4)
def head_of(anatomy: Anatomy, device: torch.device) -> Head:
    """Head of an anatomy, kept for the next call."""
    return Head(anatomy, device)
