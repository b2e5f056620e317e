"""The spherical mean of a stick with its derivative, for analytic Jacobians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..physics.compartments import stick_mean

SERIES_LIMIT = 0.5
"""Below this argument the closed form of the derivative cancels, and a series takes its place."""

SERIES = [(-1) ** (k + 1) / (math.factorial(k) * (2 * k + 3)) for k in range(12)]
"""Of the derivative: 0.5**12 / (12! 27) is below double precision."""


def mean_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of exp(-x t^2) over 0 < t < 1, and its derivative by x >= 0: (...) -> (...), (...).

    Integration by parts gives the derivative from the mean: (exp(-x) - mean) / (2 x).
    """
    mean = stick_mean(x, 1.0)
    small = x < SERIES_LIMIT
    closed = torch.exp(-x).sub_(mean).div_(2 * x.clamp(min=SERIES_LIMIT))
    near = x.clamp(max=SERIES_LIMIT)
    series = torch.full_like(x, SERIES[-1])
    for coefficient in reversed(SERIES[:-1]):
        series.mul_(near).add_(coefficient)
    return mean, torch.where(small, series, closed)
