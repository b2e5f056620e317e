"""The signal space, and what a scan says of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_codebook import coefficients, shells, tiny_space, tissue

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.tissue import signal
from DMRIMicroLib.signals.evidence import FLOOR, MISFIT, Evidence, evidence
from DMRIMicroLib.signals.space import Space

EYE = torch.eye(3, dtype=torch.float64)


@pytest.fixture(scope="module")
def space() -> Space:
    return tiny_space()


def test_signals_of_other_tissue_at_other_b_values_lie_in_the_space(space):
    state, acq = tissue(200, seed=1), shells(700.0, 1800.0, 2900.0)
    design, offset, rest = space.design(acq, EYE)
    told = space.encode(coefficients(state)).double() @ design.T + offset
    wrong = (told - signal(state, acq)).abs()
    assert float(wrong.max()) < 0.02
    assert float(wrong.square().mean().sqrt()) < 0.003
    assert float(rest.max()) < 0.01


def test_numbers_have_unit_variance(space):
    numbers = space.encode(coefficients(tissue(2000)))
    assert space.channels == 22
    size = numbers.square().mean(0).sqrt()
    by_group = [float(size[torch.as_tensor(space.groups == k)].mean()) for k in range(6)]
    np.testing.assert_allclose(by_group, 1, atol=0.02)


def test_turned_directions_in_a_turned_frame_are_the_same(space):
    acq, turn = shells(1000.0), np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = Acquisition(acq.bvals, acq.bvecs @ turn.T)
    first = space.design(acq, EYE)[0]
    again = space.design(turned, torch.as_tensor(turn.T.copy()))[0]
    torch.testing.assert_close(first, again, atol=1e-6, rtol=0)


def test_a_space_survives_its_card(space):
    again = Space.read(space.told())
    acq = shells(1000.0)
    assert torch.equal(again.design(acq, EYE)[0], space.design(acq, EYE)[0])


def test_high_b_values_are_refused(space):
    with pytest.raises(InputError, match="b = 5000"):
        space.design(shells(5000.0), EYE)


def test_the_posterior_is_that_of_the_textbook():
    g = torch.Generator().manual_seed(0)
    design = torch.randn(7, 22, generator=g, dtype=torch.float64)
    y = torch.randn(7, 5, generator=g, dtype=torch.float64)
    noise = torch.rand(5, generator=g, dtype=torch.float64) + 0.1
    mean = torch.randn(22, 5, generator=g, dtype=torch.float64)
    prior, spread_ = torch.rand(22, generator=g).double() + 0.1, torch.rand(5).double() + 0.5
    told = Evidence(design.T @ design, design.T @ y, noise).posterior(mean, prior, spread_)
    for k in range(5):
        precision = torch.diag(1 / (spread_[k] * prior)) + design.T @ design / noise[k] ** 2
        left = design.T @ (y[:, k] - design @ mean[:, k]) / noise[k] ** 2
        expected = mean[:, k] + torch.linalg.solve(precision, left)
        torch.testing.assert_close(told[:, k], expected)


def test_many_volumes_without_noise_tell_the_numbers(space):
    state, acq = tissue(50, seed=2), shells(500.0, 1000.0, 2000.0, 3000.0, count=60)
    noise = torch.full((50,), 1e-3)
    seen = evidence(space, signal(state, acq).T, noise, acq, EYE)
    told = seen.posterior(torch.zeros_like(seen.vector), torch.ones(22), torch.ones(50))
    truth = space.encode(coefficients(state)).T
    apart = space.design(acq, EYE)[0].float() @ (told - truth)
    assert float(apart.abs().quantile(0.99)) < 0.02
    assert float((told - truth)[:2].abs().max()) < 0.3


def test_samples_of_the_posterior_have_its_variance(space):
    acq, n = shells(1000.0, count=6), 4000
    noise = torch.full((n,), 0.05)
    ratio = signal(tissue(1, seed=3), acq).T.expand(-1, n)
    seen = evidence(space, ratio, noise, acq, EYE)
    zero, unit = torch.zeros(22, n), torch.ones(22)
    draw = torch.randn(22, n, generator=torch.Generator().manual_seed(1))
    samples = seen.posterior(zero, unit, torch.ones(n), draw)
    inverse = torch.linalg.inv(torch.eye(22).double() + seen.matrix / 0.05**2)
    found = samples.var(1).double()
    torch.testing.assert_close(found, inverse.diagonal(), rtol=0.12, atol=1e-4)


def test_the_prior_has_no_share_where_data_are_many(space):
    shares = []
    for count in (6, 60):
        acq = shells(1000.0, 2000.0, count=count)
        ratio = signal(tissue(20), acq).T
        seen = evidence(space, ratio, torch.full((20,), 0.02), acq, EYE)
        shares.append(float(seen.share(torch.ones(22), torch.ones(20)).mean()))
    assert 0 < shares[1] < shares[0] < 1


def test_volumes_that_the_space_cannot_tell_of_are_left_out(space):
    acq = shells(1000.0, 6000.0)
    seen = evidence(space, signal(tissue(9), acq).T, torch.full((9,), 0.02), acq, EYE)
    low = shells(1000.0)
    alone = evidence(space, signal(tissue(9), low).T, torch.full((9,), 0.02), low, EYE)
    torch.testing.assert_close(seen.matrix, alone.matrix)


@pytest.mark.parametrize("b0", [1, 4])
def test_noise_of_the_b0_images_is_shared_by_all_volumes(space, b0):
    """Generalised least squares with the whole covariance V of the noise."""
    acq, n = shells(700.0, 2000.0, count=20, b0=b0), 9
    g = torch.Generator().manual_seed(1)
    noise = 0.02 + 0.02 * torch.rand(n, generator=g, dtype=torch.float64)
    ratio = signal(tissue(n), acq).T.double()
    ratio = (ratio + noise * torch.randn(ratio.shape, generator=g, dtype=torch.float64)).abs()
    seen = evidence(space, ratio, noise, acq, EYE)
    weighted = acq.subset(range(b0, len(acq)))
    design, offset, rest = space.design(weighted, EYE)
    y = (ratio[b0:].square() - noise.square()).clamp(min=(FLOOR * noise).square()).sqrt()
    level = y.mean(1)
    misfit = (MISFIT * rest / noise.median()).square()
    covariance = torch.diag(1 + misfit) + torch.outer(level, level) / b0
    whitened = torch.linalg.solve(covariance, design)
    torch.testing.assert_close(seen.matrix, whitened.T @ design)
    torch.testing.assert_close(seen.vector, whitened.T @ (y - offset[:, None]))
    torch.testing.assert_close(seen.noise, noise)


def test_answers_of_scans_with_one_b0_vary_as_much_as_they_say(space):
    """One tissue scanned often, every signal divided by the noisy b0 of its scan."""
    acq, n, noise = shells(700.0, 1500.0, 2500.0, count=30), 4000, 0.01
    clean = signal(tissue(1, seed=6), acq).T.double()
    g = torch.Generator().manual_seed(2)
    measured = clean + noise * torch.randn(len(acq), n, generator=g, dtype=torch.float64)
    seen = evidence(space, measured / measured[:1], torch.full((n,), noise), acq, EYE)
    wide = torch.full((22,), 100.0)
    found = seen.posterior(torch.zeros_like(seen.vector), wide, torch.ones(n)).double()
    inverse = torch.linalg.inv(torch.eye(22).double() / 100 + seen.matrix / noise**2)
    design = space.design(acq.subset(range(1, len(acq))), EYE)[0]
    told = design.mean(0) @ inverse @ design.mean(0)  # of the mean signal, where b0 counts most
    assert float((design.mean(0) @ found).var()) == pytest.approx(float(told), rel=0.15)
    assert float(told) > 5 * noise**2 / (len(acq) - 1)  # were the noise of the volumes their own
