"""NODDI: its signal against an orientation average by brute force, and its fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom import RING_AFFINE, angle_deg, protocol

import DMRIMicroLib as dm
from DMRIMicroLib.maps import Flag
from DMRIMicroLib.models.noddi import NODDI
from DMRIMicroLib.scan import Scan


def brute_force(acq, ndi, odi, fwf, mu) -> np.ndarray:
    """Zhang et al. 2012, eqs. 1 to 8, by a sum over 200,000 directions: (m,)."""
    count = 200_000
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    angle = np.pi * (1 + np.sqrt(5)) * k
    r = np.sqrt(1 - z * z)
    n = np.stack([r * np.cos(angle), r * np.sin(angle), z], 1)
    kappa = 1 / np.tan(odi * np.pi / 2)
    f = np.exp(kappa * ((n @ mu) ** 2 - 1))
    f /= f.sum()
    b, g = acq.bvals / 1e3, acq.bvecs
    intra = np.array([f @ np.exp(-bi * 1.7 * (n @ gi) ** 2) for bi, gi in zip(b, g, strict=True)])
    perp = 1.7 * (1 - ndi)
    mean = np.einsum("k,ki,kj->ij", f, n, n)  # of n n', so that the tensor is its average
    tensor = perp * np.eye(3) + (1.7 - perp) * mean
    extra = np.exp(-b * np.einsum("mi,ij,mj->m", g, tensor, g))
    return (1 - fwf) * (ndi * intra + (1 - ndi) * extra) + fwf * np.exp(-3 * b)


@pytest.mark.parametrize("odi", [0.04, 0.15, 0.5, 0.95])
def test_signal_equals_the_orientation_average(odi):
    acq = protocol({700.0: 5, 2000.0: 6, 3000.0: 6}, b0=1)
    mu = np.array([0.48, -0.6, 0.64])
    x = torch.tensor([0.6, odi, 0.1, *mu, 1.0], dtype=torch.float64)[:, None]
    ours = NODDI().signal(acq, x)[:, 0].numpy()
    # the Legendre series stops at degree 16: 1e-5 but for the sharpest distributions
    np.testing.assert_allclose(
        ours, brute_force(acq, 0.6, odi, 0.1, mu), atol=1e-5 if odi > 0.1 else 2e-4
    )


def test_high_b_values_take_a_longer_series():
    acq = protocol({6000.0: 8}, b0=1)
    mu = np.array([0.48, -0.6, 0.64])
    x = torch.tensor([0.6, 0.1, 0.1, *mu, 1.0], dtype=torch.float64)[:, None]
    expected = brute_force(acq, 0.6, 0.1, 0.1, mu)
    np.testing.assert_allclose(NODDI().signal(acq, x)[:, 0], expected, atol=2e-5)


def known(n: int, seed: int = 0) -> torch.Tensor:
    """Parameters of brain tissue: (7, n)."""
    rng = np.random.default_rng(seed)
    mu = rng.normal(size=(3, n))
    rows = [
        rng.uniform(0.2, 0.85, (1, n)),
        rng.uniform(0.05, 0.7, (1, n)),
        rng.uniform(0, 0.4, (1, n)),
        mu / np.linalg.norm(mu, axis=0),
        np.ones((1, n)),
    ]
    return torch.tensor(np.concatenate(rows), dtype=torch.float32)


def scan_of(x: torch.Tensor, acq, sigma: float = 0.0, s0: float = 800.0) -> Scan:
    signal = s0 * NODDI().signal(acq, x).T.numpy()
    if sigma:
        noise = np.random.default_rng(1).normal(0, sigma * s0, (2, *signal.shape))
        signal = np.hypot(signal + noise[0], noise[1])
    shape = (x.shape[1], 1, 1)
    return Scan(
        signal.reshape(*shape, -1).astype(np.float32), RING_AFFINE, acq, mask=np.ones(shape)
    )


def test_recovers_the_truth_without_noise():
    x = known(400)
    maps = dm.fit(scan_of(x, protocol({1000.0: 30, 2000.0: 60}, b0=4)), "noddi", sigma=1.0)
    for name, row, limit in (("NDI", 0, 2e-3), ("ODI", 1, 3e-3), ("FWF", 2, 2e-3)):
        assert np.abs(np.asarray(maps[name]).ravel() - x[row].numpy()).max() < limit, name
    assert angle_deg(np.asarray(maps["mu"]).reshape(-1, 3), x[3:6].T.numpy()).max() < 0.5
    assert (maps.flags["noddi"] == Flag.GOOD).all()


def test_uncertainties_cover_the_errors():
    x = known(1500)
    scan = scan_of(x, protocol({1000.0: 30, 2000.0: 60}, b0=13), sigma=1 / 30)
    maps = dm.fit(scan, "noddi", uncertainty=True)
    for name, row in (("NDI", 0), ("ODI", 1), ("FWF", 2)):
        error = np.asarray(maps[name]).ravel() - x[row].numpy()
        inside = np.abs(error) < np.asarray(maps[name].uncertainty).ravel()
        assert 0.6 < inside.mean() < 0.8, name


def test_fluid_is_flagged_because_it_tells_nothing_of_neurites():
    x = known(50)
    x[2] = 0.98
    maps = dm.fit(scan_of(x, protocol({1000.0: 30, 2000.0: 30}, b0=4), sigma=0.02), "noddi")
    assert (maps.flags["noddi"] == Flag.UNDETERMINED).mean() > 0.9
    assert np.isfinite(np.asarray(maps["ODI"])).all()


def test_nonsense_gives_finite_or_no_values():
    x = known(60)
    scan = scan_of(x, protocol({1000.0: 30, 2000.0: 30}, b0=4), sigma=0.02)
    signal = scan.signal.copy()
    signal[0], signal[1], signal[2] = 0, np.nan, -5
    signal[3, ..., :4] = 0  # no b0
    signal[4] = 1e6
    signal[5] = np.random.default_rng(0).rayleigh(20, signal[5].shape)
    signal[6, ..., 4:] = 2 * signal[6, ..., :1]  # grows with b
    maps = dm.fit(replace(scan, signal=signal), "noddi", uncertainty=True)
    assert (maps.flags["noddi"][:4] == Flag.EMPTY).all()
    for item in maps.values():
        assert np.isfinite(item.data).all(), item.metric.name
        assert (item.data[:4] == 0).all()
