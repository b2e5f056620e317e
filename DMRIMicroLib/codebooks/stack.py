"""A scan as slices that a network can look at."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..masking import brain_mask
from ..scan import Scan
from ..signals.evidence import weighted
from ..signals.space import HIGHEST, Space
from .tokens import Tokens, tokens

NOISE_UNKNOWN = 0.05
"""Noise relative to the b0 signal where the scan does not tell its own."""


def with_usable(scan: Scan) -> tuple[Scan, NDArray[np.bool_]]:
    """Return a scan with a mask, and its voxels that have a b0 signal: (x, y, z).

    Raises
    ------
    InputError
        If the scan has no b0 volume or no weighted one, or no usable voxel.
    """
    acq = scan.acquisition
    if not acq.is_b0.any() or not weighted(acq).any():
        fix = f"Give a scan with a b0 and a weighted volume up to b = {1e3 * HIGHEST:.0f} s/mm2."
        raise InputError(f"has {acq.describe()}", fix, file=scan.source)
    scan = brain_mask(scan)
    assert scan.mask is not None
    usable = scan.mask & np.isfinite(scan.b0) & (scan.b0 > 0)
    if not usable.any():
        what = "no voxel of the mask has a b0 signal"
        raise InputError(what, "Check the mask.", file=scan.source)
    return scan, usable


class Stack:
    """Slices along an axis, and what their signals say of the signal space.

    Attributes
    ----------
    usable : (x, y, z) bool array
        Of the voxels that were given, those whose signals are all finite.
    signal : (n, m) array
        Of the usable voxels, in C order.
    axis : int
    levels : (k,) array
        Where along the axis there are usable voxels.
    frame : (3, 3) tensor
        Axes of the grid in RAS, as rows: what numbers of the space refer to, whatever the axis.
    """

    def __init__(self, scan: Scan, usable: NDArray[np.bool_], space: Space) -> None:
        self.space, self.acquisition = space, scan.acquisition
        self.signal = scan.voxels(usable)
        finite = np.isfinite(self.signal).all(1)
        if not finite.all():
            if not finite.any():
                what = "every voxel of the mask has a sample that is not finite"
                raise InputError(what, "Leave the broken volumes out.", file=scan.source)
            self.signal, given = self.signal[finite], usable
            usable = np.zeros_like(given)
            usable[given] = finite
        edges = scan.affine[:3, :3]
        self.frame = torch.as_tensor((edges / np.linalg.norm(edges, axis=0)).T.copy())
        noise = scan.noise
        unknown = NOISE_UNKNOWN * float(np.median(scan.b0[usable]))
        sigma = unknown if noise is None else noise.sigma if noise.map is None else noise.map
        self.sigma = np.broadcast_to(np.float32(sigma), usable.shape)
        self.noise = noise
        self._cut(usable, 2)

    def _cut(self, usable: NDArray[np.bool_], axis: int) -> None:
        self.usable, self.axis = usable, axis
        others = tuple(k for k in range(3) if k != axis)
        self.levels = np.flatnonzero(usable.any(others))
        self.level_of = np.argwhere(usable)[:, axis]

    def __len__(self) -> int:
        return len(self.levels)

    def of_volumes(self, volumes: NDArray[np.intp]) -> Stack:
        """Return the same of some volumes of the scan; the noise stays."""
        part = copy(self)
        part.signal, part.acquisition = self.signal[:, volumes], self.acquisition.subset(volumes)
        return part

    def louder(self, factor: float) -> Stack:
        """Return the same with so many times the noise; its floor stays."""
        other = copy(self)
        other.sigma = self.sigma * np.float32(factor)
        other.noise = None if self.noise is None else self.noise.louder(factor)
        return other

    def along(self, axis: int) -> Stack:
        """Return the same voxels in slices along another axis."""
        other = copy(self)
        other._cut(self.usable, axis)
        return other

    @property
    def coils(self) -> float:
        """Of the noise's floor, see `sigma.Noise`."""
        return 1.0 if self.noise is None else self.noise.coils

    def within(self, box: NDArray[np.bool_]) -> Stack:
        """Return the usable voxels of a part of the grid."""
        part = copy(self)
        part.signal = self.signal[box[self.usable]]
        part._cut(self.usable & box, self.axis)
        return part

    def rows(self, k: int) -> NDArray[np.intp]:
        """Rows of `signal` that belong to slice k, in C order."""
        return np.flatnonzero(self.level_of == self.levels[k])

    def tokens(self, k: int) -> Tokens:
        """Prepare slice k; its voxels are in C order."""
        z = int(self.levels[k])
        mask = self.usable.take(z, self.axis)
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
        signal = np.zeros((*mask.shape, self.signal.shape[1]), np.float32)
        signal[mask] = self.signal[self.rows(k)]
        cut = torch.from_numpy(np.ascontiguousarray(np.moveaxis(signal[box], -1, 0)))
        inside = torch.from_numpy(np.ascontiguousarray(mask[box]))
        sigma = torch.from_numpy(np.array(self.sigma.take(z, self.axis)[box], order="C"))
        own = sigma, self.frame, self.space, self.coils
        return tokens(cut, inside, self.acquisition, *own)

    def misfit(self, numbers: Tensor) -> Tensor:
        """RMS of the weighted signals less those of numbers (n, c), over the noise: (n,)."""
        kept = weighted(self.acquisition)
        design, offset, _ = self.space.design(
            self.acquisition.subset(np.flatnonzero(kept)), self.frame
        )
        row = np.cumsum(kept) - 1
        return self.unexplained(lambda v: numbers @ design[row[v]].float() + offset[row[v]].float())

    def unexplained(self, told: Callable[[int], Tensor]) -> Tensor:
        """Return the same for any prediction: volume -> (n,) relative to b = 0."""
        b0 = self.signal[:, self.acquisition.is_b0].mean(1)
        square, volumes = torch.zeros(len(b0)), np.flatnonzero(weighted(self.acquisition))
        for v in map(int, volumes):  # one by one: the signal is not held twice
            square += (torch.from_numpy(self.signal[:, v] / b0) - told(v)).square()
        noise = torch.from_numpy(self.sigma[self.usable] / b0)
        return (square / len(volumes)).sqrt() / noise


def slice_order(usable: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat indices of the voxels, slice by slice and in C order within each."""
    at = np.argwhere(usable)
    at = at[np.lexsort((at[:, 1], at[:, 0], at[:, 2]))]
    return np.ravel_multi_index(tuple(at.T), usable.shape)


def on_grid(values: Tensor, order: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Put values of the voxels of `slice_order` on the grid, 0 elsewhere: (n,) -> (x, y, z)."""
    out = np.zeros(int(np.prod(shape)), np.float32)
    out[order] = values.numpy()
    return out.reshape(shape)
