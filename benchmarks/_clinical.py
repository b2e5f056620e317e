"""Clinical scans of one shell, whole brains: six of their directions, and what fits say of them."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from itertools import combinations

import _baselines
import _pigment
import _scores
import _sparse
import numpy as np
from _bundles import DATA
from scipy import ndimage

SCANS = {
    "Philips b1000": "dcm_qa_philips_dwi/701_DTI_Biobank_2mm_MB3S2_EPI.nii.gz",
    "Canon b1500": "dcm_qa_canon_61/3000_DTI_PA-ortho_cl.nii.gz",
    "Siemens b2500": "dcm_qa_xa30/10_DWI_dir80_PA.nii.gz",
}
"""Of 12, 12 and 20 directions; the first has five b0 volumes, the others one."""

DIRECTIONS = 6
SUBSETS = 3
SHARED = 4
"""Directions that two subsets may have in common."""

FIBRE = 0.3
"""FA, by all directions, above which angles are compared."""

METHODS = ("ours WLS", "dipy WLS", "MP-PCA + dipy WLS", "codebook")
TOLD = ("pigment", "pigment, b = 1000", "pigment, as told")
"""FA, MD and V1 of the tensor fitted to PIGMENT's noise-free signal of all volumes of the scan, and
of a shell at b = 1000; and FA and MD as the network tells them."""


@cache
def whole(name: str):
    """Return a scan in memory, with its mask."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.masking import brain_mask

    scan = dm.load(DATA / SCANS[name])
    return brain_mask(scan.select(np.arange(len(scan.acquisition))))


def levels(scan, most: int) -> np.ndarray:
    """Return the slices that are taken: so many in a row, with most brain in them."""
    area = scan.mask.sum((0, 1)).astype(float)
    depth = min(most, len(area))
    first = int(np.argmax(np.convolve(area, np.ones(depth), "valid")))
    return np.arange(first, first + depth)


def cut(scan, at: np.ndarray):
    """Take some slices of a scan in memory."""
    return replace(scan, signal=scan.signal[:, :, at], mask=scan.mask[:, :, at])


def subset(name: str, seed: int) -> tuple[list[int], list[int]]:
    """Volumes of a subset, one b0 and six directions, and all others with a b0.

    The b0 volume of a scan that has one is in both.
    """
    acq = whole(name).acquisition
    b0, weighted = np.flatnonzero(acq.is_b0), np.flatnonzero(~acq.is_b0)
    chosen = weighted[list(sixes(name)[seed])]
    left = np.setdiff1d(weighted, chosen)
    return sorted([b0[0], *chosen]), sorted([*(b0[1:] if len(b0) > 1 else b0), *left])


@cache
def sixes(name: str) -> list[tuple[int, ...]]:
    """Choose directions that determine a tensor well, and so do the others.

    By the larger condition number of both designs, which the energy of charges does not see: two
    of the best spread sixes of Philips' and Canon's scans leave directions near a cone. Subsets
    share `SHARED` directions at most.
    """
    acq = whole(name).acquisition
    x, y, z = acq.bvecs[~acq.is_b0].T
    design = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1)
    every = np.array(list(combinations(range(len(x)), DIRECTIONS)))
    others = np.array([np.setdiff1d(np.arange(len(x)), six) for six in every])
    worse = np.maximum(np.linalg.cond(design[every]), np.linalg.cond(design[others]))
    out: list[tuple[int, ...]] = []
    for k in np.argsort(worse, kind="stable"):
        six = tuple(int(v) for v in every[k])
        if all(len(set(six) & set(own)) <= SHARED for own in out):
            out.append(six)
        if len(out) == SUBSETS:
            break
    return out


def tissue_of(scan, dense: dict) -> np.ndarray:
    """Voxels of the mask that are tissue, away from its edge: (n,)."""
    planes = [ndimage.binary_erosion(scan.mask[..., z]) for z in range(scan.mask.shape[2])]
    return np.stack(planes, -1)[scan.mask] & (dense["MD"] < _sparse.WATER_MD)


def dipy_wls(scan) -> dict[str, np.ndarray]:
    """Tensor by dipy, on the voxels of the mask."""
    found = _baselines.dipy_dti(scan)
    return {k: np.nan_to_num(v) for k, v in found.maps.items()}


def ours_wls(scan) -> dict[str, np.ndarray]:
    """Tensor by `dm.fit`."""
    import DMRIMicroLib as dm

    maps = {k: np.asarray(m)[scan.mask] for k, m in dm.fit(scan, "dti", device="cpu").items()}
    return {"FA": maps["FA"], "MD": maps["MD"] * _baselines.UM2_MS, "V1": maps["V1"]}


def told(maps, scan) -> dict[str, np.ndarray]:
    """FA and MD of a network's maps."""
    fa, md = (np.asarray(maps[k])[scan.mask] for k in ("FA", "MD"))
    return {"FA": fa, "MD": md * _baselines.UM2_MS}


def conventional(name: str, seed: int, at: np.ndarray) -> dict[str, dict]:
    """Fit a subset, as it is and after MP-PCA of the whole brain."""
    from DMRIMicroLib.preprocess import denoise

    scan = whole(name).select(subset(name, seed)[0])
    part = cut(scan, at)
    # the map of the noise is that of the whole brain, and no tensor is fitted with it
    clean = cut(replace(denoise(scan, "mppca"), measured_noise=None), at)
    return dict(zip(METHODS, (ours_wls(part), dipy_wls(part), dipy_wls(clean)), strict=False))


def every_method(
    name: str, seed: int, most: int, weights: str, preset: str
) -> tuple[dict[str, dict], float]:
    """Run all methods on a subset; and tell the seconds that the networks take."""
    at = levels(whole(name), most)
    start = time.perf_counter()
    found = networks(name, seed, at, weights, preset)
    seconds = time.perf_counter() - start
    return conventional(name, seed, at) | found, seconds


def networks(name: str, seed: int, at: np.ndarray, weights: str, preset: str) -> dict[str, dict]:
    """Run PIGMENT and the codebook on a subset."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.prior.fibres import LEAST as POSITIVE

    every = whole(name)
    part = cut(every.select(subset(name, seed)[0]), at)
    found = _pigment.estimated(part, weights, preset, "dti", samples=1)  # means need none
    acq = every.acquisition
    one = acq.subset([int(np.flatnonzero(acq.is_b0)[0]), *np.flatnonzero(~acq.is_b0)])
    signal = np.maximum(found.signal(one), POSITIVE)
    noiseless = replace(part, signal=signal, acquisition=one, measured_noise=None)
    three = dipy_wls(noiseless), _pigment.of_tensors(found.tensors()[part.mask])
    out = dict(zip(TOLD, (*three, told(found.maps, part)), strict=True))
    maps = dm.codebook(part, weights=weights, device="cpu")
    return out | {"codebook": told(maps, part)}


def scored(maps: dict, truth: dict, dense: dict, tissue: np.ndarray) -> dict[str, float]:
    """NMSE of FA and MD in tissue, bias of FA, median angle of V1 where FA is high."""
    out = {}
    for metric in ("FA", "MD"):
        x, y = (np.clip(v[metric][tissue], 0, 3) for v in (maps, truth))
        nmse, _, bias, _, _ = _scores.compare(x, y, np.ones(len(x)))
        out[metric] = nmse
        if metric == "FA":
            out["bias of FA"] = bias
    if "V1" in maps:
        fibre = tissue & (dense["FA"] > FIBRE)
        out["V1, degrees"] = float(np.median(_scores.angle(maps["V1"], truth["V1"])[fibre]))
    return out
