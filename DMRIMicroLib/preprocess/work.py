"""What every step shares: progress and cancelling, the signal in memory, the noise to keep."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import Cancelled
from ..scan import Scan
from ..sigma import Noise

Progress = Callable[[float, str], None]
"""Called with the finished share (0 to 1) and a few words."""

Stop = Callable[[], bool]
"""Asked between parts of the work; True stops it."""

Step = Callable[[float], None]
"""Called with the finished share (0 to 1); raises Cancelled where the user stopped the work."""


def steps(progress: Progress | None, cancelled: Stop | None, text: str) -> Step:
    """Return the function that a step calls between parts of its work."""

    def step(share: float) -> None:
        if cancelled is not None and cancelled():
            raise Cancelled(f"{text}: cancelled; nothing was written.")
        if progress is not None:
            progress(share, text)

    return step


def finite_signal(scan: Scan) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return a copy of the signal, (x, y, z, m), 0 where it was not finite, and the places."""
    signal = scan.volumes(np.arange(len(scan.acquisition)))
    broken = np.flatnonzero(~np.isfinite(signal))
    signal.ravel()[broken] = 0
    return signal, broken


def with_broken(signal: NDArray[np.float32], broken: NDArray[np.intp]) -> NDArray[np.float32]:
    """Mark the places that were not finite again, so that no fit takes them for measured."""
    signal.ravel()[broken] = np.nan
    return signal


def inside_of(scan: Scan) -> NDArray[np.bool_]:
    """(x, y, z) the mask, or every voxel where there is none."""
    return np.ones(scan.shape, dtype=bool) if scan.mask is None else scan.mask


def noise_of(scan: Scan) -> Noise | None:
    """Noise that a scan has now, before its signal is changed; None where it cannot tell."""
    if scan.measured_noise is None and not scan.acquisition.is_b0.any():
        return None
    return scan.noise
