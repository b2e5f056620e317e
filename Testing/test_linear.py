"""The linear solver's covariance and its robust variant."""

import numpy as np
import pytest
import torch
from phantom import fibre_tensors, protocol, tensor_signal

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.fitting import linear
from DMRIMicroLib.fitting.linear import WeightedLeastSquares
from DMRIMicroLib.models.dki import DKI
from DMRIMicroLib.models.dti import DTI

SNR, S0 = 30.0, 1000.0


def solver(design, dtype=torch.float64, **options):
    return WeightedLeastSquares(design, device=torch.device("cpu"), dtype=dtype, **options)


def fibres(acq, n, seed=0):
    """Noise-free signals (n, m) of fibres in random directions."""
    axis = np.random.default_rng(seed).normal(size=(n, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    return tensor_signal(acq, fibre_tensors(axis), S0)


def noisy(signal, seed=0):
    """Add Rician noise."""
    noise = np.random.default_rng(seed).normal(0, S0 / SNR, (2, *signal.shape))
    return np.hypot(signal + noise[0], noise[1])


def anisotropy(signal, acq, **options):
    fit = solver(DTI().design(acq), **options).fit(torch.tensor(signal))
    assert fit.good.all()
    return DTI().derive(fit.parameters)["FA"].numpy()


@pytest.mark.parametrize("given", ["nothing", "a number", "one a voxel"])
def test_covariance_equals_a_plain_loop_over_voxels(given, monkeypatch):
    """The slow readable reference, unusable samples and several blocks of voxels included."""
    monkeypatch.setitem(linear.MATRIX_BYTES, "cpu", 7 * 253 * 8)
    acq = protocol({1000.0: 20, 2000.0: 20})
    signal = noisy(fibres(acq, 40))
    signal[::7, 5] = 0
    signal[::11, 3] = np.nan
    design = DKI().design(acq)
    sigma = {"nothing": None, "a number": 25.0, "one a voxel": torch.linspace(10, 40, 40)}[given]
    found = solver(design).fit(torch.tensor(signal), covariance=True, sigma=sigma)
    x = design.numpy()
    for k, s in enumerate(signal):
        ok = np.isfinite(s) & (s > 0)
        prediction = np.exp(x[ok] @ found.parameters[:, k].numpy())
        residual = prediction * np.log(s[ok] / prediction)
        variance = (residual**2).sum() / (ok.sum() - 22)
        if sigma is not None:
            variance = float(sigma if given == "a number" else sigma[k]) ** 2
        weighted = prediction[:, None] * x[ok]
        truth = variance * np.linalg.inv(weighted.T @ weighted)
        scale = np.sqrt(np.diag(truth))
        np.testing.assert_allclose(
            found.covariance[..., k] / np.outer(scale, scale),
            truth / np.outer(scale, scale),
            atol=1e-6,
        )


@pytest.mark.parametrize("sigma", [S0 / SNR, None])
def test_errors_over_their_standard_deviations_are_of_size_one(sigma):
    acq = protocol({1000.0: 30}, b0=4)
    clean = fibres(acq, 1)
    design = DTI().design(acq)
    truth = solver(design).fit(torch.tensor(clean)).parameters
    signal = noisy(np.repeat(clean, 20000, 0))
    found = solver(design, torch.float32, iterations=2).fit(
        torch.tensor(signal, dtype=torch.float32), covariance=True, sigma=sigma
    )
    deviation = found.covariance.diagonal().T.sqrt()
    z = (found.parameters - truth) / deviation
    assert (z.std(1) - 1).abs().max() < 0.05
    # and correlations: the trace is known from the whole matrix only
    trace = (found.parameters - truth)[:3].sum(0) / found.covariance[:3, :3].sum((0, 1)).sqrt()
    assert abs(trace.std() - 1) < 0.05


def test_without_a_spare_sample_the_residuals_tell_no_covariance():
    acq = protocol({1000.0: 6}, b0=1)
    signal = torch.tensor(noisy(fibres(acq, 5)))
    fit = solver(DTI().design(acq)).fit(signal, covariance=True)
    assert fit.good.all()
    assert torch.isinf(fit.covariance.diagonal()).all()
    known = solver(DTI().design(acq)).fit(signal, covariance=True, sigma=30.0)
    assert torch.isfinite(known.covariance).all()


def test_covariance_in_float32_is_that_of_float64_on_the_real_scan(example):
    image, mask = example
    scan = dm.load(image, mask=mask)
    signal = torch.from_numpy(scan.voxels(scan.mask)[::10])
    fits = [
        solver(DKI().design(scan.acquisition), t).fit(signal.to(t), covariance=True, sigma=20.0)
        for t in (torch.float32, torch.float64)
    ]
    both = fits[0].good & fits[1].good
    assert both.float().mean() > 0.99
    deviations = [fit.covariance.diagonal().T.sqrt()[:, both].double() for fit in fits]
    assert (deviations[0] / deviations[1] - 1).abs().quantile(0.99) < 1e-2


def test_drop_outs_in_a_tenth_of_the_volumes_hardly_matter_to_a_robust_fit():
    acq = protocol({1000.0: 30}, b0=4)
    signal, rng = noisy(fibres(acq, 1000)), np.random.default_rng(1)
    truth = anisotropy(fibres(acq, 1), acq)
    spoilt = signal.copy()
    for voxel in spoilt:
        voxel[rng.choice(np.arange(4, 34), 3, replace=False)] *= rng.uniform(0.1, 0.5, 3)

    def error(data, **options):
        return np.sqrt(np.mean((anisotropy(data, acq, **options) - truth) ** 2))

    clean = error(signal)
    assert error(spoilt) > 4 * clean
    assert error(spoilt, robust=True) < 1.2 * clean
    assert error(signal, robust=True) < 1.15 * clean


def test_a_robust_fit_takes_out_what_was_put_in_and_nothing_else():
    acq = protocol({1000.0: 30, 2000.0: 30})
    clean = fibres(acq, 50)
    spoilt = clean.copy()
    spoilt[:, 11] *= 0.3
    spoilt[:, 40] *= 3
    spoilt[::5, 20] = 0
    for model in (DTI(), DKI()):
        design = model.design(acq)
        found = solver(design, robust=True).fit(torch.tensor(spoilt), covariance=True)
        truth = solver(design).fit(torch.tensor(clean)).parameters
        assert found.good.all()
        torch.testing.assert_close(found.parameters, truth, atol=1e-6, rtol=1e-6)
        assert found.usable[0] == len(acq) - 1
        assert found.usable[1] == len(acq)
        assert found.covariance.abs().max() < 1e-10


def test_noise_known_to_be_large_makes_no_outliers():
    acq = protocol({1000.0: 30})
    signal = torch.tensor(noisy(fibres(acq, 30)))
    design = DTI().design(acq)
    plain = solver(design).fit(signal).parameters
    robust = solver(design, robust=True)
    torch.testing.assert_close(robust.fit(signal, sigma=1e4).parameters, plain)
    assert not torch.allclose(robust.fit(signal, sigma=1e-3).parameters, plain)


def test_a_robust_fit_of_too_few_volumes_is_refused():
    with pytest.raises(InputError, match="robust fit of 7 unknowns needs 14 volumes"):
        solver(DTI().design(protocol({1000.0: 6})), robust=True)
