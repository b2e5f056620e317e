r"""Signals of single tissue compartments.

b is in ms/um2, diffusivities in um2/ms, times in ms, lengths in um; ``cos`` is the cosine between
the gradient and the fibre. Arguments broadcast against each other and may be tensors or numbers,
at least one a tensor. Signals are 1 at b = 0.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .legendre import gauss_legendre, legendre

KERNEL_NODES = 32
"""Quadrature nodes of `axial_kernel`: below 1e-12 for b D <= 30 and order <= 24."""

SPHERE_ROOTS = 20
"""Modes of a sphere that are summed one by one, the rest in one: below 1e-6 in the signal for
radii up to 20 um, b <= 10 and separations from 8 ms, and 1e-3 for any radius."""

TAIL_ROOTS = 4000
"""Modes that make up the rest; what is left beyond them is below 1e-11 of it."""

RADIUS_FLOOR = 1e-3
"""Radius [um] below which a sphere's signal is 1 to double precision; keeps gradients finite."""

SERIES_LIMIT = 1.0
"""Below this argument power series replace closed forms that cancel there."""

SERIES_TERMS = 24
"""Terms of those series: 2**24 / 24! is below double precision."""


def ball(b: Tensor, d: Tensor | float) -> Tensor:
    """Isotropic Gaussian diffusion of diffusivity `d`: (...) -> (...)."""
    return torch.exp(-b * d)


def dot(b: Tensor) -> Tensor:
    """Water that does not move: (...) -> (...) ones."""
    return torch.ones_like(b)


def stick(b: Tensor, cos: Tensor, d_par: Tensor | float) -> Tensor:
    """Diffusion along a line only: (...) -> (...).

    T. E. J. Behrens et al., Magn. Reson. Med. 50 (2003) 1077-1088 (ball and stick).
    """
    return torch.exp(-b * d_par * cos.square())


def zeppelin(b: Tensor, cos: Tensor, d_par: Tensor | float, d_perp: Tensor | float) -> Tensor:
    """Axially symmetric Gaussian diffusion: (...) -> (...).

    E. Panagiotaki et al., NeuroImage 59 (2012) 2241-2254.
    """
    return torch.exp(-b * (d_perp + (d_par - d_perp) * cos.square()))


def stick_mean(b: Tensor, d_par: Tensor | float) -> Tensor:
    """Spherical mean of `stick`: (...) -> (...)."""
    return _mean_of_gauss(b * d_par)


def zeppelin_mean(b: Tensor, d_par: Tensor | float, d_perp: Tensor | float) -> Tensor:
    """Spherical mean of `zeppelin`, for d_perp <= d_par: (...) -> (...).

    E. Kaden, F. Kruggel, D. C. Alexander, Magn. Reson. Med. 75 (2016) 1752-1763.
    """
    return torch.exp(-b * d_perp) * _mean_of_gauss(b * (d_par - d_perp))


def axial_kernel(b: Tensor, d_par: Tensor | float, d_perp: Tensor | float, order: int) -> Tensor:
    r"""Factors by which a zeppelin response multiplies the SH of a fibre distribution.

    Funk-Hecke theorem: an axially symmetric response K(t) convolved with a density p on the
    sphere has the coefficients ``S_lm = k_l p_lm`` with
    :math:`k_l = 2 \pi \int_{-1}^{1} K(t) P_l(t) dt`. A stick has `d_perp` = 0.

    Parameters
    ----------
    b, d_par, d_perp : (...) tensors or numbers
    order : int
        Highest degree, even.

    Returns
    -------
    (..., order / 2 + 1) tensor
        k_0, k_2, ..., k_order; k_0 is 4 pi at b = 0 and the others 0.
    """
    t, weights = gauss_legendre(KERNEL_NODES, like=b)
    # an integral over [-1, 1] is twice the mean over [0, 1]
    projection = 4 * math.pi * weights[:, None] * legendre(t, order)
    exponent = torch.as_tensor(b * (d_par - d_perp))[..., None] * t.square()
    return torch.exp(-(exponent + torch.as_tensor(b * d_perp)[..., None])) @ projection


def sphere(
    b: Tensor,
    radius: Tensor | float,
    d: Tensor | float,
    delta: Tensor | float,
    Delta: Tensor | float,
) -> Tensor:
    """Diffusion inside an impermeable sphere, by the Gaussian phase distribution: (...) -> (...).

    See `sphere_diffusivity`.
    """
    return torch.exp(-b * sphere_diffusivity(radius, d, delta, Delta, like=b))


def sphere_diffusivity(
    radius: Tensor | float,
    d: Tensor | float,
    delta: Tensor | float,
    Delta: Tensor | float,
    like: Tensor | None = None,
) -> Tensor:
    r"""Apparent diffusivity inside an impermeable sphere, by the Gaussian phase distribution.

    J. S. Murday, R. M. Cotts, J. Chem. Phys. 48 (1968) 4938-4945; C. H. Neuman, J. Chem. Phys.
    60 (1974) 4508-4511. With the squared gradient written as
    :math:`b / (\delta^2 (\Delta - \delta / 3))` the log-signal is linear in b, so it is an
    apparent diffusivity, the same for every b of one gradient timing.

    Parameters
    ----------
    radius : (...) tensor or number
        Radius [um], >= 0; 0 gives 0.
    d : (...) tensor or number
        Diffusivity inside [um2/ms], > 0.
    delta, Delta : (...) tensors or numbers
        Duration and separation of the gradients [ms], 0 < delta <= Delta.
    like : tensor, optional
        Type and device, where no other argument is a tensor.

    Returns
    -------
    (...) tensor
        Apparent diffusivity [um2/ms], between 0 and `d`.

    Notes
    -----
    With x = mu^2 d / radius^2 for a root mu, the bracket of their sum over modes,

        2 delta - (2 + e^{-x (Delta - delta)} - 2 e^{-x delta} - 2 e^{-x Delta}
                   + e^{-x (Delta + delta)}) / x,

    cancels to third order where x is small. It is rewritten, without approximation, as a weighted
    mean of decays between 0 and 1, which holds all digits in single precision too.
    """
    like = next((v for v in (like, radius, d, delta, Delta) if isinstance(v, Tensor)), like)
    radius, d, delta, Delta = (
        torch.as_tensor(v, dtype=like.dtype, device=like.device)[..., None]
        for v in (radius, d, delta, Delta)
    )
    mu, weight = (like.new_tensor(v) for v in _sphere_modes())
    rate = mu.square() * d / radius.clamp(min=RADIUS_FLOOR).square()  # of each mode [1/ms]
    during = delta * _echo_decay(rate * delta)
    between = (Delta - delta) * _decay(rate * delta).square() * _decay(rate * (Delta - delta))
    restricted = (during + between) / (Delta - delta / 3)
    return d[..., 0] * (restricted @ weight)


@lru_cache(maxsize=1)
def _sphere_modes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Roots mu of mu J'_{3/2}(mu) = J_{3/2}(mu) / 2 and their weights 2 / (mu^2 - 2).

    The roots are those of the derivative of j_1, which vanishes where tan mu = 2 mu / (2 - mu^2);
    solved for the m-th branch of the tangent that is a contraction. The last entry stands for all
    further modes: it has their weight, so that a huge sphere is free water, and the root that
    gives their sum where they decay at once (then each is proportional to weight / mu^4).
    """
    branch = np.pi * np.arange(1, TAIL_ROOTS + 1)
    mu = branch
    for _ in range(100):  # contracts by 0.56 or better a step
        mu = branch - np.arctan2(2 * mu, mu**2 - 2)
    weight = 2 / (mu**2 - 2)  # sums to 1 over all modes
    rest = 1 - weight[:SPHERE_ROOTS].sum()
    last = (rest / (weight / mu**4)[SPHERE_ROOTS:].sum()) ** 0.25
    return np.append(mu[:SPHERE_ROOTS], last), np.append(weight[:SPHERE_ROOTS], rest)


def _decay(a: Tensor) -> Tensor:
    """Mean of e^{-s} over 0 < s < a: (1 - e^{-a}) / a, 1 at a = 0."""
    small = a < SERIES_LIMIT
    far = a.clamp(min=SERIES_LIMIT)
    series = _power_series(a, small, [(-1) ** k / math.factorial(k + 1) for k in _TERMS])
    return torch.where(small, series, -torch.expm1(-far) / far)


def _echo_decay(a: Tensor) -> Tensor:
    """(2 a - 3 + 4 e^{-a} - e^{-2a}) / a^3, 2/3 at a = 0."""
    small = a < SERIES_LIMIT
    far = a.clamp(min=SERIES_LIMIT)
    decayed, inverse = torch.exp(-far), 1 / far
    closed = (2 - (3 - 4 * decayed + decayed.square()) * inverse) * inverse.square()
    coefficients = [(-1) ** k * (2 ** (k + 3) - 4) / math.factorial(k + 3) for k in _TERMS]
    return torch.where(small, _power_series(a, small, coefficients), closed)


def _mean_of_gauss(x: Tensor) -> Tensor:
    """Mean of exp(-x t^2) over 0 < t < 1 for x >= 0: sqrt(pi) erf(sqrt x) / (2 sqrt x)."""
    small = x < SERIES_LIMIT
    root = x.clamp(min=SERIES_LIMIT).sqrt()
    series = _power_series(
        x, small, [(-1) ** k / (math.factorial(k) * (2 * k + 1)) for k in _TERMS]
    )
    return torch.where(small, series, math.sqrt(math.pi) / 2 * torch.erf(root) / root)


_TERMS = range(SERIES_TERMS)


def _power_series(x: Tensor, where: Tensor, coefficients: list[float]) -> Tensor:
    """Horner's rule; x is zeroed elsewhere, or powers that overflow would spoil gradients."""
    x = torch.where(where, x, torch.zeros_like(x))
    small = [c for c in coefficients if abs(c) > torch.finfo(x.dtype).eps / 16]
    total = torch.full_like(x, small[-1])
    for c in reversed(small[:-1]):
        total = total * x + c
    return total
