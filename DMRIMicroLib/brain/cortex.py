"""The direction across the cortex, from a potential between white matter and fluid.

S. E. Jones, B. R. Buchbinder, I. Aharon, Hum. Brain Mapp. 11 (2000) 12-32: field lines of Laplace's
equation run from one surface of the cortex to the other. Neurites of the cortex follow them (J. A.
McNab et al., NeuroImage 69 (2013) 87-100).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

PULL = 10.0
"""How strongly tissue fractions hold the potential to their surface's value: voxels are mixed, so
the surfaces are not sharp. Large is Jones et al.'s fixed boundary."""

SWEEPS = 60
"""Sweeps of relaxation: the cortex is a few voxels thick, they reach much farther than that."""

SMOOTHING = 0.7
"""Smoothing of the potential before its gradient is taken [voxels]."""


def potential(tissue: NDArray) -> NDArray[np.float32]:
    """Potential 0 in white and deep grey matter, 1 in fluid and outside: (4, x, y, z) -> (x, y, z).

    Solves (laplacian) u = PULL (inner + outer) u - PULL outer by relaxation.
    """
    inner = tissue[0] + tissue[2]
    outer = np.clip(1 - inner - tissue[1], 0, 1)
    held = PULL * (inner + outer)
    u = (outer + 0.5 * tissue[1]).astype(np.float32)
    for _ in range(SWEEPS):
        padded = np.pad(u, 1, mode="edge")
        around = sum(
            np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)
        )
        u = ((around / 6 + PULL * outer) / (1 + held)).astype(np.float32)
    return u


def radial(tissue: NDArray, affine: NDArray) -> NDArray[np.float32]:
    """Find the unit vectors from white matter to fluid, in RAS: (3, x, y, z)."""
    u = gaussian_filter(potential(tissue), SMOOTHING)
    by_index = np.stack(np.gradient(u))
    slope = np.einsum("ba,bxyz->axyz", np.linalg.inv(affine[:3, :3]), by_index)
    length = np.linalg.norm(slope, axis=0)
    return np.where(length > 1e-4, slope / np.maximum(length, 1e-4), 0).astype(np.float32)
