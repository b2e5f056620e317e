"""The general tissue state against brute force, its symmetries, limits and gradients."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.physics import compartments as c
from DMRIMicroLib.physics.sh import fit_matrix, sh_basis
from DMRIMicroLib.physics.tissue import D_FREE, D_SOMA, SOMA_ADC, TissueState, signal
from DMRIMicroLib.physics.watson import watson_sh


def directions(count, seed=0):
    v = np.random.default_rng(seed).normal(size=(count, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def acquisition(bvals=(0, 0, 1000, 1000, 995, 3000, 3000, 6000), delta=10.6, separation=43.1):
    return Acquisition(np.array(bvals, float), directions(len(bvals)), delta, separation)


def state(kappa, mu, order=6, dtype=torch.float64, **changed):
    kappa, mu = torch.tensor(kappa, dtype=dtype), torch.tensor(mu, dtype=dtype)
    whole = TissueState(
        *(torch.full_like(kappa, v) for v in (0.4, 0.25, 0.2, 0.1, 0.05, 2.2, 1.8, 0.6, 6.0)),
        odf=watson_sh(kappa, mu, order),
    )
    return replace(whole, **{k: torch.full_like(kappa, v) for k, v in changed.items()})


def sphere_rule(count=40):
    """Points and weights for a mean over the sphere."""
    z, w = np.polynomial.legendre.leggauss(count)
    phi = 2 * np.pi * np.arange(2 * count) / (2 * count)
    z, phi = (torch.from_numpy(a.ravel()) for a in np.meshgrid(z, phi, indexing="ij"))
    root = (1 - z**2).sqrt()
    points = torch.stack([root * phi.cos(), root * phi.sin(), z], -1)
    return points, torch.from_numpy(w).repeat_interleave(2 * count) / (4 * count)


def by_brute_force(s, acq, kappa, mu):
    """Mean over orientations of the directional signals under the Watson density itself."""
    u, weight = sphere_rule()
    weight = weight * torch.exp(kappa * ((u @ torch.tensor(mu).double()) ** 2 - 1))
    weight = weight / weight.sum()
    b, cos = torch.from_numpy(acq.bvals / 1e3)[:, None], torch.tensor(acq.bvecs) @ u.T
    fibres = s.neurite * c.stick(b, cos, s.d_neurite)
    fibres = fibres + s.extra * c.zeppelin(b, cos, s.d_extra_par, s.d_extra_perp)
    b = b[:, 0]
    soma = c.sphere(b, s.radius, D_SOMA, acq.delta, acq.Delta)
    return fibres @ weight + s.soma * soma + s.free * c.ball(b, D_FREE) + s.dot


@pytest.mark.parametrize("kappa", [0.0, 1.0, 4.0])
def test_signal_of_watson_fibres_is_the_mean_over_orientations(kappa):
    mu = [0.6, 0.0, 0.8]
    s, acq = state(kappa, mu, order=16), acquisition()
    truth = by_brute_force(s, acq, kappa, mu)
    torch.testing.assert_close(signal(s, acq), truth, atol=1e-8, rtol=0)


def test_six_orders_suffice_for_dispersed_fibres_at_usual_b_values():
    acq = acquisition((0, 1000, 2000, 3000))
    for kappa, error in ((1.0, 2e-4), (4.0, 5e-3)):
        s = state(kappa, [0.0, 0.0, 1.0])
        truth = by_brute_force(s, acq, kappa, [0.0, 0.0, 1.0])
        assert (signal(s, acq) - truth).abs().max() < error


def test_there_is_no_loss_without_diffusion_weighting():
    s = state([0.5, 8.0, 30.0], [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    torch.testing.assert_close(signal(s, acquisition())[:, :2], torch.ones(3, 2).double())


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("dot", lambda b: torch.ones_like(b)),
        ("free", lambda b: torch.exp(-3.0 * b)),
        ("soma", lambda b: c.sphere(b, 6.0, D_SOMA, 10.6, 43.1)),
        ("extra", lambda b: torch.exp(-0.7 * b)),
    ],
)
def test_a_voxel_of_one_compartment_has_its_signal(part, expected):
    shares = {f.name: float(f.name == part) for f in fields(TissueState)[:5]}
    s = state(2.0, [0.0, 0.0, 1.0], **shares, d_extra_par=0.7, d_extra_perp=0.7)
    acq = acquisition()
    truth = expected(torch.from_numpy(acq.bvals / 1e3))
    torch.testing.assert_close(signal(s, acq), truth, atol=1e-12, rtol=0)


def test_turning_tissue_and_gradients_together_changes_nothing():
    rotation, _ = np.linalg.qr(directions(3, seed=4))
    acq = acquisition()
    turned = Acquisition(acq.bvals, acq.bvecs @ rotation.T, acq.delta, acq.Delta)
    v = torch.from_numpy(directions(60, seed=5))
    crossing = watson_sh(torch.tensor(6.0).double(), torch.eye(3).double()[0], 6)
    crossing = (crossing + watson_sh(torch.tensor(9.0).double(), torch.eye(3).double()[1], 6)) / 2
    values = sh_basis(v, 6) @ crossing
    rotated = fit_matrix(v @ torch.from_numpy(rotation).T, 6, smooth=0) @ values
    s = state(0.0, [0.0, 0.0, 1.0])
    before, after = signal(replace(s, odf=crossing), acq), signal(replace(s, odf=rotated), turned)
    assert (signal(replace(s, odf=crossing), turned) - before).abs().max() > 1e-3
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)


def test_somas_have_a_fixed_diffusivity_where_the_timing_is_not_known():
    only = {"neurite": 0.0, "extra": 0.0, "soma": 1.0, "free": 0.0, "dot": 0.0}
    s, acq = state(0.0, [0.0, 0.0, 1.0], **only), acquisition(delta=None)
    torch.testing.assert_close(signal(s, acq), torch.exp(-SOMA_ADC * torch.tensor(acq.bvals / 1e3)))
    # ... which is that of the sphere that its source says
    assert c.sphere_diffusivity(torch.tensor(8.0), D_SOMA, 10.6, 43.1).item() == pytest.approx(
        SOMA_ADC, rel=0.005
    )


def test_gradients_by_every_part_of_the_state():
    acq = acquisition((0, 1000, 3000))
    s = state([0.0, 5.0], [[0.6, 0, 0.8], [0, 0, 1.0]])
    leaves = [getattr(s, f.name).clone().requires_grad_() for f in fields(s)]
    assert torch.autograd.gradcheck(lambda *a: signal(TissueState(*a), acq), leaves, fast_mode=True)


def test_single_precision_keeps_six_digits():
    mu = directions(200).tolist()
    kappa = np.geomspace(0.01, 40, 200).tolist()
    acq = acquisition()
    single = signal(state(kappa, mu, dtype=torch.float32), acq)
    assert single.dtype == torch.float32
    assert (single - signal(state(kappa, mu), acq)).abs().max() < 2e-6


def test_batch_dimensions_are_kept_and_parameters_broadcast():
    s = state(1.0, [0.0, 0.0, 1.0])
    s = replace(s, odf=s.odf.expand(4, 5, 28), radius=torch.linspace(2, 9, 5).double())
    out = signal(s, acquisition())
    assert out.shape == (4, 5, 8)
    torch.testing.assert_close(out[1], out[3])
    assert (out[0, :, -1].diff() < 0).all()


def test_isotropic_fibres_give_spherical_means():
    only = {"neurite": 1.0, "extra": 0.0, "soma": 0.0, "free": 0.0, "dot": 0.0}
    s = state(0.0, [0.0, 0.0, 1.0], order=0, **only)
    assert s.odf.item() == pytest.approx(1 / math.sqrt(4 * math.pi))
    b = torch.tensor([0.0, 1.0, 3.0]).double()
    torch.testing.assert_close(signal(s, acquisition((0, 1000, 3000))), c.stick_mean(b, 2.2))
