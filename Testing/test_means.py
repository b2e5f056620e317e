"""Spherical means: the noise floor taken out, outliers and unusable samples left out."""

import numpy as np
import pytest
import torch
from phantom import protocol

import DMRIMicroLib as dm
from DMRIMicroLib.errors import NotIdentifiable
from DMRIMicroLib.fitting.means import spherical_means
from DMRIMicroLib.physics.compartments import stick_mean
from DMRIMicroLib.physics.noise import add_noise
from DMRIMicroLib.scan import Scan

ACQ = protocol({1000.0: 40, 3000.0: 60}, b0=6)


def sticks(n: int = 3000) -> torch.Tensor:
    """Signals of single sticks of 1.7 um2/ms in every direction: (n, m) float64."""
    axis = torch.randn(3, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cos = torch.tensor(ACQ.bvecs) @ (axis / axis.norm(dim=0))
    return torch.exp(-torch.tensor(ACQ.bvals)[:, None] / 1e3 * 1.7 * cos**2).T.contiguous()


def truth() -> torch.Tensor:
    return stick_mean(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), 1.7)


def noisy(sigma: float) -> torch.Tensor:
    return add_noise(sticks(), sigma, generator=torch.Generator().manual_seed(1))


def test_without_noise_it_is_the_mean_over_directions():
    means, counts = spherical_means(sticks(), ACQ, None)
    torch.testing.assert_close(means.mean(0), truth(), atol=1e-3, rtol=0)
    assert counts[0].tolist() == [6, 40, 60]


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_the_noise_floor_is_taken_out(sigma):
    y = noisy(sigma)
    plain = spherical_means(y, ACQ, None)[0].mean(0) - truth()
    means, _ = spherical_means(y, ACQ, torch.full((len(y),), sigma, dtype=torch.float64))
    assert plain[2] > 0.25 * sigma
    assert (means.mean(0) - truth()).abs().max() < 0.25 * plain[2]


def test_counts_tell_the_spread_that_is_left():
    sigma = 0.1
    y = noisy(sigma)
    means, counts = spherical_means(y, ACQ, torch.full((len(y),), sigma, dtype=torch.float64))
    clean, _ = spherical_means(sticks(), ACQ, None)
    seen = (means - clean).std(0)
    told = sigma / counts.mean(0).sqrt()
    torch.testing.assert_close(told, seen, rtol=0.2, atol=0)


def test_robust_means_forget_drop_outs():
    sigma = torch.full((3000,), 0.03, dtype=torch.float64)
    y = noisy(0.03)
    clean = spherical_means(y, ACQ, sigma)[0]
    y[:, 10:100:12] *= 0.2
    spoilt = (spherical_means(y, ACQ, sigma)[0] - clean)[:, 1:].abs().mean()
    mended = (spherical_means(y, ACQ, sigma, robust=True)[0] - clean)[:, 1:].abs().mean()
    assert mended < 0.35 * spoilt


def test_unusable_samples_do_not_count():
    y = sticks(50)
    y[:, 8], y[:, 60], y[3] = 0, torch.nan, 0
    means, counts = spherical_means(y, ACQ, torch.full((50,), 0.01, dtype=torch.float64))
    assert torch.isfinite(means).all()
    assert (counts[3] == 0).all()
    assert counts[4, 0] == pytest.approx(6, rel=1e-3)
    assert counts[4, 1] < 39.1


def test_a_model_that_has_no_robust_fit_says_so():
    signal = sticks(8).reshape(2, 2, 2, -1).numpy().astype(np.float32) * 100
    acq = dm.Acquisition(ACQ.bvals, ACQ.bvecs, delta=15.0, Delta=30.0)
    scan = Scan(signal, np.eye(4), acq, mask=np.ones((2, 2, 2)))
    with pytest.raises(NotIdentifiable, match="robust switched off"):
        dm.fit(scan, "mapmri", robust=True)
