"""Noise of scans with too few volumes to tell it."""

import numpy as np
import pytest
import torch
from tiny_codebook import one_thread  # noqa: F401

from DMRIMicroLib.brain.anatomy import load_anatomy
from DMRIMicroLib.brain.simulate import simulate
from DMRIMicroLib.codebooks import noise as noise_module
from DMRIMicroLib.codebooks.noise import likelihood, with_settled_noise
from DMRIMicroLib.codebooks.slices import open_codebook
from DMRIMicroLib.codebooks.stack import with_usable
from DMRIMicroLib.scan import Noise
from DMRIMicroLib.weights import available

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not available("codebook"), reason="no codebook is shipped")


@pytest.fixture(scope="module")
def head():
    made = simulate(
        load_anatomy("small"), seed=4, protocol="b1k_b2k", voxel_size=4.0, models=["dti"]
    )
    return made.scan


def settled(scan, times: float, rough: bool = True, directions: int = 6):
    """Noise of one b0 and some directions, if it seems so many times what it is, and what it is."""
    sigma = scan.noise.sigma
    weighted = np.flatnonzero(np.abs(scan.acquisition.bvals - 1000) < 50)
    few = scan.select([int(np.flatnonzero(scan.acquisition.is_b0)[0]), *weighted[:directions]])
    few = few.with_measured_noise(Noise(times * sigma, "as it seems", rough=rough))
    few, usable = with_usable(few)
    loaded = open_codebook()
    found = with_settled_noise(few, usable, loaded.network, loaded.space, CPU).noise
    return found, sigma


def test_the_noise_that_there_is_makes_errors_likeliest():
    generator = torch.Generator().manual_seed(1)
    noise = 0.02 * (0.5 + torch.rand(20_000, generator=generator))
    variance = 4e-4 * torch.rand(20_000, generator=generator)
    error = (variance + noise.square()).sqrt()
    error = error * torch.randn(20_000, generator=generator)
    error[:200] = 1.0  # odd voxels
    times = [0.5, 0.7, 1.0, 1.4, 2.0]
    told = [likelihood(error, variance, k * noise) for k in times]
    assert times[int(np.argmax(told))] == 1.0


def test_noise_that_seems_far_too_much_is_corrected(head):
    noise, sigma = settled(head, 4.0)
    assert 0.7 * sigma < noise.sigma < 1.5 * sigma
    assert "predicted" in noise.method


@pytest.mark.parametrize(
    ("times", "slope", "reached"), [(0.3, 0.2, 1.0), (3.0, 0.2, 1.0), (3.0, 0.05, 3.0)]
)
def test_noise_goes_where_volumes_are_likeliest_if_that_is_clear(
    head, monkeypatch, times, slope, reached
):
    """`slope` is what is gained by doubling or halving: half of it a step."""
    truth = head.noise.sigma
    monkeypatch.setattr(noise_module, "_left", lambda network, stack, device: [stack.sigma.max()])
    monkeypatch.setattr(
        noise_module, "likelihood", lambda sigma: -slope * abs(np.log2(sigma / truth))
    )
    noise, sigma = settled(head, times)
    assert noise.sigma / sigma == pytest.approx(reached, rel=0.3)


@pytest.mark.parametrize("times", [0.8, 1.0, 1.2])
def test_noise_that_may_be_right_is_left_alone(head, times):
    noise, sigma = settled(head, times)
    assert noise.sigma == times * sigma


def test_noise_that_was_measured_is_left_alone(head):
    noise, sigma = settled(head, 4.0, rough=False)
    assert noise.sigma == 4 * sigma


def test_two_volumes_do_not_tell(head):
    noise, sigma = settled(head, 4.0, directions=2)
    assert noise.sigma == 4 * sigma
