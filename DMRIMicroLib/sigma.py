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
        Whether it may be several times too high: good for a first idea, not for a likelihood.
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


def of_detail(image: NDArray) -> float:
    """Noise from the finest detail of one (x, y, z) image, by dipy's ``estimate_sigma``.

    The anatomy's detail counts as noise: on eight real series it is 3 to 10 times `of_shell`.
    """
    from dipy.denoise.noise_estimate import estimate_sigma

    return float(np.median(estimate_sigma(np.nan_to_num(image[..., None]))))


def quantile_of_sd(repeats: int) -> float:
    """Quantile `QUIET` of the sample standard deviation of `repeats` draws from N(0, 1)."""
    from scipy.stats import chi2

    return float(np.sqrt(chi2.ppf(QUIET, repeats - 1) / (repeats - 1)))
