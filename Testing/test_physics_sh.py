"""Real spherical harmonics against dipy, at the poles too; power of degrees; regularised fits."""

import numpy as np
import pytest
import torch
from dipy.reconst.shm import real_sh_descoteaux, smooth_pinv, sph_harm_ind_list

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.physics.sh import fit_matrix, rish, sh_basis, sh_degrees, sh_order

AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()


def directions(count, seed=0):
    v = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return v / v.norm(dim=-1, keepdim=True)


def dipys(v, order):
    theta = np.arccos(np.clip(v[:, 2], -1, 1))
    phi = np.arctan2(v[:, 1], v[:, 0])
    return real_sh_descoteaux(order, theta, phi, legacy=False)


@pytest.mark.parametrize("order", [0, 2, 8])
def test_basis_is_dipys_everywhere_and_at_the_poles(order):
    v = torch.cat([directions(200), AXES])
    truth, m, degree = dipys(v.numpy(), order)
    np.testing.assert_allclose(sh_basis(v, order), truth, atol=1e-12)
    ours = sh_degrees(order)
    assert ours[0].tolist() == list(degree)
    assert ours[1].tolist() == list(m)


def test_single_precision_keeps_six_digits():
    v = directions(500)
    assert (sh_basis(v.float(), 8) - sh_basis(v, 8)).abs().max() < 3e-6


def test_basis_is_orthonormal():
    nodes, weights = np.polynomial.legendre.leggauss(12)
    phi = 2 * np.pi * np.arange(24) / 24
    z, phi = (torch.from_numpy(a.ravel()) for a in np.meshgrid(nodes, phi, indexing="ij"))
    root = (1 - z**2).sqrt()
    basis = sh_basis(torch.stack([root * phi.cos(), root * phi.sin(), z], -1), 8)
    weights = torch.from_numpy(weights).repeat_interleave(24) * 2 * np.pi / 24
    gram = basis.T @ (weights[:, None] * basis)
    torch.testing.assert_close(gram, torch.eye(45).double(), atol=1e-12, rtol=0)


def test_basis_keeps_batch_dimensions_and_is_even():
    v = directions(24).reshape(2, 3, 4, 3)
    assert sh_basis(v, 4).shape == (2, 3, 4, 15)
    torch.testing.assert_close(sh_basis(-v, 6), sh_basis(v, 6))


def test_gradients_of_the_basis_also_at_the_poles():
    v = torch.cat([directions(3), AXES]).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: sh_basis(u, 6), v)


def test_power_of_each_degree_is_the_same_after_a_rotation():
    rotation, _ = torch.linalg.qr(directions(3))
    v = directions(120)
    coefficients = torch.randn(4, 28, generator=torch.Generator().manual_seed(2)).double()
    values = coefficients @ sh_basis(v, 6).T
    turned = values @ fit_matrix(v @ rotation, 6, smooth=0).T
    assert (turned - coefficients).abs().max() > 0.5
    torch.testing.assert_close(rish(turned, 6), rish(coefficients, 6))


def test_power_of_each_degree_is_a_sum_over_its_coefficients():
    c = torch.arange(15.0)
    assert rish(c, 4).tolist() == [0.0, 55.0, float(sum(k * k for k in range(6, 15)))]


def test_a_fit_gives_back_the_coefficients():
    v = directions(60)
    coefficients = torch.randn(15, dtype=torch.float64)
    found = fit_matrix(v, 4, smooth=0) @ (sh_basis(v, 4) @ coefficients)
    torch.testing.assert_close(found, coefficients)


@pytest.mark.parametrize("count", [20, 64])
def test_a_smoothed_fit_is_dipys(count):
    v = directions(count)
    basis, _, degree = dipys(v.numpy(), 8)
    truth = smooth_pinv(basis, np.sqrt(0.006) * degree * (degree + 1))
    np.testing.assert_allclose(fit_matrix(v, 8), truth, atol=1e-9)


def test_too_few_samples_without_smoothing_are_refused():
    with pytest.raises(InputError, match="15 coefficients, there are 10"):
        fit_matrix(directions(10), 4, smooth=0)


def test_order_is_told_from_the_number_of_coefficients():
    for order in (0, 2, 4, 6, 8):
        assert sh_order(len(sph_harm_ind_list(order)[0])) == order
    for wrong in (0, 3, 10, 27):
        with pytest.raises(InputError, match="coefficients"):
            sh_order(wrong)
