"""A label map of white-matter bundles from streamlines.

Population bundles have thousands of lines, their centroids a few dozen (F. Rheault, Population
average atlas for BundleSeg, Zenodo 10103446, CC BY 4.0); both are made into densities of visits
and compared after normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

WIDTH = 2.5
"""Standard deviation of a line's density [mm]: centroids stand for a bundle of about that size."""

PRESENT = 0.25
"""Cube root of the share of the highest density below which a voxel is no part of a bundle."""

REACH = 4.0
"""White matter this near to a bundle belongs to it [mm]."""

WHITE = 0.3
"""Voxels with less white matter than this have no bundle."""

STEP = 0.5
"""Lines are followed in steps of this share of a voxel."""

PARTS = ("_An", "_Po", "_curve", "_Brainstem", "_1", "_2")
"""Endings of names that tell parts of one bundle."""


def bundle_files(*folders: Path) -> dict[str, list[Path]]:
    """Name of each bundle, and its files of streamlines (parts and centroids together)."""
    found: dict[str, list[Path]] = {}
    for file in sorted(f for folder in folders for f in folder.glob("*.trk")):
        name = file.stem.removesuffix("_centroid")
        for part in PARTS:
            name = name.removesuffix(part)
        found.setdefault(name, []).append(file)
    return dict(sorted(found.items()))


def label(
    files: Mapping[str, Sequence[Path]], affine: NDArray, white: NDArray
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Label each white voxel with the bundle that is densest there.

    Parameters
    ----------
    files : dict of str to list of Path
        See `bundle_files`; streamlines in the world of `affine`.
    affine : (4, 4) array
    white : (x, y, z) array
        Fraction of white matter.

    Returns
    -------
    (x, y, z) uint8 array
        0 for none, else 1 + the index of the name.
    tuple of str
        Names.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    best, labels = np.full(white.shape, PRESENT, np.float32), np.zeros(white.shape, np.uint8)
    for number, parts in enumerate(files.values(), 1):
        density = np.zeros(white.shape, np.float32)
        for file in parts:
            lines = nib.streamlines.load(file).streamlines
            density += density_of(lines, affine, white.shape, spacing)
        density /= max(float(density.max()), 1e-12)
        won = density > best
        best[won], labels[won] = density[won], number
    labels[white < WHITE] = 0
    far, source = distance_transform_edt(labels == 0, sampling=spacing, return_indices=True)
    near = (labels == 0) & (white >= WHITE) & (far <= REACH)
    labels[near] = labels[tuple(source[:, near])]
    return labels, tuple(files)


def density_of(
    lines: Sequence[NDArray], affine: NDArray, shape: tuple[int, ...], spacing: NDArray
) -> NDArray[np.float32]:
    """How often lines pass each voxel, smoothed, highest 1: lines of (n, 3) RAS millimetres.

    The cube root of the counts is taken, so that the dense stem of a bundle does not outweigh its
    branches.
    """
    counts = np.zeros(int(np.prod(shape)), np.float32)
    inverse = np.linalg.inv(affine)
    lengths = np.array([len(line) for line in lines])
    points = np.concatenate(lines) @ inverse[:3, :3].T + inverse[:3, 3]
    steps = np.diff(points, axis=0)
    steps[np.cumsum(lengths)[:-1] - 1] = 0  # from the end of a line to the next one's start
    pieces = max(1, int(np.ceil(np.linalg.norm(steps, axis=1).max(initial=0) / STEP)))
    for piece in range(pieces):
        index = np.rint(points[:-1] + steps * piece / pieces).astype(int)
        inside = ((index >= 0) & (index < shape)).all(-1)
        flat = np.ravel_multi_index(tuple(index[inside].T), shape)
        counts += np.bincount(flat, minlength=len(counts))
    density = gaussian_filter(counts.reshape(shape), WIDTH / spacing)
    return np.cbrt(density / max(float(density.max()), 1e-12)).astype(np.float32)
