"""Patch2Self: each volume is predicted from the others, whose noise is independent of its own.

S. Fadnavis, J. Batson, E. Garyfallidis, Patch2Self: denoising diffusion MRI with self-supervised
learning, NeurIPS 2020; here with patches of one voxel and ordinary least squares, their default.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..scan import Scan
from .work import Step, finite_signal, inside_of, with_broken

MIN_WEIGHTED = 20
"""Diffusion-weighted volumes below which it is refused. In simulated tissue of SNR 25 to 50 the
error grew with 12 volumes, stayed with 16 to 20, and fell by a quarter or more with 30."""

MIN_B0 = 3
"""b0 volumes below which these are left alone: of two, each would get the other's noise."""

MAX_CONDITION = 1e12
"""Condition of the volumes' correlation above which a volume is a mixture of others."""

ROWS = 65536
"""Voxels at a time: float64 copies of so many bound the memory."""


def denoise_by_others(scan: Scan, step: Step) -> tuple[NDArray[np.float32], str]:
    """Return the denoised signal and words about how: b0 volumes and weighted ones apart."""
    is_b0 = scan.acquisition.is_b0
    weighted, baselines = int((~is_b0).sum()), int(is_b0.sum())
    if weighted < MIN_WEIGHTED:
        raise InputError(
            f"patch2self needs {MIN_WEIGHTED} diffusion-weighted volumes, the scan has {weighted}",
            "With fewer it would add error; use mppca.",
            file=scan.source,
        )
    signal, broken = finite_signal(scan)
    inside = inside_of(scan)
    rows = signal[inside]
    share = baselines / len(is_b0)
    if baselines >= MIN_B0:
        rows[:, is_b0] = leave_one_out(rows[:, is_b0], lambda done: step(share * done))
        told = "b0 volumes too"
    else:
        told = "b0 volumes left as they were"
    rows[:, ~is_b0] = leave_one_out(rows[:, ~is_b0], lambda done: step(share + (1 - share) * done))
    signal[inside] = rows
    how = f"Patch2Self (each volume from the {weighted - 1} other weighted ones, {told})"
    return with_broken(signal, broken), how


def leave_one_out(rows: NDArray, step: Step) -> NDArray[np.float32]:
    """Predict every volume from all the others by linear regression over the voxels.

    With the Gram matrix G of the centred volumes X, and P = G^-1, the regression of volume j on
    the others leaves the residual (X P)_j / P_jj (inverse of a partitioned matrix): one inverse
    serves all volumes. dipy's program is not used: in 1.12.1 it puts the last volumes in wrong
    places unless five divides their number, and it needs scikit-learn.

    Parameters
    ----------
    rows : (n, k) array
        Signal of n voxels in k volumes of one kind.
    step : callable
        Told the finished share.

    Returns
    -------
    (n, k) float32 array
        Predictions, 0 where they would be negative.

    Raises
    ------
    InputError
        If a volume is constant or a mixture of others.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    gram = np.zeros((rows.shape[1], rows.shape[1]))
    starts = range(0, len(rows), ROWS)
    for start in starts:
        step(0.5 * start / len(rows))
        centred = rows[start : start + ROWS] - mean
        gram += centred.T @ centred
    spread = np.sqrt(gram.diagonal())
    if not spread.all() or np.linalg.cond(gram / np.outer(spread, spread)) > MAX_CONDITION:
        raise InputError(
            "patch2self cannot be used: a volume is constant or a mixture of others",
            "Leave copies out; if the scan was denoised already, leave the step out.",
        )
    inverse = np.linalg.inv(gram)
    residual_of = inverse / inverse.diagonal()
    out = np.empty(rows.shape, dtype=np.float32)
    for start in starts:
        step(0.5 + 0.5 * start / len(rows))
        part = rows[start : start + ROWS]
        out[start : start + ROWS] = np.maximum(part - (part - mean) @ residual_of, 0)
    step(1.0)
    return out
