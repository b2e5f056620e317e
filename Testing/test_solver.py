"""The batched nonlinear solver: optimum, bounds, prior, likelihood, covariance."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from phantom import protocol

from DMRIMicroLib.fitting.likelihood import Likelihood
from DMRIMicroLib.fitting.prior import Prior
from DMRIMicroLib.fitting.solver import LevenbergMarquardt
from DMRIMicroLib.maps import Metric
from DMRIMicroLib.models import MODELS
from DMRIMicroLib.models.base import NonlinearModel, Parameter
from DMRIMicroLib.physics.weighting import weighting

ACQ = protocol({700.0: 12, 1500.0: 12, 2500.0: 12}, b0=4)


@dataclass(frozen=True)
class TwoBalls(NonlinearModel):
    """S0 [f exp(-b d) + (1 - f) exp(-3 b)]: small enough to solve by hand."""

    name: ClassVar[str] = "two-balls"
    title: ClassVar[str] = "Two balls"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("f_slow", "Slow fraction"),)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("f", 0.0, 1.0),
        Parameter("d", 0.1, 2.5, "um2/ms"),
        Parameter("S0", 0.0, 5.0),
    )

    def signal(self, acq, parameters):
        f, d, s0 = parameters
        b = weighting(acq, parameters).b[:, None]
        return s0 * (f * torch.exp(-b * d) + (1 - f) * torch.exp(-3 * b))

    def start(self, acq, signal):
        return torch.tensor([0.5, 1.0, 1.0]).to(signal)[:, None].repeat(1, signal.shape[1])[None]

    def derive(self, parameters):
        return {"f_slow": parameters[0]}


def draw(n: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Parameters of `TwoBalls`: (3, n)."""
    r = torch.rand(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = torch.tensor([[0.3, 0.4, 0.9], [0.95, 1.5, 1.1]], dtype=torch.float64)
    return (low[:, None] + (high - low)[:, None] * r).to(dtype)


def noisy(signal: torch.Tensor, sigma: float, seed: int = 0) -> torch.Tensor:
    """Rician noise on (m, n), returned as (n, m)."""
    g = torch.Generator().manual_seed(seed)
    real, imaginary = torch.randn(2, *signal.shape, generator=g, dtype=torch.float64) * sigma
    return torch.hypot(signal + real.to(signal), imaginary.to(signal)).T.contiguous()


def solver(likelihood: str = "gaussian", **options) -> LevenbergMarquardt:
    return LevenbergMarquardt(TwoBalls(), ACQ, Likelihood(likelihood), **options)


def test_finds_the_truth_without_noise():
    x = draw(500, dtype=torch.float32)
    found = solver().fit(TwoBalls().signal(ACQ, x).T.contiguous(), 1e-3)
    assert found.good.all()
    assert found.converged.all()
    torch.testing.assert_close(found.parameters, x, atol=2e-4, rtol=0)


def test_least_squares_equals_scipy():
    from scipy.optimize import least_squares

    y = noisy(TwoBalls().signal(ACQ, draw(12)), 0.05)
    found = solver().fit(y, 0.05).parameters.T
    for row, ours in zip(y, found, strict=True):

        def residual(p, row=row):
            predicted = TwoBalls().signal(ACQ, torch.tensor(p)[:, None])[:, 0]
            return (predicted - row).numpy()

        theirs = least_squares(residual, [0.5, 1.0, 1.0], bounds=([0, 0.1, 0], [1, 2.5, 5]))
        cost = (residual(ours.numpy()) ** 2).sum() / 2
        assert cost <= theirs.cost * (1 + 1e-6) + 1e-7
        np.testing.assert_allclose(ours, theirs.x, atol=2e-3)


def test_rests_on_a_bound_that_the_data_push_against():
    x = torch.tensor([[1.3], [0.8], [1.0]])  # slower than any share of two balls can be
    found = solver().fit(TwoBalls().signal(ACQ, x).T.contiguous(), 0.02)
    assert found.converged.all()
    assert found.parameters[0] == 1.0
    assert (found.parameters[1] > 0.1).all()


def test_without_sigma_the_optimum_is_the_same():
    y = noisy(TwoBalls().signal(ACQ, draw(200)), 0.04)
    with_sigma = solver().fit(y, 0.04).parameters
    torch.testing.assert_close(solver().fit(y).parameters, with_sigma, atol=3e-3, rtol=0)


def test_a_rician_likelihood_takes_the_bias_of_low_signals_away():
    x = torch.tensor([[0.9], [1.2], [1.0]], dtype=torch.float64).repeat(1, 4000)
    y = noisy(TwoBalls().signal(ACQ, x), 0.12)
    bias = {
        kind: (solver(kind).fit(y, 0.12).parameters[1].median() - 1.2).item()
        for kind in ("gaussian", "rician")
    }
    assert bias["gaussian"] < -0.1
    assert abs(bias["rician"]) < 0.06


def test_the_rician_optimum_has_the_best_likelihood():
    from scipy.stats import rice

    sigma = 0.15
    y = noisy(TwoBalls().signal(ACQ, draw(20)), sigma)
    found = solver("rician").fit(y, sigma).parameters
    directions = torch.randn(3, 60, generator=torch.Generator().manual_seed(2))

    def cost(p):
        s = TwoBalls().signal(ACQ, p).T.numpy()
        return -rice.logpdf(y.numpy(), s / sigma, scale=sigma).sum(1)

    best = cost(found)
    for d in directions.T.double():
        moved = found + 0.02 * d[:, None]
        moved[0].clamp_(0, 1)
        assert (cost(moved) >= best - 2e-3).all()


def test_covariance_is_that_of_repeated_noise():
    x = torch.tensor([[0.7], [0.8], [1.0]], dtype=torch.float64).repeat(1, 3000)
    for kind, sigma in (("gaussian", 0.02), ("rician", 0.05)):
        found = solver(kind).fit(noisy(TwoBalls().signal(ACQ, x), sigma), sigma, covariance=True)
        told = found.covariance[range(3), range(3)].sqrt().median(1).values
        seen = found.parameters.std(1)
        torch.testing.assert_close(told, seen, rtol=0.12, atol=0)


def test_without_sigma_the_covariance_comes_from_the_residuals():
    y = noisy(TwoBalls().signal(ACQ, draw(500)), 0.02)
    known = solver().fit(y, 0.02, covariance=True).covariance
    told = solver().fit(y, covariance=True).covariance
    ratio = (told[0, 0] / known[0, 0]).median()
    assert 0.8 < ratio < 1.25


def test_a_strong_prior_wins_and_a_weak_one_does_not():
    y = noisy(TwoBalls().signal(ACQ, draw(50)), 0.02)
    mean = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)[:, None]
    free = solver().fit(y, 0.02).parameters
    for precision, nearness in ((1e8, 1e-2), (1e-6, None)):
        prior = Prior(mean, precision * torch.eye(3, dtype=torch.float64)[..., None])
        held = solver().fit(y, 0.02, prior=prior).parameters
        if nearness:
            assert (held - mean).abs().max() < nearness
        else:
            torch.testing.assert_close(held, free, atol=2e-3, rtol=0)


def test_a_prior_per_voxel_solves_the_penalised_problem():
    """The optimum of data and prior: the gradient of the whole vanishes."""
    x = draw(30)
    y = noisy(TwoBalls().signal(ACQ, x), 0.05)
    g = torch.Generator().manual_seed(1)
    mean = draw(30, seed=5)
    a = torch.randn(3, 3, 30, generator=g, dtype=torch.float64) * 5
    precision = torch.einsum("ijn,kjn->ikn", a, a)
    found = solver().fit(y, 0.05, prior=Prior(mean, precision)).parameters
    leaf = found.clone().requires_grad_()
    away = leaf - mean
    cost = ((TwoBalls().signal(ACQ, leaf).T - y) ** 2).sum() / 0.05**2
    cost = cost + torch.einsum("in,ijn,jn->", away, precision, away)
    (gradient,) = torch.autograd.grad(cost, leaf)
    inside = (found[0] > 1e-6) & (found[0] < 1 - 1e-6) & (found[1] > 0.101) & (found[1] < 2.499)
    scale = precision[range(3), range(3)].sqrt() + 20
    assert inside.sum() > 20
    assert ((gradient.abs() / scale)[:, inside] < 0.05).all()


def test_counts_weigh_the_samples():
    y = noisy(TwoBalls().signal(ACQ, draw(40)), 0.05)
    counts = torch.ones_like(y)
    counts[:, ::3] = 3
    kept = [v for v in range(len(ACQ)) for _ in range(3 if v % 3 == 0 else 1)]
    repeated = LevenbergMarquardt(TwoBalls(), ACQ.subset(kept), Likelihood("gaussian"))
    torch.testing.assert_close(
        solver().fit(y, 0.05, counts=counts).parameters,
        repeated.fit(y[:, kept].contiguous(), 0.05).parameters,
        atol=2e-3,
        rtol=0,
    )


def test_unusable_samples_count_nothing_and_too_few_are_said():
    x = draw(40, dtype=torch.float32)
    y = TwoBalls().signal(ACQ, x).T.contiguous()
    y[:, 7], y[:, 9], y[:, 30] = 0, torch.nan, torch.inf
    y[0] = 0
    found = solver().fit(y, 1e-3)
    assert not found.good[0]
    assert found.good[1:].all()
    assert (found.usable[1:] == len(ACQ) - 3).all()
    torch.testing.assert_close(found.parameters[:, 1:], x[:, 1:], atol=5e-4, rtol=0)


def test_robust_weights_leave_outliers_out():
    x = draw(300, dtype=torch.float64)
    y = noisy(TwoBalls().signal(ACQ, x), 0.02)

    def error(**options) -> float:
        found = solver(**options).fit(y, 0.02).parameters
        return (TwoBalls().signal(ACQ, found) - TwoBalls().signal(ACQ, x)).square().mean().item()

    clean = error()
    y[:, 5::11] *= 0.4
    assert error() > 5 * clean
    assert error(robust=True) < 1.5 * clean


def test_several_starts_keep_the_best():
    y = noisy(TwoBalls().signal(ACQ, draw(50)), 0.02)
    good = TwoBalls().start(ACQ, y.T)[0]
    poor = torch.tensor([0.0, 2.5, 5.0], dtype=torch.float64)[:, None].repeat(1, 50)
    both = solver().fit(y, 0.02, start=torch.stack([poor, good])).parameters
    torch.testing.assert_close(both, solver().fit(y, 0.02).parameters, atol=3e-3, rtol=0)


@pytest.mark.parametrize("name", ["noddi", "ballstick"])
def test_directions_stay_unit_vectors_and_have_no_variance_along_themselves(name):
    model = MODELS[name]
    acq = protocol({1000.0: 30, 2000.0: 30}, b0=3)
    rows = next(model.rows[p.name] for p in model.parameters if p.size == 3)
    x = torch.full((sum(p.size for p in model.parameters), 64), 0.4)
    axis = torch.randn(3, 64, generator=torch.Generator().manual_seed(3))
    x[rows], x[-1] = axis / axis.norm(dim=0), 1
    y = noisy(model.signal(acq, x), 0.03)
    fit = LevenbergMarquardt(model, acq, Likelihood("gaussian")).fit(y, 0.03, covariance=True)
    v = fit.parameters[rows]
    torch.testing.assert_close(v.norm(dim=0), torch.ones(64), atol=1e-5, rtol=0)
    along = torch.einsum("in,ijn,jn->n", v, fit.covariance[rows, rows], v)
    assert (along.abs() < 1e-5).all()
    angle = torch.rad2deg(torch.acos((v * x[rows]).sum(0).abs().clamp(max=1)))
    assert angle.median() < 15
