"""The gradient table as plain arrays: checks, units, distinct directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

B0_THRESHOLD = 50.0
"""Volumes with b up to this value [s/mm2] count as not diffusion-weighted."""

UNIT_TOLERANCE = 0.02
"""How far from 1 the length of a direction may be and still be taken for rounding."""

B_LIMIT = 1e5
"""No diffusion scan of a living brain has a b-value above this [s/mm2]."""

SAME_DIRECTION = np.cos(np.deg2rad(1.0))
"""|cosine| above which two gradients (or a gradient and its opposite) are one direction."""


def check_bvals(bvals: ArrayLike, *, file: object = None) -> NDArray[np.float64]:
    """Return b-values as a fresh (m,) float64 array, or say which one is wrong."""
    b = np.array(bvals, dtype=np.float64)
    if b.ndim != 1 or not len(b):
        raise InputError(
            f"b-values have shape {b.shape}, expected (m,)", "Give one b-value a volume.", file=file
        )
    bad = np.flatnonzero(~np.isfinite(b) | (b < 0))
    if len(bad):
        raise InputError(
            f"b-value of volume {bad[0]} is {b[bad[0]]:g}",
            "Every b-value must be a finite number of s/mm2, 0 or more.",
            file=file,
        )
    if b.max() > B_LIMIT and file is None:  # from a file it may be another unit
        raise InputError(
            f"highest b-value is {b.max():g}", "Give b-values in s/mm2 (typically 0 to 10000)."
        )
    return b


def volume_numbers(volumes: ArrayLike, count: int) -> NDArray[np.intp]:
    """Return volume numbers from numbers or from a bool for each of `count` volumes."""
    index = np.asarray(volumes)
    if index.dtype == bool and index.shape == (count,):
        return np.flatnonzero(index)
    if index.ndim != 1 or (len(index) and index.dtype.kind not in "iu"):
        raise InputError(
            f"volumes are chosen by {index.dtype} of shape {index.shape}",
            f"Give volume numbers, or one bool for each of the {count} volumes.",
        )
    if len(index) and not 0 <= index.min() <= index.max() < count:
        raise InputError(
            f"volume {index.max() if index.max() >= count else index.min()} does not exist",
            f"There are {count}, counted from 0.",
        )
    return index.astype(np.intp)


def check_bvecs(
    bvecs: ArrayLike, bvals: NDArray, *, b0_threshold: float = B0_THRESHOLD, file: object = None
) -> NDArray[np.float64]:
    """Return directions as a fresh (m, 3) float64 array of unit (b0: unit or zero) vectors."""
    g = np.array(bvecs, dtype=np.float64)
    if g.ndim != 2 or g.shape[1] != 3:
        raise InputError(
            f"directions have shape {g.shape}, expected (m, 3)", "Give x, y, z a volume.", file=file
        )
    if len(g) != len(bvals):
        raise InputError(
            f"there are {len(g)} b-vectors and {len(bvals)} b-values",
            "Both need one entry a volume: check that the files belong together.",
            file=file,
        )
    bad = np.flatnonzero(~np.isfinite(g).all(axis=1) & (bvals > b0_threshold))
    if len(bad):
        raise InputError(
            f"b-vector of volume {bad[0]} is {g[bad[0]].tolist()} at b = {bvals[bad[0]]:g}",
            "Correct it, or leave the volume out (--exclude).",
            file=file,
        )
    g = np.nan_to_num(g)  # some converters write NaN directions for b0 volumes
    length = np.linalg.norm(g, axis=1)
    zero = np.flatnonzero((length < 1e-3) & (bvals > b0_threshold))
    if len(zero):
        volumes = ",".join(map(str, zero))
        raise InputError(
            f"b-vector of volume {zero[0]} is zero at b = {bvals[zero[0]]:g}",
            f"If these are trace images made by the scanner, leave them out: --exclude {volumes}.",
            file=file,
        )
    off = np.flatnonzero((np.abs(length - 1) > UNIT_TOLERANCE) & (bvals > b0_threshold))
    if len(off):
        raise InputError(
            f"b-vector of volume {off[0]} has length {length[off[0]]:.4g}, expected 1",
            "Normalise them; if their length encodes b, give true b-values and unit vectors.",
            file=file,
        )
    return g / np.where(length < 1e-3, 1, length)[:, None] * (length >= 1e-3)[:, None]


def to_s_per_mm2(bvals: NDArray, *, file: object = None) -> tuple[NDArray[np.float64], str | None]:
    """Recognise b-values in ms/um2 or s/m2 and convert them; the second value says so, if done."""
    top = float(np.max(bvals, initial=0.0))
    if top == 0:
        raise InputError(
            "all b-values are 0", "This is not a diffusion scan, or the wrong file.", file=file
        )
    if top <= B0_THRESHOLD:
        return bvals * 1e3, f"b-values up to {top:g} were read as ms/um2 and multiplied by 1000"
    if top <= B_LIMIT:
        return bvals, None
    if 100 <= top / 1e6 <= B_LIMIT:
        return bvals / 1e6, f"b-values up to {top:g} were read as s/m2 and divided by 1e6"
    raise InputError(
        f"highest b-value is {top:g}", "Give b-values in s/mm2 (typically 0 to 10000).", file=file
    )


def count_directions(bvecs: NDArray) -> int:
    """Count the distinct axes among unit vectors: (k, 3) -> int."""
    axes = bvecs[np.any(bvecs, axis=1)]
    same = np.abs(axes @ axes.T) > SAME_DIRECTION
    left, count = np.ones(len(axes), dtype=bool), 0
    for k in range(len(axes)):
        if left[k]:
            count += 1
            left &= ~same[k]
    return count
