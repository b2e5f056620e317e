"""The small anatomy that comes with the library: a built one, deformed so that it is nobody's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from . import fibres
from .anatomy import SHIPPED, SUFFIX, Anatomy, load_anatomy, save
from .register import Image, Warp, sample, world

GRID = ((-77.0, -114.4, -77.0), (71, 90, 75), 2.2)
"""First voxel centre [mm], shape and voxel size [mm]: 3 MB of brain voxels."""

SEED = 2024
"""Of the deformation."""

AMPLITUDE = 2.5
"""Standard deviation of the displacement [mm]: as much as brains differ after an affine (P.
Hellier et al., IEEE Trans. Med. Imaging 22 (2003) 1120-1130 find a few mm)."""

SCALE = 20.0
"""Standard deviation of the Gaussian that makes it smooth [mm]; AMPLITUDE / SCALE below 1/4 keeps
it one to one."""

STRETCH = (0.95, 1.03, 0.97)
"""Scale of the head along x, y, z."""


def ship(source: str | Path = "icbm-tractseg", folder: str | Path = SHIPPED) -> Path:
    """Write the small anatomy anew, from one that `build` made."""
    return save(small(load_anatomy(source)), Path(folder) / f"small{SUFFIX}")


def small(anatomy: Anatomy, seed: int = SEED) -> Anatomy:
    """Deform an anatomy at random and bring it onto the coarse `GRID`."""
    first, shape, size = GRID
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = first
    old = anatomy.affine.numpy()
    warp = Warp(affine, random_points(affine, shape, seed))
    blur = 0.3 * size / np.linalg.norm(old[:3, 0])  # finer voxels are averaged, not skipped

    def scalar(values: torch.Tensor) -> NDArray:
        data = values.float().numpy()
        width = (0.0,) * (data.ndim - 3) + (blur,) * 3
        return sample(Image(gaussian_filter(data, width), old), warp.points)

    tissue = np.clip(scalar(anatomy.tissue), 0, 1)
    field = fibres.shares(fibres.resample(Image(anatomy.peaks.float().numpy(), old), warp))
    solid = (tissue[0] + tissue[2] > 0.02) & (tissue.sum(0) > 0.02)
    bundle = sample(Image(anatomy.bundle.numpy(), old), warp.points, order=0)
    half = torch.float16
    return Anatomy(
        name="small",
        affine=torch.from_numpy(affine),
        tissue=torch.from_numpy(tissue).to(half),
        peaks=torch.from_numpy(fibres.fill(field, solid)).to(half),
        coherence=torch.from_numpy(scalar(anatomy.coherence)).to(half),
        bundle=torch.from_numpy(bundle.astype(np.uint8)),
        bundles=anatomy.bundles,
        sources=(*anatomy.sources, f"deformed at random (seed {seed})"),
    )


def random_points(affine: NDArray, shape: tuple[int, ...], seed: int) -> NDArray:
    """Points of a stretched and smoothly deformed grid [mm]: (x, y, z, 3)."""
    noise = np.random.default_rng(seed).standard_normal((3, *shape))
    width = SCALE / np.linalg.norm(affine[:3, :3], axis=0)
    smooth = np.stack([gaussian_filter(n, width, mode="wrap") for n in noise])
    smooth *= AMPLITUDE / smooth.std(axis=(1, 2, 3), keepdims=True)
    return world(affine, shape) / np.array(STRETCH) + np.moveaxis(smooth, 0, -1)
