"""Standard deviation of the noise: what a scan keeps of it, and ways to measure it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TENSOR_COEFFICIENTS = 6
"""Coefficients of a quadratic form in the gradient direction, i.e. of a diffusion tensor."""

SHELL_DIRECTIONS = TENSOR_COEFFICIENTS + 2
"""Directions that a shell needs to show noise: one to spare is too few for a spread."""


SAMPLE_VOXELS = 50_000
"""Voxels that are enough for a quantile of the spread: its own error is below 1 % then."""

MEDIAN_OF_NORMAL = 0.6745
"""Median absolute value of N(0, 1)."""

QUIET = 0.25
"""Quantile of the voxels' standard deviations that tells the noise."""

AIR = 200
"""Voxels of air that are enough."""

AWAY = 3
"""Voxels between the head and its air: scalp, ringing."""

REMOVED = "removed"
"""What the provenance of an enhanced scan says of its noise floor if the scan has none."""

COILS = (2.5, 32.0)
"""Receivers that are believed: the air of seven real series, with noise that differs from place to
place, looked like 0.7 to 2.1, and more than 32 are no noise."""


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the noise, in the signal's unit, and how it was found.

    Attributes
    ----------
    sigma : float
        One number for the scan: the median over the voxels that were looked at.
    method : str
        How it was found, in words.
    map : (x, y, z) float32 array, optional
        Voxel by voxel, positive everywhere: `sigma` where it was not measured.
    rough : bool
        Whether it may be half or twice as high: good for a first idea, not for a likelihood.
    floor : float, optional
        Mean square of magnitudes where there is no signal; 2 sigma^2 if left out, as of Rician
        noise. See `of_air`. 0: noise does not lift these signals, it is Gaussian.
    """

    sigma: float
    method: str
    map: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    rough: bool = False
    floor: float | None = None

    @property
    def coils(self) -> float:
        """Receivers whose noise has that floor: 1 or more; of Gaussian noise half a one."""
        if self.floor == 0:
            return 0.5
        return 1.0 if self.floor is None else max(1.0, self.floor / (2 * self.sigma**2))

    def louder(self, factor: float) -> Noise:
        """Return so many times the noise; a floor that was measured stays."""
        values = None if self.map is None else self.map * np.float32(factor)
        return replace(self, sigma=self.sigma * factor, map=values)

    def beside(self, air: Air | None) -> Noise:
        """Let the air around the head say how high the floor of magnitudes is.

        And where the noise is rough, what it is at least: it is lowest where coils are near.
        """
        if air is None:
            return self
        many = COILS[0] < air.coils <= COILS[1]
        if not self.rough:
            return replace(self, floor=2 * air.coils * self.sigma**2) if many else self
        sigma = max(self.sigma, air.sigma)
        told = self.method if sigma == self.sigma else "air around the head, roughly"
        return replace(self, sigma=sigma, floor=air.power if many else None, method=told)

    @classmethod
    def or_none(cls, sigma: float, method: str) -> Noise | None:
        """Return the estimate, or None where the data gave no positive number."""
        return cls(sigma, method) if np.isfinite(sigma) and sigma > 0 else None

    @classmethod
    def of_map(cls, values: NDArray, inside: NDArray[np.bool_], method: str) -> Noise | None:
        """Return the estimate of a map, (x, y, z), that counts where `inside` and positive."""
        measured = inside & np.isfinite(values) & (values > 0)
        if not measured.any():
            return None
        sigma = float(np.median(values[measured]))
        return cls(sigma, method, np.where(measured, values, sigma).astype(np.float32))


def of_repeats(spread: NDArray, repeats: int) -> float:
    """Noise from the (n,) standard deviations of `repeats` equal volumes in n voxels.

    By their lower quartile: pulsation and motion only ever add to a standard deviation, most in
    fluid and at edges, so that the median was 11 to 27 % higher on two real scans.
    """
    return float(np.nanquantile(spread, QUIET)) / quantile_of_sd(repeats)


def of_shell(signal: NDArray, bvecs: NDArray) -> float:
    """Noise from what a tensor does not explain of one shell.

    A little too high where the tensor is no good model: up to a fifth at b = 1000 s/mm2 in
    simulated tissue, more at higher b.

    Parameters
    ----------
    signal : (n, k) array
        Of n voxels and the k volumes of a shell, at least `SHELL_DIRECTIONS`.
    bvecs : (k, 3) array
        Gradient directions.

    Returns
    -------
    float
        Median over the voxels; NaN where no voxel has a usable signal.
    """
    usable = (np.isfinite(signal) & (signal > 0)).all(axis=1)
    if not usable.any():
        return float("nan")
    first, second = np.triu_indices(3)
    quadratic = bvecs[:, first] * bvecs[:, second]
    log_signal = np.log(signal[usable], dtype=np.float64)
    explained = log_signal @ np.linalg.pinv(quadratic).T @ quadratic.T
    # back from ln S, where noise grows as the signal falls: d S = S d(ln S)
    residual = (log_signal - explained) * np.exp(explained)
    spare = len(bvecs) - TENSOR_COEFFICIENTS
    return of_repeats(np.sqrt((residual**2).sum(axis=1) / spare), spare + 1)


def of_detail(images: NDArray, inside: NDArray[np.bool_]) -> float:
    """Noise from the finest detail of (x, y, z, k) images, slice by slice.

    J. Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300-302: the difference of two Laplacians,
    blind to anything that is linear nearby. Anatomy's detail counts as noise, and noise that was
    interpolated or filtered does not: with weighted images of six real series the result was 0.5 to
    2.5 times that of `of_repeats` or `of_shell`; with their b0, 1.1 to 7 times.
    """
    from scipy.ndimage import convolve1d

    second = np.array([1.0, -2.0, 1.0])
    detail = np.nan_to_num(images).astype(np.float64)
    for axis in (0, 1):
        detail = convolve1d(detail, second, axis=axis, mode="nearest")
    norm = (second**2).sum()  # of both filters together
    return float(np.median(np.abs(detail[inside]))) / norm / MEDIAN_OF_NORMAL


class Air(NamedTuple):
    """Magnitudes around the head.

    Attributes
    ----------
    power : float
        Mean square.
    coils : float
        Receivers whose squares were added up, as many as would look like it.
    """

    power: float
    coils: float

    @property
    def sigma(self) -> float:
        """Noise in the air."""
        return float(np.sqrt(self.power / (2 * max(self.coils, 1.0))))


def of_air(signal: NDArray) -> Air | None:
    r"""Say what magnitudes look like where there is nothing: (n, k) of n voxels, k volumes.

    The squares of n_c receivers' magnitudes, added up, are sigma^2 times a chi-square number of 2
    n_c degrees of freedom (C. D. Constantinides, E. Atalar, E. R. McVeigh, Magn. Reson. Med. 38
    (1997) 852-857), so that :math:`n_c = \overline{y^2}^2 / \mathrm{Var}(y^2)`, voxel by voxel:
    noise may differ from place to place. Of the darker half of the voxels: ghosts only add. None
    where scanners left zeros.
    """
    filled = signal[(np.isfinite(signal) & (signal > 0)).all(1)].astype(np.float64)
    if len(filled) < AIR or filled.shape[1] < 2:
        return None
    square = filled**2
    mean = square.mean(1)
    typical = float(np.median(mean))
    dark = mean <= typical
    spread = square[dark].var(1, ddof=1).mean()
    return Air(typical, float((mean[dark] ** 2).mean() / spread)) if spread > 0 else None


def quantile_of_sd(repeats: int) -> float:
    """Quantile `QUIET` of the sample standard deviation of `repeats` draws from N(0, 1)."""
    from scipy.stats import chi2

    return float(np.sqrt(chi2.ppf(QUIET, repeats - 1) / (repeats - 1)))
