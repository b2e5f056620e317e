"""Prior times data, what is read off the product, and the prior's habits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_codebook import coefficients, one_thread, shells, tiny_space, tissue  # noqa: F401

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.brain.directions import spread
from DMRIMicroLib.codebooks.gaussian import FAR, Joint, surprise
from DMRIMicroLib.codebooks.invariants import INVARIANTS, invariants, signed_root
from DMRIMicroLib.codebooks.network import GROUP, GROUPS, RANKS, Prior
from DMRIMicroLib.codebooks.recalibrate import RANGE, Habits, Said, find_habits
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.physics.tissue import signal
from DMRIMicroLib.signals.evidence import evidence

SPACE = tiny_space()
EYE = torch.eye(3, dtype=torch.float64)
C = SPACE.channels
G = spread(60, torch.Generator().manual_seed(3)).double()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(acq: Acquisition, n: int, noise: float, exact: bool = False):
    """What a scan says of random tissue, and the tissue's numbers: (c, c), (n, c), (n,), (n, c)."""
    state = tissue(n, seed=7)
    ratio = signal(state, acq).T
    if not exact:
        ratio = ratio + noise * torch.randn(ratio.shape, generator=seeded())
    told = evidence(SPACE, ratio, torch.full((n,), noise), acq, EYE)
    numbers = SPACE.encode(coefficients(state))
    return told.matrix.float(), told.vector.T.contiguous(), told.noise, numbers


# prior times data


def test_groups_are_those_of_the_space():
    assert GROUP.tolist() == SPACE.groups.tolist()
    assert RANKS == tuple(part.shape[1] for part in SPACE.components)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_product_is_that_of_the_textbook(count):
    g = seeded()
    design = torch.randn(9, C, generator=g, dtype=torch.float64)
    y = torch.randn(6, 9, generator=g, dtype=torch.float64)
    noise = torch.rand(6, generator=g, dtype=torch.float64) + 0.1
    mean = torch.randn(6, C, generator=g, dtype=torch.float64)
    prior = torch.rand(6, C, generator=g, dtype=torch.float64) + 0.1
    factors = torch.randn(6, C, count, generator=g, dtype=torch.float64)
    found = Joint(mean, prior, factors, design.T @ design, y @ design, noise).posterior()
    for k in range(6):
        before = torch.linalg.inv(torch.diag(prior[k]) + factors[k] @ factors[k].T)
        covariance = torch.linalg.inv(before + design.T @ design / noise[k] ** 2)
        told = covariance @ (before @ mean[k] + design.T @ y[k] / noise[k] ** 2)
        torch.testing.assert_close(found.mean[k], told)
        torch.testing.assert_close(found.variance[k], covariance.diagonal())


def test_single_precision_is_enough_at_any_snr_and_prior():
    """At the best SNR that is believed, with the widest and the narrowest priors beside another."""
    acq = shells(500.0, 1000.0, 2000.0, 3000.0, count=90, b0=10)
    matrix, vector, noise, numbers = data(acq, 40, 1 / 200)
    log = -6 + 9 * torch.rand(40, GROUPS, generator=seeded())
    prior = log.exp()[:, GROUP]
    factors = torch.randn(40, C, 2, generator=seeded(2))
    mean = numbers + prior.sqrt() * torch.randn(numbers.shape, generator=seeded(1))
    single = Joint(mean, prior, factors, matrix, vector, noise).posterior()
    double = Joint(*(v.double() for v in (mean, prior, factors, matrix, vector, noise))).posterior()
    spread_ = double.variance.sqrt()
    assert float(((single.mean - double.mean) / spread_).abs().max()) < 0.05
    torch.testing.assert_close(single.variance.double(), double.variance, rtol=1e-2, atol=0)


def test_without_data_the_prior_stays():
    mean = torch.randn(5, C, generator=seeded())
    prior = torch.rand(5, C, generator=seeded(1)) + 0.01
    factors = torch.randn(5, C, 2, generator=seeded(2))
    none = torch.zeros(C, C), torch.zeros(5, C), torch.full((5,), 0.02)
    found = Joint(mean, prior, factors, *none).posterior()
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.variance, prior + factors.square().sum(2))


def test_many_volumes_override_a_wrong_prior_and_few_do_not():
    asked = shells(1000.0, 2000.0, count=20, b0=0)
    design = SPACE.design(asked, EYE)[0].float()
    wrong = {}
    for count in (3, 90):
        acq = shells(500.0, 1000.0, 2000.0, 3000.0, count=count)
        matrix, vector, noise, numbers = data(acq, 50, 0.005, exact=True)
        wide = torch.full((50, C), 0.5), torch.zeros(50, C, 2)
        found = Joint(numbers + 1, *wide, matrix, vector, noise).posterior()
        wrong[count] = float(((found.mean - numbers) @ design.T).square().mean().sqrt())
    before = float((torch.ones(1, C) @ design.T).square().mean().sqrt())
    assert wrong[90] < 0.05 * before
    assert wrong[3] > 3 * wrong[90]


def test_the_variance_is_that_of_the_errors():
    acq = shells(1000.0, 2000.0, count=12)
    design, offset, _ = SPACE.design(acq.subset(range(1, len(acq))), EYE)
    n, noise, prior = 3000, 0.05, 0.3
    truth = prior**0.5 * torch.randn(n, C, generator=seeded(), dtype=torch.float64)
    factors = 0.5 * torch.randn(1, C, 2, generator=seeded(2), dtype=torch.float64)
    truth = truth + torch.randn(n, 2, generator=seeded(3), dtype=torch.float64) @ factors[0].T
    y = truth @ design.T + noise * torch.randn(n, len(design), generator=seeded(1)).double()
    found = Joint(
        torch.zeros_like(truth),
        torch.full_like(truth, prior),
        factors.expand(n, -1, -1),
        design.T @ design,
        y @ design,
        torch.full((n,), noise, dtype=torch.float64),
    ).posterior()
    ratio = (found.mean - truth).square().mean(0) / found.variance.mean(0)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=0.15, rtol=0)
    assert len(offset) == len(design)


def test_what_data_say_of_one_number_is_believed_of_those_that_change_with_it():
    """Data of the first number alone: the second, of the same factor, follows it."""
    matrix = torch.zeros(C, C)
    matrix[0, 0] = 1.0
    vector = torch.zeros(1, C)
    vector[0, 0] = 2.0  # measured with a noise that is as good as none
    factors = torch.zeros(1, C, 2)
    factors[0, :2, 0] = torch.tensor([1.0, -3.0])
    small = torch.full((1, C), 1e-3)
    found = Joint(
        torch.zeros(1, C), small, factors, matrix, vector, torch.full((1,), 1e-2)
    ).posterior()
    wanted = torch.zeros(1, C)
    wanted[0, :2] = torch.tensor([2.0, -6.0])
    torch.testing.assert_close(found.mean, wanted, atol=0.02, rtol=0)
    assert float(found.variance[0, 1]) < 0.02
    alone = Joint(torch.zeros(1, C), small, 0 * factors, matrix, vector, torch.ones(1)).posterior()
    assert float(alone.mean[0, 1]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_surprise_is_the_likelihood_of_the_textbook(dtype):
    g = seeded(5)
    mean, variance, factors = prior_of(50, g)
    covariance = torch.diag_embed(variance) + factors @ factors.mT
    told = torch.distributions.MultivariateNormal(mean, covariance)
    truth = told.sample()
    found = surprise(*(v.to(dtype) for v in (truth, mean, variance, factors)))
    assert found.dtype == dtype
    wanted = -told.log_prob(truth) / C
    exact = dtype == torch.float64
    tolerance = {"atol": 1e-9, "rtol": 1e-9} if exact else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(found.double(), wanted, **tolerance)
    assert float(found.std()) > 0.05


def test_far_truths_cost_less_than_a_gaussian_says_and_stay_finite():
    mean, variance, factors = prior_of(8, seeded(6))
    away = torch.randn(8, C, generator=seeded(7), dtype=torch.float64)
    covariance = torch.diag_embed(variance) + factors @ factors.mT
    told = torch.distributions.MultivariateNormal(mean, covariance)
    squared = torch.einsum("ni,nij,nj->n", away, torch.linalg.inv(covariance), away)
    away = away / squared.sqrt()[:, None] * (FAR * C**0.5)  # at the limit
    for factor in (0.5, 0.99):
        truth = mean + factor * away
        torch.testing.assert_close(
            surprise(truth, mean, variance, factors), -told.log_prob(truth) / C
        )
    costs = []
    for factor in (1.0, 2.0, 3.0, 1e3, 1e6):
        truth = (mean + factor * away).requires_grad_(True)
        cost = surprise(truth, mean, variance, factors)
        cost.sum().backward()
        assert torch.isfinite(truth.grad).all()
        costs.append(cost.detach())
    torch.testing.assert_close(costs[2] - costs[1], costs[1] - costs[0])  # linear
    torch.testing.assert_close(costs[4] - costs[0], (1e6 - 1) * (costs[1] - costs[0]))
    # as steep at the limit as before it
    step = 1e-4
    before, after = (
        surprise(mean + (1 + d) * away, mean, variance, factors) for d in (-step, step)
    )
    torch.testing.assert_close(
        (after - costs[0]) / step, (costs[0] - before) / step, rtol=1e-3, atol=0
    )
    single = (v.float() for v in (mean + 1e6 * away, mean, variance, factors))
    assert torch.isfinite(surprise(*single)).all()


def test_samples_are_those_of_the_posterior():
    g, n = seeded(8), 5000
    mean, variance, factors = (v.expand(n, *v.shape[1:]) for v in prior_of(1, g))
    design = torch.randn(9, C, generator=g, dtype=torch.float64)
    vector = (torch.randn(1, 9, generator=g, dtype=torch.float64) @ design).expand(n, -1)
    data = design.T @ design, vector, torch.full((n,), 0.5, dtype=torch.float64)
    normal = torch.randn(n, C + 2, generator=g, dtype=torch.float64)
    samples = Joint(mean, variance, factors, *data).draw(normal)
    before = torch.linalg.inv(torch.diag(variance[0]) + factors[0] @ factors[0].T)
    covariance = torch.linalg.inv(before + data[0] / 0.5**2)
    told = covariance @ (before @ mean[0] + vector[0] / 0.5**2)
    torch.testing.assert_close(samples.mean(0), told, atol=0.04, rtol=0)
    torch.testing.assert_close(samples.T.cov(), covariance, atol=0.04, rtol=0)
    whole = Joint(mean, variance, factors, *data).posterior()
    alone = Joint(mean, variance, factors, *data).draw(torch.zeros_like(normal))
    torch.testing.assert_close(alone, whole.mean)


def test_priors_sample_voxels_by_themselves_and_by_their_generator():
    mean, variance, factors = prior_of(6, seeded(1))
    prior = Prior(mean, variance[:, :GROUPS], factors, torch.zeros(6, 2))
    data = torch.eye(C).double(), torch.zeros(6, C).double(), torch.ones(6).double()
    one, again, other = (prior.draw(*data, seeded(k)) for k in (0, 0, 1))
    assert torch.equal(one, again)
    assert one.shape == mean.shape
    assert not torch.equal(one, other)


def test_unlikeliness_is_the_probability_of_the_data():
    """-log N(y; A mean, A C A' + s^2) less that of z = 0 known for sure."""
    g, s = seeded(9), 0.4
    mean, variance, factors = prior_of(7, g)
    design = torch.randn(9, C, generator=g, dtype=torch.float64)
    y = torch.randn(7, 9, generator=g, dtype=torch.float64)
    noise = torch.full((7,), s, dtype=torch.float64)
    found = Joint(mean, variance, factors, design.T @ design, y @ design, noise).unlikeliness()
    covariance = torch.diag_embed(variance) + factors @ factors.mT
    white = s**2 * torch.eye(9, dtype=torch.float64)
    of_data = torch.distributions.MultivariateNormal(
        mean @ design.T, design @ covariance @ design.T + white
    )
    none = torch.distributions.MultivariateNormal(torch.zeros(7, 9).double(), white)
    torch.testing.assert_close(found, none.log_prob(y) - of_data.log_prob(y))


def prior_of(n: int, g: torch.Generator):
    """Mean, variance and factors of random priors."""
    mean = torch.randn(n, C, generator=g, dtype=torch.float64)
    variance = torch.rand(n, C, generator=g, dtype=torch.float64) + 0.05
    factors = 0.5 * torch.randn(n, C, 2, generator=g, dtype=torch.float64)
    return mean, variance, factors


# invariants


def turned(numbers: torch.Tensor, seed: int) -> torch.Tensor:
    """Numbers of the turned head, f'(g) = f(R'g), found by sampling directions: (n, 22)."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    there, here = (sh_basis(g, 4) for g in (G @ torch.from_numpy(q), G))
    rotation = torch.linalg.pinv(here) @ there  # (15, 15), of coefficients
    out, first = [], 0
    for n, rank in enumerate(RANKS):
        size, start = 4 * n + 1, (0, 1, 6)[n]
        part = numbers[:, first : first + rank * size].unflatten(1, (rank, size))
        own = rotation[start : start + size, start : start + size].to(numbers)
        out.append((part @ own.T).flatten(1))
        first += rank * size
    return torch.cat(out, 1)


@pytest.mark.parametrize("seed", range(3))
def test_invariants_do_not_turn_with_the_head(seed):
    numbers = torch.randn(200, C, generator=seeded(seed), dtype=torch.float64)
    there = turned(numbers, seed)
    assert float((there - numbers)[:, 3:].abs().mean()) > 0.5
    one, other = invariants(numbers), invariants(there)
    assert one.shape == (200, INVARIANTS)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert float(one.std(0).min()) > 0.1  # each tells voxels apart


def test_invariants_of_a_single_fibre_are_known():
    """Series -c_l P_l(g n): eigenvalues c, -c/2, -c/2, along the fibre -c, 4 pi / (2 l + 1) c^2."""
    axis = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.8]]).double(), dim=1)
    x = (G @ axis.T)[:, 0]
    second = (3 * x**2 - 1) / 2
    fourth = (35 * x**4 - 30 * x**2 + 3) / 8
    inverse = torch.linalg.pinv(sh_basis(G, 4))
    series = [-0.8 * second, 0.3 * second, 0.5 * fourth]
    first, other, last = (inverse @ v for v in series)
    zero = torch.tensor([0.1, -2.0, 3.0]).double()
    numbers = torch.cat([zero, first[1:6], other[1:6], last[6:]])[None]
    power = [-0.8 * 0.3 * 4 * math.pi / 5, 0.64 * 4 * math.pi / 5, 0.09 * 4 * math.pi / 5]
    power.append(0.25 * 4 * math.pi / 9)
    roots = [math.copysign(math.sqrt(abs(v)), v) for v in power]
    told = [0.1, -2.0, 3.0, 0.8, -0.4, -0.4, -0.8, 0.3, 0.5, *roots]
    wanted = torch.tensor([told], dtype=torch.float64)
    torch.testing.assert_close(invariants(numbers), wanted, atol=2e-4, rtol=0)


def test_invariants_have_a_derivative_where_there_is_no_fibre():
    numbers = torch.zeros(2, C, requires_grad=True)
    invariants(numbers).sum().backward()
    assert torch.isfinite(numbers.grad).all()
    assert float(signed_root(torch.tensor(-4.0))) == pytest.approx(-2, abs=1e-3)


# habits


def said(
    habits: Habits,
    acq: Acquisition,
    n: int,
    noise: float,
    variance: float,
    seed: int = 0,
    together: float = 0.0,
) -> Said:
    """A slice whose tissue differs by `habits` from what its prior expects."""
    g = seeded(seed)
    mean = torch.randn(n, C, generator=g)
    mean[:, 3:] *= 0.7
    factors = together * torch.randn(n, C, 2, generator=g)
    prior = Prior(mean, torch.full((n, GROUPS), variance), factors, torch.zeros(n, 2))
    true = habits.corrected(prior)
    truth = true.mean + true.variance[:, GROUP].sqrt() * torch.randn(n, C, generator=g)
    truth = truth + (true.factors @ torch.randn(n, 2, 1, generator=g))[..., 0]
    design = SPACE.design(acq.subset(range(1, len(acq))), EYE)[0].float()
    y = truth @ design.T + noise * torch.randn(n, len(design), generator=g)
    return Said(prior, design.T @ design, y @ design, torch.full((n,), noise))


def planted() -> Habits:
    none = Habits.none(torch.zeros(1))
    zeroth = none.zeroth.clone()
    zeroth[:, 3] = torch.tensor([0.6, -0.4, 0.3])
    zeroth[0, 0], zeroth[1, 0] = 0.8, 0.25
    factor = torch.tensor([3.0, 1.0, 1.0, 2.0, 1.0, 0.5])
    return Habits(zeroth, (1.3 * none.higher[0], none.higher[1]), factor)


DENSE = shells(500.0, 1000.0, 2000.0, 3000.0, count=30)


@pytest.mark.parametrize("together", [0.0, 0.2])
def test_planted_habits_are_found(together):
    habits = planted()
    slices = [said(habits, DENSE, 2500, 0.01, 0.1, seed, together) for seed in range(2)]
    found = find_habits(slices)
    torch.testing.assert_close(found.zeroth, habits.zeroth, atol=0.06, rtol=0)
    for one, other in zip(found.higher, habits.higher, strict=True):
        torch.testing.assert_close(one, other, atol=0.06, rtol=0)
    torch.testing.assert_close(found.factor.log(), habits.factor.log(), atol=0.25, rtol=0)


def test_a_right_prior_is_left_nearly_alone():
    none = Habits.none(torch.zeros(1))
    for acq in (DENSE, shells(1000.0, count=6)):
        slices = [said(none, acq, 2500, 0.03, 0.1, seed, 0.2 * seed) for seed in range(2)]
        found = find_habits(slices)
        torch.testing.assert_close(found.zeroth, none.zeroth, atol=0.04, rtol=0)
        for one, other in zip(found.higher, none.higher, strict=True):
            torch.testing.assert_close(one, other, atol=0.04, rtol=0)
        assert float(found.factor.log().abs().max()) < 0.2


def test_corrected_priors_are_nearer_the_truth_than_before():
    """In the signals that the scan tells of; it does not tell the components apart."""
    habits, acq = planted(), shells(1000.0, count=12)
    seen = said(habits, acq, 4000, 0.03, 0.1)
    design = SPACE.design(acq.subset(range(1, len(acq))), EYE)[0].float()
    truth = habits.corrected(seen.prior).mean
    told = find_habits([seen]).corrected(seen.prior).mean
    before, after = (((v - truth) @ design.T).square().mean() for v in (seen.prior.mean, told))
    assert after < 0.05 * before


def test_without_data_there_are_no_habits():
    seen = said(planted(), DENSE, 500, 0.01, 0.1)
    empty = Said(seen.prior, 0 * seen.matrix, 0 * seen.vector, seen.noise)
    found, none = find_habits([empty]), Habits.none(torch.zeros(1))
    torch.testing.assert_close(found.zeroth, none.zeroth, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.factor, none.factor, atol=1e-3, rtol=0)


def test_few_voxels_change_little_and_nonsense_stays_in_range():
    few = said(planted(), DENSE, 5, 0.01, 0.1)
    found = find_habits([few])
    assert float((found.zeroth - Habits.none(torch.zeros(1)).zeroth).abs().max()) < 0.2
    odd = Said(few.prior, few.matrix, 1e4 * few.vector, few.noise)
    wild = find_habits([odd])
    assert all(torch.isfinite(v).all() for v in (wild.zeroth, *wild.higher, wild.factor))
    assert RANGE[0] <= float(wild.factor.min())
    assert float(wild.factor.max()) <= RANGE[1] * (1 + 1e-6)


def test_no_habits_leave_a_prior_as_it_is():
    prior = said(planted(), DENSE, 9, 0.01, 0.1, together=0.3).prior
    same = Habits.none(torch.zeros(1)).corrected(prior)
    torch.testing.assert_close(same.mean, prior.mean)
    torch.testing.assert_close(same.variance, prior.variance)
    torch.testing.assert_close(same.factors, prior.factors)


def test_a_prior_that_is_twice_as_wide_is_so_in_every_direction():
    """Variances and factors: the covariance is a multiple where components have one factor."""
    prior = said(planted(), DENSE, 4, 0.01, 0.1, together=0.3).prior
    none = Habits.none(torch.zeros(1))
    wide = Habits(none.zeroth, none.higher, 2 * none.factor).corrected(prior)
    one, two = (
        torch.diag_embed(v.variance[:, GROUP]) + v.factors @ v.factors.mT for v in (prior, wide)
    )
    torch.testing.assert_close(two, 2 * one)
