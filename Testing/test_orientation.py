"""Do fibres point where anatomy says they must? Five vendors, oblique and sagittal scans.

The corpus callosum is found as the most anisotropic tissue near the midline, and must run left to
right. The corticospinal tract is long and runs from the brain stem up: with the right directions
streamlines follow it, and with any axes swapped or reversed fewer do.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import REAL, real_scans
from phantom import angle_deg
from slicer_scene import clean_scene

import DMRIMicroLib as dm

WHOLE = [f for f in real_scans() if "b1k_b2k" not in f.name]
pytestmark = pytest.mark.skipif(
    not REAL.exists(), reason="no folder of real scans; set DMRIMICRO_TEST_DATA"
)

SAME, KEEP = (0, 1, 2), (1, 1, 1)
TABLES = [(SAME, flip) for flip in [KEEP, (-1, 1, 1), (1, -1, 1), (1, 1, -1)]]
TABLES += [(order, KEEP) for order in itertools.permutations(range(3)) if order != SAME]
"""Ways in which a gradient table is wrong: an axis reversed, or axes swapped."""


def world(scan):
    return np.moveaxis(np.indices(scan.shape), 0, -1) @ scan.affine[:3, :3].T + scan.affine[:3, 3]


def streamlines(v1, fa, affine, seeds, steps=80, step=1.0):
    """Follow V1 both ways by 1 mm steps: (k, 3) seeds -> (2 steps, k, 3) positions."""
    inverse, halves = np.linalg.inv(affine), []
    for sign in (1, -1):
        p, last, alive, path = seeds.copy(), None, np.ones(len(seeds), bool), [seeds.copy()]
        for _ in range(steps):
            index = np.rint(p @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
            inside = ((index >= 0) & (index < fa.shape)).all(1)
            at = tuple(np.where(inside[:, None], index, 0).T)
            v = v1[at]
            turn = np.full(len(p), float(sign)) if last is None else (v * last).sum(1)
            alive &= inside & (fa[at] > 0.2) & (np.abs(turn) > 0.7)
            last = v * np.sign(turn)[:, None]
            p = np.where(alive[:, None], p + step * last, p)
            path.append(p)
        halves.append(np.array(path))
    return np.concatenate([halves[1][::-1], halves[0]])


def upward(v1, fa, affine, seeds, middle):
    """Count streamlines of more than 50 mm up, on one side of the brain."""
    lines = streamlines(v1, fa, affine, seeds)
    extent = lines.max(0) - lines.min(0)
    side = np.abs(np.median(lines[..., 0], 0) - middle)
    return int(((extent[:, 2] > 50) & (extent[:, 0] < 45) & (side > 5) & (side < 35)).sum())


def from_nifti(file, folder):
    return dm.load(file)


def through_slicer(file, folder):
    """As a DWI node, written and read by Slicer's own NRRD code, and taken from the node again."""
    with clean_scene() as booted:
        from DMRIMicroSlicer.nodes import node_from_scan, scan_from_node

        node = node_from_scan(dm.load(file))
        storage = booted.slicer.vtkMRMLNRRDStorageNode()
        storage.SetFileName(str(folder / "dwi.nrrd"))
        assert storage.WriteData(node)
        back = booted.slicer.vtkMRMLDiffusionWeightedVolumeNode()
        assert storage.ReadData(back)
        scan = scan_from_node(back)
        scan = replace(scan, signal=np.array(scan.signal))  # the node's memory goes with it
    ours = dm.load(folder / "dwi.nrrd")
    np.testing.assert_allclose(ours.affine, scan.affine, atol=1e-4)
    np.testing.assert_allclose(ours.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-5)
    np.testing.assert_array_equal(ours.volumes([0, 1]), scan.volumes([0, 1]))
    return scan


@pytest.mark.parametrize("route", [from_nifti, through_slicer])
@pytest.mark.parametrize("file", WHOLE, ids=[f.name.split(".")[0] for f in WHOLE])
def test_callosum_runs_across_and_corticospinal_tract_up(file, route, tmp_path):
    scan = route(file, tmp_path)
    maps = dm.fit(scan, "dti")
    fa, v1 = np.asarray(maps["FA"]), np.asarray(maps["V1"])
    x = world(scan)
    centre = np.median(x[maps.mask], axis=0)
    r = x - centre
    near = (
        maps.mask
        & (np.abs(r[..., 0]) < 5)
        & (np.abs(r[..., 1]) < 50)
        & (r[..., 2] > -10)
        & (r[..., 2] < 35)
    )
    volume = np.abs(np.linalg.det(scan.affine[:3, :3]))
    best = np.argsort(-np.where(near, fa, -1).ravel())[: int(1500 / volume)]
    callosum = np.median(np.abs(v1.reshape(-1, 3)[best]), axis=0)
    # one head is turned by 20 degrees on purpose
    assert callosum[0] > (0.75 if "HT" in file.name else 0.85), callosum
    assert callosum.argmax() == 0

    seeds = x[maps.mask & (fa > 0.35)]
    seeds = seeds[:: max(1, len(seeds) // 15000)]
    axes = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    along = v1 @ axes
    counts = {
        (perm, flip): upward((along[..., perm] * flip) @ axes.T, fa, scan.affine, seeds, centre[0])
        for perm, flip in TABLES
    }
    given = counts.pop((SAME, KEEP))
    assert given > 150
    assert given > 1.2 * max(counts.values()), (given, max(counts, key=counts.get))


def test_a_head_turned_between_runs_turns_the_callosum_with_it():
    """Same person, head turned by about 20 degrees: the callosum's direction turns alike."""
    straight, turned = (
        dm.fit(dm.load(next(f for f in WHOLE if name in f.name)), "dti")
        for name in ("3000_DTI_PA", "14000_DTI_PA")
    )
    tilt = [_callosum_axis(m) for m in (straight, turned)]
    assert angle_deg(tilt[0], np.array([1.0, 0, 0])) < 10
    assert 10 < angle_deg(tilt[0], tilt[1]) < 40


def _callosum_axis(maps):
    """Main axis of left-right running voxels near the midline: first eigenvector of mean vv'."""
    fa, v1 = np.asarray(maps["FA"]), np.asarray(maps["V1"]).astype(float)
    x = np.moveaxis(np.indices(fa.shape), 0, -1) @ maps.affine[:3, :3].T + maps.affine[:3, 3]
    r = x - np.median(x[maps.mask], axis=0)
    near = (
        maps.mask
        & (fa > 0.5)
        & (np.abs(v1[..., 0]) > 0.7)
        & (np.abs(r[..., 0]) < 8)
        & (np.abs(r[..., 2]) < 30)
    )
    return np.linalg.eigh(np.einsum("ni,nj->ij", v1[near], v1[near]))[1][:, -1]
