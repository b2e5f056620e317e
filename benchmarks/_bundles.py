"""Bundles of real scans: regions placed by rules in MNI space, and how alike two bundles are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from _common import HERE, ROOT
from scipy.spatial import cKDTree

DATA = Path(os.environ.get("DMRIMICRO_TEST_DATA", ROOT.parent / "shared" / "data" / "dwi"))
"""Folder of real scans, as for the tests (CONTRIBUTING.md)."""

ATLAS = DATA.parent / "orientation"
"""Folder of the MNI FA template and of the centroids of population bundles (README)."""

SCANS = {
    "Philips": "dcm_qa_philips_dwi/701_DTI_Biobank_2mm_MB3S2_EPI.nii.gz",
    "Canon": "dcm_qa_canon_61/3000_DTI_PA-ortho_cl.nii.gz",
}

CACHE = HERE / "cache" / "tractography"

HALF_SLAB = 1.5
"""Half the thickness of a region [mm]; half a voxel where that is more."""


@dataclass(frozen=True)
class Slice:
    """A region: voxels in a plane of MNI space, near where centroids of a bundle cross it.

    Attributes
    ----------
    axis : int
        Across the plane: 0 for x, 1 for y, 2 for z.
    at : float
        Where [mm].
    centroids : tuple of str
        Beginnings of the names of the centroids; all of the plane if none.
    radius : float
        From the centroids' crossings [mm].
    """

    axis: int
    at: float
    centroids: tuple[str, ...] = ()
    radius: float = 8.0


MIDLINE = Slice(0, 0.0)


def _sides(name: str, include) -> dict[str, tuple[tuple[Slice, ...], tuple[Slice, ...]]]:
    return {f"{name} {side}": (include(side), (MIDLINE,)) for side in "LR"}


BUNDLES = {
    "CC": ((Slice(0, 0.0, ("CC_",), 5.0), Slice(0, -15.0), Slice(0, 15.0)), ()),
    # internal capsule to the white matter below the motor cortex
    **_sides("CST", lambda s: (Slice(2, 5.0, (f"PYT_{s}",)), Slice(2, 40.0, (f"PYT_{s}",)))),
    # the part above the corpus callosum
    **_sides(
        "CG", lambda s: (Slice(1, -20.0, (f"CG_{s}",), 6.0), Slice(1, 10.0, (f"CG_{s}",), 6.0))
    ),
}
"""Of each bundle, regions that its lines pass through, and regions that they do not."""

DORSAL = 15.0
"""Height [mm] below which crossings of the cingulum's centroids are those of its temporal part."""


def scan(name: str):
    """Open a scan; its signal is read into memory."""
    import DMRIMicroLib as dm

    opened = dm.load(DATA / SCANS[name])
    return opened.select(np.arange(len(opened.acquisition)))


def in_mni(name: str, maps) -> np.ndarray:
    """MNI millimetres of every voxel, by registration of FA, kept: (x, y, z, 3)."""
    from DMRIMicroLib.brain.register import Image, register, without_rim

    file = CACHE / f"{name}.npz"
    if not file.exists():
        image = nib.load(ATLAS / "tractseg" / "MNI_FA_template.nii.gz")
        template = Image(np.clip(np.nan_to_num(image.get_fdata()), 0, 1), image.affine)
        warp = register(without_rim(Image(maps["FA"].data, maps.affine)), template)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, points=warp.points.astype(np.float32))
    return np.load(file)["points"]


def regions(maps, points: np.ndarray) -> dict[str, dict[str, list]]:
    """Regions of every bundle on the grid of the maps, as `Tractogram.through` takes them."""
    return {
        bundle: {
            "include": [place(s, maps, points, bundle) for s in include],
            "exclude": [place(s, maps, points, bundle) for s in exclude],
        }
        for bundle, (include, exclude) in BUNDLES.items()
    }


def place(where: Slice, maps, points: np.ndarray, bundle: str):
    """Make a region of the voxels that lie in a slice."""
    from DMRIMicroLib.tracts.regions import Region

    voxel = float(np.linalg.norm(maps.affine[:3, :3], axis=0).max())
    inside = np.abs(points[..., where.axis] - where.at) <= max(HALF_SLAB, voxel / 2)
    inside &= maps.mask
    if where.centroids:
        tree = cKDTree(_crossings(where))
        near = tree.query(points[inside], distance_upper_bound=where.radius)[0]
        inside[inside] = np.isfinite(near)
    return Region(inside, maps.affine, f"{bundle} {'xyz'[where.axis]} = {where.at:g}")


def _crossings(where: Slice) -> np.ndarray:
    """Points at which centroids cross a plane: (n, 3) MNI mm."""
    from DMRIMicroLib.tracts.regions import dense

    files = [
        file
        for file in sorted((ATLAS / "centroids_mni").glob("*.trk"))
        if file.name.startswith(where.centroids)
    ]
    lines = [line for file in files for line in nib.streamlines.load(file).streamlines]
    points = dense(lines, 0.5)[0]
    crossing = np.abs(points[:, where.axis] - where.at) < 1
    if where.axis == 1:
        crossing &= points[:, 2] > DORSAL
    return points[crossing]


def dice(one: np.ndarray, two: np.ndarray, least: float) -> float:
    """Overlap of the voxels that at least a share of each bundle's lines visits."""
    a, b = ((v >= max(1, least * n)) for v, n in (one, two))
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def weighted_dice(one: np.ndarray, two: np.ndarray) -> float:
    """Share of both bundles' visits that lie where the other has some too.

    M. Cousineau et al., NeuroImage Clin. 16 (2017) 222-233.
    """
    (a, _), (b, _) = one, two
    both = (a > 0) & (b > 0)
    total = a.sum() / max(1, a.sum()) + b.sum() / max(1, b.sum())
    shared = a[both].sum() / max(1, a.sum()) + b[both].sum() / max(1, b.sum())
    return float(shared / max(total, 1e-9))
