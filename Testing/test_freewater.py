"""Free water elimination, and ball and stick: against the truth, dipy, and in fluid."""

import numpy as np
import pytest
import torch
from phantom import RING_AFFINE, fibre_tensors, protocol, ring_axes, tensor_signal

import DMRIMicroLib as dm
from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.errors import NotIdentifiable
from DMRIMicroLib.fitting.likelihood import Likelihood
from DMRIMicroLib.fitting.solver import LevenbergMarquardt, Prior
from DMRIMicroLib.maps import Flag
from DMRIMicroLib.models import MODELS
from DMRIMicroLib.scan import Scan

MODEL = MODELS["freewater"]
NO_PRIOR = Prior(torch.zeros(8, 1), torch.zeros(8, 8, 1))
TRUE_FA = 1.4 / np.sqrt(1.7**2 + 2 * 0.3**2)
"""Of eigenvalues 1.7, 0.3 and 0.3."""


@pytest.fixture(autouse=True)
def one_thread():
    """Operations on a few hundred voxels are too small to share between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def two_shells() -> Acquisition:
    return protocol({1000.0: 30, 2000.0: 60}, b0=8)


def mixture(acq: Acquisition, f: np.ndarray, tensors: np.ndarray) -> np.ndarray:
    """Tissue and free water, written out plainly: (n,), (n, 3, 3) mm2/s -> (n, m)."""
    water = np.exp(-acq.bvals * 3.0e-3)
    return (1 - f)[:, None] * tensor_signal(acq, tensors, 1.0) + f[:, None] * water


def random_tissue(n: int, seed: int = 0) -> np.ndarray:
    """White matter of every direction: (n, 3, 3) mm2/s."""
    axis = np.random.default_rng(seed).normal(size=(n, 3))
    return fibre_tensors(axis / np.linalg.norm(axis, axis=1)[:, None], 1.2e-3, 0.35e-3)


def noisy(signal: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of the signal with complex noise."""
    noise = np.random.default_rng(0).normal(0, sigma, (2, *signal.shape))
    return np.hypot(signal + noise[0], noise[1])


def fit(signal: np.ndarray, acq: Acquisition, sigma: float, prior=None, kind="gaussian"):
    """Return FW and FA_t of (n, m) signals divided by S0, and the parameters."""
    solver = LevenbergMarquardt(MODEL, acq, Likelihood(kind))
    found = solver.fit(torch.tensor(signal, dtype=torch.float32), sigma, prior=prior)
    assert found.good.all()
    maps = MODEL.derive(found.parameters)
    return maps["FW"].numpy(), maps["FA_t"].numpy(), found.parameters


def test_recovers_the_truth_without_noise():
    acq, shape = two_shells(), (6, 7, 2)
    tensors = fibre_tensors(ring_axes(RING_AFFINE, shape)).reshape(-1, 3, 3)
    f = np.linspace(0, 0.85, len(tensors))
    scan = Scan(1000 * mixture(acq, f, tensors).reshape(*shape, -1), RING_AFFINE, acq)
    maps = dm.fit(scan.with_mask(np.ones(shape)), "freewater", sigma=0.1, likelihood="gaussian")
    np.testing.assert_allclose(maps["FW"].data.ravel(), f, atol=2e-4)
    np.testing.assert_allclose(maps["FA_t"].data, TRUE_FA, atol=2e-3)


def test_the_signal_is_a_mixture_of_tissue_and_water():
    acq, tensors = two_shells(), random_tissue(3)
    f = np.array([0.0, 0.4, 1.0])
    elements = tensors[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].T * 1e3
    x = torch.tensor(np.concatenate([elements, f[None], [[1.0, 2.0, 0.5]]]))
    expected = mixture(acq, f, tensors).T * [1.0, 2.0, 0.5]
    np.testing.assert_allclose(MODEL.signal(acq, x), expected, rtol=1e-12)


@pytest.fixture(scope="module")
def real(example):
    """150 voxels of the real scan, divided by their b0, with their acquisition and noise."""
    image, mask = example
    scan = dm.load(image, mask=mask)
    signal = scan.voxels(scan.mask)
    b0 = signal[:, scan.acquisition.is_b0].mean(1)
    at = np.random.default_rng(1).permutation(len(signal))[:150]
    return signal[at] / b0[at, None], scan.acquisition, scan.noise.sigma / np.median(b0)


def test_equals_dipy_where_dipy_converges(real):
    """Nonlinear least squares both; dipy gives no answer in fluid (its FA is not a number)."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.fwdti import FreeWaterTensorModel

    signal, acq, sigma = real
    table = gradient_table(acq.bvals, bvecs=acq.bvecs, b0_threshold=50)
    theirs = FreeWaterTensorModel(table, fit_method="NLS").fit(signal.astype(np.float64))
    predicted = theirs.predict(table, S0=1.0)
    with np.errstate(invalid="ignore"):
        s0 = (predicted * signal).sum(1) / (predicted**2).sum(1)
    their_misfit = np.linalg.norm(signal - s0[:, None] * predicted, axis=1)
    fw, fa, x = fit(signal, acq, sigma, NO_PRIOR)
    misfit = np.linalg.norm(signal - MODEL.signal(acq, x).numpy().T, axis=1)
    answered = np.isfinite(their_misfit) & np.isfinite(theirs.fa)
    assert answered.mean() > 0.8
    same = answered & (np.abs(misfit - their_misfit) < 1e-3 * their_misfit)
    assert same.sum() > 0.95 * answered.sum()
    assert np.quantile(np.abs(fw - theirs.f)[same], 0.95) < 1e-3
    assert np.quantile(np.abs(fa - theirs.fa)[same], 0.95) < 2e-3
    # without bounds dipy may fit better by tissue that is faster than free water
    sound = answered & (theirs.evals.max(1) < 3e-3) & (fw < MODEL.unreliable)
    assert (misfit < their_misfit * 1.001)[sound].mean() > 0.97


def test_the_prior_does_not_move_tissue(real):
    signal, acq, sigma = real
    free, fa_free, _ = fit(signal, acq, sigma, NO_PRIOR)
    held, fa_held, _ = fit(signal, acq, sigma)
    tissue = free < 0.6
    assert tissue.sum() > 80
    assert np.quantile(np.abs(free - held)[tissue], 0.95) < 0.01
    assert np.quantile(np.abs(fa_free - fa_held)[tissue], 0.95) < 0.01


@pytest.mark.parametrize("sigma", [0.05, 0.025])
def test_fluid_is_free_water(sigma):
    """Fluid fits a tissue as fast as water equally well: the prior of the tissue decides."""
    acq = two_shells()
    clean = np.tile(np.exp(-acq.bvals * 3.0e-3), (300, 1))
    held, _, _ = fit(noisy(clean, sigma), acq, sigma, kind="rician")
    assert (held > 0.9).mean() > 0.99


def test_water_fraction_is_unbiased_and_its_noise_small():
    acq, sigma = two_shells(), 0.05
    for f in (0.3, 0.7, 0.9):
        clean = mixture(acq, np.full(300, f), random_tissue(300))
        fw, _, _ = fit(noisy(clean, sigma), acq, sigma, kind="rician")
        assert abs(fw.mean() - f) < 0.02
        assert fw.std() < 0.07


def test_a_start_is_near_the_truth():
    acq, f = two_shells(), np.linspace(0, 0.95, 60)
    signal = torch.tensor(mixture(acq, f, random_tissue(60)).T).float()
    (start,) = MODEL.start(acq, signal)
    assert (start[6] - torch.tensor(f)).abs().max() < 0.12
    assert (start[7] - 1).abs().max() < 0.05


def test_one_shell_is_refused_in_words():
    acq = protocol({1000.0: 60})
    scan = Scan(np.ones((2, 2, 2, len(acq))), RING_AFFINE, acq).with_mask(np.ones((2, 2, 2)))
    with pytest.raises(NotIdentifiable, match=r"needs 2 non-zero shells \(there are 1: b1000\)"):
        dm.fit(scan, "freewater")


def test_fa_of_hardly_any_tissue_is_called_undetermined():
    acq = two_shells()
    f = np.array([0.2, 0.85, 0.97, 1.0])
    signal = mixture(acq, f, random_tissue(4)).reshape(2, 2, 1, -1) * 500
    scan = Scan(signal, RING_AFFINE, acq).with_mask(np.ones((2, 2, 1)))
    flags = dm.fit(scan, "freewater", sigma=1.0).flags["freewater"].ravel()
    assert (flags == Flag.UNDETERMINED).tolist() == [False, False, True, True]
