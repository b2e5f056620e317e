"""Standard deviation of the noise: what a scan keeps of it, and ways to measure it."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """

    sigma: float
    method: str
    map: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    rough: bool = False

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


def quantile_of_sd(repeats: int) -> float:
    """Quantile `QUIET` of the sample standard deviation of `repeats` draws from N(0, 1)."""
    from scipy.stats import chi2

    return float(np.sqrt(chi2.ppf(QUIET, repeats - 1) / (repeats - 1)))
