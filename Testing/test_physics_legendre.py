"""Even Legendre polynomials and the quadrature over the cosine."""

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.legendre import gauss_legendre, legendre

DOUBLE = torch.zeros(0, dtype=torch.float64)


def test_polynomials_are_those_of_scipy():
    t = torch.linspace(-1, 1, 41, dtype=torch.float64)
    expected = np.stack([eval_legendre(n, t.numpy()) for n in range(0, 13, 2)], -1)
    np.testing.assert_allclose(legendre(t, 12), expected, atol=1e-13)


def test_single_precision_polynomials_keep_six_digits():
    t = torch.linspace(-1, 1, 1001)
    assert (legendre(t, 8) - legendre(t.double(), 8)).abs().max() < 2e-6


def test_order_zero_is_one_everywhere():
    assert torch.equal(legendre(torch.rand(2, 3), 0), torch.ones(2, 3, 1))


@pytest.mark.parametrize("order", [-2, 3])
def test_an_order_that_is_not_even_is_refused(order):
    with pytest.raises(InputError, match="order"):
        legendre(torch.zeros(1), order)


def test_polynomials_are_orthogonal_under_the_quadrature():
    t, w = gauss_legendre(8, DOUBLE)
    p = legendre(t, 6)
    gram = p.T @ (w[:, None] * p)
    expected = torch.diag(1 / (2 * torch.arange(0, 7, 2, dtype=torch.float64) + 1))
    torch.testing.assert_close(gram, expected, atol=1e-14, rtol=0)


def test_quadrature_is_exact_up_to_its_degree_and_not_beyond():
    t, w = gauss_legendre(4, DOUBLE)
    assert (w * t**7).sum().item() == pytest.approx(1 / 8, abs=1e-15)
    assert abs((w * t**9).sum().item() - 1 / 10) > 1e-7


def test_quadrature_follows_the_type_and_training_after_inference_mode_works():
    with torch.inference_mode():
        gauss_legendre(5, torch.zeros(1))
    t, w = gauss_legendre(5, torch.zeros(1))
    assert t.dtype == w.dtype == torch.float32
    a = torch.ones(1, requires_grad=True)
    (w * torch.exp(-a * t)).sum().backward()
    assert torch.isfinite(a.grad).all()


def test_gradients_of_the_polynomials():
    t = torch.tensor([-1.0, -0.3, 0.0, 0.8, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: legendre(x, 8), t)
