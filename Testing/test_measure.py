"""Scans made of noise-free images, noise with a colour, and the truth as k-space shows it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from digital_ball import ball_of_tissue, flat_tissue
from phantom import protocol
from tiny_codebook import one_thread  # noqa: F401

from DMRIMicroLib.brain import artefacts
from DMRIMicroLib.brain.chain import measure
from DMRIMicroLib.brain.scanner import Scanner, observe
from DMRIMicroLib.brain.truth import noise_free, truth
from DMRIMicroLib.brain.volume import StateVolume
from DMRIMicroLib.physics.noise import draw
from DMRIMicroLib.physics.tissue import TissueState

ACQ = replace(protocol({1000.0: 12, 2000.0: 23}), TE=80.0)
"""More volumes than one matrix product makes."""

FAULTS = {
    "none": {},
    "fields": {"bias": 0.3, "receive": 0.4, "transmit": 0.2},
    "gradients": {"turned": 4.0, "scaled": 0.05},
    "unsteady": {"ghost": 0.05, "dropouts": 0.2, "pulsation": 0.1, "eddy": 0.5},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sharp(scanner: Scanner, volume: StateVolume):
    """Noise-free images of whatever gradients are played, as sharp as a scanner sees them."""
    return lambda played: (
        observe(volume, played, scanner.perfect(k_space=True), torch.Generator()).signal
    )


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_noise_free_images_measured_are_the_brain_observed(faults):
    volume = ball_of_tissue(12)
    scanner = Scanner("x", sensitivity=math.inf, **faults)
    wanted = observe(volume, ACQ, scanner, seeded())
    signal, _ = measure(sharp(scanner, volume), wanted.grid.shape, ACQ, scanner, seeded())
    torch.testing.assert_close(signal, wanted.signal, atol=2e-6, rtol=1e-5)
    apart = (signal - sharp(scanner, volume)(ACQ)).abs()
    assert (float(apart.max()) > 0.01) == bool(faults)


@pytest.mark.parametrize("coils", [1, 4])
def test_noise_is_as_strong_as_that_of_the_observed_brain(coils):
    volume = ball_of_tissue(12)
    scanner = Scanner("x", noise_profile=0.4, coils=coils, sensitivity=0.3)
    wanted = observe(volume, ACQ, scanner, seeded())
    signal, sigma = measure(sharp(scanner, volume), wanted.grid.shape, ACQ, scanner, seeded())
    torch.testing.assert_close(sigma, wanted.sigma)
    one, other = ((v / sigma).double() for v in (signal, wanted.signal))
    for shell in (ACQ.is_b0, ~ACQ.is_b0):
        means = [float(v[torch.as_tensor(shell.copy())].mean()) for v in (one, other)]
        assert means[0] == pytest.approx(means[1], rel=0.01)
    spreads = [float(v.std(0)[~wanted.mask].mean()) for v in (one, other)]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.03)


def test_what_k_space_has_blurred_is_not_blurred_again():
    volume = ball_of_tissue(24)
    scanner = Scanner("x", ringing=True, kept=0.7, partial=0.75, window=0.2, bias=0.3)
    scanner = replace(scanner, sensitivity=math.inf)
    wanted = observe(volume, ACQ, scanner, seeded())
    signal, _ = measure(sharp(scanner, volume), wanted.grid.shape, ACQ, scanner, seeded())
    torch.testing.assert_close(signal, wanted.signal, atol=2e-6, rtol=1e-5)


def test_the_same_seed_measures_the_same_and_another_does_not():
    def images(played):
        return torch.ones(len(played), 8, 8, 1)

    first, again, other = (
        measure(images, (8, 8, 1), ACQ, Scanner("x"), seeded(k))[0] for k in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# the colour of noise

KEPT = {"kept": 0.7, "partial": 0.75, "phase": 1, "window": 0.3}


def spectrum(noise: torch.Tensor) -> torch.Tensor:
    """Mean power of every frequency of complex noise: (2, k, x, y, z) -> (x, y)."""
    images = torch.complex(noise[0], noise[1])
    return torch.fft.fft2(images, dim=(1, 2), norm="ortho").abs().square().mean((0, 3))


@pytest.mark.parametrize("words", [KEPT, {**KEPT, "phase": 0}, {**KEPT, "partial": 1.0}])
def test_noise_has_the_colour_of_k_space_and_unit_variance(words):
    like = torch.zeros(1, dtype=torch.float64)
    colour = artefacts.noise_colour((16, 12), **words, like=like)
    white = torch.randn(2, 2000, 16, 12, 2, generator=seeded(), dtype=torch.float64)
    noise = artefacts.coloured(white, colour)
    for part in noise:
        assert float(part.var()) == pytest.approx(1, abs=0.02)
        by_voxel = part.square().mean((0, 3))
        torch.testing.assert_close(by_voxel, torch.ones_like(by_voxel), atol=0.12, rtol=0)
    assert abs(float((noise[0] * noise[1]).mean())) < 0.01
    # the power of each frequency is the squared response of the line that an image goes through
    damped = []
    for axis, count in enumerate((16, 12)):
        partial = words["partial"] if axis == words["phase"] else 1.0
        line = artefacts.line_response(count, count, words["kept"], partial, like, words["window"])
        response = torch.complex(*line)  # circulant: its eigenvalues are the weights
        damped.append(torch.fft.fft(response[:, 0]).abs())
    wanted = (damped[0][:, None] * damped[1]).square()
    wanted = wanted / wanted.mean()
    got = spectrum(noise) / 2
    assert float(got[wanted < 1e-12].max()) < 1e-12
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0.15)


def test_all_of_k_space_leaves_noise_white():
    like = torch.zeros(1)
    assert artefacts.noise_colour((16, 16), 1.0, 1.0, 1, 0.0, like) is None


def test_channels_of_several_coils_are_coloured_each():
    def colour(noise):
        return 0 * noise + 1

    one = draw((5, 4), torch.zeros(1), 3, seeded(), colour)
    assert torch.equal(one[0], torch.ones(5, 4))
    torch.testing.assert_close(one[1], torch.full((5, 4), math.sqrt(5)))  # 2 N - 1 of them


@pytest.mark.parametrize("ringing", [True, False])
def test_a_scanner_with_a_finite_k_space_makes_noise_without_its_outside(ringing):
    """Over a bright signal, of which magnitudes leave the real part of the noise."""
    scanner = Scanner("x", ringing=ringing, kept=0.6)

    def images(played):
        return torch.full((len(played), 24, 24, 1), 50.0)

    signal, sigma = measure(images, (24, 24, 1), ACQ, scanner, seeded())
    noise = ((signal - 50) / sigma).double()
    assert float(noise.std()) == pytest.approx(1, abs=0.04)
    power = spectrum(torch.stack([noise, torch.zeros_like(noise)]))
    outside = power[12, :].mean()  # the highest frequency along x
    assert (float(outside) < 0.01) == ringing


# truth as k-space shows it


def halves(edge: int = 24) -> StateVolume:
    """One white matter on one side, one grey on the other, nothing in between."""
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    affine[0, 3] = -(edge - 1) / 2
    volume = flat_tissue(affine, (edge, edge, 1))
    white = volume.tissue[0] > 0.5
    first, last = int(white.nonzero()[0]), int((~white).nonzero()[0])
    which = torch.where(white, first, last)
    state = TissueState(**{k: getattr(volume.state, k)[which] for k in vars(volume.state)})
    return replace(volume, state=state)


def test_the_imaged_truth_differs_at_an_edge_and_agrees_in_flat_tissue():
    volume = halves(64)
    scanner = Scanner("x", voxel=(2.0, 2.0, 2.0), ringing=True, kept=0.8, window=1.0)
    box, seen = (
        truth(volume, ACQ, scanner, ["dti"], "cpu", imaged=imaged) for imaged in (False, True)
    )
    for name in ("FA", "MD"):
        apart = np.abs(np.asarray(box[name].data) - np.asarray(seen[name].data))[:, 16, 0]
        span = np.ptp(np.asarray(box[name].data)[:, 16, 0])
        assert apart[15:17].max() > 0.03 * span  # columns beside x = 0
        assert apart[6:11].max() < 0.005 * span
        assert apart[21:26].max() < 0.005 * span
    np.testing.assert_array_equal(box["state_neurite"].data, seen["state_neurite"].data)


def test_the_imaged_signal_is_that_of_the_scanner_without_noise():
    volume = halves(16)
    scanner = Scanner("x", ringing=True, kept=0.8, noise_profile=0.5)
    seen = noise_free(volume, ACQ, scanner, imaged=True)
    wanted = observe(volume, ACQ, replace(scanner, sensitivity=math.inf), seeded()).signal
    np.testing.assert_allclose(np.moveaxis(seen.signal, -1, 0), wanted.numpy(), atol=1e-6)
    boxes = noise_free(volume, ACQ, scanner)
    assert np.abs(boxes.signal - seen.signal).max() > 0.01
