"""Harmonics with less noise: local PCA of the coefficients of all shells.

Networks look at the energies of such harmonics (`calmed`): of order 4 most is noise in the scan.
And these say which way an order points: scale maps say how much there is of it, and turn nothing.
Coefficients of neighbours have few independent patterns, and noise has many, whose variances end at
an edge that is known (J. Veraart et al., "Denoising of diffusion MRI using random matrix theory",
NeuroImage 142 (2016) 394-406). Here PCA is of the b0 mean and of 15 coefficients a shell and not of
all volumes, because methods here change nothing else: much less work; `benchmarks/rish_ldm.py`
holds it against MP-PCA. And the noise is not guessed from the spectrum: what harmonics leave of a
shell tells it. What is kept of a pattern is what M. Gavish, D. L. Donoho, IEEE Trans. Inf. Theory
63 (2017) 2137-2152, find best for squared errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..acquisition import Acquisition, Shell
from ..physics.sh import rish, sh_basis, sh_degrees
from .features import Harmonics, harmonic_fit

RADIUS = 2
"""Voxels from the middle of a window to its end along each axis: 125 voxels, as many as MP-PCA
takes."""

SPARE = 1.0
"""Degrees of freedom of a voxel that harmonics must leave for its noise to be told (chosen)."""

SINGULAR = 1e6
"""Condition of the covariance of coefficients beyond which directions are too few or too alike."""

SILENT = 1e-6
"""Least standard deviation of the noise, as a share of the b0 signal: of scans without noise."""

LOADED = 1e-3
"""Added to the variances of patterns, in units of the noise: solvers fail on windows that hardly
differ."""

FAINT = 1e-3
"""Share of an order's energy that the quiet harmonics need to tell its directions; with less, those
of the scan itself stay (chosen)."""

ROWS, VOXELS = 32, 8192
"""Products that are averaged, and voxels whose patterns are sought, at a time."""

SLAB = 50_000
"""Voxels of a slab, about: 100 MB of covariances for two shells, 230 MB for three."""


class LeftOver:
    """Noise of a scan, from what b0 means and harmonics leave of its volumes.

    Parameters
    ----------
    acquisition : Acquisition
    shells : sequence of Shell
    order : int
        Of the harmonics.
    """

    def __init__(self, acquisition: Acquisition, shells: Sequence[Shell], order: int) -> None:
        self.count = int(acquisition.is_b0.sum())
        self.known = acquisition.is_b0.copy()
        self.squares: Tensor | None = None
        self.spare = self.count - 1.0
        self.explained, self.covariances, self.clear = [], [], True
        for shell in shells:
            self.known[list(shell.indices)] = True
            matrix = harmonic_fit(acquisition, shell, order)
            basis = sh_basis(torch.from_numpy(acquisition.bvecs[list(shell.indices)]), order)
            covariance = matrix @ matrix.T
            self.covariances.append(covariance)
            self.clear = self.clear and float(torch.linalg.cond(covariance)) < SINGULAR
            left = torch.eye(len(shell), dtype=torch.float64) - basis @ matrix
            self.spare += float(left.square().sum())
            # |S - Y c|^2 = |S|^2 - c' (2 A - Y'Y) c, where A c = Y'S
            normal = torch.linalg.pinv(covariance) @ matrix @ basis
            self.explained.append(2 * normal - basis.T @ basis)

    @property
    def told(self) -> bool:
        """Whether noise is told at all."""
        return self.clear and self.spare >= SPARE

    def add(self, volumes: Tensor, part: slice) -> None:
        """Take a part of the scan's volumes (k, x, y, z) into account."""
        rows = torch.from_numpy(np.flatnonzero(self.known[part])).to(volumes.device)
        found = volumes[rows].square().sum(0)
        self.squares = found if self.squares is None else self.squares + found

    def variance(self, own: Sequence[Harmonics]) -> Tensor:
        """Variance of the noise, voxel by voxel, when all volumes were added: (x, y, z)."""
        assert self.squares is not None
        left = self.squares - self.count * own[0].b0.square()
        for harmonics, form in zip(own, self.explained, strict=True):
            c = harmonics.weighted
            left -= (torch.tensordot(form.to(c), c, dims=1) * c).sum(0)
        return left.clamp(min=0) / self.spare


def quiet(
    own: Sequence[Harmonics],
    noise: LeftOver,
    variance: Tensor,
    mask: Tensor,
    tell: Callable[[float], None] = lambda share: None,
) -> list[Tensor]:
    """Remove noise from the harmonics of all shells.

    Parameters
    ----------
    own : sequence of Harmonics
        Of the shells, on the scan's grid.
    noise : LeftOver
        That told the variance.
    variance : (x, y, z) tensor
        Of the noise of one volume.
    mask : (x, y, z) bool tensor
    tell : callable
        Gets the share that is done; what it raises stops the work.

    Returns
    -------
    list of (c, x, y, z) tensor
        Coefficients times the b0 signal; outside the mask as they are.
    """
    b0, inside = own[0].b0, mask & (own[0].b0 > own[0].dark)
    near = boxes(inside, RADIUS).clamp(min=1)
    told = boxes(torch.where(inside, variance, 0.0), RADIUS) / near
    sigma = told.sqrt().to(b0).maximum(SILENT * b0.abs())
    colours = [torch.linalg.cholesky(c) for c in noise.covariances]
    rows = [b0[None] * noise.count**0.5]
    for harmonics, colour in zip(own, colours, strict=True):
        white = torch.linalg.inv(colour).to(b0)
        rows.append(torch.tensordot(white, harmonics.weighted, dims=1))
    made = torch.cat(rows)
    del rows
    whitened = torch.where(inside, made / sigma.clamp(min=1e-30), 0.0)
    for out, wide, place in _slabs(inside):
        found = _patterns(whitened[..., wide], inside[..., wide], place) * sigma[..., out]
        made[..., out] = torch.where(inside[..., out], found, made[..., out])
        tell(out.stop / inside.shape[-1])
    del whitened
    shells = made[1:].split([len(c) for c in colours])
    return [torch.tensordot(c.to(v), v, dims=1) for c, v in zip(colours, shells, strict=True)]


def calmed(
    own: Sequence[Harmonics],
    noise: LeftOver,
    mask: Tensor,
    tell: Callable[[float], None] = lambda share: None,
) -> list[Harmonics]:
    """Return harmonics of all shells with less noise (see `quiet`), but order 0 as it is.

    Order 0 is a mean over all directions, with little noise; what the PCA takes for noise of it
    are its finest details.
    """
    found = quiet(own, noise, noise.variance(own), mask, tell)
    return [
        replace(harmonics, weighted=torch.cat([harmonics.weighted[:1], less[1:]]))
        for harmonics, less in zip(own, found, strict=True)
    ]


def turned(coefficients: Tensor, quieter: Tensor, order: int) -> Tensor:
    """Give harmonics the directions of quieter ones; each order keeps its energy.

    Parameters
    ----------
    coefficients, quieter : (c, n) tensor
        The second in any unit.
    order : int

    Returns
    -------
    (c, n) tensor
    """
    energies = [rish(v.T, order).T for v in (coefficients, quieter)]
    # in units of their own order 0, so that shares of energies compare
    mean = [v[:1].clamp(min=1e-30) for v in energies]
    clear = energies[1] / mean[1] > FAINT * energies[0] / mean[0]
    clear[0] = False
    ratio = (energies[0] / energies[1].clamp(min=1e-30)).sqrt()
    degrees = (sh_degrees(order)[0] // 2).to(coefficients.device)
    return torch.where(clear[degrees], ratio[degrees] * quieter, coefficients)


def boxes(images: Tensor, radius: int) -> Tensor:
    """Add up windows about all voxels, cut off at the borders: (..., x, y, z) float64."""
    images = images.double()
    for axis in (-3, -2, -1):
        count = images.shape[axis]
        sums = images.cumsum(axis)
        sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)
        at = torch.arange(count, device=images.device)
        above, below = (at + radius + 1).clamp(max=count), (at - radius).clamp(min=0)
        images = sums.index_select(axis, above) - sums.index_select(axis, below)
    return images


def _slabs(inside: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Cut a grid along z: a slab, the same with the windows' reach, and its place in that."""
    x, y, count = inside.shape
    thick = max(1, SLAB // (x * y))
    for start in range(0, count, thick):
        stop = min(start + thick, count)
        low, high = max(0, start - RADIUS), min(count, stop + RADIUS)
        yield slice(start, stop), slice(low, high), slice(start - low, stop - low)


def _patterns(rows: Tensor, inside: Tensor, place: slice) -> Tensor:
    """Keep of voxels what their windows' patterns have beyond noise of variance 1; of some planes.

    (k, x, y, z) -> (k, x, y, planes)
    """
    here = torch.zeros_like(inside)
    here[..., place] = inside[..., place]
    kinds, at = len(rows), here.flatten().nonzero()[:, 0]
    near = boxes(inside, RADIUS).clamp(min=1)
    exact = rows.double()  # variances are small beside squares
    mean = boxes(exact, RADIUS) / near
    middle = mean.flatten(-3)[:, at]
    voxels = near.flatten()[at]
    one, other = torch.triu_indices(kinds, kinds, device=rows.device)
    joint = rows.new_empty(len(one), len(at))
    for k in range(0, len(one), ROWS):
        a, b = one[k : k + ROWS], other[k : k + ROWS]
        found = (boxes(exact[a] * exact[b], RADIUS) / near).flatten(-3)[:, at]
        joint[k : k + ROWS] = (found - middle[a] * middle[b]) * (voxels / (voxels - 1).clamp(min=1))
    out, middle, voxels = rows.clone().flatten(-3), middle.to(rows), voxels.to(rows)
    for k in range(0, len(at), VOXELS):
        some = slice(k, k + VOXELS)
        covariance = rows.new_zeros(len(at[some]), kinds, kinds)
        covariance[:, one, other] = covariance[:, other, one] = joint[:, some].T
        covariance.diagonal(dim1=-2, dim2=-1).add_(LOADED)
        variances, patterns = torch.linalg.eigh(covariance)
        kept = spiked(variances, (kinds / (voxels[some] - 1).clamp(min=1))[:, None])
        apart = (out[:, at[some]] - middle[:, some]).T[:, :, None]
        changed = patterns @ (kept[:, :, None] * (patterns.mT @ apart))
        out[:, at[some]] = middle[:, some] + changed[:, :, 0].T
    return out.reshape(rows.shape)[..., place]


def spiked(variances: Tensor, gamma: Tensor) -> Tensor:
    """Say what share to keep of patterns of observed variances, noise having variance 1.

    Parameters
    ----------
    variances : (n, k) tensor
    gamma : (n, 1) tensor
        Dimensions over degrees of freedom.

    Returns
    -------
    (n, k) tensor
        0 within the edge of noise.
    """
    edge = (1 + gamma.sqrt()).square()
    moved = variances + 1 - gamma
    beyond = (moved + (moved.square() - 4 * variances).clamp(min=0).sqrt()) / 2 - 1
    beyond = beyond.clamp(min=1e-6)
    cosine = ((1 - gamma / beyond.square()) / (1 + gamma / beyond)).clamp(min=0)  # squared
    return torch.where(variances > edge, beyond * cosine / (beyond + 1), 0.0)
