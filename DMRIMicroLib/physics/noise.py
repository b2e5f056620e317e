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
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .bessel import START, START_LOG, bessel_ratio, log_bessel, polynomial, rician_bessel
from .legendre import gauss_legendre

MAGNITUDE_FLOOR = 1e-15
"""Magnitudes below this many sigma count as it: the logarithm of the density stays finite at 0."""

SERIES = {
    "excess": {torch.float32: 3e-7, torch.float64: 1e-9},
    "information": {torch.float32: 1e-4, torch.float64: 1e-6},
}
"""Errors at which series are cut off: of `_excess` [sigma**2], and relative of `fisher`."""

FIT_NODES, QUADRATURE_NODES, REACH = 96, 400, 13.0
"""Chebyshev nodes of a series, nodes of each integral over m, and its half-width [sigma]."""

STEPS = {torch.float32: 10, torch.float64: 18}
"""Fixed-point steps of `underlying`; each shrinks the error at least 4.6 times."""


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
    log_ie, reach, _ = log_bessel(z, coils, START_LOG)
    log_power = torch.log(m) + (coils - 1) * torch.log(m.square() / reach)
    return log_power - ((y - signal) / sigma).square() / 2 + log_ie - torch.log(sigma)


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
    precision = 1 / torch.as_tensor(sigma).to(signal) ** 2
    z = y * signal * precision
    if coils == 1 and z.dtype == torch.float32 and not torch.is_grad_enabled():
        log_ie, ratio = rician_bessel(z)
    else:
        log_ie, reach, ratio = log_bessel(z, coils, START)
        if coils > 1:
            log_ie = log_ie - (coils - 1) * torch.log(reach)
    deviance = (y - signal).square_().mul_(precision).sub_(log_ie, alpha=2)
    return deviance, torch.addcmul(signal, y, ratio, value=-1)


def expectation(signal: Tensor, sigma: Tensor | float, coils: int = 1) -> Tensor:
    r"""Mean of the magnitude: (...) -> (...).

    C. G. Koay, P. J. Basser, J. Magn. Reson. 179 (2006) 317-322:
    :math:`\sigma \beta_N \, {}_1F_1(-1/2; N; -S^2 / 2 \sigma^2)`; for one coil
    :math:`\sigma \sqrt{\pi / 2} L_{1/2}(-S^2 / 2 \sigma^2)`. Written as the root of
    S^2 + c sigma^2, where c falls from its value in the background to 2 N - 1 and is a short series
    (`_coefficients`). `sigma` = 0 gives the signal.
    """
    power = signal.square() + sigma**2 * _excess(signal, sigma, coils)
    nothing = power == 0  # where the root has no derivative
    return torch.where(nothing, signal, torch.where(nothing, 1, power).sqrt())


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
    below it (O. T. Karlsen, R. Verhagen, W. M. Bovee, Magn. Reson. Med. 41 (1999) 614-623). The
    error is below 1e-3, relative.
    """
    share = _compressed(signal, sigma, _scale(coils, "information"))
    return share * polynomial(2 * share - 1, _coefficients(coils, "information", signal.dtype))


def draw(
    shape: tuple[int, ...],
    like: Tensor,
    coils: int = 1,
    generator: torch.Generator | None = None,
    colour: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Random numbers for `corrupt`: () -> (2, *shape).

    The first is the noise along the signal, the second the length of the noise across it (root of
    a chi-squared of 2 N - 1). Keep them to repeat the same noise on another signal.

    Parameters
    ----------
    shape, like, coils, generator
    colour : callable, optional
        What becomes of the white noise of a channel, real and imaginary part: (2, *shape) to the
        same, of unit variance.
    """
    device = like.device if generator is None else generator.device

    def channel() -> Tensor:
        parts = [
            torch.randn(shape, generator=generator, dtype=like.dtype, device=device)
            for _ in range(2)
        ]
        return torch.stack(parts) if colour is None else colour(torch.stack(parts))

    noise = channel()
    if coils > 1:
        across = noise[1].square_()
        for _ in range(coils - 1):  # one channel at a time: memory does not grow with coils
            for part in channel():
                across.addcmul_(part, part)
        across.sqrt_()
    return noise.to(like.device)


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


def _excess(signal: Tensor, sigma: Tensor | float, coils: int) -> Tensor:
    """Squared mean of the magnitude less S^2, in units of sigma^2."""
    share = _compressed(signal, sigma, _scale(coils, "excess"))
    return polynomial(2 * share - 1, _coefficients(coils, "excess", signal.dtype))


def _scale(coils: int, what: str) -> float:
    """Squared SNR in the middle of a series: chosen so that the series is short."""
    return {"excess": 14.0 + 2 * coils, "information": 3.0 + coils}[what]


def _compressed(signal: Tensor, sigma: Tensor | float, scale: float) -> Tensor:
    """Squared SNR, 0 to infinity, as 0 to 1; 0 where there is neither signal nor noise."""
    squared = signal.square()
    total = squared + scale * sigma**2
    return squared / torch.where(total == 0, 1, total)


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
    kept = series[: int((left > SERIES[what][dtype]).sum())]
    return tuple(np.polynomial.chebyshev.cheb2poly(kept.numpy())[::-1].tolist())
