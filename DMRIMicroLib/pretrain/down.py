"""Scans as a scanner with larger voxels would have made them.

Every axis by itself: a Gaussian that turns the voxel's profile into that of the larger one (M. J.
Cardoso et al., MICCAI 2015, LNCS 9350, 81-88: of profiles with the full widths at half maximum r
and R, the variance (R^2 - r^2) / (8 ln 2)), then linear interpolation at the new centres. Without
the Gaussian, what is finer than the new voxels would come back as coarse patterns (aliasing).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..masking import brain_mask
from ..physics.noise import underlying
from ..scan import Scan
from ..sigma import Noise

FWHM = 8 * math.log(2)
"""Squared full width at half maximum of a Gaussian over its variance."""

AVERAGED = "averaged over voxels of"
"""How the note of a scan with larger voxels begins."""

SAME = 1.01
"""Voxels larger by less than this factor are left as they are."""

INSIDE = 0.5
"""A voxel belongs to the mask if at least so much of it does."""

BLOCK = 8
"""Volumes that are read at a time."""


def downsampled(scan: Scan, voxel: float | tuple[float, float, float] | None) -> Scan:
    """Return a scan with larger voxels; no axis is made finer.

    Parameters
    ----------
    scan : Scan
    voxel : float or (float, float, float), optional
        Edges [mm] along the scan's axes; None: those that it has.

    Returns
    -------
    Scan
        On a grid with the same middle, with a mask. If the noise is known, the floor that it
        lifts magnitudes to is taken out (averages do not lower it), and `Scan.noise` is what the
        average leaves of it; where neighbours' noise is not independent, more is left than that.
    """
    scan = brain_mask(scan)
    own = scan.voxel_size
    sizes = own if voxel is None else voxel if isinstance(voxel, tuple) else (voxel,) * 3
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        raise InputError(f"the voxel is {sizes} mm", "Give positive lengths.")
    if all(size < SAME * old for size, old in zip(sizes, own, strict=True)):
        return scan
    new = [size if size >= SAME * old else old for size, old in zip(sizes, own, strict=True)]
    weights = [weights_of(n, *pair) for n, *pair in zip(scan.shape, own, new, strict=True)]
    shape = tuple(len(w) for w in weights)
    signal = np.empty((*shape, len(scan.acquisition)), np.float32)
    for first in range(0, signal.shape[3], BLOCK):
        at = np.arange(first, min(first + BLOCK, signal.shape[3]))
        signal[..., at] = _averaged(np.nan_to_num(scan.volumes(at)), weights)
    assert scan.mask is not None
    mask = _averaged(scan.mask[..., None].astype(np.float32), weights)[..., 0] >= INSIDE
    if not mask.any():
        raise InputError("no brain is left in voxels of this size", "Give smaller ones.")
    affine = _affine(scan, shape, new)
    scan_noise, noise = scan.noise, None
    if scan_noise is not None:
        sigma = torch.tensor(scan_noise.sigma)
        for k in range(signal.shape[3]):
            image = torch.from_numpy(np.ascontiguousarray(signal[..., k]))
            signal[..., k] = underlying(image, sigma).numpy()
        left = math.prod(float(np.sqrt((w**2).sum(1).mean())) for w in weights)
        told = f"{scan_noise.method}, averaged over larger voxels"
        noise = Noise(scan_noise.sigma * left, told, rough=scan_noise.rough)
    edges = " x ".join(f"{size:g}" for size in new)
    return replace(
        scan,
        signal=signal,
        affine=affine,
        mask=mask,
        measured_noise=noise,
        notes=(*scan.notes, f"{AVERAGED} {edges} mm"),
    )


def has_floor(scan: Scan) -> bool:
    """Tell whether noise still lifts a scan's signals: not after larger voxels were made."""
    return scan.noise is not None and not any(note.startswith(AVERAGED) for note in scan.notes)


def weights_of(count: int, size: float, new: float) -> NDArray[np.float64]:
    """Weights of the voxels along one axis in the larger ones: (k, count), rows with the sum 1.

    Parameters
    ----------
    count : int
    size, new : float
        Of the voxels that there are, and of the larger ones [mm].
    """
    if new < SAME * size:
        return np.eye(count)
    wanted = max(1, math.floor(count * size / new + 1e-6))
    at = np.arange(count) * size
    middle = (count - 1) * size / 2
    centres = middle + (np.arange(wanted) - (wanted - 1) / 2) * new
    variance = (new**2 - size**2) / FWHM
    blur = np.exp(-((at[:, None] - at[None]) ** 2) / (2 * variance))
    between = np.clip(1 - np.abs(centres[:, None] - at[None]) / size, 0, None)
    weights = between @ (blur / blur.sum(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def _averaged(images: NDArray[np.float32], weights: list[NDArray]) -> NDArray[np.float32]:
    """Average along all axes: (x, y, z, k) -> on the new grid."""
    for axis, matrix in enumerate(weights):
        moved = np.tensordot(matrix.astype(np.float32), images, (1, axis))
        images = np.moveaxis(moved, 0, axis)
    return images


def _affine(scan: Scan, shape: tuple[int, ...], sizes: list[float]) -> NDArray[np.float64]:
    """Affine of the grid of these voxels that has the scan's middle."""
    affine = scan.affine.copy()
    affine[:3, :3] *= np.array(sizes) / np.array(scan.voxel_size)
    before = scan.affine[:3, :3] @ ((np.array(scan.shape) - 1) / 2) + scan.affine[:3, 3]
    affine[:3, 3] = before - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
