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


class Joint(NamedTuple):
    """A Gaussian prior of n voxels beside the likelihood of their data.

    Attributes
    ----------
    mean, variance : (n, c) tensor
        Of the prior, v.
    factors : (n, c, r) tensor
        W.
    matrix, vector, noise : (c, c), (n, c), (n,) tensor
        See `signals.evidence.Evidence`.
    """

    mean: Tensor
    variance: Tensor
    factors: Tensor
    matrix: Tensor
    vector: Tensor
    noise: Tensor

    def posterior(self) -> Posterior:
        """Multiply the prior with the likelihood."""
        b, factor, step = self._solve()
        onto = torch.linalg.solve_triangular(factor, b.mT, upper=False)
        return Posterior(self.mean + _along(b, factor, step), onto.square().sum(1))

    def expected(self) -> Tensor:
        """Return the mean of the posterior alone: (n, c)."""
        return self.mean + _along(*self._solve())

    def predicted(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of one combination of the numbers, row (c,): (n,) each."""
        b, factor, step = self._solve()
        onto = torch.linalg.solve_triangular(factor, b.mT @ row[:, None], upper=False)
        return self.mean @ row + (onto * step).sum((1, 2)), onto.square().sum((1, 2))

    def draw(self, normal: Tensor) -> Tensor:
        """Sample the posterior with standard normal numbers (n, c + r): (n, c)."""
        b, factor, step = self._solve()
        return self.mean + _along(b, factor, step + normal[..., None])

    def unlikeliness(self) -> Tensor:
        r"""Negative log probability of the data under the prior, less a constant: (n,).

        The constant is that of z = 0 known for sure, which no prior changes. A prior that comes
        from neighbours alone cannot learn a voxel's noise by making this small.
        """
        _, factor, step = self._solve()
        apart = ((self.mean @ self.matrix - 2 * self.vector) * self.mean).sum(1)
        apart = apart / self.noise.square() - step.square().sum((1, 2))
        return 0.5 * apart + factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def _solve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return B, L and L^-1 B'(data): z = mean + B x, x standard normal, L L' its precision.

        The smallest eigenvalue of that precision is 1.
        """
        root, factors = self.variance.sqrt(), self.factors
        b = torch.cat([torch.diag_embed(root), factors], 2)
        weight = 1 / self.noise.square()
        # B'MB block by block: the first of B is diagonal
        seen = (self.matrix @ factors).mT  # M is symmetric
        corner = root[:, :, None] * self.matrix * root[:, None]
        corner = torch.cat([corner, seen * root[:, None]], 1)
        edge = torch.cat([(seen * root[:, None]).mT, seen @ factors], 1)
        product = torch.cat([corner, edge], 2) * weight[:, None, None]
        product.diagonal(dim1=1, dim2=2).add_(1)
        factor = torch.linalg.cholesky(product)
        told = weight[:, None] * (self.vector - self.mean @ self.matrix)
        onto = torch.cat([root * told, (factors.mT @ told[..., None])[..., 0]], 1)
        return b, factor, torch.linalg.solve_triangular(factor, onto[..., None], upper=False)


def _along(b: Tensor, factor: Tensor, step: Tensor) -> Tensor:
    """Return B x of what `Joint._solve` returns."""
    return (b @ torch.linalg.solve_triangular(factor.mT, step, upper=True))[..., 0]


def surprise(truth: Tensor, mean: Tensor, variance: Tensor, factors: Tensor) -> Tensor:
    """Negative log likelihood of n truths under their priors, a number: (n, c) -> (n,).

    By Woodbury's identity; see `Joint` for the prior.
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
