"""The voxels of a scanner, and how much of each piece of tissue lies in which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..errors import InputError

ROUNDING = 1e-6
"""Shares of a piece of tissue below this are the rounding of affines."""

COARSEST = 1.25
"""A piece of tissue may be as wide as a scanner voxel, or wider by what a turn of the head adds to
a piece that is thicker than it is wide."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels that a scanner measures.

    Attributes
    ----------
    affine : (4, 4) float64 tensor
        Voxel indices to RAS millimetres.
    shape : (int, int, int)
    cover : (float, float, float)
        Share of the distance between voxels that a voxel covers; below 1 along the slices where
        there is a gap between them.
    """

    affine: Tensor
    shape: tuple[int, int, int]
    cover: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def voxel(self) -> tuple[float, ...]:
        """Distances between voxels [mm]."""
        return tuple(self.affine[:3, :3].norm(dim=0).tolist())

    def refined(self, factors: tuple[int, int, int]) -> Grid:
        """Return the grid that cuts every voxel into equal parts along each axis."""
        parts = torch.tensor(factors, dtype=torch.float64)
        affine = self.affine.clone()
        affine[:3, :3] = self.affine[:3, :3] / parts.to(affine)
        corner = torch.full((3,), -0.5, dtype=torch.float64).to(affine)
        affine[:3, 3] += self.affine[:3, :3] @ corner - affine[:3, :3] @ corner
        shape = tuple(n * f for n, f in zip(self.shape, factors, strict=True))
        return Grid(affine, shape, self.cover)  # type: ignore[arg-type]


def covering(
    affine: Tensor, shape: tuple[int, ...], voxel: tuple[float, ...], gap: float = 0.0
) -> Grid:
    """Return the grid of a scanner over the box of another grid, along its axes.

    Parameters
    ----------
    affine : (4, 4) float64 tensor
        Of the box.
    shape : (int, int, int)
    voxel : (float, float, float)
        Edges of a voxel [mm]; the third is the thickness of a slice.
    gap : float
        Between slices [mm].
    """
    affine = affine.double()
    edge = affine[:3, :3].norm(dim=0)
    step = torch.tensor([voxel[0], voxel[1], voxel[2] + gap], dtype=torch.float64).to(affine)
    extent = torch.tensor(shape, dtype=torch.float64).to(affine) * edge
    count = torch.ceil(extent / step - 1e-3).clamp(min=1)
    start = (extent - count * step) / 2  # the box lies in the middle
    out = affine.clone()
    out[:3, :3] = affine[:3, :3] / edge * step
    first = (start + step / 2) / edge - 0.5  # the first centre in voxels of the box
    out[:3, 3] = affine[:3, 3] + affine[:3, :3] @ first
    cover = (1.0, 1.0, voxel[2] / (voxel[2] + gap))
    return Grid(out, tuple(int(n) for n in count), cover)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Overlap:
    """Which pieces of tissue lie in which voxel, voxel by voxel.

    Attributes
    ----------
    voxels : (n,) int64 tensor
        Numbers, in C order, of the voxels with tissue in them.
    start : (n + 1,) int64 tensor
        Where each voxel's entries begin.
    piece : (e,) int64 tensor
        Piece of tissue of each entry.
    share : (e,) tensor
        What part of the voxel it takes up.
    """

    voxels: Tensor
    start: Tensor
    piece: Tensor
    share: Tensor

    def batches(self, pieces: int) -> Iterator[tuple[slice, slice]]:
        """Yield voxels and their entries in batches of about that many entries."""
        marks = torch.arange(0, len(self.piece), pieces, device=self.start.device)
        rows = torch.searchsorted(self.start[:-1].contiguous(), marks).unique().tolist()
        ends = [*rows[1:], len(self.voxels)]
        at = self.start[torch.tensor([*rows, len(self.voxels)], device=self.start.device)].tolist()
        for k, (first, last) in enumerate(zip(rows, ends, strict=True)):
            yield slice(first, last), slice(at[k], at[k + 1])

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the voxels, empty space counting as 0: (pieces,) -> (n,)."""
        weighted = self.share * values[self.piece]
        return torch.segment_reduce(weighted, "sum", offsets=self.start, initial=0)


def overlap(mask: Tensor, affine: Tensor, grid: Grid, dtype: torch.dtype) -> Overlap:
    """Find how much of each piece of tissue lies in which voxel.

    Pieces are boxes along the axes of the grid: exact where the two grids are parallel, and where
    they are not, of the piece's root mean square width along each axis.

    Parameters
    ----------
    mask : (x, y, z) bool tensor
        Where there are pieces, numbered in C order.
    affine : (4, 4) float64 tensor
        Of the mask.
    grid : Grid
    dtype : torch.dtype
        Of the shares.
    """
    to_grid = torch.linalg.solve(grid.affine.to(affine), affine)
    width = to_grid[:3, :3].norm(dim=1)
    if float(width.max()) > COARSEST:
        raise InputError(
            f"the tissue is known {float(width.max()):.2f} times as coarsely as the scanner sees",
            "Render it on a grid at least as fine as the scanner's.",
        )
    index = mask.nonzero().to(torch.float64)
    volume = torch.linalg.det(to_grid[:3, :3]).abs() / (grid.cover[0] * grid.cover[1])
    volume = volume / grid.cover[2]
    axes = []
    for axis in range(3):
        at = index @ to_grid[axis, :3] + to_grid[axis, 3]
        axes.append(_along(at, float(width[axis]), grid.cover[axis], grid.shape[axis]))
    voxel, piece, share = _entries(axes, grid.shape)
    order = torch.argsort(voxel, stable=True)
    voxels, counts = torch.unique_consecutive(voxel[order], return_counts=True)
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Overlap(voxels, start, piece[order], (share[order] * volume).to(dtype))


def _along(at: Tensor, width: float, cover: float, count: int) -> list[tuple[Tensor, Tensor]]:
    """Voxels that pieces touch along one axis and their share in each: one to three (n,), (n,)."""
    first = torch.floor(at - width / 2 + 0.5 + ROUNDING)
    touched = []
    for k in (first, first + 1) if width <= 1 + ROUNDING else (first, first + 1, first + 2):
        high = torch.minimum(at + width / 2, k + cover / 2)
        low = torch.maximum(at - width / 2, k - cover / 2)
        share = ((high - low) / width).clamp(min=0) * ((k >= 0) & (k < count))
        if bool((share > ROUNDING).any()):
            touched.append((k.long(), share))
    return touched


def _entries(
    axes: list[list[tuple[Tensor, Tensor]]], shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Combine the three axes: numbers of voxels, of pieces, and shares, each (e,)."""
    found = []
    for (i, a), (j, b), (k, c) in product(*axes):
        share = a * b * c
        inside = (share > ROUNDING).nonzero()[:, 0]
        voxel = (i[inside] * shape[1] + j[inside]) * shape[2] + k[inside]
        found.append((voxel, inside, share[inside]))
    if not found:
        raise InputError(
            "none of the tissue lies in the scanner's field of view", "Check the two affines."
        )
    voxels, pieces, shares = (torch.cat(part) for part in zip(*found, strict=True))
    return voxels, pieces, shares
