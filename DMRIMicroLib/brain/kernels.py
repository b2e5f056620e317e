"""Short series for the two expensive kernels: many pieces of tissue, few b-values.

Their slow references are in `physics.compartments`, from which the series are made.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..physics.compartments import axial_kernel, sphere_diffusivity
from ..physics.tissue import D_SOMA

STICK_REACH = 30.0
"""Highest b D of the stick's series; above it, the next double."""

STICK_SCALE = 8.0
"""b D in the middle of the series' variable x / (x + scale): the series is short with it."""

SOMA_REACH = 16.0
"""Largest radius of the somas' series [um]; above it, the next double."""

SERIES_ERROR = {torch.float32: 1e-7, torch.float64: 1e-12}
"""Relative to a signal without weighting, or to free diffusion: where the series are cut off."""

SERIES_TERMS = 64
"""Terms of a series before it is cut off."""


def stick_kernel(x: Tensor, order: int) -> list[Tensor]:
    """Factors of a stick's response for b D = `x`, fast: (...) -> order / 2 + 1 of (...).

    The series of `physics.compartments.axial_kernel`, to `SERIES_ERROR`.
    """
    reach = _double_to(STICK_REACH, x)
    t = x / (x + STICK_SCALE) * (2 * (reach + STICK_SCALE) / reach) - 1
    return [_clenshaw(t, row) for row in _stick_series(reach, order, x.dtype)]


def soma_diffusivity(radius: Tensor, delta: float, Delta: float) -> Tensor:
    """Apparent diffusivity inside somas [um2/ms], fast: (...) [um] -> (...).

    The series of `physics.compartments.sphere_diffusivity`, to `SERIES_ERROR`.
    """
    reach = _double_to(SOMA_REACH, radius)
    return _clenshaw(2 / reach * radius - 1, _soma_series(reach, delta, Delta, radius.dtype))


def _double_to(reach: float, x: Tensor) -> float:
    """Return `reach`, doubled until no value is beyond it."""
    highest = float(x.max()) if x.numel() else 0.0
    while highest > reach:
        reach *= 2
    return reach


def _clenshaw(t: Tensor, series: tuple[float, ...]) -> Tensor:
    """Chebyshev series, by Clenshaw's recurrence: (...) -> (...)."""
    double = 2 * t
    now, before = torch.full_like(t, series[-1]), torch.zeros_like(t)
    for c in reversed(series[1:-1]):
        now, before = torch.addcmul(c - before, double, now), now
    return torch.addcmul(series[0] - before, t, now)


@lru_cache(maxsize=16)
def _stick_series(reach: float, order: int, dtype: torch.dtype) -> tuple[tuple[float, ...], ...]:
    """Chebyshev coefficients in a variable that runs over x / (x + `STICK_SCALE`)."""

    def kernel(t: NDArray) -> NDArray:
        share = (t + 1) / 2 * (reach / (reach + STICK_SCALE))
        x = torch.tensor(STICK_SCALE * share / (1 - share))
        return axial_kernel(x, 1.0, 0.0, order).numpy()

    series = np.polynomial.chebyshev.chebinterpolate(kernel, SERIES_TERMS)
    return tuple(_cut(column, 4 * math.pi * SERIES_ERROR[dtype]) for column in series.T)


@lru_cache(maxsize=64)
def _soma_series(reach: float, delta: float, Delta: float, dtype: torch.dtype) -> tuple[float, ...]:
    """Chebyshev coefficients in the radius, 0 to `reach` [um]."""

    def diffusivity(t: NDArray) -> NDArray:
        radius = torch.tensor((t + 1) / 2 * reach)
        return sphere_diffusivity(radius, D_SOMA, delta, Delta).numpy()

    series = np.polynomial.chebyshev.chebinterpolate(diffusivity, SERIES_TERMS)
    return _cut(series, D_SOMA * SERIES_ERROR[dtype])


def _cut(series: NDArray, error: float) -> tuple[float, ...]:
    """Leave out the last terms of a Chebyshev series that together stay below `error`."""
    tail = np.abs(series[::-1]).cumsum()[::-1]
    return tuple(series[: max(2, int((tail > error).sum()))].tolist())
