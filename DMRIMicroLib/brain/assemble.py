"""One anatomy put together from tissue, fibres and bundles that lie in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from . import fibres, sources
from .anatomy import Anatomy
from .cortex import radial
from .nuclei import with_deep
from .register import Image, Warp, sample, without_rim, world

GRID = ((-80.0, -110.0, -73.5), (108, 126, 108), 1.5)
"""First voxel centre [mm], shape and voxel size [mm] of built anatomies: the MNI brain."""

SULCI = 3.0
"""Odds of fluid are raised by this: averaging brains washes narrow sulci out (value chosen so that
sulci are as wide as in single brains)."""

SHARPEN = 1.5
"""Power of an atlas' probabilities: one person's tissue is less mixed than the average's."""

FA_OF = ((0.42, 0.16), (0.16, 0.07), (0.22, 0.09), (0.12, 0.07))
"""Mean and standard deviation of FA in `CLASSES` (C. Pierpaoli, P. J. Basser, Magn. Reson. Med. 36
(1996) 893-906; C. Beaulieu, NMR Biomed. 15 (2002) 435-455; widths chosen, for noise and partial
volume)."""

TRUST = 0.5
"""Power of the likelihood of the anisotropy: it is smooth, so its voxels are not independent."""

COVERED = 3.0
"""Width of the seam [mm] where a person's field of view ends and the reference's fibres begin."""

FINE_BLUR = 0.5
"""Smoothing of maps before they go to a coarser grid [voxels of the source]."""


@dataclass(frozen=True, eq=False)
class Person:
    """Fibres of one person and the way to them from the grid of the registration."""

    fibres: sources.FibreSource
    warp: Warp


def grid(spec: tuple) -> tuple[NDArray, tuple[int, int, int]]:
    """Affine and shape of a grid such as `GRID`."""
    first, shape, size = spec
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = first
    return affine, shape


def atlas_tissue(atlas: Image, warp: Warp, sulci: float = SULCI) -> NDArray[np.float32]:
    """Tissue fractions of a person that an atlas might be the average of: (4, x, y, z).

    The deep nuclei are told apart by their place, so `warp.affine` must be MNI space.
    """
    rest = np.clip(1 - atlas.data.sum(0), 0, 1)
    odds = np.stack([*atlas.data[:2], atlas.data[2] * sulci, rest]) ** SHARPEN
    odds /= np.maximum(odds.sum(0), 1e-6)
    blurred = np.stack([gaussian_filter(o, FINE_BLUR) for o in odds[:3]])
    white, grey, csf = sample(Image(blurred, atlas.affine), warp.points)
    return with_deep(white, grey, csf, world(warp.affine, white.shape))


def assemble(
    name: str,
    tissue: NDArray,
    person: Person,
    reference: Person,
    labels: tuple[NDArray[np.uint8], tuple[str, ...]],
) -> Anatomy:
    """Put one anatomy together on the grid of `GRID`."""
    affine, shape = grid(GRID)
    fa, peaks = brought(person, affine, shape)
    if person is not reference:
        fa, peaks = completed(fa, peaks, reference, tissue)
    tissue = by_anisotropy(tissue, fa)
    brain = tissue.sum(0) > 0.02
    solid = brain & (tissue[0] + tissue[2] > 0.02)
    field = fibres.shares(fibres.fill(fibres.smooth(peaks, fa * brain, 1.0), solid))
    field = fibres.layered(field, radial(tissue, affine), tissue)
    atlas_source = sources.SRI24_SOURCE if name.startswith("sri24") else sources.ICBM_SOURCE
    said = dict.fromkeys((atlas_source, person.fibres.source, reference.fibres.source))
    return packed(name, affine, tissue, field, fa, labels, (*said, sources.BUNDLE_SOURCE))


def packed(
    name: str,
    affine: NDArray,
    tissue: NDArray,
    peaks: NDArray,
    fa: NDArray,
    labels: tuple[NDArray[np.uint8], tuple[str, ...]],
    said: Sequence[str],
) -> Anatomy:
    """Make an Anatomy of arrays; the coherence comes from the anisotropy."""
    brain = tissue.sum(0) > 0.02
    half = torch.float16
    order = fibres.coherence(fa, peaks, tissue) * brain
    return Anatomy(
        name=name,
        affine=torch.from_numpy(affine),
        tissue=torch.from_numpy(tissue * brain).to(half),
        peaks=torch.from_numpy(peaks * brain).to(half),
        coherence=torch.from_numpy(order).to(half),
        bundle=torch.from_numpy(labels[0] * brain),
        bundles=tuple(labels[1]),
        sources=tuple(said),
    )


def brought(person: Person, affine: NDArray, shape: tuple) -> tuple[NDArray, NDArray]:
    """FA (x, y, z) and peaks (k, 3, x, y, z) of a person on a grid, noise smoothed."""
    warp = person.warp.onto(affine, shape)
    fa = person.fibres.fa
    smooth = Image(gaussian_filter(without_rim(fa).data, FINE_BLUR), fa.affine)
    peaks = fibres.smooth(person.fibres.peaks.data, smooth.data, 0.7)
    field = fibres.resample(Image(peaks, person.fibres.peaks.affine), warp)
    return sample(smooth, warp.points), fibres.shares(field)


def completed(
    fa: NDArray, peaks: NDArray, reference: Person, tissue: NDArray
) -> tuple[NDArray, NDArray]:
    """Add what a person's data lack: crossings, and all that lies outside the field of view."""
    affine, shape = grid(GRID)
    base_fa, base_peaks = brought(reference, affine, shape)
    lost = (fa <= 0) & (base_fa > 0)
    seam = gaussian_filter(lost.astype(np.float32), COVERED / abs(affine[0, 0]))
    share = np.clip(2 * seam, 0, 1)
    whole = fibres.with_crossings(peaks[:1], base_peaks)
    if len(peaks) > 1:  # few directions resolve few crossings: the person's own first
        crossing = np.abs(peaks[1]).sum(0) > 0
        whole = np.where(crossing, peaks, whole)
    fa = like_reference(fa, base_fa, tissue)
    return (1 - share) * fa + share * base_fa, np.where(share > 0.5, base_peaks, whole)


def like_reference(fa: NDArray, base: NDArray, tissue: NDArray) -> NDArray:
    """Rescale FA so that white matter and cortex have the reference's medians.

    Noise raises FA, most where it is low (C. Pierpaoli, P. J. Basser, Magn. Reson. Med. 36 (1996)
    893-906), and people were scanned with different noise.
    """
    seen = (fa > 0) & (base > 0)
    pure = [seen & (tissue[c] > 0.8) for c in (1, 0)]
    if not all(region.any() for region in pure):
        return fa
    own, wanted = ([float(np.median(f[region])) for region in pure] for f in (fa, base))
    slope = (wanted[1] - wanted[0]) / max(own[1] - own[0], 0.05)
    return np.where(fa > 0, np.clip(wanted[0] + slope * (fa - own[0]), 0.01, 1), 0)


def by_anisotropy(tissue: NDArray, fa: NDArray) -> NDArray[np.float32]:
    """Draw an atlas' tissue to a person's: posterior of the class given FA, brain as before."""
    smooth = gaussian_filter(fa, 0.5)
    weighted = np.stack(
        [
            fraction * (np.exp(-0.5 * ((smooth - mean) / sd) ** 2) / sd) ** TRUST
            for fraction, (mean, sd) in zip(tissue, FA_OF, strict=True)
        ]
    )
    known = (smooth > 0) & (weighted.sum(0) > 1e-6)
    scaled = weighted * tissue.sum(0) / np.maximum(weighted.sum(0), 1e-6)
    return np.where(known, scaled, tissue).astype(np.float32)
