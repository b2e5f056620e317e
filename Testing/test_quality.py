"""The quality check finds what is wrong with a scan, and says nothing about one that is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.maps import Map, MapSet, Metric
from DMRIMicroLib.report.coherence import coherence, image_tables
from DMRIMicroLib.report.quality import assess
from DMRIMicroLib.scan import Scan

SHAPE = (32, 32, 16)
AXIAL, RADIAL = 1.7e-3, 0.3e-3  # mm2/s, white matter
PLAIN = np.diag([2.0, 2.0, 2.0, 1.0])
# flipped, permuted, oblique by 20 degrees, with elongated voxels: nothing may be taken for granted
COS, SIN = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = (
    np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1]])
    @ np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]])
    @ np.diag([2.0, 2.0, 3.0])
)


def fibres() -> tuple[np.ndarray, np.ndarray]:
    """FA and fibre direction in image axes: climbing rings about an off-centre upright bundle.

    The rings climb as three intertwined helices, so that no flip is a symmetry of the field.
    """
    x, y, z = np.indices(SHAPE).astype(float)
    dx, dy = x - 13, y - 18
    radius = np.hypot(dx, dy)
    period = 9.0
    climb = 3 * period / (2 * np.pi)  # voxels per radian
    band = (z - climb * np.arctan2(dy, dx)) % period < period / 2
    tube = (radius > 6) & (radius % 5 < 2.5)
    bundle = np.hypot(dx - 0.3 * (z - 8), dy) < 4
    ring = np.stack([-dy, dx, np.full(SHAPE, climb)], -1)
    v = np.where(bundle[..., None], np.array([0.3, 0.0, 1.0]), ring)
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    return np.where(bundle | (band & tube), 0.7, 0.1), v


def directions(count: int, seed: int = 0) -> np.ndarray:
    g = np.random.default_rng(seed).normal(size=(count, 3))
    return g / np.linalg.norm(g, axis=1, keepdims=True)


def simulated(affine=PLAIN, flip=(1, 1, 1), noise=10.0, seed=0) -> tuple[Scan, MapSet]:
    """A scan of the fibres, 6 b0 and 20 x b1000, and its tensor maps if the table is `flip`ped."""
    fa, image_v = fibres()
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    radial = np.where(fa > 0.5, RADIAL, 0.8e-3)[..., None, None]
    axial = np.where(fa > 0.5, AXIAL, 0.9e-3)[..., None, None]
    v = image_v @ axes.T
    tensor = radial * np.eye(3) + (axial - radial) * v[..., :, None] * v[..., None, :]
    g = np.vstack([np.zeros((6, 3)), directions(20)])
    b = np.r_[np.zeros(6), np.full(20, 1000.0)]
    clean = 1000 * np.exp(-b * np.einsum("mi,xyzij,mj->xyzm", g, tensor, g))
    r = np.random.default_rng(seed)
    real, imaginary = noise * r.normal(size=(2, *clean.shape))
    signal = np.hypot(clean + real, imaginary)
    turn = axes @ np.diag(flip) @ axes.T
    told = turn @ tensor @ turn.T
    order = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    six = np.stack([told[..., i, j] for i, j in order], -1)
    mask = np.ones(SHAPE, dtype=bool)
    arrays = {"FA": fa, "V1": v @ turn.T, "tensor": six}
    kinds = {"FA": "scalar", "V1": "vector", "tensor": "tensor"}
    units = {"FA": "", "V1": "", "tensor": "mm2/s"}
    maps = {
        name: Map(Metric(name, name, units[name], kind=kinds[name]), "dti", a.astype(np.float32))
        for name, a in arrays.items()
    }
    scan = Scan(signal.astype(np.float32), affine, Acquisition(b, g @ turn.T), mask)
    return scan, MapSet(maps, affine, mask, {"dti": {}})


def test_a_clean_scan_raises_no_warning():
    scan, maps = simulated()
    quality = assess(scan, maps)
    assert quality.warnings == ()
    assert quality.outlier_slices == ()
    assert quality.outlier_volumes == ()
    assert quality.snr == pytest.approx(100, rel=0.1)
    assert quality.high_fa == 0
    assert quality.negative == 0
    # the noise's median |error|, not more
    assert quality.residual == pytest.approx(0.6745 * 0.01, rel=0.3)


@pytest.mark.parametrize(("volume", "piece"), [(12, 7), (3, 0), (25, 15)])
def test_a_dropped_slice_is_found_and_nothing_else(volume, piece):
    scan, maps = simulated()
    scan.signal[:, :, piece, volume] *= 0.6
    quality = assess(scan, maps)
    assert quality.outlier_slices == ((volume, piece),)
    assert quality.outlier_volumes == ()
    assert len(quality.warnings) == 1
    assert f"volume {volume}," in quality.warnings[0]


def test_a_volume_of_another_b_value_is_found():
    scan, maps = simulated()
    scan.signal[..., 9] *= 0.5
    quality = assess(scan, maps)
    assert quality.outlier_volumes == (9,)
    assert quality.outlier_slices == ()


def test_too_few_volumes_are_counted_as_unchecked():
    scan, _ = simulated()
    few = scan.select([0, *range(6, 26)])
    assert assess(few).unchecked_volumes == 1


def test_low_snr_is_told():
    scan, maps = simulated(noise=200.0)
    assert any("SNR" in w for w in assess(scan, maps).warnings)


def test_impossible_tensors_are_told():
    scan, maps = simulated()
    tensor = maps["tensor"].data.copy()
    tensor[:16, ..., 2] = -1e-3
    spoilt = replace(maps, maps={**maps.maps, "tensor": replace(maps["tensor"], data=tensor)})
    quality = assess(scan, spoilt)
    assert quality.negative == pytest.approx(0.5)
    assert any("negative eigenvalue" in w for w in quality.warnings)


@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE], ids=["plain", "oblique"])
def test_correct_vectors_are_found_consistent(affine):
    scan, maps = simulated(affine)
    assert assess(scan, maps).coherence.verdict == "consistent"


@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE], ids=["plain", "oblique"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipped_vectors_are_found_with_their_axis(affine, axis):
    flip = [1, 1, 1]
    flip[axis] = -1
    quality = assess(*simulated(affine, flip))
    assert quality.coherence.verdict == "inconsistent"
    assert quality.coherence.change == f"{'xyz'[axis]} flipped"
    assert "b-vectors" in quality.warnings[0]


def test_permuted_vectors_are_put_right_by_the_table_that_is_named():
    _, maps = simulated()
    names, tables = image_tables()
    wrong = maps["V1"].data[..., [1, 2, 0]]
    found = coherence(maps["FA"].data, wrong, PLAIN, maps.mask)
    assert found.verdict == "inconsistent"
    mended = wrong @ tables[names.index(found.change)].T
    same = np.abs((mended * maps["V1"].data).sum(-1))
    np.testing.assert_allclose(same, np.linalg.norm(maps["V1"].data, axis=-1) ** 2, atol=1e-5)


def test_the_tables_are_24_and_distinct():
    _, tables = image_tables()
    probe = np.array([0.2, 0.5, 0.84])
    axes = np.round([t @ probe * np.sign((t @ probe)[0]) for t in tables], 6)
    assert len(np.unique(axes, axis=0)) == 24


def test_random_directions_are_not_called_wrong():
    fa = np.full(SHAPE, 0.6)
    for seed in range(5):
        v = directions(fa.size, seed).reshape(*SHAPE, 3)
        found = coherence(fa, v, PLAIN, np.ones(SHAPE, dtype=bool))
        assert found.verdict != "inconsistent"


def test_a_thin_slab_is_not_judged():
    _, maps = simulated(flip=(-1, 1, 1))
    mask = maps.mask.copy()
    mask[:, :, 3:] = False
    found = coherence(maps["FA"].data, maps["V1"].data, PLAIN, mask)
    assert found.verdict == "not assessed"
    assert "slab" in found.reason
