"""Finer and coarser grids about the same middle, and images on them.

A voxel's index is the place of its centre. A grid and a finer one along its axes share their
middle; voxel j of the finer one lies at ((j - (n' - 1) / 2) / f + (n - 1) / 2) of the other, f
being the ratio of their voxels' edges. `training.pairs` and `superres` count alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter
from torch import Tensor

SAME = 1e-3
"""Relative difference of two edges up to which they are one."""

SPLINE = 3
"""Degree of the B-splines (M. Unser, "Splines: a perfect fit for signal and image processing", IEEE
Signal Process. Mag. 16(6) (1999) 22-38)."""

REACH = 14
"""Voxels beyond which another one has no say in a cubic spline's coefficients: it falls by 0.268
from voxel to voxel (Unser 1999, eq. 8), to 1e-8."""

Shape = tuple[int, int, int]
Factors = tuple[float, float, float]


def edges_of(affine: NDArray[np.float64]) -> Factors:
    """Edges of a voxel [mm]."""
    return tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))  # type: ignore[return-value]


def regridded(
    affine: NDArray[np.float64], shape: Shape, edge: float
) -> tuple[NDArray[np.float64], Shape, Factors]:
    """Return affine, shape and factors of the grid of cubes along the same axes.

    It has as many voxels as come nearest to the same extent, about the same middle.

    Parameters
    ----------
    affine : (4, 4) array
    shape : (int, int, int)
    edge : float
        Of its voxels [mm].
    """
    factors = tuple(own / edge for own in edges_of(affine))
    count = finer_shape(shape, factors)
    out = affine.copy()
    out[:3, :3] = affine[:3, :3] / np.array(factors)
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    out[:3, 3] = middle - out[:3, :3] @ ((np.array(count) - 1) / 2)
    return out, count, factors  # type: ignore[return-value]


def finer_shape(shape: Sequence[int], factors: Sequence[float]) -> Shape:
    """Voxels of another grid along the same axes: as many as come nearest to the same extent."""
    made = (max(1, round(n * f)) for n, f in zip(shape, factors, strict=True))
    return tuple(made)  # type: ignore[return-value]


def same_edges(affine: NDArray[np.float64], edge: float, tolerance: float = SAME) -> bool:
    """Whether voxels are cubes of an edge [mm]."""
    return all(abs(own / edge - 1) <= tolerance for own in edges_of(affine))


def resized(images: Tensor, factors: Factors, shape: Shape, degree: int = SPLINE) -> Tensor:
    """Bring images to a grid along the same axes, about the same middle.

    Parameters
    ----------
    images : (..., x, y, z) tensor
    factors : (float, float, float)
        Edge of a voxel over that of a new one.
    shape : (int, int, int)
        Of the new grid.
    degree : int
        Of the splines; 1 for what must not overshoot. Along an axis whose new voxels are larger,
        means over them are taken.

    Returns
    -------
    (..., *shape) tensor
    """
    for axis, (count, factor) in enumerate(zip(shape, factors, strict=True), start=-3):
        if count == images.shape[axis] and abs(factor - 1) < SAME:
            continue
        weights = _along(images.shape[axis], count, round(factor, 9), degree).to(images)
        images = torch.tensordot(images, weights, dims=([axis], [1])).movedim(-1, axis)
    return images


def resampled(
    images: Tensor, affine: NDArray[np.float64], target: NDArray[np.float64], shape: Shape
) -> Tensor:
    """Bring images to any other grid by its affine, by cubic splines; 0 beyond what is known.

    A larger voxel is the mean over its eighths: a spline's value at its centre alone overshoots
    beside bright fluid.

    Parameters
    ----------
    images : (k, x, y, z) tensor
        On the CPU.
    affine, target : (4, 4) arrays
        Of both grids.
    shape : (int, int, int)
        Of the new grid.

    Returns
    -------
    (k, *shape) tensor
        Places up to half a voxel beyond the outermost centres are told by mirroring.
    """
    sizes = [abs(float(np.linalg.det(a[:3, :3]))) for a in (target, affine)]
    parts = 2 if sizes[0] > sizes[1] * (1 + SAME) else 1
    index = np.indices([n * parts for n in shape]).reshape(3, -1)
    index = (index + 0.5) / parts - 0.5
    to_own = np.linalg.inv(affine) @ target
    at = to_own[:3, :3] @ index + to_own[:3, 3:]
    bounds = np.array(images.shape[1:])[:, None] - 0.5
    known = ((at >= -0.5) & (at <= bounds)).all(0)
    split = [m for n in shape for m in (n, parts)]
    count = known.reshape(split).sum((1, 3, 5)).clip(min=1)
    out, values = np.zeros((len(images), *shape), np.float32), np.zeros(len(known))
    if not known.any():
        return torch.from_numpy(out).to(images)
    box, places = _near(at[:, known], images.shape[1:])
    for row, image in zip(out, images, strict=True):
        filtered = spline_filter(image[box].numpy(), SPLINE, mode="mirror")
        values[known] = map_coordinates(
            filtered, places, order=SPLINE, mode="mirror", prefilter=False
        )
        row[:] = values.reshape(split).sum((1, 3, 5)) / count
    return torch.from_numpy(out).to(images)


def _near(
    at: NDArray[np.float64], shape: Sequence[int]
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Return the part of an image that has a say at places (3, k), and the places in it."""
    low = np.maximum(np.floor(at.min(1)).astype(int) - REACH, 0)
    high = np.minimum(np.ceil(at.max(1)).astype(int) + REACH + 1, shape)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), at - low[:, None]


@lru_cache(maxsize=32)
def _along(count: int, new: int, factor: float, degree: int) -> Tensor:
    """Weights of the voxels of one axis in each new voxel: (new, count) float64."""
    at = (np.arange(new) - (new - 1) / 2) / factor + (count - 1) / 2
    if factor < 1 - SAME:
        low, high = at - 0.5 / factor, at + 0.5 / factor
        voxel = np.arange(count)
        part = np.minimum(high[:, None], voxel + 0.5) - np.maximum(low[:, None], voxel - 0.5)
        part = part.clip(min=0)
        return torch.from_numpy(part / part.sum(1, keepdims=True))
    if count == 1:
        return torch.ones(new, 1, dtype=torch.float64)
    units = np.eye(count)
    rows = [map_coordinates(unit, at[None], order=degree, mode="mirror") for unit in units]
    return torch.from_numpy(np.stack(rows, 1))
