"""Compartments: limit cases, independent slow implementations, gradients, both precisions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import eval_legendre, spherical_jn

from DMRIMicroLib.physics import compartments as c

B = torch.tensor([0.0, 1e-6, 1e-3, 0.3, 1.0, 3.0, 10.0], dtype=torch.float64)
TIMINGS = [(1.0, 20.0), (10.0, 30.0), (40.0, 50.0), (12.9, 21.8)]


def doubles(*values):
    return tuple(
        torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for v in np.broadcast_arrays(*values)
    )


def sphere_by_the_book(b, radius, d, delta, separation, roots=300):
    """Murday and Cotts' sum as printed, in float64, with scipy's roots of j_1'."""
    edges = np.pi * np.arange(roots + 1) + 0.1
    slope = lambda x: spherical_jn(1, x, derivative=True)  # noqa: E731
    mu = np.array([brentq(slope, lo, hi) for lo, hi in pairwise(edges)])
    alpha = mu / radius
    x = alpha**2 * d
    bracket = (
        2 * delta
        - (
            2
            + np.exp(-x * (separation - delta))
            - 2 * np.exp(-x * delta)
            - 2 * np.exp(-x * separation)
            + np.exp(-x * (separation + delta))
        )
        / x
    )
    gradient = b / (delta**2 * (separation - delta / 3))
    return np.exp(-2 * gradient / d * np.sum(bracket / (alpha**4 * (mu**2 - 2))))


def test_a_stick_along_the_gradient_is_gaussian_and_across_it_is_still():
    one, none = torch.ones_like(B), torch.zeros_like(B)
    torch.testing.assert_close(c.stick(B, one, 1.7), torch.exp(-B * 1.7))
    torch.testing.assert_close(c.stick(B, none, 1.7), c.dot(B))


def test_a_zeppelin_of_equal_diffusivities_is_a_ball_and_without_a_radial_one_a_stick():
    cos = torch.linspace(-1, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(c.zeppelin(B, cos, 1.2, 1.2), c.ball(B, 1.2))
    torch.testing.assert_close(c.zeppelin(B, cos, 1.7, 0.0), c.stick(B, cos, 1.7))


@pytest.mark.parametrize(("d_par", "d_perp"), [(1.7, 0.0), (2.0, 0.5), (3.0, 3.0), (1e-4, 0.0)])
def test_spherical_means_equal_the_mean_of_the_directional_signal(d_par, d_perp):
    for b in B:
        signal = lambda t, b=b: np.exp(-b.item() * (d_perp + (d_par - d_perp) * t * t))  # noqa: E731
        truth = quad(signal, 0, 1, epsabs=1e-13)[0]
        assert c.zeppelin_mean(b, d_par, d_perp).item() == pytest.approx(truth, abs=1e-12)
        if d_perp == 0:
            assert c.stick_mean(b, d_par).item() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("b_d", [0.0, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
def test_kernel_equals_adaptive_quadrature(b_d, ratio):
    kernel = c.axial_kernel(torch.tensor(b_d, dtype=torch.float64), 1.0, ratio, 8)
    for k, degree in zip(kernel, range(0, 9, 2), strict=True):

        def integrand(t, n=degree):
            return np.exp(-b_d * (ratio + (1 - ratio) * t * t)) * eval_legendre(n, t)

        truth = 4 * np.pi * quad(integrand, 0, 1, epsabs=1e-14)[0]
        assert k.item() == pytest.approx(truth, abs=1e-11)


def test_first_kernel_factor_is_the_spherical_mean():
    kernel = c.axial_kernel(B, 2.0, 0.3, 0)[..., 0]
    torch.testing.assert_close(kernel / (4 * np.pi), c.zeppelin_mean(B, 2.0, 0.3))


@pytest.mark.parametrize(("delta", "separation"), TIMINGS)
@pytest.mark.parametrize("radius", [0.5, 3.0, 8.0, 20.0])
@pytest.mark.parametrize("d", [1.0, 3.0])
def test_sphere_equals_the_printed_sum_with_many_roots(radius, d, delta, separation):
    for b in (0.0, 1.0, 10.0):
        fast = c.sphere(torch.tensor(b, dtype=torch.float64), radius, d, delta, separation)
        truth = sphere_by_the_book(b, radius, d, delta, separation)
        assert fast.item() == pytest.approx(truth, abs=1e-6)


def test_a_sphere_without_a_radius_holds_the_water_still():
    radius = torch.tensor([0.0, 1e-5, 1e-3], dtype=torch.float64)
    signal = c.sphere(torch.tensor(10.0, dtype=torch.float64), radius, 3.0, 10.0, 30.0)
    torch.testing.assert_close(signal, torch.ones_like(radius), atol=1e-12, rtol=0)


def test_a_huge_sphere_is_free_water():
    wide = c.sphere(B, 1e6, 2.0, 10.0, 30.0)
    torch.testing.assert_close(wide, c.ball(B, 2.0), atol=1e-5, rtol=0)


def test_small_spheres_follow_neumans_limit_of_long_gradients():
    # R^2 / D << delta: ln S = -(16 / 175) g^2 R^4 delta / D
    radius, d, delta, separation, b = 1.0, 3.0, 40.0, 50.0, 10.0
    gradient = b / (delta**2 * (separation - delta / 3))
    limit = np.exp(-16 / 175 * gradient * radius**4 * delta / d)
    signal = c.sphere(torch.tensor(b, dtype=torch.float64), radius, d, delta, separation)
    assert 1 - signal.item() == pytest.approx(1 - limit, rel=0.01)


def test_a_sphere_has_one_apparent_diffusivity_for_all_b():
    radius = torch.linspace(0.0, 12.0, 5, dtype=torch.float64)
    apparent = c.sphere_diffusivity(radius, 3.0, 10.0, 30.0)
    assert (apparent.diff() > 0).all()
    torch.testing.assert_close(
        c.sphere(B[:, None], radius, 3.0, 10.0, 30.0), torch.exp(-B[:, None] * apparent)
    )


@pytest.mark.parametrize("b", [0.0, 1e-9, 0.4, 1.0, 6.0])
def test_gradients_are_right_and_finite_also_where_b_is_zero(b):
    args = doubles(b, [0.3, 1.0], [1.7, 2.5], [0.2, 2.5])
    assert torch.autograd.gradcheck(c.zeppelin, args)
    assert torch.autograd.gradcheck(c.stick, args[:3])
    assert torch.autograd.gradcheck(c.zeppelin_mean, (args[0], args[2], args[3]))
    assert torch.autograd.gradcheck(lambda *a: c.axial_kernel(*a, 6), (args[0], *args[2:]))
    assert torch.autograd.gradgradcheck(c.stick_mean, (args[0], args[2]))
    assert torch.autograd.gradcheck(
        lambda b, r, d: c.sphere(b, r, d, 10.0, 30.0), doubles(b, [4.0, 0.0], [1.0, 3.0])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_every_edge(dtype):
    b = torch.tensor([0.0, 0.0, 10.0, 10.0], dtype=dtype, requires_grad=True)
    radius = torch.tensor([0.0, 20.0, 0.0, 1e-3], dtype=dtype, requires_grad=True)
    d_par = torch.tensor([0.0, 3.0, 0.0, 3.0], dtype=dtype, requires_grad=True)
    total = (
        c.sphere(b, radius, 3.0, 10.0, 30.0)
        + c.stick_mean(b, d_par)
        + c.zeppelin_mean(b, d_par, d_par)
        + c.axial_kernel(b, d_par, 0.0, 6).sum(-1)
    )
    total.sum().backward()
    for leaf in (b, radius, d_par):
        assert torch.isfinite(leaf.grad).all()


def test_single_precision_keeps_six_digits():
    rng = torch.Generator().manual_seed(0)
    b, d_par, share, radius = torch.rand(4, 4000, generator=rng) + 1e-4
    b, d_par, radius = 10 * b, 3 * d_par, 20 * radius**3
    for call in (
        lambda b, d, s, r: c.zeppelin_mean(b, d, s * d),
        lambda b, d, s, r: c.stick_mean(b * 1e-3, d),
        lambda b, d, s, r: c.sphere(b, r, 3.0, 12.9, 21.8),
        lambda b, d, s, r: c.axial_kernel(b, d, s * d, 6) / (4 * np.pi),
    ):
        single = call(b, d_par, share, radius)
        double = call(b.double(), d_par.double(), share.double(), radius.double())
        assert single.dtype == torch.float32
        assert (single - double).abs().max() < 2e-6


def test_everything_broadcasts():
    b, d = torch.rand(5, 1), torch.rand(3)
    assert c.stick_mean(b, d).shape == (5, 3)
    assert c.axial_kernel(b, d, 0.0, 4).shape == (5, 3, 3)
    assert c.sphere(b, d, 3.0, 10.0, 30.0).shape == (5, 3)
    assert c.sphere(b, 4.0, 3.0, 10.0, 30.0).shape == (5, 1)
