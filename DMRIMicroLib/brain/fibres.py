"""Fields of fibre directions: interpolated, smoothed and filled in without regard to sign.

A direction and its opposite are one fibre, so vectors are never averaged as they stand: each
voxel's peaks look for their like among a neighbour's, turn them to their side, and then average.
Fields are (k, 3, x, y, z) arrays in RAS; the length of a peak is the relative size of its fibre
population.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from .register import Image, Warp

ALIKE = np.cos(np.deg2rad(45.0))
"""Peaks of neighbours are one population within this angle: crossings are rarely narrower."""

SAME = np.cos(np.deg2rad(30.0))
"""Peaks of one voxel within this angle are one population: deconvolution does not resolve them
(J.-D. Tournier et al., NeuroImage 35 (2007) 1459-1472)."""

SMALLEST = 0.15
"""Populations with less than this share are noise (B. Jeurissen et al., Hum. Brain Mapp. 34 (2013)
2747-2766 keep peaks above 0.1 of the ODF, in better data than some that are read here)."""

SPREAD = (1.0, 2.0, 4.0, 8.0)
"""Widths [voxels] of the averages that fill voxels without fibres, nearest first."""

FA_SINGLE = 0.85
"""Anisotropy of a voxel of perfectly parallel fibres: the highest of the corpus callosum (C.
Pierpaoli, P. J. Basser, Magn. Reson. Med. 36 (1996) 893-906)."""

FA_GREY = 0.3
"""Anisotropy at which grey matter is as ordered as it comes (thalamus; range chosen)."""

FA_LEAST = 0.2
"""Anisotropy that is always allowed for: three equal fibres across each other would have none."""


def resample(field: Image, warp: Warp) -> NDArray[np.float32]:
    """Bring a field onto a warp's grid, turned by the warp: (k, 3, i, j, l) -> (k, 3, x, y, z).

    Each of the eight neighbours gives what is like the peaks of the nearest one.
    """
    inverse = np.linalg.inv(field.affine)
    at = warp.points @ inverse[:3, :3].T + inverse[:3, 3]
    limit = np.array(field.data.shape[2:]) - 1
    inside = ((at > -0.5) & (at < limit + 0.5)).all(-1)
    at = at[inside]
    rows = np.moveaxis(field.data, (0, 1), (3, 4)).astype(np.float32)  # (i, j, l, k, 3)

    def rows_at(index: NDArray) -> NDArray:
        i, j, k = np.clip(index, 0, limit).T
        return rows[i, j, k]

    nearest = rows_at(np.rint(at).astype(int))
    low = np.floor(at).astype(int)
    total = np.zeros_like(nearest)
    for corner in product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, at - low, 1 - (at - low)), axis=-1)
        total += weight[:, None, None].astype(np.float32) * like(nearest, rows_at(low + corner))
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    turned = unit(np.einsum("nab,nkb->nka", warp.turning()[inside].astype(np.float32), total))
    out = np.zeros((*inside.shape, *total.shape[1:]), np.float32)
    out[inside] = turned * length
    return np.moveaxis(out, (3, 4), (0, 1))


def like(mine: NDArray, theirs: NDArray) -> NDArray:
    """For each of my peaks the neighbour's most similar one, on my side: (n, k, 3) -> (n, k, 3).

    Zero where there is none within the angle `ALIKE`, or the neighbour's is more like another one
    of mine: two of my peaks never grow into one.
    """
    cosine = np.einsum("nka,nja->nkj", unit(mine), unit(theirs))
    near = np.abs(cosine)
    mutual = (near == near.max(-1, keepdims=True)) & (near == near.max(-2, keepdims=True))
    pairs = np.where(mutual & (near > ALIKE), np.sign(cosine), 0)
    return np.einsum("nkj,nja->nka", pairs, theirs)


def smooth(peaks: NDArray, weight: NDArray, width: float, passes: int = 1) -> NDArray[np.float32]:
    """Average each peak with its like in the 26 neighbours.

    Parameters
    ----------
    peaks : (k, 3, x, y, z) array
    weight : (x, y, z) array
        How far to trust a voxel (its anisotropy, say).
    width : float
        Standard deviation of the Gaussian [voxels].
    passes : int
    """
    shape = peaks.shape[2:]
    rows = np.moveaxis(peaks, (0, 1), (3, 4)).reshape(-1, *peaks.shape[:2]).astype(np.float32)
    trust = weight.reshape(-1).astype(np.float32)
    mine = np.flatnonzero(np.linalg.norm(rows[:, 0], axis=-1) > 0)
    grid = np.stack(np.unravel_index(mine, shape), -1)
    for _ in range(passes):
        total, norm = np.zeros_like(rows[mine]), np.zeros(len(mine), np.float32)
        for step in product((-1, 0, 1), repeat=3):
            there = np.clip(grid + step, 0, np.array(shape) - 1)
            there = np.ravel_multi_index(tuple(there.T), shape)
            w = trust[there] * np.float32(np.exp(-np.dot(step, step) / (2 * width**2)))
            total += w[:, None, None] * like(rows[mine], rows[there])
            norm += w
        kept = norm > 0
        rows[mine[kept]] = total[kept] / norm[kept, None, None]
    return np.moveaxis(rows.reshape(*shape, *peaks.shape[:2]), (3, 4), (0, 1))


def fill(peaks: NDArray, wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give every wanted voxel at least one direction, from its neighbours' first ones.

    The principal axis of the Gaussian average of p p', wider and wider until all are filled.
    """
    peaks = peaks.astype(np.float32).copy()
    first = peaks[0]
    first[:, ~np.isfinite(first).all(0)] = 0
    row, column = np.tril_indices(3)
    dyads = first[row] * first[column]
    known = (dyads != 0).any(0)
    for width in SPREAD:
        missing = wanted & (np.abs(first).sum(0) == 0)
        if not missing.any():
            return peaks
        mean = np.stack([gaussian_filter(d, width)[missing] for d in dyads], -1)
        near = gaussian_filter(known.astype(np.float32), width)[missing] > 1e-3
        full = np.zeros((len(mean), 3, 3), np.float32)
        full[:, row, column] = full[:, column, row] = mean
        axis = np.linalg.eigh(full)[1][..., -1]
        first[:, missing] = np.where(near[:, None], axis, 0).T
    return _nearest(peaks, wanted)


def _nearest(peaks: NDArray, wanted: NDArray[np.bool_]) -> NDArray:
    """Fill what is still without a direction from the nearest voxel that has one."""
    empty = np.abs(peaks[0]).sum(0) == 0
    missing = wanted & empty
    if missing.any() and not empty.all():
        source = distance_transform_edt(empty, return_distances=False, return_indices=True)
        peaks[0][:, missing] = peaks[0][(slice(None), *source[:, missing])]
    return peaks


def with_crossings(peaks: NDArray, other: NDArray) -> NDArray[np.float32]:
    """Add to a field of one direction the crossing fibres of another field.

    Of the other's peaks the one nearest to ours is ours already; the others keep their size
    relative to it. Where ours has none, the other's field stands in.
    """
    ours, theirs = unit(peaks[0], axis=0), other.astype(np.float32)
    cosine = np.abs(np.einsum("axyz,kaxyz->kxyz", ours, unit(theirs, axis=1)))
    size = np.linalg.norm(theirs, axis=1)
    same = np.where(size > 0, cosine, -1).argmax(0)
    base = np.take_along_axis(size, same[None], 0)[0]
    crossing = (cosine < ALIKE) & (np.arange(len(size))[:, None, None, None] != same)
    kept = np.where(crossing[:, None], theirs, 0)
    have = np.abs(peaks[0]).sum(0) > 0
    mixed = np.concatenate([(ours * np.where(base > 0, base, 1))[None], kept])
    alone = np.concatenate([theirs, np.zeros_like(theirs[:1])])
    return shares(np.where(have, mixed, alone), len(theirs))


def shares(peaks: NDArray, k: int = 3) -> NDArray[np.float32]:
    """Merge and sort populations, leave out small ones, keep `k`, let the lengths sum to 1."""
    peaks = merged(np.nan_to_num(peaks).astype(np.float32))
    for _ in range(2):  # once for all, once for those that are kept
        size = np.linalg.norm(peaks, axis=1)
        share = size / np.maximum(size.sum(0), 1e-6)
        peaks = unit(peaks, axis=1) * np.where(share >= SMALLEST, share, 0)[:, None]
        order = np.argsort(-np.linalg.norm(peaks, axis=1), axis=0, kind="stable")[:k]
        peaks = np.take_along_axis(peaks, order[:, None], axis=0)
    return peaks / np.maximum(np.linalg.norm(peaks, axis=1).sum(0), 1e-6)


def merged(peaks: NDArray) -> NDArray[np.float32]:
    """Add to each population the later ones within the angle `SAME`: (k, 3, x, y, z) both."""
    peaks = peaks.copy()
    for i in range(len(peaks)):
        for j in range(i + 1, len(peaks)):
            cosine = (unit(peaks[i], axis=0) * unit(peaks[j], axis=0)).sum(0)
            same = np.abs(cosine) > SAME
            peaks[i] += np.where(same, np.sign(cosine) * peaks[j], 0)
            peaks[j][:, same] = 0
    return peaks


def coherence(fa: NDArray, peaks: NDArray, tissue: NDArray) -> NDArray[np.float32]:
    """Order of the fibres of a population, 0 to 1: anisotropy over the most that there could be.

    Parameters
    ----------
    fa : (x, y, z) array
    peaks : (k, 3, x, y, z) array
        Lengths sum to 1. Crossing fibres allow less anisotropy: that of sum f p p'.
    tissue : (4, x, y, z) array
        Fractions of white, cortex, deep, csf.
    """
    dyad = np.einsum("kaxyz,kbxyz->abxyz", unit(peaks, axis=1), peaks)
    trace = np.einsum("aaxyz->xyz", dyad)
    square = (dyad**2).sum((0, 1))
    crossing = np.sqrt(np.clip(1.5 * (square - trace**2 / 3), 0, None) / np.maximum(square, 1e-6))
    brain = np.maximum(tissue.sum(0), 1e-3)
    most = (tissue[0] * FA_SINGLE * crossing + (tissue[1] + tissue[2]) * FA_GREY) / brain
    return np.clip(fa / np.maximum(most, FA_LEAST), 0, 1).astype(np.float32)


def layered(peaks: NDArray, radial: NDArray, tissue: NDArray) -> NDArray[np.float32]:
    """Fibres of white matter and deep nuclei beside the radial ones of cortex, by their fractions.

    Parameters
    ----------
    peaks : (k, 3, x, y, z) array
        Lengths sum to 1.
    radial : (3, x, y, z) array
        Unit vectors across the cortex.
    tissue : (4, x, y, z) array
    """
    both = np.concatenate([peaks * (tissue[0] + tissue[2]), (radial * tissue[1])[None]])
    return shares(both, len(peaks))


def unit(vectors: NDArray, axis: int = -1) -> NDArray:
    """Scale vectors to length 1 along an axis; 0 stays 0."""
    length = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
