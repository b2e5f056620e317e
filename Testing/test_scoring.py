"""Maximum likelihood for linear models: against a plain loop, and what it is for."""

import numpy as np
import pytest
import torch
from phantom import fibre_tensors, protocol, tensor_signal
from scipy.special import i0e, i1e

import DMRIMicroLib as dm
from DMRIMicroLib.fitting import scoring
from DMRIMicroLib.fitting.likelihood import Likelihood
from DMRIMicroLib.fitting.linear import WeightedLeastSquares
from DMRIMicroLib.fitting.outcome import outcome
from DMRIMicroLib.models.dki import DKI
from DMRIMicroLib.physics.noise import fisher
from DMRIMicroLib.scan import Scan

RICIAN = Likelihood("rician")
S0 = 1000.0


def acquisition():
    return protocol({1000.0: 40, 2000.0: 40, 3000.0: 40}, b0=6)


def fit(acq, signal, dtype=torch.float64, likelihood=RICIAN, **options):
    solver = WeightedLeastSquares(
        DKI().design(acq), likelihood=likelihood, device=torch.device("cpu"), dtype=dtype
    )
    return solver.fit(torch.as_tensor(signal).to(dtype), **options)


def tissue(acq, n: int, seed: int = 0):
    """Noise-free signals of two fibre bundles and cells (n, m), far below S0 along the fibres."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(2, n, 3))
    axes[1] = axes[0] + 0.4 * axes[1]
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    fibres = sum(tensor_signal(acq, fibre_tensors(a), 0.35 * S0) for a in axes)
    return fibres + 0.3 * S0 * np.exp(-acq.bvals * 0.8e-3)


def rician(signal, sigma, seed: int = 0):
    rng = np.random.default_rng(seed)
    return np.hypot(signal + rng.normal(0, sigma, signal.shape), rng.normal(0, sigma, signal.shape))


def deviance(design, x, y, sigma):
    """-2 ln p of Rice (1944), up to a constant: for one voxel."""
    s = np.exp(design @ x)
    return (((y - s) / sigma) ** 2 - 2 * np.log(i0e(y * s / sigma**2))).sum()


def scored(design, x, y, sigma):
    """Fisher scoring of one voxel, written out."""
    for _ in range(scoring.STEPS):
        s = np.exp(design @ x)
        information = fisher(torch.tensor(s), sigma).numpy()
        matrix = design.T @ (design * (s**2 * information)[:, None]) / sigma**2
        z = y * s / sigma**2
        right = design.T @ (s * (y * i1e(z) / i0e(z) - s)) / sigma**2
        step = np.linalg.solve(matrix + scoring.DAMPING * np.diag(np.diag(matrix)), right)
        before = deviance(design, x, y, sigma) + scoring.TOLERANCE
        for k in range(scoring.TRIALS + 1):
            trial = x + step * (0 if k == scoring.TRIALS else scoring.SHORTER**k)
            if deviance(design, trial, y, sigma) <= before:
                break
        x = trial
    s = np.exp(design @ x)
    weight = s**2 * fisher(torch.tensor(s), sigma).numpy() / sigma**2
    return x, np.linalg.inv(design.T @ (design * weight[:, None]))


def test_scoring_equals_a_plain_loop_over_voxels():
    """The slow readable reference, unusable samples included."""
    acq = acquisition()
    signal = rician(tissue(acq, 40), 50.0)
    signal[::5, 9] = 0
    signal[::7, 30] = np.nan
    sigma = np.linspace(30, 70, 40)
    start = fit(acq, signal, likelihood=None)
    found = fit(acq, signal, sigma=torch.tensor(sigma), covariance=True)
    design = DKI().design(acq).numpy()
    for v, y in enumerate(signal):
        ok = np.isfinite(y) & (y > 0)
        x, covariance = scored(design[ok], start.parameters[:, v].numpy(), y[ok], sigma[v])
        np.testing.assert_allclose(found.parameters[:, v], x, rtol=1e-6, atol=1e-7)
        size = np.sqrt(np.diag(covariance))
        difference = found.covariance[..., v].numpy() - covariance
        assert np.abs(difference / np.outer(size, size)).max() < 1e-6
    assert found.good.all()


def test_steps_that_go_too_far_are_shortened(monkeypatch):
    """From signals far below the data, where the information is small, a full step overshoots."""
    acq, sigma = acquisition(), torch.full((100,), 50.0, dtype=torch.float64)
    signal = torch.tensor(rician(tissue(acq, 100), 50.0))
    solver = WeightedLeastSquares(
        DKI().design(acq), likelihood=RICIAN, device=torch.device("cpu"), dtype=torch.float64
    )
    start = fit(acq, signal, likelihood=None).parameters
    start[-1] -= 3
    start /= solver.unscale
    design = solver.design.numpy()

    def rises(x):
        """Voxels that stayed where they were, and whether any became less likely."""
        pairs = [
            [deviance(design, v[:, k].numpy(), signal[k].numpy(), 50.0) for v in (start, x)]
            for k in range(100)
        ]
        return int((x == start).all(0).sum()), max(after - before for before, after in pairs)

    stayed, rise = rises(solver.scoring.refine(start, signal, None, sigma)[0])
    assert stayed == 0
    assert rise < 0
    monkeypatch.setattr(scoring, "TRIALS", 0)  # such a step is not taken at all
    stayed, rise = rises(solver.scoring.refine(start, signal, None, sigma)[0])
    assert stayed > 50
    assert rise <= 0


def test_noise_floor_is_no_kurtosis():
    acq, model, sigma = acquisition(), DKI(), S0 / 20
    clean = tissue(acq, 500)
    truth = model.derive(fit(acq, clean, likelihood=None).parameters)["AK"]
    noisy = rician(clean, sigma)
    squares, likely = (
        model.derive(fit(acq, noisy, likelihood=way, sigma=sigma).parameters)["AK"] - truth
        for way in (None, RICIAN)
    )
    assert squares.median() > 0.05
    assert likely.median().abs() < 0.25 * squares.median()
    assert likely.abs().median() < 0.8 * squares.abs().median()


@pytest.mark.parametrize("snr", [20, 30, 50])
def test_intervals_of_axial_kurtosis_hold_the_truth_as_often_as_they_say(snr):
    acq, model, sigma = acquisition(), DKI(), S0 / snr
    clean = tissue(acq, 500)
    truth = model.derive(fit(acq, clean, likelihood=None).parameters)["AK"]
    found = outcome(model, fit(acq, rician(clean, sigma), sigma=sigma, covariance=True))
    error = (found.values["AK"][0] - truth).abs() / found.deviations["AK"][0]
    assert 0.60 < (error < 1).double().mean() < 0.76
    assert 0.90 < (error < 1.96).double().mean() < 0.98


def test_without_noise_the_likelihood_changes_nothing():
    acq = acquisition()
    axis = np.random.default_rng(0).normal(size=(20, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    clean = tensor_signal(acq, fibre_tensors(axis), S0)
    for dtype, limit in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        squares = fit(acq, clean, dtype, likelihood=None).parameters
        likely = fit(acq, clean, dtype, sigma=0.01).parameters
        np.testing.assert_allclose(likely, squares, atol=limit)


def test_unknown_noise_leaves_least_squares():
    acq = acquisition()
    signal = rician(tissue(acq, 20), 50.0)
    likely, squares = fit(acq, signal), fit(acq, signal, likelihood=None)
    torch.testing.assert_close(likely.parameters, squares.parameters, rtol=0, atol=0)


def test_float32_is_as_good_as_float64():
    acq = acquisition()
    signal = rician(tissue(acq, 300), 50.0)
    single, double = (
        fit(acq, signal, dtype, sigma=50.0, covariance=True)
        for dtype in (torch.float32, torch.float64)
    )
    size = double.covariance.diagonal().T.sqrt()
    assert ((single.parameters - double.parameters).abs() / size).max() < 0.02


def test_nonsense_is_finite_or_marked():
    acq = acquisition()
    good = tissue(acq, 1)[0]
    noise = np.random.default_rng(0).rayleigh(50, len(acq))
    m = len(acq)
    signal = [
        np.zeros(m),
        np.full(m, np.nan),
        np.full(m, -1.0),
        np.ones(m),
        noise,
        good,
        good[::-1],
    ]
    for dtype in (torch.float32, torch.float64):
        found = fit(acq, np.stack(signal), dtype, sigma=50.0, covariance=True)
        assert found.good.tolist()[:3] == [False] * 3
        assert found.good[5]
        assert torch.isfinite(found.parameters[:, found.good]).all()


def test_fit_by_maximum_likelihood_is_a_choice():
    acq, sigma = acquisition(), S0 / 20
    clean = tissue(acq, 300)
    grid = rician(clean, sigma).astype(np.float32)[:, None, None]
    scan = Scan(grid, np.eye(4), acq, np.ones(grid.shape[:3], bool))
    default, squares, likely = (
        dm.fit(scan, "dki", sigma=sigma, likelihood=way)["AK"].data
        for way in ("auto", "gaussian", "rician")
    )
    np.testing.assert_array_equal(default, squares)
    assert np.median(likely) < np.median(squares) - 0.05
