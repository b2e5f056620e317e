"""SMT, MC-SMT and SANDI: against orientation averages by brute force, in limits, and fitted."""

import dataclasses

import numpy as np
import pytest
import torch
from phantom import RING_AFFINE, protocol
from test_physics_compartments import sphere_by_the_book

import DMRIMicroLib as dm
from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.errors import InputError, NotIdentifiable
from DMRIMicroLib.fitting.likelihood import Likelihood
from DMRIMicroLib.fitting.solver import LevenbergMarquardt, Prior
from DMRIMicroLib.metric import Flag
from DMRIMicroLib.models import MODELS
from DMRIMicroLib.models.powder import DIRECTIONS_PER_B
from DMRIMicroLib.scan import Scan

SMT, MCSMT, SANDI = (MODELS[name] for name in ("smt", "mcsmt", "sandi"))
FIBRES = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0.1, -0.5, 0.86]])
SHARES = np.array([0.5, 0.3, 0.2])
B = np.array([0.0, 0.7, 1.5, 3.0, 6.0, 10.0])
"""ms/um2"""


@pytest.fixture(autouse=True)
def one_thread():
    """Operations on a few hundred voxels are too small to share between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def acquisition(delta: float | None = 12.9, separation: float | None = 21.8) -> Acquisition:
    shells = {b * 1e3: 30 for b in B[1:]}
    return dataclasses.replace(protocol(shells), delta=delta, Delta=separation)


def two_shells() -> Acquisition:
    return dataclasses.replace(protocol({1000.0: 30, 2000.0: 60}), delta=16.2, Delta=26.5)


def sphere_rule(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Directions over the whole sphere and their weights: Gauss in the cosine, even in angle."""
    z, weight = np.polynomial.legendre.leggauss(count)
    angle = 2 * np.pi * np.arange(2 * count) / (2 * count)
    r = np.sqrt(1 - z**2)[:, None]
    g = np.stack([r * np.cos(angle), r * np.sin(angle), z[:, None] + 0 * angle], -1)
    return g.reshape(-1, 3), np.repeat(weight / 2, 2 * count) / (2 * count)


def averaged(d_par: float, d_perp: float) -> np.ndarray:
    """Mean over all gradient directions of the signal of three crossing fibres: (6,) over B."""
    g, weight = sphere_rule()
    assert weight.sum() == pytest.approx(1)
    total = np.zeros(len(B))
    for fibre, share in zip(FIBRES / np.linalg.norm(FIBRES, axis=1)[:, None], SHARES, strict=True):
        exponent = d_perp + (d_par - d_perp) * (g @ fibre) ** 2
        total += share * (np.exp(-B[:, None] * exponent) @ weight)
    return total


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def signal(model, *values: float, acq: Acquisition | None = None) -> np.ndarray:
    return model.signal((acq or acquisition()).powder(), column(*values))[:, 0].numpy()


@pytest.mark.parametrize(("d_par", "d_perp"), [(1.7, 0.2), (2.3, 0.9), (0.8, 0.0), (3.0, 3.0)])
def test_smt_is_the_mean_over_directions_whatever_the_fibres(d_par, d_perp):
    expected = 0.9 * averaged(d_par, d_perp)
    np.testing.assert_allclose(signal(SMT, d_par, d_perp / d_par, 0.9), expected, atol=1e-9)


@pytest.mark.parametrize(("v", "d"), [(0.3, 1.2), (0.6, 1.9), (0.95, 2.8), (0.05, 0.6)])
def test_mcsmt_is_the_mean_over_directions_whatever_the_fibres(v, d):
    expected = 1.1 * (v * averaged(d, 0) + (1 - v) * averaged(d, (1 - v) * d))
    np.testing.assert_allclose(signal(MCSMT, v, d, 1.1), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("radius", "timing"),
    [(1.0, (12.9, 21.8)), (4.5, (16.2, 26.5)), (8.0, (5.0, 40.0)), (12.0, (40.0, 55.0))],
)
def test_sandi_is_sticks_spheres_and_a_ball(radius, timing):
    f_ec, f_is, d_in, d_ec, s0 = 0.35, 0.4, 2.1, 0.9, 1.05
    soma = np.array([sphere_by_the_book(b, radius, 3.0, *timing, roots=80) for b in B])
    cells = (1 - f_is) * averaged(d_in, 0) + f_is * soma
    expected = s0 * ((1 - f_ec) * cells + f_ec * np.exp(-B * d_ec))
    found = signal(SANDI, f_ec, f_is, d_in, radius, d_ec, s0, acq=acquisition(*timing))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("timing", [(1.0, 20.0), (8.0, 19.0), (16.2, 26.5), (40.0, 60.0)])
def test_the_series_for_somas_is_their_sum_over_modes(timing):
    """A fit uses a polynomial in the radius; `signal` sums over the modes."""
    acq = acquisition(*timing).powder()
    radius = torch.linspace(1, 12, 200, dtype=torch.float64)
    x = column(0.1, 0.9, 2.0, 5.0, 1.0, 1.0).repeat(1, 200)
    x[3] = radius
    fast, jacobian = SANDI.linearise(acq, x)
    np.testing.assert_allclose(fast, SANDI.signal(acq, x), atol=1e-9)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(SANDI.signal(acq, x).sum(), x)
    np.testing.assert_allclose(jacobian.sum(1)[3], slope[3], atol=1e-7)


def test_without_anisotropy_smt_is_a_ball_and_without_a_radial_diffusivity_a_stick():
    np.testing.assert_allclose(signal(SMT, 1.3, 1.0, 1.0), np.exp(-B * 1.3), rtol=1e-12)
    np.testing.assert_allclose(signal(SMT, 1.3, 0.0, 1.0), averaged(1.3, 0), atol=1e-9)
    ufa = SMT.derive(torch.tensor([[1.3] * 3, [1.0, 0.0, 0.25], [1.0] * 3]))["uFA"]
    expected = [0, 1, 0.75 / np.sqrt(1 + 2 * 0.25**2)]
    np.testing.assert_allclose(ufa, expected, atol=1e-6)


def test_mcsmt_of_no_neurites_is_a_ball_and_of_neurites_only_a_stick():
    np.testing.assert_allclose(signal(MCSMT, 0.0, 1.3, 1.0), np.exp(-B * 1.3), rtol=1e-12)
    np.testing.assert_allclose(signal(MCSMT, 1.0, 1.3, 1.0), averaged(1.3, 0), atol=1e-9)
    assert MCSMT.derive(column(0.4, 2.0, 1.0))["D_ext_perp"].item() == pytest.approx(1.2)


def test_sandi_of_one_compartment_is_that_compartment():
    np.testing.assert_allclose(signal(SANDI, 1, 0.5, 2, 8, 1.1, 1), np.exp(-B * 1.1), rtol=1e-9)
    np.testing.assert_allclose(signal(SANDI, 0, 0, 2, 8, 1.1, 1), averaged(2, 0), atol=1e-9)
    # a soma of 1 um hinders water so much that its signal hardly falls
    np.testing.assert_allclose(signal(SANDI, 0, 1, 2, 1, 1.1, 1), 1, atol=2e-3)
    shares = SANDI.derive(column(0.3, 0.25, 2, 8, 1, 1))
    assert shares["f_soma"].item() == pytest.approx(0.175)
    assert shares["f_neurite"].item() == pytest.approx(0.525)


def test_sandi_without_timing_says_what_it_needs():
    with pytest.raises(InputError, match="gradient timing is unknown"):
        signal(SANDI, 0.3, 0.25, 2, 8, 1, 1, acq=acquisition(None, None))
    assert any("delta" in lack for lack in SANDI.missing(acquisition(None)))
    scan = Scan(np.ones((2, 2, 2, 152)), RING_AFFINE, acquisition(None))
    with pytest.raises(NotIdentifiable, match="gradient timing"):
        dm.fit(scan.with_mask(np.ones((2, 2, 2))), "sandi")


def test_sandi_warns_where_its_priors_decide():
    assert SANDI.missing(two_shells()) == ()
    (told,) = SANDI.cautions(two_shells())
    assert "5 unknowns and this scan 2 shells up to b = 2000 s/mm2" in told
    assert "R 8 +- 3 um" in told
    assert not any("5 unknowns" in text for text in SANDI.cautions(acquisition()))
    low = dataclasses.replace(
        protocol({b: 30 for b in (500.0, 1000.0, 1500.0, 2000.0, 2500.0)}), delta=10, Delta=20
    )
    assert SANDI.cautions(low)
    scan = Scan(np.full((2, 2, 2, 92), 100.0), RING_AFFINE, two_shells())
    maps = dm.fit(scan.with_mask(np.ones((2, 2, 2))), "sandi", sigma=3.0)
    assert any("5 unknowns" in note for note in maps.provenance["sandi"]["notes"])


def test_metrics_at_a_bound_or_of_no_somas_are_called_undetermined():
    x = torch.tensor([[1.7, 3.05, 0.0], [0.3, 0.3, 0.3], [1, 1, 1]])
    assert SMT.undetermined(SMT.derive(x)).tolist() == [False, True, True]
    x = torch.tensor([[0.5, 0.5, 0.5], [1.7, 3.05, 2.9], [1, 1, 1]])
    assert MCSMT.undetermined(MCSMT.derive(x)).tolist() == [False, True, False]
    x = torch.tensor([[0.2, 0.2, 0.9], [0.4, 0.04, 0.4], *[[1.0] * 3] * 4])
    assert SANDI.undetermined(SANDI.derive(x)).tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["smt", "mcsmt"])
def test_a_fit_that_ends_on_the_bound_is_flagged(name):
    acq, model = two_shells(), MODELS[name]
    b = acq.bvals / 1e3
    fast, tissue = np.exp(-b * 3.3), 0.4 * np.exp(-b * 0.2) + 0.6 * np.exp(-b * 1.4)
    data = 1000 * np.stack([fast, tissue])[:, None, None]
    maps = dm.fit(Scan(data, RING_AFFINE, acq, np.ones((2, 1, 1))), model, likelihood="gaussian")
    assert maps.flags[name].ravel().tolist() == [Flag.UNDETERMINED, Flag.GOOD]


def repelled(count: int) -> np.ndarray:
    """Directions spread as electric charges: (count, 3)."""
    from dipy.core.sphere import HemiSphere, disperse_charges

    rng = np.random.default_rng(0)
    theta, phi = np.arccos(rng.uniform(0, 1, count)), rng.uniform(0, 2 * np.pi, count)
    return disperse_charges(HemiSphere(theta=theta, phi=phi), 1000)[0].vertices


@pytest.mark.parametrize("b", [1.0, 2.0, 3.0, 5.0])
def test_the_directions_asked_for_keep_a_mean_within_about_1_percent(b):
    """Of a bundle of white matter that may lie any way; two thirds of them would not do."""
    fibres = np.random.default_rng(0).normal(size=(2000, 3))
    fibres /= np.linalg.norm(fibres, axis=1, keepdims=True)
    spread = []
    for count in (round(DIRECTIONS_PER_B * b), round(DIRECTIONS_PER_B * b * 2 / 3)):
        cos2 = (repelled(count) @ fibres.T) ** 2
        means = (0.6 * np.exp(-2 * b * cos2) + 0.4 * np.exp(-b * (0.5 + 1.5 * cos2))).mean(0)
        spread.append(means.std() / means.mean())
    assert spread[0] < 0.016
    assert spread[1] > max(0.016, 1.4 * spread[0])


@pytest.mark.parametrize("model", [SMT, MCSMT, SANDI], ids=["smt", "mcsmt", "sandi"])
def test_few_directions_are_told(model):
    few = dataclasses.replace(protocol({1000.0: 6, 3000.0: 12}), delta=10, Delta=20)
    assert any("b = 3000 has 12 directions and needs 18" in text for text in model.cautions(few))
    enough = dataclasses.replace(protocol({1000.0: 6, 3000.0: 18}), delta=10, Delta=20)
    assert not any("directions" in text for text in model.cautions(enough))
    many = protocol({b: 8 for b in (2000.0, 3000.0, 4000.0, 5000.0)})
    (told,) = [text for text in model.cautions(many) if "few directions" in text]
    assert "b = 5000 has 8 directions and needs 30, the worst of 4 such shells" in told


@pytest.mark.parametrize("model", [SMT, MCSMT, SANDI], ids=["smt", "mcsmt", "sandi"])
def test_a_shell_of_few_directions_does_not_count(model):
    few = dataclasses.replace(protocol({1000.0: 30, 2000.0: 3}), delta=10, Delta=20)
    assert any("6 distinct directions in each of 2" in lack for lack in model.missing(few))
    more = dataclasses.replace(protocol({1000.0: 30, 2000.0: 12, 3000.0: 3}), delta=10, Delta=20)
    assert model.missing(more) == ()


def random_parameters(model, n: int = 400, margin: float = 0.1) -> torch.Tensor:
    share = torch.rand(len(model.parameters), n, generator=torch.Generator().manual_seed(0))
    low = torch.tensor([[p.low] for p in model.parameters])
    high = torch.tensor([[p.high] for p in model.parameters])
    x = low + (margin + (1 - 2 * margin) * share) * (high - low)
    x[-1] = 1
    return x.double()


@pytest.mark.parametrize("model", [SMT, MCSMT], ids=["smt", "mcsmt"])
@pytest.mark.parametrize("acq", [acquisition(), two_shells()], ids=["five shells", "two shells"])
def test_a_fit_finds_the_truth_from_one_start(model, acq):
    x = random_parameters(model)
    means = model.signal(acq.powder(), x).T.contiguous()
    solver = LevenbergMarquardt(model, acq.powder(), Likelihood("gaussian"), iterations=200)
    found = solver.fit(means, 1e-5)
    assert found.good.all()
    truth, maps = model.derive(x), model.derive(found.parameters)
    for metric in model.metrics:
        error = (maps[metric.name] - truth[metric.name]).abs() / (metric.high - metric.low)
        assert error.median() < 1e-4
        assert (error < 0.01).double().mean() > 0.99


def test_sandi_finds_the_truth_on_many_shells_without_a_prior():
    acq, x = acquisition(8.0, 19.0).powder(), random_parameters(SANDI, 150, margin=0.2)
    means = SANDI.signal(acq, x).T.contiguous()
    nothing = Prior(torch.zeros(6, 1).double(), torch.zeros(6, 6, 1).double())
    solver = LevenbergMarquardt(SANDI, acq, Likelihood("gaussian"), iterations=200)
    maps, truth = SANDI.derive(solver.fit(means, 1e-5, prior=nothing).parameters), SANDI.derive(x)
    assert (maps["f_neurite"] - truth["f_neurite"]).abs().median() < 0.005
    assert (maps["f_soma"] - truth["f_soma"]).abs().median() < 0.005
    assert (maps["R_soma"] - truth["R_soma"]).abs().median() < 0.05


def test_sandi_on_two_shells_leans_on_its_priors_and_does_better_for_it():
    acq, x = two_shells(), random_parameters(SANDI, margin=0.2)
    powder, generator = acq.powder(), torch.Generator().manual_seed(1)
    counts = torch.tensor([2.0, 30, 60])
    clean = SANDI.signal(powder, x)
    noise = torch.randn(clean.shape, generator=generator) / 30 / counts.sqrt()[:, None]
    means = (clean + noise).T.contiguous()
    solver = LevenbergMarquardt(SANDI, powder, Likelihood("gaussian"))
    nothing = Prior(torch.zeros(6, 1).double(), torch.zeros(6, 6, 1).double())
    truth, error = SANDI.derive(x), {}
    for label, prior in (("declared", None), ("none", nothing)):
        found = solver.fit(means, 1 / 30, counts=counts.expand(len(means), -1), prior=prior)
        maps = SANDI.derive(found.parameters)
        error[label] = {k: (maps[k] - truth[k]).abs().mean() for k in maps}
    for name in truth:
        assert error["declared"][name] < 0.9 * error["none"][name]


def test_crossing_fibres_lower_fa_and_leave_ufa_alone():
    acq = protocol({1000.0: 60, 2000.0: 60})
    b = acq.bvals / 1e3
    maps = {}
    for label, shares in (("one", [1.0, 0, 0]), ("three", [1 / 3] * 3)):
        total = np.zeros(len(acq))
        for fibre, share in zip(np.eye(3), shares, strict=True):
            total += share * np.exp(-b * (0.3 + 1.5 * (acq.bvecs @ fibre) ** 2))
        scan = Scan(np.tile(1000 * total, (2, 2, 2, 1)), RING_AFFINE, acq, np.ones((2, 2, 2)))
        maps[label] = dm.fit(scan, ["dti", "smt", "mcsmt"], sigma=1.0)
    assert maps["one"]["FA"].data.mean() > 0.7
    assert maps["three"]["FA"].data.mean() < 0.1
    for one in maps.values():
        np.testing.assert_allclose(one["SMT_D_par"].data, 1.8, atol=0.05)
        np.testing.assert_allclose(one["SMT_D_perp"].data, 0.3, atol=0.02)
        np.testing.assert_allclose(one["uFA"].data, 1.5 / np.sqrt(1.8**2 + 2 * 0.3**2), atol=0.01)
    difference = maps["one"]["v_int"].data - maps["three"]["v_int"].data
    assert np.abs(difference).max() < 0.02
