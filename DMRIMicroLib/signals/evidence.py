r"""What a scan says of the space, and its product with a Gaussian prior: the data step.

A voxel's signals relative to b = 0 are :math:`y = A z + a + n` (see `space`). With the noise
:math:`n \sim N(0, s^2 V)`, V common to all voxels, s the voxel's noise relative to its b = 0, and
the prior :math:`z \sim N(\mu, r D)`, D diagonal and common, the posterior is Gaussian.
In the basis U of the eigenvectors of :math:`D^{1/2} A' V^{-1} A D^{1/2} = U \Lambda U'` every
voxel is solved at once, whatever its r and s:

.. math:: z = \mu + D^{1/2} U \, \frac{\rho}{1 + \rho \Lambda} \, U' D^{1/2}
              A' V^{-1} (y - a - A \mu), \qquad \rho = r / s^2,

with the covariance :math:`r D^{1/2} U (1 + \rho \Lambda)^{-1} U' D^{1/2}`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Acquisition
from .space import HIGHEST, Space

FLOOR = 0.3
"""Signals count as at least so many standard deviations of the noise."""

MISFIT = 3.0
"""Real tissue differs from the space by so many times what simulated tissue does."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a scan says of n voxels.

    Attributes
    ----------
    matrix : (c, c) tensor
        A'V^-1 A, in double precision.
    vector : (c, n) tensor
        A'V^-1 (y - a).
    noise : (n,) tensor
        s, relative to b = 0.
    """

    matrix: Tensor
    vector: Tensor
    noise: Tensor

    def posterior(
        self, mean: Tensor, prior: Tensor, spread: Tensor, draw: Tensor | None = None
    ) -> Tensor:
        """Return the posterior mean, or a sample of the posterior: (c, n).

        Parameters
        ----------
        mean : (c, n) tensor
        prior : (c,) tensor
            Diagonal of D.
        spread : (n,) tensor
            r of every voxel.
        draw : (c, n) tensor, optional
            Standard normal numbers, for a sample.
        """
        root = prior.double().sqrt()
        values, vectors = torch.linalg.eigh(root[:, None] * self.matrix * root)
        onto = (root[:, None] * vectors).to(mean)  # D^1/2 U
        values = values.clamp(min=0).to(mean)[:, None]
        left = self.vector - self.matrix.to(mean) @ mean
        ratio = spread / self.noise.square()
        shrink = 1 / (1 + ratio * values)
        step = ratio * shrink * (onto.T @ left)
        if draw is not None:
            step = step + (spread * shrink).sqrt() * draw
        return mean + onto @ step

    def share(self, prior: Tensor, spread: Tensor) -> Tensor:
        """Share of the prior in every voxel's answer, 0 to 1: (n,); mean over the numbers."""
        root = prior.double().sqrt()
        values = torch.linalg.eigvalsh(root[:, None] * self.matrix * root).clamp(min=0)
        ratio = (spread / self.noise.square()).double()
        return (1 / (1 + ratio * values[:, None])).mean(0).to(spread)


def weighted(acquisition: Acquisition) -> NDArray[np.bool_]:
    """Volumes that say something of the space."""
    return (~acquisition.is_b0) & (acquisition.bvals <= 1e3 * HIGHEST)


def without_floor(magnitude: Tensor, noise: Tensor, coils: float = 1.0) -> Tensor:
    """Return magnitudes without what noise adds to them.

    E[y^2] = S^2 + 2 n s^2 with `coils` n, that of a Gaussian S^2 + s^2.
    """
    power = magnitude.square() - (2 * coils - 1) * noise.square()
    return power.clamp(min=(FLOOR * noise).square()).sqrt()


def evidence(
    space: Space,
    ratio: Tensor,
    noise: Tensor,
    acquisition: Acquisition,
    frame: Tensor,
    coils: float = 1.0,
) -> Evidence:
    """Prepare the data step.

    Parameters
    ----------
    space : Space
    ratio : (m, n) tensor
        Signals relative to b = 0.
    noise : (n,) tensor
        Standard deviation, relative to b = 0.
    acquisition : Acquisition
    frame : (3, 3) tensor
        See `Space.design`.
    coils : float
        See `sigma.Noise`.
    """
    rows = [int(v) for v in weighted(acquisition).nonzero()[0]]
    design, offset, rest = space.design(acquisition.subset(rows), frame)
    y = without_floor(ratio[rows], noise, coils)
    typical = float(noise.median())
    level = y.mean(1).double().cpu()
    averaged = max(1, int(acquisition.is_b0.sum()))
    own = 1 / (1 + (MISFIT * rest / typical).square())
    # noise of the b0 images that all were divided by: V = diag(1 / own) + level level' / averaged
    across = design.T * own
    shared = across @ level
    across -= torch.outer(shared, own * level) / (averaged + (own * level).dot(level))
    vector = across.to(y) @ (y - offset.to(y)[:, None])
    return Evidence(across @ design, vector, noise)
