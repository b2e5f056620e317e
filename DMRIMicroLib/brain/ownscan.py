"""Anatomies without an atlas folder: from a person's own maps, or from tissue maps alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from ..errors import InputError
from ..maps import INDEX, MapSet
from . import fibres
from .anatomy import SUFFIX, Anatomy, load_anatomy
from .assemble import FINE_BLUR, GRID, SULCI, atlas_tissue, grid, packed
from .cortex import potential, radial
from .register import Image, still

START = ((0.45, np.log(0.75)), (0.15, np.log(0.85)), (0.12, np.log(2.5)))
"""First guess of (FA, ln MD [um2/ms]) in white matter, grey matter and fluid (C. Pierpaoli, P. J.
Basser, Magn. Reson. Med. 36 (1996) 893-906; C. Pierpaoli et al., Radiology 201 (1996) 637-648)."""

SPREAD = (0.1, 0.2)
"""First guess of their standard deviations."""

ROUNDS = 25
"""Rounds of expectation and maximisation; class means move by less than 1e-3 after about 15."""

LEAST_SD = 0.03
"""A class may not become narrower than this, or it would fit one voxel."""

UM2_MS = 1e3
"""1 mm2/s in um2/ms."""

DEEP_SHARE = 0.6
"""Grey matter deeper than this share of the deepest voxel's distance to the surface is a nucleus:
the insula and the cingulate cortex lie less deep (value chosen)."""

MIDLINE = 8.0
"""Distance from the midline [mm] over which commissural fibres turn into others (chosen)."""

NILEARN = "nilearn"
"""Name of the anatomy of nilearn's tissue maps."""

FA_MADE = (0.45, 0.12)
"""FA of invented fibres, in white matter and elsewhere (START's)."""


def open_anatomy(source: str | Path) -> Anatomy:
    """Give the anatomy that a name, a file or a folder stands for.

    A folder may hold one anatomy file, or the maps that ``dmrimicro fit`` wrote.
    """
    folder = Path(source)
    if not folder.is_dir():
        return load_anatomy(source)
    if (folder / INDEX).exists():
        return build_from_scan(MapSet.load(folder), name=folder.resolve().name)
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) != 1:
        raise InputError(
            f"holds {len(files)} anatomies and no maps",
            f"Name one {SUFFIX} file, or give the output folder of `dmrimicro fit`.",
            file=folder,
        )
    return load_anatomy(files[0])


def build_from_scan(
    maps: MapSet, tissue: NDArray | None = None, *, name: str = "own scan"
) -> Anatomy:
    """Make an anatomy of a fitted scan, on its grid.

    Parameters
    ----------
    maps : MapSet
        With FA, MD and V1 (`dmrimicro.fit(scan, "dti")`).
    tissue : (4, x, y, z) array, optional
        Fractions of `CLASSES`; by default from a mixture of Gaussians of FA and MD.
    name : str

    Raises
    ------
    InputError
        If a map is missing.
    """
    if missing := {"FA", "MD", "V1"} - set(maps):
        raise InputError(
            f"these maps lack {', '.join(sorted(missing))}", "Fit the tensor model: dti."
        )
    fa = np.clip(maps["FA"].data, 0, 1)
    if tissue is None:
        tissue = tissue_of(fa, maps["MD"].data * UM2_MS, maps.mask, maps.affine)
    first = np.moveaxis(maps["V1"].data, -1, 0) * maps.mask
    peaks = np.stack([first, np.zeros_like(first)])
    solid = (tissue[0] + tissue[2] > 0.02) & (tissue.sum(0) > 0.02)
    field = fibres.fill(fibres.smooth(peaks, fa * maps.mask, FINE_BLUR), solid)
    field = fibres.layered(fibres.shares(field, 2), radial(tissue, maps.affine), tissue)
    none = np.zeros(fa.shape, np.uint8)
    affine = np.asarray(maps.affine, dtype=np.float64)
    return packed(name, affine, tissue, field, fa, (none, ()), (f"fitted scan {name}",))


def tissue_of(
    fa: NDArray, md: NDArray, mask: NDArray[np.bool_], affine: NDArray
) -> NDArray[np.float32]:
    """Tissue probabilities from a mixture of three Gaussians of FA and ln MD.

    Parameters
    ----------
    fa, md : (x, y, z) arrays
        MD in um2/ms.
    mask : (x, y, z) bool array
        Brain.
    affine : (4, 4) array

    Returns
    -------
    (4, x, y, z) array
    """
    use = mask & (md > 0)
    if not use.any():
        raise InputError("no voxel has a mean diffusivity", "Check the mask.")
    features = np.stack([fa[use], np.log(md[use])], -1).astype(np.float64)
    probability = np.zeros((3, *fa.shape), np.float32)
    probability[:, use] = mixture(features).T
    white, grey, csf = probability
    depth = distance_transform_edt(mask, sampling=np.linalg.norm(affine[:3, :3], axis=0))
    deep = np.clip((depth / depth.max() - DEEP_SHARE) / 0.1 + 0.5, 0, 1)
    return np.stack([white, grey * (1 - deep), grey * deep, csf]).astype(np.float32)


def mixture(features: NDArray) -> NDArray:
    """Posterior of white, grey and fluid by expectation maximisation: (n, 2) -> (n, 3).

    A. P. Dempster, N. M. Laird, D. B. Rubin, J. R. Stat. Soc. B 39 (1977) 1-38; independent
    features.
    """
    mean, sd = np.array(START), np.tile(SPREAD, (3, 1))
    weight = np.full(3, 1 / 3)
    for _ in range(ROUNDS):
        z = (features[:, None] - mean) / sd
        log = np.log(weight) - np.log(sd).sum(-1) - 0.5 * (z**2).sum(-1)
        posterior = np.exp(log - log.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        count = np.maximum(posterior.sum(0), 1.0)
        weight = count / count.sum()
        mean = posterior.T @ features / count[:, None]
        square = posterior.T @ features**2 / count[:, None]
        sd = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), LEAST_SD)
    return posterior


def build_from_nilearn() -> Anatomy:
    """Make an anatomy of the ICBM152 tissue maps in nilearn's wheel, with invented fibres.

    Raises
    ------
    InputError
        If nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise InputError(
            "nilearn is not installed", "pip install nilearn, or use the shipped anatomy."
        ) from error
    parts = [
        getattr(datasets, f"load_mni152_{part}")(resolution=1)
        for part in ("wm_template", "gm_template", "brain_mask")
    ]
    white, grey, mask = (np.asarray(p.dataobj, dtype=np.float32) for p in parts)
    csf = np.clip(1 - white - grey, 0, 1) * (mask > 0.5)
    atlas = Image(np.stack([white, grey, csf]), np.asarray(parts[0].affine))
    tissue = atlas_tissue(atlas, still(*grid(GRID)), SULCI)
    said = "ICBM152 2009a tissue maps from nilearn (BSD-3); fibres are invented"
    return with_invented_fibres(NILEARN, tissue, grid(GRID)[0], said)


def with_invented_fibres(name: str, tissue: NDArray, affine: NDArray, said: str) -> Anatomy:
    """Give tissue maps in MNI space plausible fibres: projection, association and commissures.

    Projection fibres run from the ventricles and nuclei to the cortex, association fibres along
    it from front to back, commissural ones across the midline (x = 0).
    """
    inside = gaussian_filter(potential(tissue[[2, 0, 3, 1]]), 2.0)  # nuclei, fluid -> cortex
    slope = np.einsum("ba,bxyz->axyz", np.linalg.inv(affine[:3, :3]), np.stack(np.gradient(inside)))
    out = fibres.unit(slope, axis=0)
    along = fibres.unit(np.stack([np.zeros_like(out[0]), -out[2], out[1]]), axis=0)  # x axis x out
    x = np.arange(tissue.shape[1]) * affine[0, 0] + affine[0, 3]
    across = np.zeros_like(out)
    across[0] = np.exp(-np.abs(x) / MIDLINE)[:, None, None]
    field = fibres.shares(np.stack([0.5 * out, 0.3 * along, across]))
    solid = (tissue[0] + tissue[2] > 0.02) & (tissue.sum(0) > 0.02)
    field = fibres.layered(fibres.fill(field, solid), radial(tissue, affine), tissue)
    fa = FA_MADE[1] + (FA_MADE[0] - FA_MADE[1]) * tissue[0]
    none = np.zeros(fa.shape, np.uint8)
    return packed(name, affine, tissue, field, fa, (none, ()), (said,))
