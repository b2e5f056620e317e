"""Scans as a scanner with larger voxels would have made them."""

from dataclasses import replace

import numpy as np
import pytest
from phantom import protocol, ring_scan

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.pretrain.down import downsampled, weights_of
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import Noise

ACQ = protocol({1000.0: 6}, b0=1)
AFFINE = np.array([[0, -1.5, 0, 40.0], [1.0, 0, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])


def scan_of(image: np.ndarray, affine: np.ndarray = AFFINE) -> Scan:
    signal = np.repeat(image[..., None], len(ACQ), 3).astype(np.float32)
    return Scan(signal, affine, ACQ, np.ones(image.shape, bool))


def world(scan: Scan) -> np.ndarray:
    at = np.moveaxis(np.indices(scan.shape), 0, -1)
    return at @ scan.affine[:3, :3].T + scan.affine[:3, 3]


def test_places_stay_where_they_are():
    scan = scan_of(np.zeros((20, 21, 9)))
    ramp = 500 + world(scan) @ [3.0, -2.0, 5.0]
    small = downsampled(scan_of(ramp), 2.6)
    assert small.shape == (7, 12, 6)
    np.testing.assert_allclose(small.voxel_size, 2.6)
    inner = (slice(2, -2),) * 3
    wanted = 500 + world(small) @ [3.0, -2.0, 5.0]
    np.testing.assert_allclose(small.signal[..., 0][inner], wanted[inner], rtol=1e-4)
    # the middle is the same
    ends = [
        s.affine[:3, :3] @ ((np.array(s.shape) - 1) / 2) + s.affine[:3, 3] for s in (scan, small)
    ]
    np.testing.assert_allclose(ends[0], ends[1])


def test_what_is_finer_than_the_new_voxels_does_not_come_back():
    """A wave of 2.5 source voxels, in voxels three times as large; a slow one stays."""
    x = np.arange(60)
    weights = weights_of(60, 1.0, 3.0)
    fast, slow = (np.cos(2 * np.pi * x / period) for period in (2.5, 30.0))
    assert np.abs(weights @ fast)[2:-2].max() < 0.02
    taken = fast[1::3]
    assert np.abs(taken).max() > 0.9  # which mere picking would keep
    centres = 29.5 + (np.arange(20) - 9.5) * 3
    kept = np.cos(2 * np.pi * centres / 30.0)
    ratio = (weights @ slow)[3:-3] @ kept[3:-3] / (kept[3:-3] @ kept[3:-3])
    assert 0.9 < ratio <= 1


@pytest.mark.parametrize("size", [1.2, 2.0, 3.7])
def test_weights_are_averages(size):
    weights = weights_of(30, 1.0, size)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights >= 0).all()
    assert len(weights) == int(30 / size)


def test_no_axis_is_made_finer():
    scan = scan_of(np.ones((8, 8, 4)))
    assert downsampled(scan, None) is scan
    assert downsampled(scan, 0.5) is scan
    coarse = downsampled(scan, (2.0, 1.0, 1.0))
    assert coarse.shape == (4, 8, 4)
    np.testing.assert_allclose(coarse.voxel_size, (2.0, 1.5, 2.0))
    with pytest.raises(InputError, match="positive"):
        downsampled(scan, -1.0)


def test_noise_falls_and_its_floor_goes():
    rng = np.random.default_rng(0)
    noise = 20.0 * rng.standard_normal((2, 30, 30, 12, len(ACQ)))
    magnitude = np.hypot(30.0 + noise[0], noise[1]).astype(np.float32)
    scan = Scan(magnitude, np.eye(4), ACQ, np.ones((30, 30, 12), bool))
    scan = scan.with_measured_noise(Noise(20.0, "known"))
    assert magnitude.mean() > 36  # the floor lifts it
    small = downsampled(scan, 3.0)
    assert float(small.signal.mean()) == pytest.approx(30, abs=1)
    inner = small.signal[1:-1, 1:-1, 1:-1]
    assert small.noise is not None
    assert float(inner.std()) == pytest.approx(small.noise.sigma, rel=0.25)
    assert small.noise.sigma < 0.35 * 20


def test_the_mask_becomes_coarser_and_may_not_vanish():
    scan = ring_scan(ACQ)
    mask = np.zeros(scan.shape, bool)
    mask[:6] = True
    small = downsampled(scan.with_mask(mask), tuple(2 * v for v in scan.voxel_size))
    assert small.mask.shape == small.shape
    assert small.mask[:3].all()
    assert not small.mask[3:].any()
    lone = np.zeros(scan.shape, bool)
    lone[4, 4, 4] = True
    with pytest.raises(InputError, match="no brain is left"):
        downsampled(replace(scan, mask=lone), tuple(3 * v for v in scan.voxel_size))
