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
    onto = torch.linalg.solve_triangular(factor, b.mT, upper=False)
    return Posterior(mean + _along(b, factor, step), onto.square().sum(1))


def expected(
    mean: Tensor, variance: Tensor, factors: Tensor, matrix: Tensor, vector: Tensor, noise: Tensor
) -> Tensor:
    """Return the posterior mean alone: (n, c); see `posterior`."""
    return mean + _along(*_solve(mean, variance, factors, matrix, vector, noise))


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
    return mean + _along(b, factor, step + normal[..., None])


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
    root = variance.sqrt()
    b = torch.cat([torch.diag_embed(root), factors], 2)
    weight = 1 / noise.square()
    # B'MB block by block: the first of B is diagonal
    seen = (matrix @ factors).mT  # M is symmetric
    corner = torch.cat([root[:, :, None] * matrix * root[:, None], seen * root[:, None]], 1)
    edge = torch.cat([(seen * root[:, None]).mT, seen @ factors], 1)
    product = torch.cat([corner, edge], 2) * weight[:, None, None]
    product.diagonal(dim1=1, dim2=2).add_(1)
    factor = torch.linalg.cholesky(product)
    told = weight[:, None] * (vector - mean @ matrix)
    onto = torch.cat([root * told, (factors.mT @ told[..., None])[..., 0]], 1)
    return b, factor, torch.linalg.solve_triangular(factor, onto[..., None], upper=False)


def _along(b: Tensor, factor: Tensor, step: Tensor) -> Tensor:
    """Return B x of what `_solve` returns."""
    return (b @ torch.linalg.solve_triangular(factor.mT, step, upper=True))[..., 0]


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
