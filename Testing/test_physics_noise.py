"""Magnitude noise against scipy, quadrature and simulation, at every SNR and in both precisions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln, hyp1f1, ive

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics import noise
from DMRIMicroLib.physics.bessel import bessel_ratio

COILS = [1, 2, 4, 12, 32]
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
SNR = torch.cat([torch.zeros(1), torch.logspace(-3, 1.7, 400)]).double()


def log_density(y, signal, coils):
    """Non-central chi of scipy, as the density of a root."""
    return np.log(2 * y) + stats.ncx2.logpdf(y**2, 2 * coils, signal**2)


def mean_by_hypergeometric(snr, coils):
    beta = np.exp(0.5 * math.log(2) + gammaln(coils + 0.5) - gammaln(coils))
    return beta * hyp1f1(-0.5, coils, -(snr**2) / 2)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("coils", COILS)
def test_ratio_of_bessel_functions_is_that_of_scipy(coils, dtype, error):
    z = torch.logspace(-3, 8, 3000, dtype=torch.float64)
    with np.errstate(all="ignore"):
        truth = torch.from_numpy(ive(coils, z.numpy()) / ive(coils - 1, z.numpy()))
    known = torch.isfinite(truth)
    assert known.sum() > 2000
    ratio = bessel_ratio(z.to(dtype), coils).double()
    assert ((ratio / truth)[known] - 1).abs().max() < error
    assert bessel_ratio(torch.zeros(1, dtype=dtype), coils).item() == 0


@BOTH
def test_recording_gradients_changes_no_value(dtype):
    z = torch.logspace(-3, 6, 50, dtype=dtype)
    recorded = bessel_ratio(z), noise.expectation(z, 1.0), noise.log_likelihood(z, z, 2.0, 3)
    with torch.no_grad():
        plain = bessel_ratio(z), noise.expectation(z, 1.0), noise.log_likelihood(z, z, 2.0, 3)
    for a, b in zip(recorded, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=8 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.float64, 1e-8)])
@pytest.mark.parametrize("coils", COILS)
def test_likelihood_is_that_of_scipy(coils, dtype, error):
    y = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 20 + 0.05
    signal = torch.rand(3000, generator=torch.Generator().manual_seed(1), dtype=dtype) * 20 + 0.01
    ours = noise.log_likelihood(y, signal, 1.0, coils).double().numpy()
    truth = log_density(y.double().numpy(), signal.double().numpy(), coils)
    assert (np.abs(ours - truth) / np.maximum(np.abs(truth), 1)).max() < error


@BOTH
def test_likelihood_of_one_coil_is_scipys_rice_in_any_unit(dtype):
    y = torch.linspace(0.1, 12, 200, dtype=dtype) * 37
    ours = noise.log_likelihood(y, torch.full_like(y, 37 * 3.0), 37 * 1.5)
    truth = stats.rice.logpdf(y.double().numpy(), 2.0, scale=37 * 1.5)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("coils", COILS)
def test_single_precision_likelihood_holds_up_to_an_snr_of_ten_thousand(coils):
    signal = torch.logspace(-4, 4, 500)
    y = noise.add_noise(signal, 1.0, coils, torch.Generator().manual_seed(3))
    single = noise.log_likelihood(y, signal, 1.0, coils)
    double = noise.log_likelihood(y.double(), signal.double(), 1.0, coils)
    assert ((single - double).abs() / double.abs().clamp(min=1)).max() < 2e-5


@BOTH
def test_likelihood_and_its_gradient_are_finite_where_there_is_nothing(dtype):
    y = torch.tensor([0.0, 0.0, 5.0, 1e4], dtype=dtype)
    signal = torch.tensor([0.0, 7.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    for coils in (1, 8):
        value = noise.log_likelihood(y, signal, 1.0, coils)
        (slope,) = torch.autograd.grad(value.sum(), signal)
        assert torch.isfinite(value).all()
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("coils", COILS)
def test_the_derivative_of_the_likelihood_is_the_pull_of_the_ratio(coils):
    y, signal = torch.tensor([[0.3, 2.0, 9.0, 40.0], [0.1, 3.0, 8.0, 41.0]], dtype=torch.float64)
    signal.requires_grad_()
    sigma = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    value = noise.log_likelihood(y, signal, sigma, coils)
    (slope,) = torch.autograd.grad(value.sum(), signal)
    pull = (y * bessel_ratio(y * signal / sigma**2, coils) - signal) / sigma**2
    torch.testing.assert_close(slope, pull.detach(), atol=1e-7, rtol=1e-7)
    deviance, terms = noise.magnitude_terms(y, signal, sigma, coils)
    torch.testing.assert_close(terms.detach(), -(pull * sigma**2).detach())
    # it may leave out only what does not depend on the signal
    moved = noise.magnitude_terms(y, signal * 1.1, sigma, coils)[0] - deviance
    whole = -2 * (noise.log_likelihood(y, signal * 1.1, sigma, coils) - value)
    torch.testing.assert_close(moved, whole, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("coils", [1, 3])
def test_gradients_of_everything(coils):
    signal = torch.tensor([0.0, 0.4, 3.0, 25.0], dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([1.0, 0.7, 1.3, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.5, 0.2, 4.0, 23.0], dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda *a: noise.log_likelihood(*a, coils), (y, signal, sigma))
    for moment in (noise.expectation, noise.variance, noise.fisher):
        assert check(lambda *a, f=moment: f(*a, coils), (signal, sigma))
    assert torch.autograd.gradgradcheck(lambda z: bessel_ratio(z, coils), signal)


def test_forward_mode_and_vmap_pass_through_under_no_grad():
    signal = torch.tensor([0.1, 2.0, 30.0], dtype=torch.float64)
    f = lambda s: noise.expectation(s, 1.0) + bessel_ratio(s)  # noqa: E731
    with torch.no_grad():
        _, forward = torch.func.jvp(f, (signal,), (torch.ones_like(signal),))
        batched = torch.func.vmap(f)(signal)
    backward = torch.func.vmap(torch.func.grad(f))(signal)
    torch.testing.assert_close(forward, backward)
    torch.testing.assert_close(batched, f(signal))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-8)])
@pytest.mark.parametrize("coils", COILS)
def test_mean_and_variance_are_koay_and_bassers(coils, dtype, error):
    truth = mean_by_hypergeometric(SNR.numpy(), coils)
    mean = noise.expectation(SNR.to(dtype), 1.0, coils).double().numpy()
    assert np.abs(mean / truth - 1).max() < error
    low = SNR < 8  # beyond, the oracle cancels
    spread = noise.variance(SNR[low].to(dtype), 1.0, coils).double().numpy()
    truth = 2 * coils + SNR[low].numpy() ** 2 - truth[low] ** 2
    assert np.abs(spread - truth).max() < 10 * error


def test_moments_of_one_coil_are_scipys_rice():
    mean, spread = stats.rice.stats(SNR[:350].numpy(), moments="mv")
    np.testing.assert_allclose(noise.expectation(SNR[:350], 1.0), mean, rtol=1e-8)
    np.testing.assert_allclose(noise.variance(SNR[:350], 1.0), spread, rtol=1e-7)


@BOTH
@pytest.mark.parametrize("coils", COILS)
def test_limits_of_the_moments(coils, dtype):
    strong = torch.tensor([1e4], dtype=dtype)
    assert noise.variance(strong, 1.0, coils).item() == pytest.approx(1, abs=1e-5)
    assert noise.fisher(strong, 1.0, coils).item() == pytest.approx(1, abs=1e-4)
    weak = torch.tensor([1e-3], dtype=dtype)
    assert noise.fisher(weak, 1.0, coils).item() == pytest.approx(1e-6 / coils, rel=0.01)
    assert noise.expectation(strong, 0.0, coils).item() == strong.item()


@BOTH
@pytest.mark.parametrize("coils", COILS)
def test_without_noise_the_mean_is_the_signal_even_where_there_is_none(coils, dtype):
    signal = torch.tensor([0.0, 0.0, 3.0], dtype=dtype, requires_grad=True)
    sigma = torch.tensor([0.0, 1.0, 0.0], dtype=dtype, requires_grad=True)
    mean = noise.expectation(signal, sigma, coils)
    assert mean[[0, 2]].tolist() == [0, 3]
    assert mean[1] > 1
    assert noise.expectation(signal, 0.0, coils).tolist() == [0, 0, 3]
    for slope in torch.autograd.grad(mean.sum(), (signal, sigma)):
        assert torch.isfinite(slope).all()
    for moment in (noise.variance, noise.fisher):
        assert torch.isfinite(moment(signal, sigma, coils)).all()


@pytest.mark.parametrize("coils", [1, 4])
def test_information_is_the_mean_squared_score(coils):
    def score_squared(y, s):
        pull = y * ive(coils, y * s) / ive(coils - 1, y * s) - s
        return pull**2 * np.exp(log_density(y, s, coils))

    for s in (0.05, 0.5, 1.0, 2.0, 5.0, 20.0):
        truth = quad(score_squared, max(1e-6, s - 10), s + 12, args=(s,), limit=200)[0]
        for dtype in (torch.float32, torch.float64):
            ours = noise.fisher(torch.tensor(s, dtype=dtype), 1.0, coils).item()
            assert ours == pytest.approx(truth, rel=2e-3)


@BOTH
@pytest.mark.parametrize("coils", [1, 4, 32])
def test_the_signal_under_a_mean_magnitude_is_found_again(coils, dtype):
    signal = torch.tensor([0.0, 0.5, 2.0, 5.0, 30.0, 900.0], dtype=dtype)
    mean = noise.expectation(signal, 1.5, coils)
    found = noise.underlying(mean, 1.5, coils)
    tolerance = 2e-2 if dtype == torch.float32 else 1e-4  # of a root near zero
    torch.testing.assert_close(found, signal, atol=tolerance, rtol=1e-5)
    assert noise.underlying(0.9 * mean[:1], 1.5, coils).item() == 0


@pytest.mark.parametrize("coils", [1, 4])
def test_noise_has_the_moments_that_are_said(coils):
    rng = torch.Generator().manual_seed(5)
    for snr in (0.0, 1.0, 6.0):
        signal = torch.full((200_000,), 100 * snr, dtype=torch.float64)
        y = noise.add_noise(signal, 100.0, coils, rng)
        error = 5 * 100 / math.sqrt(len(y))
        assert y.mean().item() == pytest.approx(
            noise.expectation(signal[:1], 100.0, coils).item(), abs=error
        )
        assert y.var().item() == pytest.approx(
            noise.variance(signal[:1], 100.0, coils).item(), rel=0.02
        )


def test_the_same_draw_makes_the_same_noise_on_another_signal():
    like = torch.zeros(7, 5)
    first = noise.draw((7, 5), like, 3, torch.Generator().manual_seed(1))
    again = noise.draw((7, 5), like, 3, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    assert first.shape == (2, 7, 5)
    assert torch.equal(noise.corrupt(like + 2, 0.0, first), like + 2)
    whole = noise.add_noise(like + 9, 0.5, 3, torch.Generator().manual_seed(1))
    assert torch.equal(whole, noise.corrupt(like + 9, 0.5, first))


def test_noise_takes_a_sigma_for_every_voxel():
    sigma = torch.linspace(0, 1, 4)
    y = noise.add_noise(torch.ones(3, 1), sigma, 1, torch.Generator().manual_seed(0))
    assert y.shape == (3, 4)
    assert torch.equal(y[:, 0], torch.ones(3))


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(InputError, match="coils"):
        bessel_ratio(torch.ones(1), 0)
    with pytest.raises(InputError, match="float16"):
        bessel_ratio(torch.ones(1, dtype=torch.float16))


def test_the_short_form_for_one_coil_is_as_good_as_single_precision_needs():
    from DMRIMicroLib.physics.bessel import START_LOG, log_bessel, rician_bessel

    z = torch.cat([torch.zeros(1), torch.logspace(-4, 6, 2000)]).double()
    log_ie, _, ratio = log_bessel(z, 1, START_LOG)
    short, slope = rician_bessel(z)
    assert (short - log_ie).abs().max() < 1e-5
    assert (slope - ratio).abs().max() < 1e-5
