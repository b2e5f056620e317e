"""What the air around a head says of the floor of magnitudes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_codebook import tiny_space

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.brain.directions import spread
from DMRIMicroLib.codebooks.stack import Stack
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import AIR, Air, Noise, of_air
from DMRIMicroLib.signals.evidence import without_floor

SIGMA = 20.0
B0 = 300.0


def magnitudes(signal: np.ndarray, coils: int, seed: int = 0) -> np.ndarray:
    """Root of the sum of squares of receivers, all of the signal in the first."""
    rng = np.random.default_rng(seed)
    parts = SIGMA * rng.standard_normal((2 * coils, *signal.shape))
    parts[0] += signal
    return np.sqrt(np.square(parts).sum(0)).astype(np.float32)


def head(coils: int, b0: int = 2, stripped: bool = False) -> Scan:
    """A block of water that falls below the noise, in air: b = 0 and 12 directions at 3000."""
    g = spread(12, torch.Generator().manual_seed(0)).numpy()
    acq = Acquisition(np.r_[np.zeros(b0), np.full(12, 3e3)], np.r_[np.zeros((b0, 3)), g])
    inside = np.zeros((40, 40, 3), bool)
    inside[12:28, 12:28] = True
    ratio = np.r_[np.ones(b0), np.full(12, np.exp(-3.0 * 3.0))]
    signal = magnitudes(B0 * inside[..., None] * ratio, coils)
    if stripped:
        signal *= inside[..., None]
    return Scan(signal, np.diag([2.0, 2.0, 2.0, 1.0]), acq, inside)


@pytest.mark.parametrize("coils", [1, 4, 8])
def test_air_tells_receivers_and_their_power(coils):
    air = of_air(magnitudes(np.zeros((4000, 6)), coils))
    assert air.coils == pytest.approx(coils, rel=0.25)
    assert air.power == pytest.approx(2 * coils * SIGMA**2, rel=0.1)
    assert air.sigma == pytest.approx(SIGMA, rel=0.15)


def test_air_that_differs_from_place_to_place_is_still_that_of_one_receiver():
    signal = magnitudes(np.zeros((4000, 6)), 1)
    signal *= np.linspace(0.5, 2.0, 4000, dtype=np.float32)[:, None]
    assert of_air(signal).coils < 1.3


def test_zeros_and_a_constant_are_no_air():
    zeros = np.zeros((5000, 6), np.float32)
    assert of_air(zeros) is None
    some = zeros.copy()
    some[: AIR - 1] = magnitudes(np.zeros((AIR - 1, 6)), 1)
    assert of_air(some) is None
    assert of_air(np.full((5000, 6), 3.0, np.float32)) is None


@pytest.mark.parametrize(("coils", "seen"), [(1, 1.0), (8, 8.0)])
def test_a_scan_knows_its_floor(coils, seen):
    noise = head(coils).noise
    assert noise.coils == pytest.approx(seen, rel=0.15)
    assert "b0 repeats" in noise.method


def test_a_stripped_scan_has_the_floor_of_one_receiver():
    assert head(8, stripped=True).noise.floor is None


def test_rough_noise_is_at_least_that_of_the_air():
    air = Air(power=2 * 8 * SIGMA**2, coils=8.0)
    low = Noise(SIGMA / 3, "fine detail", rough=True).beside(air)
    assert low.sigma == pytest.approx(SIGMA)
    assert low.coils == pytest.approx(8)
    assert "air" in low.method
    high = Noise(2 * SIGMA, "fine detail", rough=True).beside(air)
    assert (high.sigma, high.floor) == (2 * SIGMA, air.power)
    known = Noise(SIGMA / 3, "b0 repeats").beside(air)
    assert known.sigma == SIGMA / 3
    assert known.coils == pytest.approx(8)


def test_noise_made_louder_keeps_its_floor():
    noise = Noise(SIGMA, "told", floor=2 * 8 * SIGMA**2)
    assert noise.louder(2.0).coils == pytest.approx(2)
    assert noise.louder(4.0).coils == 1
    assert noise.louder(0.5).louder(2.0).coils == pytest.approx(8)
    assert Noise(SIGMA, "told").louder(0.1).coils == 1


@pytest.mark.parametrize("coils", [1, 6])
def test_what_noise_adds_is_taken_away(coils):
    y = torch.from_numpy(magnitudes(np.full(200_000, 8 * SIGMA), coils))
    sigma = torch.tensor(SIGMA)
    left = without_floor(y, sigma, coils)
    assert float(left.mean()) == pytest.approx(8 * SIGMA, rel=0.01)
    if coils > 1:
        assert float(without_floor(y, sigma).mean()) > 8.4 * SIGMA


def test_water_of_many_receivers_is_told_as_water():
    """Signals below the noise: what they say depends on how high their floor is thought to be."""
    scan, space = head(8), tiny_space()
    noise = scan.noise
    as_one = scan.with_measured_noise(replace(noise, floor=None))
    quiet = replace(scan, signal=np.where(scan.mask[..., None], clean(scan), 0).astype(np.float32))
    quiet = quiet.with_measured_noise(noise)
    ours, one, truth = (Stack(s, s.mask, space).tokens(1).vector for s in (scan, as_one, quiet))
    far = [float((v.mean(1) - truth.mean(1)).norm()) for v in (ours, one)]
    assert far[0] < 0.3 * far[1]


def clean(scan: Scan) -> np.ndarray:
    """Return the root mean square of the signal of `head` with eight receivers."""
    ratio = np.where(scan.acquisition.is_b0, 1.0, np.exp(-3.0 * 3.0))
    return np.sqrt((B0 * ratio) ** 2 + 2 * 8 * SIGMA**2) * np.ones((*scan.shape, 1))
