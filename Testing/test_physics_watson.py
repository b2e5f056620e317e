"""The Watson distribution: moments against adaptive quadrature, dispersion index, SH."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import eval_legendre

from DMRIMicroLib.physics.sh import rish, sh_basis
from DMRIMicroLib.physics.watson import (
    kappa_from_odi,
    odi_from_kappa,
    watson_moments,
    watson_sh,
    watson_slopes,
)


def moment_by_quadrature(kappa, degree):
    # the density falls off within 1 / kappa of t = 1: tell the integrator
    edge = max(0.0, 1 - 20 / max(kappa, 1e-9))
    options = {"epsabs": 1e-14, "epsrel": 1e-13, "limit": 400}
    density = lambda t: np.exp(kappa * (t * t - 1))  # noqa: E731
    top = quad(lambda t: density(t) * eval_legendre(degree, t), edge, 1, **options)[0]
    return top / quad(density, edge, 1, **options)[0]


@pytest.mark.parametrize(
    ("kappa", "error"),
    [(0.0, 1e-12), (1e-4, 1e-12), (1.0, 1e-12), (16.0, 1e-12), (64.0, 1e-12), (1000.0, 1e-8)],
)
def test_moments_equal_adaptive_quadrature(kappa, error):
    moments = watson_moments(torch.tensor(kappa, dtype=torch.float64), 24)
    for moment, degree in zip(moments, range(0, 25, 2), strict=True):
        assert moment.item() == pytest.approx(moment_by_quadrature(kappa, degree), abs=error)


def test_no_concentration_is_isotropic_and_endless_concentration_an_axis():
    even = watson_moments(torch.tensor([0.0, float("inf")], dtype=torch.float64), 6)
    torch.testing.assert_close(even[0], torch.tensor([1.0, 0, 0, 0]).double(), atol=1e-13, rtol=0)
    torch.testing.assert_close(even[1], torch.ones(4).double(), atol=5e-5, rtol=0)


def test_single_precision_keeps_six_digits():
    kappa = torch.logspace(-4, 3, 2000)
    single, double = watson_moments(kappa, 8), watson_moments(kappa.double(), 8)
    assert single.dtype == torch.float32
    assert torch.equal(single[:, 0], torch.ones(2000))
    assert (single - double).abs().max() < 2e-6


def test_gradients_of_the_moments():
    kappa = torch.tensor([0.0, 0.1, 3.0, 64.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: watson_moments(k, 6), kappa)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dispersion_index_and_concentration_are_inverse(dtype):
    odi = torch.linspace(0.001, 1, 1000, dtype=dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(odi_from_kappa(kappa_from_odi(odi)), odi, atol=4 * eps, rtol=4 * eps)
    assert kappa_from_odi(odi)[-1] == 0
    assert odi_from_kappa(torch.zeros(1, dtype=dtype)).item() == pytest.approx(1)
    assert odi_from_kappa(torch.ones(1, dtype=dtype)).item() == pytest.approx(0.5)


def test_gradients_of_the_dispersion_index_are_right_at_its_ends():
    odi = torch.tensor([0.02, 0.3, 0.5, 0.7, 1 - 1e-5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kappa_from_odi, odi)
    kappa = torch.tensor([0.0, 1.0, 50.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(odi_from_kappa, kappa)


def test_the_series_of_the_density_adds_up_to_it():
    kappa, mu = torch.tensor(3.0).double(), torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    v = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = v / v.norm(dim=-1, keepdim=True)
    whole = quad(lambda t: math.exp(3 * t * t), 0, 1)[0]
    truth = torch.exp(kappa * (v @ mu) ** 2) / (4 * math.pi * whole)
    coefficients = watson_sh(kappa, mu, 20)
    assert coefficients[0].item() == pytest.approx(1 / math.sqrt(4 * math.pi))
    torch.testing.assert_close(sh_basis(v, 20) @ coefficients, truth, atol=1e-9, rtol=0)


def test_the_power_of_the_density_does_not_depend_on_its_axis():
    axes = torch.eye(3).double()
    power = rish(watson_sh(torch.full((3,), 8.0).double(), axes, 6), 6)
    torch.testing.assert_close(power, power[:1].expand(3, 4))


def test_slopes_of_the_moments_are_their_derivative():
    kappa = torch.tensor([0.0, 0.3, 4.0, 64.0], dtype=torch.float64)
    slopes = watson_slopes(watson_moments(kappa, 10))
    truth = torch.func.jvp(lambda k: watson_moments(k, 8), (kappa,), (torch.ones_like(kappa),))[1]
    torch.testing.assert_close(slopes, truth, atol=1e-12, rtol=1e-9)


def test_gradients_of_the_series():
    kappa = torch.tensor([0.0, 5.0], dtype=torch.float64, requires_grad=True)
    mu = torch.tensor([[0, 0, 1.0], [0.6, 0, 0.8]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k, u: watson_sh(k, u, 6), (kappa, mu))
