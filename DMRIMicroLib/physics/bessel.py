"""Ratio and logarithm of the modified Bessel functions of integer order, for magnitude noise.

By the recurrence of the Bessel functions downwards from their uniform expansion (M. Abramowitz,
I. A. Stegun, Handbook of Mathematical Functions (1964), eq. 9.6.26 and 9.7.7): the same code for
every order and argument, without tables.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

START = {torch.float32: 6, torch.float64: 40}
"""Bessel order at which the descent to a ratio starts: error 5e-7 and 5e-13, relative."""

START_LOG = {torch.float32: 10, torch.float64: 40}
"""The same for a logarithm, where errors add up: 5e-6 and 1e-9."""

MARGIN = {torch.float32: 4, torch.float64: 20}
"""Orders that the descent starts at least above the one that is wanted, for the same errors."""

_LOG_SERIES = (
    (3 / 24, -5 / 24),
    (1 / 16, -6 / 16, 5 / 16),
    (375 / 5760, -4779 / 5760, 9945 / 5760, -5525 / 5760),
    (13 / 128, -284 / 128, 1062 / 128, -1356 / 128, 565 / 128),
)
"""ln(1 + sum u_k(p) / n^k) by powers of 1 / w, each by powers of p^2 = n^2 / w^2.

The logarithm of the series in Abramowitz and Stegun, eq. 9.7.7, with u_k of eq. 9.3.9 and 9.3.10.
"""


def bessel_ratio(z: Tensor, coils: int = 1) -> Tensor:
    """I_N(z) / I_{N-1}(z) for N coils: (...) -> (...).

    It is the share of the measured magnitude that pulls on the signal: the derivative of the
    log-likelihood is ``(y * bessel_ratio(y * S / sigma**2) - S) / sigma**2``.

    Parameters
    ----------
    z : (...) tensor
        ``y * S / sigma**2``, >= 0, up to 1e18 in single precision.
    coils : int

    Notes
    -----
    With d_k = z I_{k-1} / I_k the recurrence of the Bessel functions (M. Abramowitz, I. A. Stegun,
    Handbook of Mathematical Functions (1964), eq. 9.6.26) is d_k = 2 k + z^2 / d_{k+1}. Downwards
    it damps errors, so it can start at a modest order from the uniform expansion of eq. 9.7.7.
    """
    top, squared, _, d = _descent(z, coils, START)
    for k in range(top, coils - 1, -1):
        d = _divided(squared, d).add_(2 * k)
    return z / d


def log_bessel(
    z: Tensor, coils: int, start: dict[torch.dtype, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithm and ratio of the Bessel functions, by the descent of `bessel_ratio`.

    Returns
    -------
    (...) tensor
        ln(r^{N-1} e^{-z} I_{N-1}(z) / z^{N-1}): nothing in it is large, so no digits are lost.
    (...) tensor
        r, near z where z is large.
    (...) tensor
        I_N(z) / I_{N-1}(z).
    """
    top, squared, w, d = _descent(z, coils, start)
    inverse, reach = 1 / w, top + w
    product, scale = torch.rsqrt(2 * math.pi * w), 1 / reach
    for k in range(top, coils - 1, -1):
        d = _divided(squared, d).add_(2 * k)
        product = _times(_times(product, d), scale)
    p2 = (top * inverse).square()
    series = torch.zeros_like(w)
    for term in reversed(_LOG_SERIES):
        series = _times(polynomial(p2, term[::-1]).add_(series), inverse)
    return torch.log(product) + series + top**2 / (w + z), reach, z / d


def _descent(
    z: Tensor, coils: int, start: dict[torch.dtype, int]
) -> tuple[int, Tensor, Tensor, Tensor]:
    """Order n, z^2, w = sqrt(z^2 + n^2) and d_{n+1}, from which the recurrence goes down.

    The expansion of z I_n / I_{n+1} for large n, uniform in z, from the logarithmic derivative of
    Abramowitz and Stegun, eq. 9.7.7, with p = n / w; exact in both limits of z.
    """
    if coils < 1 or coils != int(coils):
        raise InputError(f"the number of coils is {coils}", "Give an integer >= 1.")
    if z.dtype not in start:
        raise InputError(f"the numbers are {z.dtype}", "Give float32 or float64.")
    top = max(start[z.dtype], coils + MARGIN[z.dtype])
    squared = z.square()
    w = (squared + top**2).sqrt()
    return top, squared, w, polynomial(top / w, _start_coefficients(top)).add_(w)


@lru_cache(maxsize=64)
def _start_coefficients(n: int) -> tuple[float, ...]:
    """Polynomial in p that, with w, is d_{n+1}; highest power first."""
    p = np.polynomial.Polynomial([0, 1])
    first = (3 + 5 * p) * p / n
    second = (3 + 6 * p - 10 * p**2 - 15 * p**3) * p**2 / n**2
    total = n + (1 + p) ** 2 * (0.5 + (1 - p) * (first + second) / 8)
    return tuple(float(c) for c in total.coef[::-1])


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Polynomial by Horner's rule, highest power first: (...) -> (...)."""
    total = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = _times(total, x).add_(c)
    return total


# A large result that is thrown away at once costs more than the arithmetic; where autograd does not
# need the old values, they are overwritten.
def _times(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b; `a` may be overwritten."""
    return a * b if torch.is_grad_enabled() else a.mul_(b)


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; `b` may be overwritten."""
    return a / b if torch.is_grad_enabled() else b.reciprocal_().mul_(a)


BEND, DEGREE = 3.0, 6
"""Where `rician_bessel` goes from small to large arguments, and the degree of its polynomial: with
these it is within 3e-6 everywhere."""


def rician_bessel(z: Tensor) -> tuple[Tensor, Tensor]:
    """ln(e^{-z} I_0(z)) and I_1(z) / I_0(z), for one coil: (...) -> (...), (...).

    What `log_bessel` gives to 3e-6, several times as fast, without derivatives of its own: with
    w^2 = z^2 + c^2 the function ln(e^{-z} I_0) - c^2 / (w + z) + ln(2 pi w) / 2 is a short
    polynomial in p = c / w, 0 at z = infinity; the ratio is the derivative of the same polynomial.
    """
    value, slope = _rician_polynomials()
    w = (z * z).add_(BEND**2).sqrt_()
    inverse = w.reciprocal()
    p = BEND * inverse
    log_ie = polynomial(p, value).mul_(p)
    bend = polynomial(p, slope).mul_(p).mul_(p)
    ratio = bend.add_(inverse, alpha=0.5).neg_().add_(1).mul_(z).mul_(inverse)
    log_ie.add_((w + z).reciprocal_(), alpha=BEND**2).sub_(w.mul_(2 * math.pi).log_(), alpha=0.5)
    return log_ie, ratio


@lru_cache(maxsize=1)
def _rician_polynomials() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients of the polynomial over p, and of its derivative over c; highest first."""
    count = 2000
    p = (np.cos(np.pi * (np.arange(count) + 0.5) / count) + 1) / 2
    w = BEND / p
    z = np.sqrt(np.maximum(w**2 - BEND**2, 0))
    log_ie = log_bessel(torch.from_numpy(z), 1, START_LOG)[0].numpy()
    rest = log_ie - BEND**2 / (w + z) + np.log(2 * np.pi * w) / 2
    fit = np.polynomial.Chebyshev.fit(p, rest / p, DEGREE, domain=[0, 1])
    whole = fit.convert(kind=np.polynomial.Polynomial) * np.polynomial.Polynomial([0, 1])
    slope = whole.deriv().coef / BEND
    return tuple(whole.coef[:0:-1].tolist()), tuple(slope[::-1].tolist())
