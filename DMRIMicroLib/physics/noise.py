r"""Noise of magnitude images: Rician, and non-central chi for the root sum of squares of N coils.

A magnitude y over a signal S with noise of standard deviation sigma in each real and imaginary
channel has, with m = y / sigma and s = S / sigma, the density

.. math:: p(y) = m^N s^{1-N} \exp(-(m^2 + s^2) / 2) \, I_{N-1}(m s) / \sigma

(S. O. Rice, Bell Syst. Tech. J. 23 (1944) 282-332 for one coil; C. D. Constantinides, E. Atalar,
E. R. McVeigh, Magn. Reson. Med. 38 (1997) 852-857 for N). Arguments broadcast; `sigma` may be a
number or a tensor and has the unit of the signal.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .legendre import gauss_legendre

START = {torch.float32: 6, torch.float64: 40}
"""Bessel order at which the descent to a ratio starts: error 5e-7 and 5e-13, relative."""

START_LOG = {torch.float32: 10, torch.float64: 40}
"""The same for a logarithm, where errors add up: 5e-6 and 1e-9."""

MARGIN = {torch.float32: 2, torch.float64: 8}
"""Orders that the descent starts at least above the one that is wanted, for the same errors."""

MAGNITUDE_FLOOR = 1e-15
"""Magnitudes below this many sigma count as it: the logarithm of the density stays finite at 0."""

SERIES = {torch.float32: 3e-7, torch.float64: 1e-9}
"""Error at which the series of the moments are cut off, in units of sigma**2."""

FIT_NODES, QUADRATURE_NODES, REACH = 96, 400, 13.0
"""Chebyshev nodes of a series, nodes of each integral over m, and its half-width [sigma]."""

STEPS = {torch.float32: 10, torch.float64: 18}
"""Fixed-point steps of `underlying`; each shrinks the error at least 4.6 times."""

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


def log_likelihood(y: Tensor, signal: Tensor, sigma: Tensor | float, coils: int = 1) -> Tensor:
    """Logarithm of the density of the magnitude: (...) -> (...).

    Parameters
    ----------
    y : (...) tensor
        Measured magnitude, >= 0.
    signal : (...) tensor
        Signal without noise, >= 0.
    sigma : (...) tensor or number
        Noise standard deviation, > 0.
    coils : int

    Returns
    -------
    (...) tensor
        ln p(y), with all constants, so that sigma can be estimated too.
    """
    sigma = torch.as_tensor(sigma, dtype=signal.dtype, device=signal.device)
    m = (y / sigma).clamp(min=MAGNITUDE_FLOOR)
    z = m * (signal / sigma)
    log_bessel, reach, _ = _log_bessel(z, coils, START_LOG)
    log_power = torch.log(m) + (coils - 1) * torch.log(m.square() / reach)
    return log_power - ((y - signal) / sigma).square() / 2 + log_bessel - torch.log(sigma)


def magnitude_terms(
    y: Tensor, signal: Tensor, sigma: Tensor | float, coils: int = 1
) -> tuple[Tensor, Tensor]:
    """Return what a maximum-likelihood solver asks of every sample: (...) -> (...), (...).

    Returns
    -------
    (...) tensor
        -2 ln p(y), up to what does not depend on the signal.
    (...) tensor
        Half its derivative by the signal, times sigma^2: S - y I_N(z) / I_{N-1}(z).
    """
    z = y * signal / torch.as_tensor(sigma).to(signal) ** 2
    log_bessel, reach, ratio = _log_bessel(z, coils, START)
    if coils > 1:
        log_bessel = log_bessel - (coils - 1) * torch.log(reach)
    deviance = ((y - signal) / sigma).square() - 2 * log_bessel
    return deviance, torch.addcmul(signal, y, ratio, value=-1)


def expectation(signal: Tensor, sigma: Tensor | float, coils: int = 1) -> Tensor:
    r"""Mean of the magnitude: (...) -> (...).

    C. G. Koay, P. J. Basser, J. Magn. Reson. 179 (2006) 317-322:
    :math:`\sigma \beta_N \, {}_1F_1(-1/2; N; -S^2 / 2 \sigma^2)`; for one coil
    :math:`\sigma \sqrt{\pi / 2} L_{1/2}(-S^2 / 2 \sigma^2)`. Written as the root of
    S^2 + c sigma^2, where c falls from its value in the background to 2 N - 1 and is a short series
    (`_coefficients`). `sigma` = 0 gives the signal.
    """
    return (signal.square() + sigma**2 * _excess(signal, sigma, coils)).sqrt()


def underlying(mean: Tensor, sigma: Tensor | float, coils: int = 1) -> Tensor:
    """Signal whose magnitude has this mean, 0 below the noise floor: (...) -> (...).

    The inverse of `expectation`, by the fixed point of Koay and Basser (2006), here in S^2, where
    it contracts everywhere.
    """
    power = mean.square()
    signal = mean
    for _ in range(STEPS[mean.dtype]):
        squared = power - sigma**2 * _excess(signal, sigma, coils)
        signal = squared.clamp(min=torch.finfo(mean.dtype).tiny).sqrt()
    return torch.where(squared > 0, signal, 0)


def variance(signal: Tensor, sigma: Tensor | float, coils: int = 1) -> Tensor:
    """Variance of the magnitude: (...) -> (...).

    2 N sigma^2 + S^2 minus the squared mean (Koay and Basser (2006)), without the cancellation.
    """
    return sigma**2 * (2 * coils - _excess(signal, sigma, coils))


def fisher(signal: Tensor, sigma: Tensor | float, coils: int = 1) -> Tensor:
    """Fisher information of the signal, times sigma^2: (...) -> (...).

    1 where the signal is far above the noise, as for Gaussian noise, and (S / sigma)^2 / N far
    below it (O. T. Karlsen, R. Verhagen, W. M. Bovee, Magn. Reson. Med. 41 (1999) 614-623).
    Error below 1e-6 times that of its high-SNR value.
    """
    share = _compressed(signal, sigma, _scale(coils, "information"))
    return share * _polynomial(2 * share - 1, _coefficients(coils, "information", signal.dtype))


def draw(
    shape: tuple[int, ...], like: Tensor, coils: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Random numbers for `corrupt`: () -> (2, *shape).

    The first is the noise along the signal, the second the length of the noise across it (root of
    a chi-squared of 2 N - 1). Keep them to repeat the same noise on another signal.
    """
    device = like.device if generator is None else generator.device
    along, across = (
        torch.randn(shape, generator=generator, dtype=like.dtype, device=device) for _ in range(2)
    )
    if coils > 1:
        across = across.square()
        for _ in range(2 * coils - 2):  # one channel at a time: memory does not grow with coils
            more = torch.randn(shape, generator=generator, dtype=like.dtype, device=device)
            across.addcmul_(more, more)
        across = across.sqrt()
    return torch.stack([along, across]).to(like.device)


def corrupt(signal: Tensor, sigma: Tensor | float, noise: Tensor) -> Tensor:
    """Magnitude of a signal with the noise that `draw` gave: (...), (2, ...) -> (...)."""
    return torch.hypot(signal + sigma * noise[0], sigma * noise[1])


def add_noise(
    signal: Tensor,
    sigma: Tensor | float,
    coils: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Magnitude of a signal with new noise: (...) -> (...)."""
    shape = torch.broadcast_shapes(signal.shape, torch.as_tensor(sigma).shape)
    return corrupt(signal, sigma, draw(tuple(shape), signal, coils, generator))


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
    return top, squared, w, _polynomial(top / w, _start_coefficients(top)).add_(w)


def _log_bessel(
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
        series = _times(_polynomial(p2, term[::-1]).add_(series), inverse)
    return torch.log(product) + series + top**2 / (w + z), reach, z / d


@lru_cache(maxsize=64)
def _start_coefficients(n: int) -> tuple[float, ...]:
    """Polynomial in p that, with w, is d_{n+1}; highest power first."""
    p = np.polynomial.Polynomial([0, 1])
    first = (3 + 5 * p) * p / n
    second = (3 + 6 * p - 10 * p**2 - 15 * p**3) * p**2 / n**2
    total = n + (1 + p) ** 2 * (0.5 + (1 - p) * (first + second) / 8)
    return tuple(float(c) for c in total.coef[::-1])


def _excess(signal: Tensor, sigma: Tensor | float, coils: int) -> Tensor:
    """Squared mean of the magnitude less S^2, in units of sigma^2."""
    share = _compressed(signal, sigma, _scale(coils, "excess"))
    return _polynomial(2 * share - 1, _coefficients(coils, "excess", signal.dtype))


def _scale(coils: int, what: str) -> float:
    """Squared SNR in the middle of a series: chosen so that the series is short."""
    return {"excess": 14.0 + 2 * coils, "information": 3.0 + coils}[what]


def _compressed(signal: Tensor, sigma: Tensor | float, scale: float) -> Tensor:
    """Squared SNR, 0 to infinity, as 0 to 1."""
    squared = signal.square()
    return squared / (squared + scale * sigma**2)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's rule, highest power first."""
    total = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = _times(total, x).add_(c)
    return total


# A large result that is thrown away at once costs more than the arithmetic. Where autograd does not
# need the old values, they are overwritten: three times as fast.
def _times(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b; `a` may be overwritten."""
    return a * b if torch.is_grad_enabled() else a.mul_(b)


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; `b` may be overwritten."""
    return a / b if torch.is_grad_enabled() else b.reciprocal_().mul_(a)


@lru_cache(maxsize=64)
def _coefficients(coils: int, what: str, dtype: torch.dtype) -> tuple[float, ...]:
    """Coefficients in x of a moment of the magnitude, highest first.

    The moments are integrals over the density in double precision at Chebyshev nodes of x; the
    Chebyshev series is cut off at the error that `dtype` deserves.
    """
    angle = torch.pi * (torch.arange(FIT_NODES, dtype=torch.float64) + 0.5) / FIT_NODES
    x = torch.cos(angle)
    snr = (_scale(coils, what) * (1 + x) / (1 - x)).sqrt()[:, None]
    nodes, weights = gauss_legendre(QUADRATURE_NODES, like=x)
    low = (snr - REACH).clamp(min=0)
    width = snr + REACH + math.sqrt(2 * coils) - low
    m = low + width * nodes
    weights = width * weights * torch.exp(log_likelihood(m, snr, 1.0, coils))
    weights = weights / weights.sum(-1, keepdim=True)
    if what == "excess":
        shift = (weights * (m - snr)).sum(-1)
        values = shift * (2 * snr[:, 0] + shift)
    else:
        score = m * bessel_ratio(m * snr, coils) - snr
        values = (weights * score.square()).sum(-1) * 2 / (1 + x)
    series = 2 / FIT_NODES * torch.cos(torch.arange(FIT_NODES)[:, None] * angle) @ values
    series[0] /= 2
    left = series.abs().flip(0).cumsum(0).flip(0)  # what is lost by cutting here
    kept = series[: int((left > SERIES[dtype]).sum())]
    return tuple(np.polynomial.chebyshev.cheb2poly(kept.numpy())[::-1].tolist())
