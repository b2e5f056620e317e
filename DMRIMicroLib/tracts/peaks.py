"""Axes along which an orientation distribution is highest."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..physics.sh import sh_basis, sh_order

MOST = 3
"""Axes of a voxel that are kept: crossings of more cannot be told apart."""

LOWEST = 0.25
"""Peaks lower than this share of the voxel's highest, both above its lowest value, are noise."""

APART = 25.0
"""Peaks closer than this [degrees] are one."""

LEVEL = 5
"""Subdivisions of an octahedron on whose vertices peaks are first sought (5.6 degrees apart)."""

CANDIDATES = 6
"""Vertices from which peaks are refined."""

ROUNDS = 3
NEAR = np.deg2rad(2.0)
"""Newton steps, with derivatives from values this far away [rad]."""
LONGEST = np.deg2rad(4.0)
"""A Newton step is cut at this [rad]: the next vertex is not much farther."""

BATCH = 4096
"""Voxels at a time."""


def idle() -> None:
    """Do nothing, where nobody watches."""


def sh_peaks(coefficients: Tensor, tick: Callable[[], None] = idle) -> tuple[Tensor, Tensor]:
    """Find the peaks of distributions in spherical harmonics.

    Parameters
    ----------
    coefficients : (n, c) tensor
        In the basis of `physics.sh`.
    tick : callable
        Called for every batch; an exception from it stops the work.

    Returns
    -------
    (n, MOST, 3) tensor
        Unit vectors, the highest first; 0 where there are fewer.
    (n, MOST) tensor
        Their height as a share of the highest; 0 where there are fewer.
    """
    parts = []
    for part in coefficients.split(BATCH):
        tick()
        parts.append(_peaks(part))
    if not len(coefficients):
        return coefficients.new_zeros(0, MOST, 3), coefficients.new_zeros(0, MOST)
    axes, heights = zip(*parts, strict=True)
    return torch.cat(axes), torch.cat(heights)


def _peaks(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    vertices, neighbours = hemisphere()
    at = torch.as_tensor(vertices).to(coefficients)
    table = torch.as_tensor(neighbours, device=coefficients.device)
    order = sh_order(coefficients.shape[1])
    values = coefficients @ sh_basis(at, order).T
    low = values.amin(1, keepdim=True).clamp(min=0)
    top = values.amax(1, keepdim=True)
    high = values > low + LOWEST * (top - low)
    summit = high & (values > 0) & (values[:, :, None] >= values[:, table]).all(-1)
    first = torch.where(summit, values, -torch.inf).topk(CANDIDATES, dim=1)
    axes = _refined(at[first.indices], coefficients, order)
    heights = (sh_basis(axes, order) * coefficients[:, None]).sum(-1)
    heights = torch.where(torch.isfinite(first.values), heights, -torch.inf)
    return _kept(axes, heights)


def _refined(axes: Tensor, coefficients: Tensor, order: int) -> Tensor:
    """Climb from vertices to the peaks by Newton's method in the tangent plane: (n, k, 3)."""

    def height(at: Tensor) -> Tensor:
        return (sh_basis(at / at.norm(dim=-1, keepdim=True), order) * coefficients[:, None]).sum(-1)

    for _ in range(ROUNDS):
        # any two directions across will do; a start along the smallest component is never parallel
        least = axes.abs().argmin(-1, keepdim=True)
        helper = torch.zeros_like(axes).scatter_(-1, least, 1.0)
        e = torch.linalg.cross(axes, helper)
        e = e / e.norm(dim=-1, keepdim=True)
        f = torch.linalg.cross(axes, e)
        here, h = height(axes), NEAR
        ep, em, fp, fm = (height(axes + h * d) for d in (e, -e, f, -f))
        both = height(axes + h * (e + f))
        ge, gf = (ep - em) / (2 * h), (fp - fm) / (2 * h)
        ee, ff = (ep + em - 2 * here) / h**2, (fp + fm - 2 * here) / h**2
        ef = (both - ep - fp + here) / h**2
        # where the surface is no summit, the gradient alone decides
        det = ee * ff - ef * ef
        summit = (ee < 0) & (det > 0)
        bend = (ee.abs() + ff.abs()).clamp(min=1e-12)
        de = torch.where(summit, (ef * gf - ff * ge) / torch.where(summit, det, 1), ge / bend)
        df = torch.where(summit, (ef * ge - ee * gf) / torch.where(summit, det, 1), gf / bend)
        size = torch.hypot(de, df).clamp(min=1e-12)
        cut = (LONGEST / size).clamp(max=1)
        axes = axes + (cut * de)[..., None] * e + (cut * df)[..., None] * f
        axes = axes / axes.norm(dim=-1, keepdim=True)
    return axes


def _kept(axes: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the highest of peaks that lie close together, `MOST` at most."""
    found = heights.sort(dim=1, descending=True)
    axes = axes.gather(1, found.indices[..., None].expand(axes.shape))
    heights = found.values
    close = (axes @ axes.mT).abs() > np.cos(np.deg2rad(APART))
    there = torch.isfinite(heights)
    for k in range(1, axes.shape[1]):
        there[:, k] &= ~(close[:, k, :k] & there[:, :k]).any(1)
    rank = torch.where(there, there.cumsum(1) - 1, MOST)
    out = axes.new_zeros(len(axes), MOST + 1, 3)
    size = axes.new_zeros(len(axes), MOST + 1)
    place = rank.clamp(max=MOST)
    out.scatter_(1, place[..., None].expand(axes.shape), axes)
    size.scatter_(1, place, heights / heights[:, :1].clamp(min=1e-30))
    return out[:, :MOST], size[:, :MOST]


@lru_cache(maxsize=1)
def hemisphere() -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) of half a sphere, and the neighbours of each (v, most), itself as filler."""
    from dipy.core.subdivide_octahedron import create_unit_hemisphere

    sphere = create_unit_hemisphere(recursion_level=LEVEL)
    near: list[list[int]] = [[] for _ in sphere.vertices]
    for a, b in np.asarray(sphere.edges, dtype=int):
        near[a].append(int(b))
        near[b].append(int(a))
    most = max(map(len, near))
    table = np.array([n + [k] * (most - len(n)) for k, n in enumerate(near)])
    return np.array(sphere.vertices, dtype=np.float64), table
