"""Fibres of a posterior's samples: the library's own fits of noise-free signals."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..brain.directions import spread
from ..fitting import fit
from ..scan import Scan
from ..tracts.csd import csd

LEAST = 1e-3
"""Noise-free signals relative to b = 0 are at least this: tissue's are, at b = 1000 and below."""


def _shell(b: float, count: int) -> Acquisition:
    """One b = 0 volume and a shell."""
    g = spread(count, torch.Generator().manual_seed(0)).numpy()
    return Acquisition(np.r_[0.0, np.full(count, b)], np.concatenate([np.zeros((1, 3)), g]))


FOR_TENSORS = _shell(1000.0, 30)
"""What a diffusion tensor is usually fitted to (D. K. Jones, Magn. Reson. Med. 51 (2004) 807-815:
30 directions are enough for tensors that do not depend on orientation)."""

FOR_ODF = _shell(3000.0, 27)
"""The highest b of the signal space; so many directions bear the order of its harmonics, 4."""


def tensors(
    signal: NDArray[np.float32], mask: NDArray[np.bool_], affine: NDArray
) -> NDArray[np.float32]:
    """Fit tensors to signals of `FOR_TENSORS`: (x, y, z, m) -> (x, y, z, 6) in RAS [mm2/s]."""
    scan = Scan(np.maximum(signal, LEAST), affine, FOR_TENSORS, mask)
    found = fit(scan, "dti", device="cpu")["tensor"].data
    return np.where(mask[..., None], found, 0)


def distributions(
    signal: NDArray[np.float32],
    tensors: NDArray[np.float32],
    mask: NDArray[np.bool_],
    affine: NDArray,
) -> NDArray[np.float32]:
    """Deconvolve signals of `FOR_ODF`: (x, y, z, m) -> (x, y, z, c) harmonics in RAS."""
    return csd(Scan(signal, affine, FOR_ODF, mask), tensors, mask)
