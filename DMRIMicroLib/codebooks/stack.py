"""A scan as slices that a network can look at."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Acquisition
from ..errors import InputError
from ..masking import brain_mask
from ..scan import Scan
from ..signals.evidence import weighted
from ..signals.space import Space
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
    if not acq.is_b0.any() or not acq.shells:
        fix = "Give a scan with a b0 and a weighted volume."
        raise InputError(f"has {acq.describe()}", fix, file=scan.source)
    scan = brain_mask(scan)
    assert scan.mask is not None
    usable = scan.mask & np.isfinite(scan.b0) & (scan.b0 > 0)
    if not usable.any():
        what = "no voxel of the mask has a b0 signal"
        raise InputError(what, "Check the mask.", file=scan.source)
    return scan, usable


class Stack:
    """Slices along the third axis, and what their signals say of the signal space.

    Attributes
    ----------
    levels : (k,) array
        Where along the axis there are usable voxels.
    frame : (3, 3) tensor
        Rows, columns and thickness in RAS, as rows.
    """

    def __init__(self, scan: Scan, usable: NDArray[np.bool_], space: Space) -> None:
        self.space, self.usable, self.acquisition = space, usable, scan.acquisition
        self.signal = np.nan_to_num(scan.voxels(usable), copy=False)
        self.levels = np.flatnonzero(usable.any((0, 1)))
        self.first = np.argwhere(usable)[:, 2]
        edges = scan.affine[:3, :3]
        self.frame = torch.as_tensor((edges / np.linalg.norm(edges, axis=0)).T.copy())
        noise = scan.noise
        unknown = NOISE_UNKNOWN * float(np.median(scan.b0[usable]))
        sigma = unknown if noise is None else noise.sigma if noise.map is None else noise.map
        self.sigma = np.broadcast_to(np.float32(sigma), usable.shape)

    def __len__(self) -> int:
        return len(self.levels)

    def of_volumes(self, volumes: NDArray[np.intp]) -> Stack:
        """Return the same of some volumes of the scan; the noise stays."""
        part = copy(self)
        part.signal, part.acquisition = self.signal[:, volumes], self.acquisition.subset(volumes)
        return part

    def tokens(self, k: int) -> Tokens:
        """Prepare slice k; its voxels are in C order."""
        z = int(self.levels[k])
        mask = self.usable[:, :, z]
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
        signal = np.zeros((*mask.shape, self.signal.shape[1]), np.float32)
        signal[mask] = self.signal[self.first == z]
        cut = torch.from_numpy(np.ascontiguousarray(np.moveaxis(signal[box], -1, 0)))
        inside = torch.from_numpy(np.ascontiguousarray(mask[box]))
        sigma = torch.from_numpy(np.array(self.sigma[:, :, z][box], order="C"))
        return tokens(cut, inside, self.acquisition, sigma, self.frame, self.space)

    def ratio(self, k: int) -> tuple[Tensor, Tensor, Acquisition]:
        """Return weighted signals of slice k relative to b = 0 (m, n), noise (n,), gradients."""
        z = int(self.levels[k])
        signal = torch.from_numpy(self.signal[self.first == z].T)
        b0 = signal[torch.from_numpy(self.acquisition.is_b0.copy())].mean(0)
        rows = [int(v) for v in weighted(self.acquisition).nonzero()[0]]
        noise = torch.from_numpy(self.sigma[:, :, z][self.usable[:, :, z]].copy()) / b0
        return signal[rows] / b0, noise, self.acquisition.subset(rows)


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
