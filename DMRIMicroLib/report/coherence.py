"""Do the b-vectors belong to the image? Fibres must run on into the neighbours that they point at.

K. G. Schilling et al., "A fiber coherence index for quality control of B-table orientation in
diffusion MRI scans", Magn. Reson. Imaging 58 (2019) 82-89. MRtrix3's ``dwigradcheck`` answers the
same question by tractography.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

FIBRE_FA = 0.25
"""Voxels above this FA hold one dominant fibre direction (0.2 to 0.3 is usual for tractography)."""

CONE = np.cos(np.deg2rad(30.0))
"""A neighbour lies along a fibre if the direction to it is within 30 degrees of the fibre."""

MIN_EXTENT = 5
"""Slabs thinner than this [voxels] hold too few neighbours across to compare the tables."""

MIN_VOXELS = 1000
"""Fewer fibre voxels than this say nothing."""

MARGIN = 0.02
"""Another table must be more coherent by this much [score, 1 = chance] to be believed."""

SIGNIFICANCE = 4.0
"""... and by this many standard errors (24 tables are tried, and neighbouring blocks correlate)."""

BLOCK_MM = 16.0
"""Edge [mm] of the blocks left out in turn to find the standard error: about a bundle's width."""


@dataclass(frozen=True)
class Coherence:
    """How well the fibres run on, with the b-vectors as given and with axes swapped or flipped.

    Attributes
    ----------
    verdict : {"consistent", "inconsistent", "undecided", "not assessed"}
        Undecided: another table scores higher, but not clearly.
    given, best : float
        Score of the b-vectors as they are and of the most coherent table; 1 is chance.
    change : str
        What turns the given table into the best one, in image axes, e.g. ``"x flipped"``; empty
        if the given one is best.
    significance : float
        Best minus the next (verdict "consistent": given minus the best other), in standard errors.
    scores : dict of str to float
        All 24 tables.
    reason : str
        Why it was not assessed.
    """

    verdict: str
    given: float = float("nan")
    best: float = float("nan")
    change: str = ""
    significance: float = float("nan")
    scores: dict[str, float] | None = None
    reason: str = ""


def coherence(fa: NDArray, v1: NDArray, affine: NDArray, mask: NDArray) -> Coherence:
    """Compare the 24 tables that permuted and flipped image axes give.

    Parameters
    ----------
    fa : (x, y, z) array
        Fractional anisotropy.
    v1 : (x, y, z, 3) array
        Principal direction, unit vectors in RAS.
    affine : (4, 4) array
        Voxel indices to RAS millimetres.
    mask : (x, y, z) bool array
        Voxels to look at.

    Notes
    -----
    A table turned by M gives principal directions turned by M, so nothing is fitted again. The
    score of a table is the sum, over pairs of neighbours along its fibres, of FA_i FA_j |v_i.v_j|,
    over what the same pairs would have by chance: the mean of their offset over the whole brain.
    That takes out the effect of thin slabs and of elongated voxels, whose offsets differ in
    number and in distance.
    """
    fibre = mask & (fa > FIBRE_FA)
    if min(np.ptp(index) + 1 if len(index) else 0 for index in np.nonzero(fibre)) < MIN_EXTENT:
        return Coherence("not assessed", reason=f"the slab is thinner than {MIN_EXTENT} voxels")
    if fibre.sum() < MIN_VOXELS:
        reason = f"fewer than {MIN_VOXELS} voxels have FA > {FIBRE_FA}"
        return Coherence("not assessed", reason=reason)
    labels, tables = image_tables()
    along, chance = _block_sums(fa, v1, affine, fibre, tables)
    scores = along.sum(0) / chance.sum(0)
    best = int(np.argmax(scores))
    rival = best if best else 1 + int(np.argmax(scores[1:]))
    gap = scores[rival] - scores[0]
    error = _jackknife(along, chance, rival)
    significance = abs(gap) / max(error, 1e-12)
    if best == 0:
        verdict = "consistent" if significance >= 1 else "undecided"
    else:
        verdict = "inconsistent" if gap > MARGIN and significance > SIGNIFICANCE else "undecided"
    return Coherence(
        verdict=verdict,
        given=float(scores[0]),
        best=float(scores[best]),
        change=labels[best],
        significance=float(significance),
        scores=dict(zip(labels, map(float, scores), strict=True)),
    )


def image_tables() -> tuple[list[str], NDArray]:
    """Return the 24 distinct axis permutations and flips: their names and (24, 3, 3) matrices.

    Flipping all axes changes no fibre, so no flip and one axis flipped are all there is.
    """
    labels, tables = [], []
    for order, flip in product(permutations(range(3)), (None, 0, 1, 2)):
        table = np.eye(3)[list(order)]
        if flip is not None:
            table[flip] *= -1
        said = []
        if order != (0, 1, 2):
            said.append("axes in the order " + " ".join("xyz"[k] for k in order))
        if flip is not None:
            said.append(f"{'xyz'[flip]} flipped")
        labels.append(", then ".join(said))
        tables.append(table)
    return labels, np.array(tables)


def _block_sums(
    fa: NDArray, v1: NDArray, affine: NDArray, fibre: NDArray, tables: NDArray
) -> tuple[NDArray, NDArray]:
    """Sum over pairs along fibres, observed and by chance: two (blocks, tables) arrays."""
    size = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / size
    # row vectors: RAS -> image axes (solve, not transpose: a sheared affine is not orthogonal)
    v = np.zeros((*fa.shape, 3), dtype=np.float32)
    v[fibre] = v1[fibre] @ np.linalg.inv(axes).T
    v[fibre] /= np.maximum(np.linalg.norm(v[fibre], axis=-1, keepdims=True), 1e-6)
    weight = np.where(fibre, fa, 0).astype(np.float32)
    block = _blocks(fa.shape, size)
    total = int(block.max()) + 1
    along, chance = np.zeros((2, total, len(tables)))
    for offset in _half_neighbours():
        here, there = _shifted(offset)
        step = offset * size / np.linalg.norm(offset * size)
        # turning the fibre by M or the step by M' is the same
        steps_back = (step @ tables).T.astype(np.float32)
        dot = np.abs(np.einsum("xyzc,xyzc->xyz", v[here], v[there]))
        both = weight[here] * weight[there] * dot
        for one in (here, there):  # a pair counts for each end whose fibre points at the other
            inside = fibre[one]
            value, own = both[inside], weight[one][inside]
            usual = own * (value.sum() / max(own.sum(), 1e-12))
            points = np.abs(v[one][inside] @ steps_back) > CONE
            at = block[one][inside]
            for t in range(len(tables)):
                p = points[:, t]
                along[:, t] += np.bincount(at[p], value[p], minlength=total)
                chance[:, t] += np.bincount(at[p], usual[p], minlength=total)
    used = chance.sum(axis=1) > 0
    return along[used], chance[used]


def _blocks(shape: tuple[int, ...], size: NDArray) -> NDArray[np.intp]:
    """Return the number of the block that each voxel lies in."""
    at = [(np.arange(n) * s // BLOCK_MM).astype(int) for n, s in zip(shape, size, strict=True)]
    grid = tuple(int(a[-1]) + 1 for a in at)
    return np.ravel_multi_index(np.meshgrid(*at, indexing="ij"), grid)


def _jackknife(along: NDArray, chance: NDArray, rival: int) -> float:
    """Return the standard error of score(rival) - score(given) over blocks left out in turn."""
    n = len(along)
    if n < 2:
        return np.inf
    pair = [0, rival]
    left = (along.sum(0) - along)[:, pair] / (chance.sum(0) - chance)[:, pair]
    gap = left[:, 1] - left[:, 0]
    return float(np.sqrt((n - 1) / n * ((gap - gap.mean()) ** 2).sum()))


def _half_neighbours() -> NDArray:
    """(13, 3) one of each opposite pair of the 26 neighbours."""
    return np.array([o for o in product((-1, 0, 1), repeat=3) if o > (0, 0, 0)])


def _shifted(offset: NDArray) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices that lay each voxel over its neighbour at `offset`."""
    here = tuple(slice(max(0, -o), -o if o > 0 else None) for o in offset)
    there = tuple(slice(max(0, o), o if o < 0 else None) for o in offset)
    return here, there
