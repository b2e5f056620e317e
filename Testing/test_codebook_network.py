"""Tokens, kernels and network of the codebook: invariances, any protocol, edge cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom import directions, fibre_tensors, protocol, tensor_signal
from tiny_codebook import TINY, one_thread, tiny_network  # noqa: F401

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.codebooks.kernels import D_RANGE, RADII, Kernels
from DMRIMicroLib.codebooks.network import Codebook, Shape, Standard, invariants, settle
from DMRIMicroLib.codebooks.scale import POWERS, Scale
from DMRIMicroLib.codebooks.tokens import MEAN_SD, PRIOR_SD, tokens, usual_kernel
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.physics.tissue import TissueState
from DMRIMicroLib.physics.tissue import signal as tissue_signal
from DMRIMicroLib.training.pool import METRICS

NETWORK = tiny_network()
EYE = torch.eye(3, dtype=torch.float64)
PROTOCOLS = [
    {1000.0: 3},
    {1000.0: 6},
    {700.0: 6, 2000.0: 15},
    {500.0: 3, 1000.0: 12, 2000.0: 20, 3000.0: 30},
]


def turn(seed: int = 0) -> np.ndarray:
    """A rotation: (3, 3)."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def picture(acq: Acquisition, shape=(9, 7), seed: int = 0, noise: float = 20.0):
    """Signal of fibres of random directions, a mask with a hole and the noise."""
    generator = np.random.default_rng(seed)
    axis = generator.normal(size=(*shape, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    data = tensor_signal(acq, fibre_tensors(axis))
    data = np.abs(data + noise * generator.normal(size=data.shape))
    mask = torch.ones(shape, dtype=torch.bool)
    mask[3, 3] = mask[0] = False
    signal = torch.from_numpy(np.moveaxis(data, -1, 0).astype(np.float32))
    return signal, mask, torch.full(shape, max(noise, 1.0))


def seen(acq: Acquisition, frame=EYE, **words):
    signal, mask, sigma = picture(acq, **words)
    return tokens(signal, mask, acq, sigma, frame)


def turned(acq: Acquisition, rotation: np.ndarray) -> Acquisition:
    return Acquisition(acq.bvals, acq.bvecs @ rotation.T)


def invariant(series: torch.Tensor) -> torch.Tensor:
    """Inner products of each series with itself: (..., 14, x, y) -> (..., 2, x y)."""
    return invariants(series.flatten(-2)[..., None, :])


@pytest.mark.parametrize("shells", PROTOCOLS)
def test_turning_gradients_turns_series_and_leaves_all_else(shells):
    acq, rotation = protocol(shells), turn()
    signal, mask, sigma = picture(acq)
    here = tokens(signal, mask, acq, sigma, EYE)
    there = tokens(signal, mask, turned(acq, rotation), sigma, EYE)
    for name in ("mean", "shell_facts", "joint_facts", "voxel_facts"):
        torch.testing.assert_close(getattr(here, name), getattr(there, name), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(here.joint, there.joint, atol=1e-2)
    for name in ("joint", "series"):
        one, other = invariant(getattr(here, name)), invariant(getattr(there, name))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    frame = torch.from_numpy(rotation).T  # its rows are turned, too
    back = tokens(signal, mask, turned(acq, rotation), sigma, frame)
    torch.testing.assert_close(back.joint, here.joint, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shells", PROTOCOLS)
def test_metrics_do_not_depend_on_how_the_head_was_turned(shells):
    acq = protocol(shells)
    signal, mask, sigma = picture(acq)
    with torch.no_grad():
        here = NETWORK(tokens(signal, mask, acq, sigma, EYE))
        there = NETWORK(tokens(signal, mask, turned(acq, turn(3)), sigma, EYE))
    for name in ("mean", "log_sd", "weights", "features"):
        one, other = getattr(here, name), getattr(there, name)
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(here.odf, there.odf, atol=1e-2)  # fibres turn with the head


def test_the_order_of_the_volumes_changes_nothing():
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq)
    order = np.random.default_rng(1).permutation(len(acq))
    one = tokens(signal, mask, acq, sigma, EYE)
    other = tokens(signal[order], mask, acq.subset(order), sigma, EYE)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)  # a kurtosis is a quotient


def test_the_scale_of_the_signal_changes_nothing():
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq)
    one = tokens(signal, mask, acq, sigma, EYE)
    for factor in (1e-4, 1e5):
        other = tokens(factor * signal, mask, acq, factor * sigma, EYE)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_opposite_gradients_tell_the_same():
    acq = protocol(PROTOCOLS[2])
    other = Acquisition(acq.bvals, -acq.bvecs)
    torch.testing.assert_close(
        seen(acq).joint, tokens(*picture(acq)[:2], other, picture(acq)[2], EYE).joint
    )


def test_many_directions_without_noise_give_the_series_of_the_usual_tissue():
    """What the kernel of usual white matter has made is found, whatever the shell."""
    acq = protocol({1000.0: 60, 2500.0: 60}, b0=4)
    odf = torch.zeros(14)
    odf[[2, 4, 9]] = torch.tensor([0.25, -0.1, 0.08])
    b = torch.as_tensor(acq.bvals / 1e3)
    basis, kernel = sh_basis(torch.as_tensor(acq.bvecs), 4), usual_kernel(b)
    degree = torch.tensor([1] * 5 + [2] * 9)
    told = kernel[:, 0] / (4 * math.pi) + (basis[:, 1:] * kernel[:, degree]) @ odf.double()
    signal = told.float()[:, None, None].expand(-1, 3, 3)
    mask = torch.ones(3, 3, dtype=torch.bool)
    found = tokens(signal, mask, acq, torch.full((3, 3), 1e-4), EYE)
    torch.testing.assert_close(found.joint[:, 1, 1], odf, atol=0.01, rtol=0)
    for series in found.series:
        torch.testing.assert_close(series[:, 1, 1], odf, atol=0.03, rtol=0)
    assert found.joint_facts[2] > 0.95  # measured, not assumed
    mean = [float(kernel[list(s.indices), 0].mean()) / (4 * math.pi) for s in acq.shells]
    torch.testing.assert_close(found.mean[:, 1, 1], torch.tensor(mean), atol=0.01, rtol=0)


def test_three_directions_say_little_and_say_so():
    few, many = seen(protocol({1000.0: 3})), seen(protocol({1000.0: 60}))
    assert few.shell_facts[0, 2] < 0.5 * many.shell_facts[0, 2]
    assert few.joint.abs().mean() < many.joint.abs().mean()
    spread = torch.tensor([PRIOR_SD[0]] * 5 + [PRIOR_SD[1]] * 9)[:, None, None]
    assert (few.joint.abs() < 5 * spread).all()
    assert MEAN_SD > 0


def test_dark_and_odd_voxels_make_no_nan():
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq)
    mask[:] = True
    signal[:, 4, 4] = 0
    signal[acq.is_b0, 5, 5] = 0
    signal[:, 6, 6] = 1e6
    with torch.no_grad():
        for one in (mask, torch.zeros_like(mask).index_fill(1, torch.tensor([2]), True)):
            found = NETWORK(tokens(signal, one, acq, sigma, EYE))
            assert all(torch.isfinite(v).all() for v in found)
            assert len(found.mean) == int(one.sum())
        single = tokens(signal[:, :1, :1], mask[:1, :1], acq, sigma[:1, :1], EYE)
        assert all(torch.isfinite(v).all() for v in NETWORK(single))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 6), (8, 8), (13, 3)])
def test_any_size_goes_through(size):
    acq = protocol(PROTOCOLS[1])
    signal, _, sigma = picture(acq, shape=(14, 14))
    mask = torch.zeros(14, 14, dtype=torch.bool)
    mask[: size[0], : size[1]] = True
    cut = (slice(None), slice(size[0]), slice(size[1]))
    with torch.no_grad():
        alone = NETWORK(tokens(signal[cut], mask[cut[1:]], acq, sigma[cut[1:]], EYE))
    assert alone.mean.shape == (size[0] * size[1], 24)
    torch.testing.assert_close(alone.weights.sum(1), torch.ones(len(alone.weights)))
    assert (alone.weights >= 0).all()


def test_voxels_come_in_the_order_of_the_mask():
    """The network is a function of the neighbourhood: another corner tells other voxels less."""
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq, shape=(24, 24), noise=0.0)
    with torch.no_grad():
        one = NETWORK(tokens(signal, mask, acq, sigma, EYE)).mean
        signal[:, 20:, 20:] *= torch.linspace(1, 0.5, len(acq))[:, None, None]
        other = NETWORK(tokens(signal, mask, acq, sigma, EYE)).mean
    change = torch.zeros(24, 24)
    change[mask] = (one - other).abs().mean(1)
    assert change[20:, 20:].min() > 10 * change[1:8, 1:8].max()


@pytest.mark.parametrize("without", ["mamba", "cnn", "physical"])
def test_ablations_are_networks_too(without):
    network = Codebook(Shape(metrics=METRICS[:3], **TINY, **{without: False}))
    found = network(seen(protocol(PROTOCOLS[1])))
    assert found.mean.shape[1] == 3
    found.mean.sum().backward()


def test_every_parameter_learns():
    network = tiny_network(1)
    found = network(seen(protocol(PROTOCOLS[2])))
    timed = replace(protocol(PROTOCOLS[3]), delta=15.0, Delta=30.0)  # tells the size of spheres
    told = network.kernels.signal(found.weights, found.odf, timed, EYE)
    (found.mean.sum() + found.log_sd.sum() + told.square().sum()).backward()
    still = [k for k, v in network.named_parameters() if v.grad is None or not v.grad.any()]
    assert not still
    assert all(torch.isfinite(v.grad).all() for v in network.parameters() if v.grad is not None)


def test_settled_inputs_lie_around_zero():
    network, examples = (
        tiny_network(2),
        [seen(protocol(p), seed=k) for k, p in enumerate(PROTOCOLS)],
    )
    settle(network, examples)
    standard = network.of_joint
    assert isinstance(standard, Standard)
    standard.seen = []
    with torch.no_grad():
        for one in examples:
            network(one)
    inputs = (torch.cat(standard.seen) - standard.centre) / standard.spread
    torch.testing.assert_close(inputs.mean(0), torch.zeros(inputs.shape[1]), atol=1e-3, rtol=0)
    assert float(inputs.std(0).max()) < 1.01


def test_kernels_are_the_physics_of_tissue():
    """A zeppelin with a fibre distribution: the same signal as `physics.tissue` says."""
    kernels, acq = Kernels(12), protocol(PROTOCOLS[3])
    d_par, d_perp = (v.detach() for v in kernels.diffusivities())
    odf = torch.zeros(1, 15)
    odf[0, 0] = 1 / math.sqrt(4 * math.pi)
    odf[0, [3, 5, 10]] = torch.tensor([0.2, -0.05, 0.04])
    zero, one = torch.zeros(1), torch.ones(1)
    for k in range(4):
        weights = torch.eye(12)[k : k + 1]
        state = TissueState(
            zero, one, zero, zero, zero, one, d_par[k : k + 1], d_perp[k : k + 1], one, odf
        )
        told = kernels.signal(weights, odf[:, 1:], acq, EYE)
        torch.testing.assert_close(told, tissue_signal(state, acq).to(told), atol=1e-4, rtol=1e-3)


def test_kernels_without_weighting_give_one_and_means_are_those_of_the_signal():
    kernels = Kernels(20)
    weights = torch.rand(5, 20, generator=torch.Generator().manual_seed(0))
    weights = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(kernels.means(weights, torch.zeros(1)), torch.ones(5, 1))
    many = Acquisition(
        np.r_[0.0, np.full(300, 1500.0)],
        np.concatenate([np.zeros((1, 3)), directions(300)]),
        delta=15.0,
        Delta=30.0,
    )
    odf = 0.1 * torch.randn(5, 14, generator=torch.Generator().manual_seed(1))
    told = kernels.signal(weights, odf, many, EYE)
    torch.testing.assert_close(told[:, 0], torch.ones(5))
    mean = kernels.means(weights, torch.tensor([1.5]), 15.0, 30.0)[:, 0]
    torch.testing.assert_close(told[:, 1:].mean(1), mean, atol=2e-3, rtol=0)
    assert not torch.equal(mean, kernels.means(weights, torch.tensor([1.5]))[:, 0])  # timing counts


def test_kernels_stay_within_physics():
    kernels = Kernels(64)
    with torch.no_grad():
        for value in kernels.parameters():
            value.mul_(100)
    d_par, d_perp = kernels.diffusivities()
    assert (d_perp <= d_par).all()
    assert D_RANGE[0] <= float(d_par.min())
    assert float(d_par.max()) <= D_RANGE[1] + 1e-6
    assert RADII[0] <= float(kernels.radii().min()) <= float(kernels.radii().max()) <= RADII[1]


def test_scale_goes_there_and_back():
    generator = torch.Generator().manual_seed(0)
    columns = {
        "FA": torch.rand(1000, generator=generator),
        "MD": 1e-3 * torch.rand(1000, generator=generator),
        "RTOP": 1e5 * torch.rand(1000, generator=generator) ** 3,
        "RTAP": 1e3 * torch.rand(1000, generator=generator) ** 2,
    }
    scale = Scale.of(columns)
    values = torch.stack(list(columns.values()), 1)
    coded = scale.encode(values)
    assert float(coded.median(0).values.abs().max()) < 0.01
    back, _ = scale.decode(coded, torch.ones_like(coded))
    torch.testing.assert_close(back, values, rtol=1e-3, atol=1e-9)
    some = scale.subset(["RTOP", "FA"])
    torch.testing.assert_close(some.encode(values[:, [2, 0]]), coded[:, [2, 0]])


def test_deviations_are_those_of_small_changes():
    scale = Scale(("FA", "RTOP", "RTAP"), (0.4, 60.0, 25.0), (0.2, 8.0, 4.0))
    mean = torch.tensor([[0.3, 0.3, 0.3]], dtype=torch.float64)
    small = 1e-4
    _, sd = scale.decode(mean, torch.full_like(mean, small))
    up, _ = scale.decode(mean + small, mean)
    down, _ = scale.decode(mean - small, mean)
    torch.testing.assert_close(sd, (up - down) / 2, rtol=1e-6, atol=0)
    assert set(POWERS) == {"RTOP", "RTAP"}
