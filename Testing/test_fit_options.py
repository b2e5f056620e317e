"""Options of a fit: noise known, assumed or given; likelihood; threads; what a voxel tells."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from phantom import protocol

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.fitting.likelihood import Likelihood
from DMRIMicroLib.fitting.prior import Prior
from DMRIMicroLib.fitting.solver import LevenbergMarquardt
from DMRIMicroLib.maps import Flag
from DMRIMicroLib.models import MODELS, NonlinearModel
from DMRIMicroLib.models.ballstick import BallStick
from DMRIMicroLib.models.noddi import NODDI
from DMRIMicroLib.scan import Scan

ACQ = protocol({1000.0: 20, 2000.0: 30}, b0=4)


def brain(n: int, acq=ACQ, sigma: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, Scan]:
    """NODDI parameters (7, n) and their scan, S0 = 500."""
    rng = np.random.default_rng(seed)
    mu = rng.normal(size=(3, n))
    x = np.concatenate(
        [
            rng.uniform(0.3, 0.8, (1, n)),
            rng.uniform(0.05, 0.5, (1, n)),
            rng.uniform(0, 0.2, (1, n)),
            mu / np.linalg.norm(mu, axis=0),
            np.ones((1, n)),
        ]
    )
    x = torch.tensor(x, dtype=torch.float32)
    signal = 500 * NODDI().signal(acq, x).T.numpy()
    if sigma:
        noise = rng.normal(0, 500 * sigma, (2, *signal.shape))
        signal = np.hypot(signal + noise[0], noise[1])
    shape = (n, 1, 1)
    signal = signal.reshape(*shape, -1).astype(np.float32)
    return x, Scan(signal, np.eye(4), acq, mask=np.ones(shape))


@dataclass(frozen=True)
class Plain(BallStick):
    """Ball and stick with the Jacobian that every user's model gets."""

    linearise = NonlinearModel.linearise


def test_a_model_without_its_own_jacobian_runs_on_two_threads():
    _, scan = brain(26_000, protocol({1000.0: 8}, b0=1), sigma=0.03)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        own = dm.fit(scan, Plain(), sigma=15.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    fast = dm.fit(scan, BallStick(), sigma=15.0)
    assert np.quantile(np.abs(own["f_stick"].data - fast["f_stick"].data), 0.99) < 1e-2


def test_noise_that_is_not_known_takes_no_floor_away_and_is_told():
    x, scan = brain(60)  # without noise, the b0 volumes are alike
    maps = dm.fit(scan, "noddi")
    made = maps.provenance["noddi"]
    assert made["noise"] is None
    assert any("the noise of this scan is not known" in note for note in made["notes"])
    error = np.asarray(maps["NDI"]).ravel() - x[0].numpy()
    assert abs(np.median(error)) < 4e-3
    with pytest.raises(InputError, match="needs the noise"):
        dm.fit(scan, "noddi", likelihood="rician")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"iterations": 1.5}, "whole number"),
        ({"sigma": True}, "sigma is True"),
        ({"sigma": -1.0}, "sigma is -1"),
        ({"coils": 0}, "coils is 0"),
        ({"method": "nlls"}, "Choose wls or ols"),
        ({"method": "ols", "likelihood": "rician"}, "know no likelihood"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, told):
    _, scan = brain(4, sigma=0.03)
    with pytest.raises(InputError, match=told):
        dm.fit(scan, "dti", **options)


def test_an_option_that_does_not_exist_names_those_that_do():
    _, scan = brain(4)
    with pytest.raises(TypeError, match="likelihood"):
        dm.fit(scan, "dti", likelyhood="rician")


@pytest.mark.parametrize("name", ["noddi", "ballstick", "freewater"])
def test_b0_alone_tells_nothing(name):
    _, scan = brain(8, protocol({1000.0: 20, 2000.0: 30}, b0=10), sigma=0.02)
    scan.signal[:3, ..., 10:] = 0
    flags = dm.fit(scan, name).flags[name].ravel()
    assert (flags[:3] == Flag.EMPTY).all()
    assert (flags[3:] != Flag.EMPTY).all()


def by_prior(mean: torch.Tensor, precision: torch.Tensor, signal: torch.Tensor, **options):
    solver = LevenbergMarquardt(MODELS["noddi"], ACQ, Likelihood("gaussian"))
    return solver.fit(signal, 0.03, prior=Prior(mean, precision), **options)


def test_a_prior_of_one_voxel_does_not_change_another():
    x, scan = brain(2, sigma=0.03)
    signal = torch.from_numpy(scan.signal.reshape(2, -1) / 500)
    mean = x.double()  # float64 beside float32 data is no matter
    precision = torch.zeros(7, 7, 2, dtype=torch.float64)
    alone = by_prior(mean[:, :1], precision[..., :1], signal[:1], covariance=True)
    precision[range(7), range(7), 1] = 100.0
    both = by_prior(mean, precision, signal, covariance=True)
    torch.testing.assert_close(both.covariance[..., 0], alone.covariance[..., 0])


def test_a_prior_of_a_direction_has_no_wrong_side():
    x, scan = brain(200, sigma=0.03)
    signal = torch.from_numpy(scan.signal.reshape(200, -1) / 500)
    precision = torch.zeros(7, 7, 1)
    precision[range(3, 6), range(3, 6)] = 50.0
    for mean in (x, torch.cat([x[:3], -x[3:6], x[6:]])):
        found = by_prior(mean, precision, signal).parameters
        assert ((found[3:6] * mean[3:6]).sum(0) > 0).all()


def test_a_full_prior_answers_where_the_data_do_not():
    x, scan = brain(3)
    signal = torch.from_numpy(scan.signal.reshape(3, -1) / 500).clone()
    signal[:, 3:] = 0  # three b0 volumes are all there is
    found = by_prior(x, 1e4 * torch.eye(7)[..., None], signal)
    assert found.good.all()
    torch.testing.assert_close(found.parameters, x, atol=2e-2, rtol=0)


def test_a_metric_on_a_limit_of_its_own_is_not_certain():
    """An FA of 0 and a clamped eigenvalue have no gradient, and an uncertainty all the same."""
    rng = np.random.default_rng(0)
    acq = protocol({1000.0: 12}, b0=2)
    b, g = acq.bvals / 1e3, acq.bvecs
    flat = np.exp(-b * 2.5 * (1 - g[:, 2] ** 2))  # nothing along z: noise makes it negative
    ball = np.exp(-b * 0.8)
    signal = np.repeat(np.stack([flat, ball]), 200, axis=0)
    signal[:200] = np.hypot(
        *(signal[None, :200] * [[[1]], [[0]]] + rng.normal(0, 0.03, (2, 200, 14)))
    )
    scan = Scan(
        (500 * signal).reshape(400, 1, 1, -1).astype(np.float32),
        np.eye(4),
        acq,
        mask=np.ones((400, 1, 1)),
    )
    maps = dm.fit(scan, "dti", sigma=15.0, uncertainty=True)
    for name in ("FA", "RD", "MD"):
        assert (maps[name].uncertainty.ravel() > 1e-6 * maps[name].metric.high).all(), name
    assert np.median(maps["FA"].uncertainty.ravel()[200:]) > 5e-3
