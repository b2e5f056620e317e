"""Kurtosis: against its definition, against dipy, in awkward voxels, and its derivatives."""

from itertools import product

import numpy as np
import pytest
import torch
from phantom import directions, protocol

import DMRIMicroLib as dm
from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.fitting.linear import WeightedLeastSquares
from DMRIMicroLib.fitting.outcome import outcome
from DMRIMicroLib.fitting.result import Fitted
from DMRIMicroLib.models.dki import DKI, ELEMENTS, _turn
from DMRIMicroLib.models.dti import DTI

CPU = torch.device("cpu")
AXES = [tuple("xyz".index(axis) for axis in name) for name in ELEMENTS]


def full(quartic):
    """Symmetric tensor of fourth order with all its 81 elements: (15,) -> (3, 3, 3, 3)."""
    out = np.zeros((3, 3, 3, 3))
    for index in product(range(3), repeat=4):
        out[index] = quartic[AXES.index(tuple(sorted(index)))]
    return out


def matrix(p):
    """(6,) xx, yy, zz, xy, xz, yz -> (3, 3)."""
    return np.array([[p[0], p[3], p[4]], [p[3], p[1], p[5]], [p[4], p[5], p[2]]])


def sphere(count=80):
    """Directions and weights of a product rule that is exact to rounding here."""
    z, weight = np.polynomial.legendre.leggauss(count)
    angle = (np.arange(2 * count) + 0.5) * np.pi / count
    z, angle = np.repeat(z, 2 * count), np.tile(angle, count)
    s = np.sqrt(1 - z * z)
    n = np.stack([s * np.cos(angle), s * np.sin(angle), z], 1)
    return n, np.repeat(weight, 2 * count) / (4 * count)


def kurtosis(p, n):
    """K(n) = V(n) / D(n)^2 written out: (22,), (k, 3) -> (k,)."""
    pair = (n[:, :, None] * n[:, None]).reshape(-1, 9)
    v = ((pair @ full(p[6:21]).reshape(9, 9)) * pair).sum(1)
    return v / (pair @ matrix(p[:6]).ravel()) ** 2


def by_definition(p):
    """MK, AK, RK of one voxel as averages of K(n): the slow reference of `DKI.derive`."""
    n, weight = sphere()
    _, axes = np.linalg.eigh(matrix(p[:6]))
    angle = (np.arange(400) + 0.5)[:, None] * np.pi / 400
    circle = np.cos(angle) * axes[:, 0] + np.sin(angle) * axes[:, 1]
    return {
        "MK": (weight * kurtosis(p, n)).sum(),
        "AK": kurtosis(p, axes[:, 2:].T)[0],
        "RK": kurtosis(p, circle).mean(),
    }


def tissue(n, seed=0):
    """Random parameters with eigenvalues of 0.2 to 2.5 um2/ms: (22, n) float64."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    values = rng.uniform(0.2, 2.5, (n, 3))
    values[: n // 4, 2] = values[: n // 4, 1] = values[: n // 4].min(1)  # one fibre direction
    values[: n // 4, 0] += 0.1
    d = np.einsum("nik,nk,njk->nij", turn, values, turn)
    tensor = d[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    return torch.tensor(
        np.concatenate([tensor, rng.normal(0.3, 0.5, (n, 15)), np.full((n, 1), 6.0)], 1).T
    )


def test_signal_is_the_series_written_out():
    acq = protocol({1000.0: 30, 2000.0: 30})
    p = tissue(1)
    d, v = matrix(p[:6, 0].numpy()), full(p[6:21, 0].numpy())
    for g, b, s in zip(acq.bvecs, acq.bvals / 1e3, DKI().signal(acq, p)[:, 0], strict=True):
        exponent = -b * (g @ d @ g) + b**2 / 6 * np.einsum("ijkl,i,j,k,l->", v, g, g, g, g)
        assert np.log(s) == pytest.approx(6 + exponent, abs=1e-12)


def test_a_weighting_without_a_direction_is_averaged_over_the_sphere():
    acq = protocol({1000.0: 30, 2000.0: 30})
    weak = Acquisition(np.append(acq.bvals, 40.0), np.append(acq.bvecs, [[0, 0, 0]], 0))
    n, weight = sphere(12)
    every = DKI().design(Acquisition(np.full(len(n), 40.0), n))
    torch.testing.assert_close(DKI().design(weak)[-1], torch.tensor(weight) @ every)


def test_kurtoses_are_the_averages_that_define_them():
    p = tissue(40)
    ours = DKI().derive(p)
    single = DKI().derive(p.float())
    for k in range(p.shape[1]):
        for name, truth in by_definition(p[:, k].numpy()).items():
            assert ours[name][k] == pytest.approx(truth, abs=1e-9), (name, k)
            assert single[name][k] == pytest.approx(truth, abs=2e-5, rel=2e-5), (name, k)


@pytest.mark.parametrize(("ratio", "limit"), [(30, 1e-9), (100, 1e-7), (900, 1e-3)])
def test_mean_kurtosis_holds_for_thin_tensors(ratio, limit):
    """Against a quadrature in the eigenframe with very many nodes."""
    values = np.array([1.0, 0.3, 1 / ratio])
    p = torch.zeros(22, 1, dtype=torch.float64)
    p[:3, 0], p[6:21, 0] = torch.tensor(values), torch.arange(15.0).double() / 15
    t = np.exp(np.linspace(-25, 45, 20001))
    m = 1 / (1 + 2 * t[:, None] * values)
    v = full(p[6:21, 0].numpy())
    inner = np.einsum("iijj,ai,aj->a", v, m, m) * 3 * t * np.sqrt(m.prod(1))
    truth = np.trapezoid(inner * t, np.log(t))
    assert DKI().derive(p)["MK"].item() == pytest.approx(truth, rel=limit)


def test_two_isotropic_compartments_have_the_kurtosis_of_their_variance():
    """K = 3 var(D) / mean(D)^2: Jensen et al. 2005."""
    d, f = np.array([0.5, 2.0]), np.array([0.6, 0.4])
    mean, variance = f @ d, f @ d**2 - (f @ d) ** 2
    p = torch.zeros(22, 1, dtype=torch.float64)
    p[:3] = mean
    p[6:9], p[15:18] = 3 * variance, variance
    for value in DKI().derive(p).values():
        assert value.item() == pytest.approx(3 * variance / mean**2, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recovers_the_truth_without_noise(dtype):
    acq = protocol({1000.0: 30, 2500.0: 30})
    p = tissue(200)
    p[6:21] *= 0.3
    signal = DKI().signal(acq, p).T
    solver = WeightedLeastSquares(DKI().design(acq), 1, device=CPU, dtype=dtype)
    found = solver.fit(signal.to(dtype))
    assert found.good.all()
    tolerance = 5e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(found.parameters.double(), p, atol=tolerance, rtol=tolerance)


def test_equals_dipy_on_the_real_scan(example):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dki import DiffusionKurtosisModel

    image, mask = example
    scan = dm.load(image, mask=mask)
    acq, signal = scan.acquisition, scan.voxels(scan.mask)
    assert len(DKI().volumes(acq)) == len(acq)
    # dipy sets unusable samples to the smallest signal; here they get no weight
    signal = signal[(signal > 0).all(1)][::8]
    table = gradient_table(acq.bvals, bvecs=acq.bvecs, b0_threshold=50)
    theirs = DiffusionKurtosisModel(table, fit_method="WLS").fit(signal)
    solver = WeightedLeastSquares(DKI().design(acq), 1, device=CPU, dtype=torch.float32)
    found = solver.fit(torch.from_numpy(signal))
    assert found.good.all()
    ours = DKI().derive(found.parameters)
    proper = theirs.evals.min(1) > 1e-5
    assert proper.mean() > 0.9
    # dipy's closed forms treat eigenvalues within 2.5 % as equal, which costs it up to 0.01
    for name, share in (("MK", 0.7), ("AK", 0.99), ("RK", 0.9)):
        value = getattr(theirs, name.lower())()
        inside = proper & (value > DKI.metrics[0].low + 1e-6) & (value < 10 - 1e-6)
        difference = np.abs(ours[name].numpy() - value)[inside]
        assert np.median(difference) < 1e-4, name
        assert np.mean(difference < 1e-4) > share, name
        assert np.percentile(difference, 99) < 1e-2, name


def test_equals_the_averages_of_dipys_tensors_where_dipy_itself_does_not(example):
    """99 of 100 real voxels lie within 1e-4 of the definition, computed from dipy's own fit."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dki import DiffusionKurtosisModel

    image, mask = example
    scan = dm.load(image, mask=mask)
    acq, signal = scan.acquisition, scan.voxels(scan.mask)
    signal = signal[(signal > 0).all(1)][::40]
    table = gradient_table(acq.bvals, bvecs=acq.bvecs, b0_threshold=50)
    fit = DiffusionKurtosisModel(table, fit_method="WLS").fit(signal)
    solver = WeightedLeastSquares(DKI().design(acq), 1, device=CPU, dtype=torch.float32)
    ours = DKI().derive(solver.fit(torch.from_numpy(signal)).parameters)
    differences = []
    for k in np.flatnonzero(fit.evals.min(1) > 5e-5):  # rounder than 100 : 1
        d = fit.evecs[k] @ np.diag(fit.evals[k]) @ fit.evecs[k].T * 1e3
        v = fit.kt[k] * (fit.evals[k].mean() * 1e3) ** 2
        p = np.concatenate([d[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], v, [0]])
        truth = by_definition(p)
        if all(-3 / 7 < t < 10 for t in truth.values()):
            differences.append([abs(ours[name][k].item() - t) for name, t in truth.items()])
    assert len(differences) > 150
    assert (np.mean(np.array(differences) < 1e-4, axis=0) > 0.99).all()


def test_turning_the_scan_turns_nothing():
    acq = protocol({1000.0: 30, 2000.0: 30})
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turned = Acquisition(acq.bvals, acq.bvecs @ turn.T)
    signal = DKI().signal(acq, tissue(50)).T
    found = [
        DKI().derive(
            WeightedLeastSquares(DKI().design(a), 1, device=CPU, dtype=torch.float64)
            .fit(signal)
            .parameters
        )
        for a in (acq, turned)
    ]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonsense_gives_finite_kurtoses_and_derivatives(dtype):
    rng = np.random.default_rng(0)
    p = torch.tensor(rng.normal(size=(22, 300)) * 3, dtype=dtype)  # mostly indefinite
    p[:, 0] = 0
    p[:6, 1] = -1
    p[:6, 2], p[:3, 2] = 0, 1e-4
    p[:6, 3], p[:3, 3] = 0, torch.tensor([2, 0.5, -1e-3], dtype=dtype)
    p[:6, 4], p[:3, 4] = 0, torch.tensor([2, 0, 0], dtype=dtype)
    p[:6, 5], p[:3, 5] = 0, 1  # isotropic
    p.requires_grad_()
    for model in (DKI(), DTI()):
        for name, value in model.derive(p[[*range(6), -1]] if model.name == "dti" else p).items():
            assert torch.isfinite(value).all(), name
            (gradient,) = torch.autograd.grad(value.sum(), p, retain_graph=True)
            assert torch.isfinite(gradient).all(), name


@pytest.mark.parametrize("model", [DTI(), DKI()], ids=["dti", "dki"])
def test_derivatives_of_the_metrics_are_those_of_finite_differences(model):
    p = tissue(4)
    p = torch.cat([p[:6], p[-1:]]) if model.name == "dti" else p

    def metrics(x):
        out = model.derive(x)
        out.pop("V1", None)  # its sign is arbitrary; test_linalg has it
        return tuple(out.values())

    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(metrics, (p.requires_grad_(),), **options)


def test_equal_minor_eigenvalues_do_not_spoil_the_derivatives():
    """Mean and radial kurtosis are smooth there, although the eigenvectors are not."""
    p = tissue(4, seed=1)
    p[:6], p[:3] = 0, torch.tensor([[1.7], [0.4], [0.4]])
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(DKI().derive(x).values()), (p,))


def turning(p, deviation):
    """Covariance (22, 22) of noise of one voxel's D that turns its first eigenvector, no more.

    `deviation` is that of the turn in radians towards the second and the third; they correlate.
    """
    values, axes = np.linalg.eigh(matrix(p[:6]))
    rows, columns = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    half = np.zeros((22, 2))
    for k in (1, 0):
        both = np.outer(axes[:, 2], axes[:, k])
        half[:6, 1 - k] = deviation * (values[2] - values[k]) * (both + both.T)[rows, columns]
    return half @ np.array([[1, 0.4], [0.4, 1]]) @ half.T


def fitted(p, covariance):
    """What a solver returns, with nothing else to say."""
    good = torch.ones(p.shape[1], dtype=torch.bool)
    return Fitted(p, good, good.int(), covariance=covariance)


def test_curvature_is_the_variance_that_turns_of_the_axis_add():
    """Against Monte Carlo: what is left of the change of AK, less its gradient."""
    rng = np.random.default_rng(0)
    for k, p in enumerate(tissue(12, seed=5).T):
        covariance = turning(p.numpy(), 0.003)
        sample = (
            p[:, None] + torch.tensor(rng.multivariate_normal(np.zeros(22), covariance, 20000)).T
        )
        p = p[:, None].requires_grad_()
        axial = DKI().derive(p)["AK"]
        (gradient,) = torch.autograd.grad(axial.sum(), p)
        change = DKI().derive(sample)["AK"] - axial - (gradient * (sample - p)).sum(0)
        found = DKI().curvature(p, torch.tensor(covariance)[..., None])["AK"].item()
        assert found == pytest.approx(change.square().mean().item(), rel=0.1), k


def test_the_deviation_of_axial_kurtosis_alone_has_the_curvature():
    p = tissue(50)
    covariance = torch.tensor(np.stack([turning(q, 0.1) for q in p.T.numpy()], -1))
    covariance = covariance + 1e-4 * torch.eye(22, dtype=p.dtype)[..., None]

    class Straight(DKI):
        def curvature(self, parameters, covariance):
            return {}

    bent, straight = (outcome(m, fitted(p, covariance)).deviations for m in (DKI(), Straight()))
    added = bent["AK"].square() - straight["AK"].square()
    below = bent["AK"][0] < 3  # that of a uniform spread over the range
    assert below.sum() > 40
    torch.testing.assert_close(added[0][below], DKI().curvature(p, covariance)["AK"][below])
    for name in ("MK", "RK"):
        assert torch.equal(bent[name], straight[name])


def test_intervals_of_axial_kurtosis_hold_the_truth_where_noise_turns_the_axis():
    """Grey matter: 95 % intervals of the gradient alone hold it in 69 of 100, these in 92."""
    acq = protocol({1000.0: 30, 2000.0: 60})
    p = torch.zeros(22, 1, dtype=torch.float64)
    p[:3, 0] = torch.tensor([1.05, 0.95, 0.9])
    p[6:9], p[15:18] = 0.6, 0.2
    p[6] = 0.5
    rng = np.random.default_rng(0)
    signal = DKI().signal(acq, p).T.repeat(1500, 1)
    signal += torch.tensor(rng.normal(0, 0.05, signal.shape))
    solver = WeightedLeastSquares(DKI().design(acq), 1, device=CPU, dtype=torch.float32)
    found = outcome(DKI(), solver.fit(signal.float(), covariance=True, sigma=0.05))
    error = (found.values["AK"] - DKI().derive(p)["AK"]).abs()
    assert 0.88 < (error < 1.96 * found.deviations["AK"]).double().mean() < 0.98


def test_a_turn_is_at_most_that_of_a_uniform_distribution_and_finite():
    rng = np.random.default_rng(1)
    p = tissue(8).float()
    p[:6, 0], p[:3, 0] = 0, 1  # isotropic
    p[:6, 1] = 0
    p[:6, 2], p[:3, 2] = 0, torch.tensor([1, 1, 0.3])
    p[:3, 3] = -1
    half = torch.tensor(rng.normal(size=(22, 22, 8)), dtype=torch.float32)
    covariance = torch.einsum("ikn,jkn->ijn", half, half)
    largest = []
    for scale in (0, 1e-12, 1e-4, 1, 1e4, 1e12):
        added = DKI().curvature(p, scale * covariance)["AK"]
        assert torch.isfinite(added).all()
        assert (added >= 0).all()
        assert scale or not added.any()
        largest.append(added)
    torch.testing.assert_close(largest[-1], largest[-2], rtol=1e-2, atol=1e-6)  # nothing is known
    elements = torch.tensor(rng.normal(size=(2, 6, 8)), dtype=torch.float32)
    turn = _turn(elements, torch.zeros(2, 8), covariance[:6, :6])
    torch.testing.assert_close(turn[[0, 2]], torch.full((2, 8), 1 / 3))
    assert (turn[1].abs() <= 1 / 3 + 1e-6).all()


def test_directions_that_determine_a_tensor_only_are_refused():
    assert not DKI().missing(protocol({1000.0: 15, 2000.0: 15}))
    assert "2 non-zero shells" in DKI().missing(protocol({1000.0: 60}))[0]
    few = Acquisition(
        np.repeat([0.0, 1000.0, 2000.0], [4, 12, 12]),
        np.concatenate([np.zeros((4, 3)), *[directions(12)] * 2]),
    )
    assert "15 distinct directions" in DKI().missing(few)[0]


def test_shells_beyond_the_reach_of_the_series_are_left_out_where_the_rest_suffices():
    acq = protocol({1000.0: 15, 2990.0: 15, 5000.0: 15})
    assert DKI().volumes(acq) == list(range(32))
    acq = protocol({1000.0: 15, 5000.0: 15})
    assert DKI().volumes(acq) == list(range(32))
