"""Small scans with known tensors."""

from __future__ import annotations

import numpy as np

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.scan import Scan

RING_AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -18], [0, 0, 2.5, -7], [0, 0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.linalg.qr([[1.9, 0.3, 0.2], [-0.35, 1.8, 0.4], [-0.1, -0.45, 2.4]])[0]
OBLIQUE[:3] *= [2.0, 1.9, 2.4, 1]
OBLIQUE[:3, 3] = (-30, 12, 5)

AFFINES = {
    "negative": RING_AFFINE,
    "positive": RING_AFFINE @ np.diag([-1, 1, 1, 1]),
    "oblique": OBLIQUE,
    "sagittal": RING_AFFINE[:, [1, 2, 0, 3]],
}


def directions(count: int, seed: int = 0) -> np.ndarray:
    """Well spread unit vectors: (count, 3), a spiral turned at random."""
    k = np.arange(count) + 0.5
    z = 1 - k / count  # one hemisphere: opposite directions are the same axis
    angle = np.pi * (1 + np.sqrt(5)) * k
    spiral = np.stack(
        [np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], 1
    )
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return spiral @ turn


def protocol(shells: dict[float, int] | None = None, b0: int = 2, seed: int = 0) -> Acquisition:
    """b0 volumes first, then each shell."""
    bvals, bvecs = [0.0] * b0, [np.zeros((b0, 3))]
    for k, (b, count) in enumerate((shells or {1000.0: 12}).items()):
        bvals += [b] * count
        bvecs.append(directions(count, seed + k))
    return Acquisition(np.array(bvals), np.concatenate(bvecs))


def tensor_signal(
    acq: Acquisition, tensors: np.ndarray, s0: np.ndarray | float = 1000.0
) -> np.ndarray:
    """Signal of symmetric 3x3 tensors [mm2/s], written out plainly: (..., 3, 3) -> (..., m)."""
    exponent = np.einsum("mi,...ij,mj->...m", acq.bvecs, tensors, acq.bvecs) * acq.bvals
    return np.asarray(s0)[..., None] * np.exp(-exponent)


def fibre_tensors(axis: np.ndarray, along: float = 1.7e-3, across: float = 0.3e-3) -> np.ndarray:
    """Axially symmetric tensors [mm2/s]: (..., 3) unit vectors -> (..., 3, 3)."""
    return across * np.eye(3) + (along - across) * axis[..., :, None] * axis[..., None, :]


def ring_scan(
    acq: Acquisition | None = None,
    affine: np.ndarray = RING_AFFINE,
    shape=(12, 14, 6),
    sigma: float = 0.0,
    seed: int = 0,
) -> Scan:
    """Fibres that run in rings around the world's z axis through the middle of the grid."""
    acq = acq or protocol()
    axis = ring_axes(affine, shape)
    signal = tensor_signal(acq, fibre_tensors(axis)).astype(np.float32)
    if sigma:
        noise = np.random.default_rng(seed).normal(0, sigma, (2, *signal.shape))
        signal = np.hypot(signal + noise[0], noise[1]).astype(np.float32)
    return Scan(signal, affine, acq, name="ring")


def ring_axes(affine: np.ndarray, shape) -> np.ndarray:
    """True fibre direction of `ring_scan` in RAS: (x, y, z, 3)."""
    world = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    x, y = (world - centre)[..., 0] + 1e-3, (world - centre)[..., 1]
    axis = np.stack([-y, x, np.zeros_like(x)], -1)
    return axis / np.linalg.norm(axis, axis=-1, keepdims=True)


def angle_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between axes, opposite ones counted as one: (..., 3), (..., 3) -> (...)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cross = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.rad2deg(np.arctan2(cross, np.abs((a * b).sum(-1))))
