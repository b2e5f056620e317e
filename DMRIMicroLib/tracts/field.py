"""What streamlines follow: axes of each voxel, and distributions to draw from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..maps import MapSet
from ..physics.linalg import eigh3
from ..physics.sh import fit_matrix, sh_basis, sh_order
from .peaks import BATCH, hemisphere, idle, sh_peaks

TENSOR_ORDER = 8
"""Order of the harmonics that a tensor's distribution is written in."""

THINNEST = 0.02
"""Eigenvalues are raised to this share of the largest: none of a tensor in noise is above 0 for
sure, and the distribution needs the inverse."""

OFF_DIAGONAL = 0.55
"""Variance of an off-diagonal element in the frame of the tensor over sd(AD) sd(RD): 0.47 to 0.61
by the covariance of weighted least squares, (X' S^2 X)^-1, for 12 to 60 directions at b = 800 to
1000 s/mm2 and FA 0.3 to 0.9. With 6 directions it is 1, angles are taken a quarter too small."""

SQUARE = 1e-3
"""Voxel axes whose cosine exceeds this are sheared."""


@dataclass(frozen=True, eq=False)
class Field:
    """Directions on a grid.

    Attributes
    ----------
    axes : (x, y, z, k, 3) float64 array
        Unit vectors in RAS; the first is the strongest.
    strength : (x, y, z, k) float64 array
        As a share of the strongest; 0 where there is none.
    affine : (4, 4) array
        Voxel indices to RAS millimetres.
    odf : (x, y, z, c) float array, optional
        Distribution to draw from, in the harmonics of `physics.sh`, in RAS.
    """

    axes: NDArray[np.float64]
    strength: NDArray[np.float64]
    affine: NDArray[np.float64]
    odf: NDArray | None = None


def tensor_field(
    tensor: NDArray,
    mask: NDArray[np.bool_],
    affine: NDArray,
    *,
    drawn: bool = False,
    tick: Callable[[], None] = idle,
) -> Field:
    """Follow the principal axis of tensors: (x, y, z, 6) in RAS, xx, yy, zz, xy, xz, yz.

    With `drawn`, `tensor_odf` is the distribution to draw from. `tick` is called now and then; an
    exception from it stops the work.
    """
    usable = mask & np.isfinite(tensor).all(-1) & tensor.any(-1)
    rows = torch.tensor(tensor[usable], dtype=torch.float64).T.contiguous()
    values, v1 = eigh3(rows)
    axes = np.zeros((*mask.shape, 1, 3))
    strength = np.zeros((*mask.shape, 1))
    axes[usable, 0] = v1.T.numpy()
    strength[usable, 0] = (values[0] > 0).double().numpy()
    odf = None
    if drawn:
        odf = np.zeros((*mask.shape, (TENSOR_ORDER + 1) * (TENSOR_ORDER + 2) // 2))
        odf[usable] = tensor_odf(rows, tick).numpy()
    return Field(axes, strength, affine, odf)


def odf_field(
    odf: NDArray, mask: NDArray[np.bool_], affine: NDArray, *, tick: Callable[[], None] = idle
) -> Field:
    """Follow the peaks of distributions: (x, y, z, c) harmonics in RAS; `tick` as above."""
    usable = mask & np.isfinite(odf).all(-1) & odf.any(-1)
    found, height = sh_peaks(torch.tensor(odf[usable], dtype=torch.float64), tick)
    axes = np.zeros((*mask.shape, *found.shape[1:]))
    strength = np.zeros((*mask.shape, found.shape[1]))
    axes[usable], strength[usable] = found.numpy(), height.numpy()
    return Field(axes, strength, affine, np.where(usable[..., None], odf, 0).astype(np.float64))


def tensor_odf(rows: Tensor, tick: Callable[[], None] = idle) -> Tensor:
    """Share of diffusion in each direction's solid angle: (6, n) tensors -> (n, c) harmonics.

    psi(u) = 1 / (4 pi |D|^1/2 (u' D^-1 u)^3/2), the Gaussian case of eq. 3 of I. Aganj et al.,
    Magn. Reson. Med. 64 (2010) 554-566. It says how freely water moves, not how sure the fibre is.
    """
    at = torch.tensor(hemisphere()[0]).to(rows)
    to_harmonics = fit_matrix(at, TENSOR_ORDER, smooth=0.0).T
    x, y, z = at.T
    squares = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z])
    out = []
    for part in rows.split(BATCH, 1):
        tick()
        inverse, root = _inverse(part)
        form = inverse @ squares  # u' D^-1 u
        out.append((form.rsqrt() / form / root) @ to_harmonics)
    return torch.cat(out) if out else rows.new_zeros(0, to_harmonics.shape[1])


def _inverse(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Invert tensors of largest eigenvalue 1: (6, n) -> (n, 6), and 4 pi |D|^1/2: (n, 1).

    The scale of D is taken out, on which psi does not depend.
    """
    xx, yy, zz, xy, xz, yz = rows
    full = torch.stack([torch.stack(r, -1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))], -1)
    values, frame = torch.linalg.eigh(full)
    largest = values[:, -1:].clamp(min=torch.finfo(rows.dtype).tiny)
    values = (values / largest).clamp(min=THINNEST)
    inverse = (frame / values[:, None]) @ frame.mT
    root = 4 * math.pi * values.prod(-1, keepdim=True).sqrt()
    return inverse[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], root


def tensor_deviation(maps: MapSet) -> NDArray | None:
    """Return the standard deviation of each tensor element: (x, y, z, 6), None if unknown.

    That of the tensor itself where the maps have it. Else from those of AD and RD, by
    `OFF_DIAGONAL`: off-diagonal elements are what turns V1.
    """
    if "tensor" in maps and maps["tensor"].uncertainty is not None:
        return maps["tensor"].uncertainty
    if not {"AD", "RD"} <= set(maps):
        return None
    along, across = maps["AD"].uncertainty, maps["RD"].uncertainty
    if along is None or across is None:
        return None
    off = np.sqrt(OFF_DIAGONAL * np.abs(along * across))
    # diagonal elements twice the variance: then the noise is the same in every frame
    return off[..., None] * np.sqrt([2, 2, 2, 1, 1, 1])


def tensor_draws(
    tensor: NDArray, deviation: NDArray, count: int, rng: np.random.Generator
) -> Iterator[NDArray]:
    """Draw tensors around the fitted ones, independent in each voxel: `count` of (x, y, z, 6)."""
    for _ in range(count):
        yield tensor + deviation * rng.standard_normal(tensor.shape)


def voxel_frame(affine: NDArray) -> NDArray[np.float64]:
    """Directions of the voxel axes in RAS, as columns: (3, 3), orthogonal, of either handedness.

    Raises
    ------
    InputError
        If the voxels are sheared: dipy's tracking moves on a rectangular grid.
    """
    frame = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    skew = float(np.abs(frame.T @ frame - np.eye(3)).max())
    if skew > SQUARE:
        raise InputError(
            f"the voxels are sheared (cosine {skew:.3f} between their axes)",
            "Resample the scan onto a rectangular grid first.",
        )
    # the nearest exactly orthogonal frame
    left, _, right = np.linalg.svd(frame)
    return left @ right


def turned_odf(odf: NDArray, frame: NDArray) -> NDArray[np.float64]:
    """Write distributions in the frame of the voxels: (..., c) -> (..., c).

    Harmonics of a degree stay among themselves when turned, so that values at enough directions
    tell the new coefficients exactly.
    """
    order = sh_order(odf.shape[-1])
    at = torch.tensor(hemisphere()[0])
    turn = fit_matrix(at, order, smooth=0.0) @ sh_basis(at @ torch.tensor(frame).T, order)
    return np.ascontiguousarray(odf @ turn.T.numpy())
