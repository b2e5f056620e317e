"""A scan as large as a brain, for benchmarks of speed: copies of a simulated slice."""

from __future__ import annotations

from pathlib import Path

import _brain
import numpy as np

SHAPE = (96, 96, 60)

SUBJECTS = 4
"""Whose slices there are to choose from."""

KIB_TO_GB = 1024 / 1e9
"""The peak of Linux's getrusage is in KiB."""


def brain(files: list[Path], acquisition, noise: str, levels: int = SHAPE[2]):
    """Stack copies of the slice with the most voxels, cut or filled up to the shape asked.

    `noise` names the noise; `levels` are the slices.
    """
    from DMRIMicroLib.scan import Scan
    from DMRIMicroLib.training.pool import load_slice

    item = max((load_slice(f) for f in files), key=lambda i: inner(i.mask.numpy()).sum())
    one = _brain.scanned(item, acquisition, 0, noise)
    planes = (np.asarray(one.signal[:, :, 0], np.float32), np.asarray(one.mask[:, :, 0]))
    signal, mask = (np.repeat(inner(plane)[:, :, None], levels, 2) for plane in planes)
    return Scan(signal, one.affine, one.acquisition, mask, name="brain")


def inner(plane: np.ndarray) -> np.ndarray:
    """Cut the middle of a plane, or fill up with zeros around it."""
    out = np.zeros((*SHAPE[:2], *plane.shape[2:]), plane.dtype)
    size = [min(a, b) for a, b in zip(SHAPE, plane.shape[:2], strict=False)]
    here = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(SHAPE, size, strict=False))
    there = tuple(
        slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(plane.shape, size, strict=False)
    )
    out[here] = plane[there]
    return out
