"""Anatomies from public tissue maps, fibre orientations and bundles, in MNI space.

Every person whose fibres are known gives one anatomy: tissue of an atlas, drawn to that person's
own white matter by the anisotropy, with the person's fibres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..errors import InputError
from . import bundles, fibres, sources
from .anatomy import SUFFIX, Anatomy, anatomy_folder, save
from .cortex import radial
from .nuclei import with_deep
from .register import Image, Warp, register, sample, still, without_rim, world

GRID = ((-80.0, -110.0, -73.5), (108, 126, 108), 1.5)
"""First voxel centre [mm], shape and voxel size [mm] of built anatomies: the MNI brain."""

COARSE = ((-90.0, -126.0, -72.0), (91, 109, 91), 2.0)
"""The grid that heads are registered on: finer costs minutes, and FA maps are coarser."""

SULCI = 3.0
"""Odds of fluid are raised by this: averaging brains washes narrow sulci out (value chosen so that
sulci are as wide as in single brains)."""

SULCI_SHARP = 1.0
"""The same for SRI24, whose fluid is not washed out."""

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
    """Fibres of one person and the way to them from the grid of `COARSE`."""

    fibres: sources.FibreSource
    warp: Warp


def grid(spec: tuple) -> tuple[NDArray, tuple[int, int, int]]:
    """Affine and shape of a grid such as `GRID`."""
    first, shape, size = spec
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = first
    return affine, shape


def build(
    source: str | Path, out: str | Path | None = None, *, people: Sequence[str] | None = None
) -> list[Path]:
    """Build every anatomy that a folder of public data allows.

    Parameters
    ----------
    source : path-like
        Folder with ``anatomy/`` and ``orientation/``.
    out : path-like, optional
        Where the files go; by default where `load_anatomy` looks.
    people : list of str, optional
        Of `sources.SUBJECTS`; default all. The first of them is always the reference.

    Returns
    -------
    list of Path
        ``icbm-<person>`` for each person and ``sri24-<person>`` for those with crossings.
    """
    source, out = Path(source), Path(out) if out else anatomy_folder()
    names = list(sources.SUBJECTS) if people is None else list(people)
    if unknown := set(names) - set(sources.SUBJECTS):
        raise InputError(f"no fibres of {unknown}", f"Choose of {', '.join(sources.SUBJECTS)}.")
    orientation = source / "orientation"
    template = coarse_template(orientation)
    reference = next(iter(sources.SUBJECTS))
    icbm = sources.icbm(source / "anatomy")
    bridge = to_template(icbm, template)
    located = {n: locate(n, orientation, template) for n in dict.fromkeys([reference, *names])}
    found = {n: replace(p, warp=p.warp.after(bridge)) for n, p in located.items()}
    files = bundles.bundle_files(orientation / "bundles_mni", orientation / "centroids_mni")
    affine, shape = grid(GRID)
    tissue = atlas_tissue(icbm, still(affine, shape))
    labels = bundles.label(files, affine, tissue[0])
    written = []
    for name in names:
        built = assemble(f"icbm-{name}", tissue, found[name], found[reference], labels)
        written.append(save(built, out / f"icbm-{name}{SUFFIX}"))
    other, to_mni = second_atlas(source / "anatomy", icbm)
    moved = sample(Image(labels[0], affine), to_mni.points, order=0).astype(np.uint8)
    for name in [n for n in names if found[n].fibres.peaks.data.shape[0] > 1]:
        person, base = (
            replace(p, warp=p.warp.after(to_mni)) for p in (found[name], found[reference])
        )
        built = assemble(f"sri24-{name}", other, person, base, (moved, labels[1]))
        written.append(save(built, out / f"sri24-{name}{SUFFIX}"))
    return written


def coarse_template(orientation: Path) -> Image:
    """Mean FA of MNI space on the grid of `COARSE`."""
    affine, shape = grid(COARSE)
    mean = sources.fa_template(orientation)
    blurred = Image(gaussian_filter(mean.data, FINE_BLUR), mean.affine)
    return Image(sample(blurred, world(affine, shape)), affine)


def to_template(icbm: Image, template: Image) -> Warp:
    """Find where each voxel of ICBM152 lies in the FA template.

    Both are called MNI space, yet the corpus callosum of the one lies 4 mm above the other's. The
    tissue maps are made to look like FA first.
    """
    like_fa = sum(
        mean * gaussian_filter(tissue, FINE_BLUR)
        for tissue, (mean, _) in zip(icbm.data, (FA_OF[0], FA_OF[1], FA_OF[3]), strict=True)
    )
    coarse = sample(Image(like_fa, icbm.affine), world(template.affine, template.data.shape))
    return register(Image(coarse, template.affine), template, gentle=True)


def locate(name: str, orientation: Path, template: Image) -> Person:
    """Read a person's fibres and find where each voxel of the template lies in them."""
    person = sources.SUBJECTS[name](orientation)
    return Person(person, register(template, without_rim(person.fa)))


def second_atlas(folder: Path, icbm: Image) -> tuple[NDArray, Warp]:
    """SRI24 tissue, brought to MNI space by an affine, and the warp from it to ICBM152's shape."""
    affine, shape = grid(COARSE)
    points = world(affine, shape)
    own = sources.sri24(folder)
    whites = [Image(gaussian_filter(i.data[0], FINE_BLUR), i.affine) for i in (icbm, own)]
    mni = Image(sample(whites[0], points), affine)
    to_sri24 = register(mni, whites[1], affine_only=True)
    to_mni = register(Image(sample(whites[1], to_sri24.points), affine), mni)
    fine = still(*grid(GRID))
    return atlas_tissue(own, to_sri24.after(fine), SULCI_SHARP), to_mni.after(fine)


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
    atlas: str = "",
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
