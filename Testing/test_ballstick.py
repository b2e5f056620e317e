"""Ball and stick: limit cases, and fitted back."""

import numpy as np
import pytest
import torch
from phantom import RING_AFFINE, angle_deg, protocol, ring_axes

import DMRIMicroLib as dm
from DMRIMicroLib.models import MODELS
from DMRIMicroLib.scan import Scan

MODEL = MODELS["ballstick"]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_without_a_stick_it_is_a_ball_and_without_a_ball_still_across_the_stick():
    acq = protocol({1000.0: 12, 2000.0: 12})
    b = acq.bvals / 1e3
    ball = MODEL.signal(acq, column(0, 1.4, 0, 0, 1, 1))[:, 0]
    np.testing.assert_allclose(ball, np.exp(-1.4 * b), rtol=1e-12)
    stick = MODEL.signal(acq, column(1, 1.4, 0, 0.6, 0.8, 1))[:, 0]
    cos = acq.bvecs @ [0, 0.6, 0.8]
    np.testing.assert_allclose(stick, np.exp(-1.4 * b * cos**2), rtol=1e-12)


@pytest.mark.parametrize("shells", [{1000.0: 30}, {1000.0: 30, 2000.0: 30}])
def test_recovers_the_truth_without_noise(shells):
    acq, shape = protocol(shells), (6, 7, 2)
    axis = ring_axes(RING_AFFINE, shape)
    f = np.linspace(0.1, 0.9, 84).reshape(*shape, 1)
    b = acq.bvals / 1e3
    signal = (1 - f) * np.exp(-1.5 * b) + f * np.exp(-1.5 * b * (axis @ acq.bvecs.T) ** 2)
    scan = Scan(800 * signal, RING_AFFINE, acq, np.ones(shape))
    maps = dm.fit(scan, "ballstick", sigma=0.1, likelihood="gaussian")
    np.testing.assert_allclose(maps["f_stick"].data, f[..., 0], atol=1e-3)
    assert angle_deg(maps["stick_direction"].data, axis).max() < 0.1
