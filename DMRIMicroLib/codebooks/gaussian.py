"""The data step: a Gaussian prior of every voxel times the likelihood of its signals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """What prior and data say together.

    Attributes
    ----------
    mean, variance : (n, c) tensor
    """

    mean: Tensor
    variance: Tensor


def posterior(
    mean: Tensor, variance: Tensor, matrix: Tensor, vector: Tensor, noise: Tensor
) -> Posterior:
    """Multiply a Gaussian prior with the likelihood of the data.

    Parameters
    ----------
    mean, variance : (n, c) tensor
        Of the prior.
    matrix, vector, noise : (c, c), (n, c), (n,) tensor
        See `signals.evidence.Evidence`.
    """
    root = variance.sqrt()
    weight = 1 / noise.square()
    # in units of the prior's standard deviation: the smallest eigenvalue is 1
    precision = root[:, :, None] * (weight[:, None, None] * matrix) * root[:, None]
    precision = precision + torch.eye(len(matrix)).to(matrix)
    factor = torch.linalg.cholesky(precision)
    told = root * weight[:, None] * (vector - mean @ matrix)
    step = torch.cholesky_solve(told[..., None], factor)[..., 0]
    inverse = torch.linalg.solve_triangular(
        factor, torch.eye(len(matrix)).to(matrix).expand_as(factor), upper=False
    )
    return Posterior(mean + root * step, variance * inverse.square().sum(1))
