r"""The data step: a Gaussian prior of every voxel times the likelihood of its signals.

A prior has the covariance :math:`C = \mathrm{diag}(v) + W W'` with a few columns W: what changes
together in tissue, the share of fluid say, changes many numbers at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FAR = 4.0
"""Truth further from the prior than this, in standard deviations a number, costs less than a
Gaussian's logarithm: a few odd voxels do not decide."""


class Posterior(NamedTuple):
    """What prior and data say together.

    Attributes
    ----------
    mean, variance : (n, c) tensor
    """

    mean: Tensor
    variance: Tensor


def posterior(
    mean: Tensor,
    variance: Tensor,
    factors: Tensor,
    matrix: Tensor,
    vector: Tensor,
    noise: Tensor,
) -> Posterior:
    """Multiply a Gaussian prior with the likelihood of the data.

    Parameters
    ----------
    mean, variance : (n, c) tensor
        Of the prior, v.
    factors : (n, c, r) tensor
        W.
    matrix, vector, noise : (c, c), (n, c), (n,) tensor
        See `signals.evidence.Evidence`.
    """
    b, factor, step = _solve(mean, variance, factors, matrix, vector, noise)
    step = torch.linalg.solve_triangular(factor.mT, step, upper=True)
    onto = torch.linalg.solve_triangular(factor, b.mT, upper=False)
    return Posterior(mean + (b @ step)[..., 0], onto.square().sum(1))


def predicted(
    mean: Tensor,
    variance: Tensor,
    factors: Tensor,
    matrix: Tensor,
    vector: Tensor,
    noise: Tensor,
    row: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of one combination of the numbers, row (c,); see `posterior`."""
    b, factor, step = _solve(mean, variance, factors, matrix, vector, noise)
    onto = torch.linalg.solve_triangular(factor, b.mT @ row[:, None], upper=False)
    return mean @ row + (onto * step).sum((1, 2)), onto.square().sum((1, 2))


def draw(
    mean: Tensor,
    variance: Tensor,
    factors: Tensor,
    matrix: Tensor,
    vector: Tensor,
    noise: Tensor,
    normal: Tensor,
) -> Tensor:
    """Sample the posterior with standard normal numbers (n, c + r): (n, c); see `posterior`."""
    b, factor, step = _solve(mean, variance, factors, matrix, vector, noise)
    step = torch.linalg.solve_triangular(factor.mT, step + normal[..., None], upper=True)
    return mean + (b @ step)[..., 0]


def unlikeliness(
    mean: Tensor, variance: Tensor, factors: Tensor, matrix: Tensor, vector: Tensor, noise: Tensor
) -> Tensor:
    r"""Negative log probability of the data of n voxels under their priors, less a constant: (n,).

    The constant is that of z = 0 known for sure, which no prior changes. A prior that comes from
    neighbours alone cannot learn a voxel's noise by making this small. See `posterior`.
    """
    _, factor, step = _solve(mean, variance, factors, matrix, vector, noise)
    apart = ((mean @ matrix - 2 * vector) * mean).sum(1) / noise.square()
    return 0.5 * (apart - step.square().sum((1, 2))) + factor.diagonal(dim1=1, dim2=2).log().sum(1)


def _solve(
    mean: Tensor, variance: Tensor, factors: Tensor, matrix: Tensor, vector: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return B, L and L^-1 B'(data): z = mean + B x, x standard normal, L L' its precision.

    The smallest eigenvalue of that precision is 1.
    """
    b = torch.cat([torch.diag_embed(variance.sqrt()), factors], 2)
    weight = 1 / noise.square()
    unit = torch.eye(b.shape[2]).to(matrix)
    factor = torch.linalg.cholesky(weight[:, None, None] * (b.mT @ (matrix @ b)) + unit)
    told = weight[:, None] * (vector - mean @ matrix)
    return b, factor, torch.linalg.solve_triangular(factor, b.mT @ told[..., None], upper=False)


def surprise(truth: Tensor, mean: Tensor, variance: Tensor, factors: Tensor) -> Tensor:
    """Negative log likelihood of n truths under their priors, a number: (n, c) -> (n,).

    By Woodbury's identity; see `posterior` for the parameters.
    """
    apart = truth - mean
    scaled = factors / variance[..., None]
    small = torch.eye(factors.shape[2]).to(factors) + factors.mT @ scaled
    factor = torch.linalg.cholesky(small)
    along = torch.linalg.solve_triangular(factor, scaled.mT @ apart[..., None], upper=False)
    squared = (apart.square() / variance).sum(1) - along.square().sum((1, 2))
    size = truth.shape[1]
    limit = size * FAR**2
    held = torch.where(
        squared > limit, 2 * (limit * squared.clamp(min=limit)).sqrt() - limit, squared
    )
    volume = variance.log().sum(1) + 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return 0.5 * (held + volume + size * math.log(2 * math.pi)) / size
