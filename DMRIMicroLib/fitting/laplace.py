"""Covariance of fitted parameters, by the curvature at the optimum and the bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..physics.linalg import unpack

RANGE_INFORMATION = 12.0
"""Precision of a uniform distribution over its range, times range2: a parameter without a prior of
its own cannot be more uncertain than its bounds."""

FAR, NARROW = 8.0, 1e-3
"""Standard deviations beyond which a bound is not felt; least share that a cut variance keeps."""


def laplace(
    normal: Tensor,
    gradient: Tensor,
    x: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    known: Tensor,
    directions: list[slice],
) -> Tensor:
    """Laplace approximation of the posterior covariance.

    Parameters
    ----------
    normal : (q, n) tensor
        Packed half Hessian of the cost, in units of chi-square: the information.
    gradient : (p, n) tensor
        Half gradient of the cost; not 0 where an optimum lies on a bound.
    x : (p, n) tensor
        The optimum.
    low, high : (p, 1) tensors
        Bounds.
    known : (p, 1) tensor
        Information of the bounds, added to the diagonal.
    directions : list of slice
        Rows of unit vectors, which have no variance along themselves.

    Returns
    -------
    (p, p, n) tensor
    """
    p = len(x)
    full = unpack(normal, p)
    full[range(p), range(p)] += known
    cov = torch.linalg.inv_ex(full.permute(2, 0, 1)).inverse.permute(1, 2, 0).contiguous()
    for rows in directions:
        v = x[rows]
        cov[rows] -= v[:, None] * (v[:, None] * cov[rows]).sum(0)
        cov[:, rows] -= v * (cov[:, rows] * v).sum(1, keepdim=True)
    for i in range(p):
        if torch.isfinite(low[i]):
            _cut(cov, i, gradient, x, low[i], high[i])
    return cov


def _cut(cov: Tensor, i: int, gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> None:
    """Leave of parameter i's distribution what lies within its bounds, in place.

    The variance becomes the second moment about x of a normal distribution that is cut off at the
    bounds (N. L. Johnson, S. Kotz, N. Balakrishnan, Continuous Univariate Distributions 1 (1994),
    section 13.10.1); the others follow by their regression on it.
    """
    variance = cov[i, i].clamp(min=torch.finfo(cov.dtype).tiny)
    sd = variance.sqrt()
    # x less the optimum that there would be without bounds, in sd: 0 inside
    centre = ((cov[i] * gradient).sum(0) / sd).clamp(-5, 5).double()
    a = ((low - x[i]) / sd).double().add(centre).clamp(-FAR, FAR)
    b = ((high - x[i]) / sd).double().add(centre).clamp(-FAR, FAR)
    share = (torch.special.ndtr(b) - torch.special.ndtr(a)).clamp(min=1e-12)
    at_a, at_b = _normal(a), _normal(b)
    second = 1 + (a * at_a - b * at_b) / share - 2 * centre * (at_a - at_b) / share + centre**2
    lost = (1 - second.clamp(NARROW, 1)).to(cov)
    row = cov[i].clone()
    cov -= (lost / variance) * row[:, None] * row


def _normal(u: Tensor) -> Tensor:
    """Density of the standard normal distribution."""
    return torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
