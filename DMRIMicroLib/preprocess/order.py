"""The steps in the order in which they are valid, and the choice of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..errors import InputError
from ..scan import Scan
from ..sigma import Noise
from . import ringing
from .local_pca import denoise_by_pca, noise_by_pca
from .patch2self import denoise_by_others
from .work import Progress, Stop, noise_of, steps


def prepare(
    scan: Scan,
    *,
    denoise: str | None = None,
    degibbs: bool = False,
    noise: str | float = "b0",
    progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> Scan:
    """Return the scan after the steps asked for.

    Noise is measured on the signal as it came; then noise is removed; then ringing, whose removal
    mixes neighbours and so breaks what denoising assumes.

    Parameters
    ----------
    scan : Scan
        With a mask, denoising works on the mask only, and is faster.
    denoise : {"mppca", "patch2self"}, optional
        See `denoise`.
    degibbs : bool
        See `degibbs`.
    noise : {"b0", "pca"} or float
        See `with_noise`; "b0" leaves it to `Scan.noise`, and to MP-PCA where that denoises.
    progress : callable, optional
        Called with the finished share (0 to 1) and a few words.
    cancelled : callable, optional
        Asked between parts of the work; True stops it.

    Raises
    ------
    InputError
        If the scan does not allow a step.
    Cancelled
        If `cancelled` said so.
    """
    wanted: list[Callable[..., Scan]] = []
    if noise != "b0":
        wanted.append(partial(with_noise, choice=noise))
    if denoise is not None:
        wanted.append(partial(_denoise, method=denoise))
    if degibbs:
        wanted.append(ringing.degibbs)

    for done, step in enumerate(wanted):
        part = _part(progress, done, len(wanted))
        scan = step(scan, progress=part, cancelled=cancelled)
    return scan


def denoise(
    scan: Scan,
    method: str = "mppca",
    *,
    progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> Scan:
    """Remove thermal noise in the mask, or in every voxel where there is no mask.

    To be done before all else: interpolation, smoothing and removal of ringing mix neighbours,
    whose noise then looks like signal.

    Parameters
    ----------
    scan : Scan
        Its signal is read into memory; what is not finite becomes NaN.
    method : {"mppca", "patch2self"}
        See `local_pca` and `patch2self`.
    progress, cancelled : callable, optional
        See `prepare`.

    Returns
    -------
    Scan
        float32 signal. `Scan.noise` stays the noise of before: averaging brings magnitude signals
        to their expectation, which the original noise lifts above the true signal. Where no noise
        was set, MP-PCA gives its own, with a map.

    Raises
    ------
    InputError
        If the method is unknown, or the scan too short or its grid too small for it.
    Cancelled
        If `cancelled` said so.
    """
    step = steps(progress, cancelled, f"Denoising ({method})")
    if method == "mppca":
        signal, how, found = denoise_by_pca(scan, step)
        noise = scan.measured_noise or found or noise_of(scan)
    elif method == "patch2self":
        signal, how = denoise_by_others(scan, step)
        noise = noise_of(scan)
    else:
        raise InputError(f"the denoising method is {method!r}", "Choose mppca or patch2self.")
    where = "every voxel" if scan.mask is None else "the mask"
    floor = "" if noise is None else f"; noise before: {noise.sigma:.4g}, from {noise.method}"
    cleaned = scan.with_processed(signal, noise)
    return cleaned.with_notes(f"denoised in {where} by {how}{floor}")


_denoise = denoise  # `prepare` has an argument of this name


def with_noise(
    scan: Scan,
    choice: str | float,
    *,
    progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> Scan:
    """Return the scan with its noise measured in a chosen way, or given; before denoising.

    Parameters
    ----------
    scan : Scan
        Scan.
    choice : {"b0", "pca"} or float
        "b0": what `Scan.noise` finds by itself; repeated b0 volumes count pulsation and motion as
        noise. "pca": thermal noise with a map, see `noise_by_pca`. Or the standard deviation
        itself, in the signal's unit.
    progress, cancelled : callable, optional
        See `prepare`.

    Raises
    ------
    InputError
        If the choice is none of these, or the scan does not show its noise in this way.
    Cancelled
        If `cancelled` said so.
    """
    if choice == "pca":
        noise = noise_by_pca(scan, progress=progress, cancelled=cancelled)
    elif choice == "b0":
        found = scan.with_measured_noise(None).noise
        if found is None:
            raise InputError(
                "the b0 volumes show no noise",
                "If they are copies of one another, give the noise as a number, or choose pca.",
                file=scan.source,
            )
        noise = found
    else:
        noise = _given(choice)
    return scan.with_measured_noise(noise).with_notes(f"noise: {noise.sigma:.4g}, {noise.method}")


def _part(progress: Progress | None, done: int, count: int) -> Progress | None:
    """Return what a step tells when `done` of `count` steps lie behind."""
    if progress is None:
        return None
    return lambda share, text: progress((done + share) / count, text)


def _given(value: str | float) -> Noise:
    try:
        sigma = float(value)
    except (TypeError, ValueError):
        sigma = np.nan
    if not (np.isfinite(sigma) and sigma > 0):
        raise InputError(
            f"the noise is {value!r}",
            "Give b0, pca, or its standard deviation: a positive number in the signal's unit.",
        )
    return Noise(sigma, "given by the user")
