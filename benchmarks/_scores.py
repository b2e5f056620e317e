"""Errors of maps against reference maps, on the voxels of the sparse scan's mask."""

from __future__ import annotations

import json
import re

import _sparse
import numpy as np
from scipy import ndimage, stats

RANGE = {"FA": 1.0, "MD": 3.0, "MK": 2.0, "MSK": 2.0, "NDI": 1.0, "ODI": 1.0, "FWF": 1.0}
"""Of the structural similarity; MD in um2/ms."""

OF_TISSUE = ("NDI", "ODI")
"""Metrics that mean nothing in free water: weighted by 1 - FWF of the reference."""

COLUMNS = ("NMSE", "sd of NMSE", "MAE", "bias", "r", "SSIM")

WINDOW = 7
STABILISERS = (0.01, 0.03)
"""Of the structural similarity (Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, IEEE Trans.
Image Process. 13 (2004) 600-612)."""

DIGITS = 4


def compare(
    x: np.ndarray, reference: np.ndarray, weight: np.ndarray, similar: np.ndarray | None = None
) -> np.ndarray:
    """NMSE, MAE, bias, r and SSIM of n voxels with weights: five numbers."""
    w = weight / weight.sum()
    error = x - reference
    square = (w * error**2).sum() / (w * reference**2).sum()
    a, b = x - (w * x).sum(), reference - (w * reference).sum()
    spread = np.sqrt((w * a * a).sum() * (w * b * b).sum())
    r = (w * a * b).sum() / spread if spread > 0 else np.nan
    ssim = np.nan if similar is None else (w * similar).sum()
    return np.array([square, (w * np.abs(error)).sum(), (w * error).sum(), r, ssim])


def similarity(x: np.ndarray, reference: np.ndarray, span: float) -> np.ndarray:
    """Structural similarity of each voxel in its slice, 0 outside the mask: (n,)."""
    mask = _sparse.scan().mask
    first, second = np.zeros(mask.shape), np.zeros(mask.shape)
    first[mask], second[mask] = x, reference

    def mean(image: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(image, (WINDOW, WINDOW, 1))

    one, two = ((k * span) ** 2 for k in STABILISERS)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    u, v = mean(first), mean(second)
    uu, vv = sample * (mean(first**2) - u * u), sample * (mean(second**2) - v * v)
    uv = sample * (mean(first * second) - u * v)
    out = (2 * u * v + one) * (2 * uv + two) / ((u * u + v * v + one) * (uu + vv + two))
    return out[mask]


def weights(metric: str, reference: dict[str, np.ndarray]) -> np.ndarray:
    """Weight of each voxel: (n,)."""
    if metric in OF_TISSUE:
        return np.clip(1 - reference["FWF"], 0, 1)
    return np.ones(len(_sparse.slices()))


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angle between axes in degrees: (n, 3), (n, 3) -> (n,)."""
    size = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cos = np.abs((first * second).sum(1)) / np.where(size > 0, size, 1)
    return np.degrees(np.arccos(np.clip(cos, 0, 1)))


def summary(values: list[np.ndarray]) -> list[float]:
    """Mean over the subsets of what `compare` gives, in the order of `COLUMNS`."""
    table = np.array(values)
    mean, sd = table.mean(0), table[:, 0].std()
    return [short(v) for v in (mean[0], sd, *mean[1:])]


def wilcoxon(first: list[float], second: list[float]) -> float | None:
    """Two-sided p of paired differences; None if there are none."""
    difference = np.subtract(first, second)
    if not len(difference) or not difference.any():
        return None
    return short(stats.wilcoxon(difference).pvalue)


def short(value: float) -> float | None:
    """Round to `DIGITS`; None for what is not a number."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def dumped(content: dict) -> str:
    """JSON with every list of numbers on one line."""
    text = json.dumps(content, indent=1)
    lists = re.compile(r"\[\s+((?:[-+.\deE]+|null)(?:,\s+(?:[-+.\deE]+|null))*)\s+\]")
    return lists.sub(lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text) + "\n"
