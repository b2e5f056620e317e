"""Tokens, kernels and network of the codebook: invariances, any protocol, edge cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom import directions, fibre_tensors, protocol, tensor_signal
from tiny_codebook import (  # noqa: F401
    TINY,
    one_thread,
    shells,
    tiny_network,
    tiny_space,
    tissue,
)

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.codebooks.gaussian import Joint, Posterior
from DMRIMicroLib.codebooks.invariants import products
from DMRIMicroLib.codebooks.kernels import D_RANGE, RADII, Kernels
from DMRIMicroLib.codebooks.network import CERTAIN, Codebook, Shape
from DMRIMicroLib.codebooks.scale import POWERS, Scale
from DMRIMicroLib.codebooks.standard import settle
from DMRIMicroLib.codebooks.tokens import FACTS, LAGS, state_noise, tokens, with_state
from DMRIMicroLib.codebooks.trunk import FILTERS, WIDTHS
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.physics.tissue import TissueState
from DMRIMicroLib.physics.tissue import signal as tissue_signal
from DMRIMicroLib.training.pool import METRICS

NETWORK = tiny_network()
SPACE = tiny_space()
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
    return tokens(signal, mask, acq, sigma, frame, SPACE)


def random_network(words: dict) -> Codebook:
    """A network of which no parameter is at its start, and none too small to tell."""
    torch.manual_seed(3)
    network = Codebook(Shape(METRICS, **TINY, **words))
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return network


def turned(acq: Acquisition, rotation: np.ndarray) -> Acquisition:
    return Acquisition(acq.bvals, acq.bvecs @ rotation.T)


def sizes(start: torch.Tensor) -> torch.Tensor:
    """Inner products of the series of degrees 2 and 4: (22, x, y) -> (4, x y)."""
    _, two, four = start.flatten(1).split([3, 10, 9])
    return torch.cat([products(two.unflatten(0, (2, 5))), products(four[None])])


@pytest.mark.parametrize("shells", PROTOCOLS)
def test_turning_gradients_turns_series_and_leaves_all_else(shells):
    acq, rotation = protocol(shells), turn()
    signal, mask, sigma = picture(acq)
    here = tokens(signal, mask, acq, sigma, EYE, SPACE)
    there = tokens(signal, mask, turned(acq, rotation), sigma, EYE, SPACE)
    for name in ("noise", "mean", "facts", "voxel_facts", "b"):
        torch.testing.assert_close(getattr(here, name), getattr(there, name), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(here.start[:3], there.start[:3], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(here.start[3:], there.start[3:], atol=1e-2)
    torch.testing.assert_close(sizes(here.start), sizes(there.start), atol=1e-3, rtol=1e-3)
    frame = torch.from_numpy(rotation).T  # its rows are turned, too
    back = tokens(signal, mask, turned(acq, rotation), sigma, frame, SPACE)
    for name in ("start", "matrix", "vector"):
        torch.testing.assert_close(getattr(here, name), getattr(back, name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shells", PROTOCOLS)
def test_metrics_do_not_depend_on_how_the_head_was_turned(shells):
    acq, rotation = protocol(shells), turn(3)
    signal, mask, sigma = picture(acq)
    with torch.no_grad():
        here = NETWORK(tokens(signal, mask, acq, sigma, EYE, SPACE))
        there = NETWORK(tokens(signal, mask, turned(acq, rotation), sigma, EYE, SPACE))
    for name in ("mean", "log_sd", "weights", "features"):
        one, other = getattr(here, name), getattr(there, name)
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)
    # fibres turn with the head
    g = directions(50)
    basis, after = (sh_basis(torch.from_numpy(v), 4)[:, 1:].float() for v in (g, g @ rotation.T))
    one, other = here.odf @ basis.T, there.odf @ after.T
    assert float(one.std()) > 0.01
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_the_order_of_the_volumes_changes_nothing():
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq)
    order = np.random.default_rng(1).permutation(len(acq))
    one = tokens(signal, mask, acq, sigma, EYE, SPACE)
    other = tokens(signal[order], mask, acq.subset(order), sigma, EYE, SPACE)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)  # a kurtosis is a quotient


def test_the_scale_of_the_signal_changes_nothing():
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq)
    one = tokens(signal, mask, acq, sigma, EYE, SPACE)
    for factor in (1e-4, 1e5):
        other = tokens(factor * signal, mask, acq, factor * sigma, EYE, SPACE)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_opposite_gradients_tell_the_same():
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq)
    other = Acquisition(acq.bvals, -acq.bvecs)
    one, two = (tokens(signal, mask, a, sigma, EYE, SPACE) for a in (acq, other))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_many_volumes_without_noise_tell_the_signal_of_any_other():
    state, acq = tissue(49, seed=4), shells(500.0, 1000.0, 2000.0, 3000.0, count=60)
    signal = 300 * tissue_signal(state, acq).T.reshape(-1, 7, 7)
    mask = torch.ones(7, 7, dtype=torch.bool)
    found = tokens(signal, mask, acq, torch.full((7, 7), 0.3), EYE, SPACE)
    asked = shells(700.0, 1500.0, 2600.0, count=20, b0=0)
    design, offset, _ = SPACE.design(asked, EYE)
    told = found.start[:, mask].T.double() @ design.T + offset
    assert float((told - tissue_signal(state, asked)).square().mean().sqrt()) < 0.005
    mean = signal[61:121].mean(0) / 300
    torch.testing.assert_close(found.mean[1], mean, atol=1e-5, rtol=1e-5)
    assert float(found.facts[0]) > 0.99  # the data's share
    assert len(found.facts) == 6 + FACTS


def test_three_directions_say_little_and_say_so():
    few, many = seen(protocol({1000.0: 3})), seen(protocol({1000.0: 60}))
    assert (few.facts[:6] < many.facts[:6]).all()
    assert few.facts[3] < 0.7 * many.facts[3]
    assert few.start[3:8].square().mean() < 0.8 * many.start[3:8].square().mean()


def test_shells_that_the_space_does_not_reach_change_no_number():
    acq = protocol({1000.0: 12, 5000.0: 12})
    signal, mask, sigma = picture(acq)
    low = [v for v, b in enumerate(acq.bvals) if b < 4000]
    whole = tokens(signal, mask, acq, sigma, EYE, SPACE)
    part = tokens(signal[low], mask, acq.subset(low), sigma, EYE, SPACE)
    for name in ("matrix", "vector", "start", "facts"):
        torch.testing.assert_close(getattr(whole, name), getattr(part, name))


def test_a_guess_of_the_numbers_is_one_more_measurement():
    """Data and guess are as good as data alone with the guess as prior."""
    one = seen(protocol(PROTOCOLS[1]))
    n, level = len(one.noise), 0.3
    guess = torch.randn(22, n, generator=torch.Generator().manual_seed(0))
    both, sd = with_state(one, SPACE, guess, level), state_noise(one, level)
    vast, none = torch.full((n, 22), 1e4), torch.zeros(n, 22, 2)
    data = (v.double() for v in (both.matrix, both.vector.T, both.noise))
    told = Joint(torch.zeros(n, 22).double(), vast.double(), none.double(), *data).posterior()
    prior = guess.T.double(), sd.square().double()[:, None].expand(n, 22), none.double()
    data = (v.double() for v in (one.matrix, one.vector.T, one.noise))
    wanted = Joint(*prior, *data).posterior()
    torch.testing.assert_close(told.mean, wanted.mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(told.variance, wanted.variance, atol=1e-4, rtol=1e-3)
    assert (both.facts[:6] > one.facts[:6]).all()
    assert torch.equal(both.facts[6:], one.facts[6:])
    sure = with_state(one, SPACE, guess, 1e-3)
    torch.testing.assert_close(sure.start[:, one.mask], guess, atol=1e-2, rtol=0)
    for name in ("noise", "voxel_facts", "mean", "b", "mask"):
        assert getattr(both, name) is getattr(one, name)


def test_known_numbers_are_read_as_posteriors_without_doubt():
    numbers = torch.randn(5, 22, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told = NETWORK.read(numbers)
        sure = Posterior(numbers, torch.full_like(numbers, CERTAIN))
        wanted = NETWORK.tell(sure, torch.zeros(5, TINY["width"]))
    assert torch.equal(told.mean, wanted.mean)
    assert torch.equal(told.space, numbers)


def test_a_network_that_has_learned_nothing_expects_what_lies_around():
    """The posterior mean of its neighbours' data, taken as those of one voxel; not its own."""
    torch.manual_seed(0)
    network, one = Codebook(Shape(METRICS, **TINY)), seen(protocol(PROTOCOLS[2]))
    with torch.no_grad():
        network.gates.weight.zero_()
        prior = network.prior(one)
    place = one.mask.nonzero()
    apart = place[:, None] - place
    near = ((apart.abs() <= 2).all(2) & (apart != 0).any(2)).double()
    weights = near * (-apart.double().square().sum(2) / (2 * WIDTHS[0] ** 2)).exp()
    whole = (-torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 2).square().sum(1)).double()
    whole = (whole / (2 * WIDTHS[0] ** 2)).exp()[whole < 0]
    noise = one.noise.median().double() ** 2 * whole.square().sum() / whole.sum() ** 2
    data = (weights / weights.sum(1, keepdim=True)) @ one.vector.T.double()
    around = torch.linalg.solve(one.matrix.double() + noise * torch.eye(22), data.T).T
    torch.testing.assert_close(prior.mean, around.float(), atol=1e-3, rtol=1e-3)
    wide = torch.full_like(prior.variance, 0.3)
    torch.testing.assert_close(prior.variance, wide, rtol=0.03, atol=0)  # held softly
    torch.testing.assert_close(prior.factors[:, 0, 0], torch.full((len(place),), 0.2))
    torch.testing.assert_close(prior.factors[:, 3:8, 1], 0.1 * prior.mean[:, 3:8])
    assert int((prior.factors != 0).any(0).sum()) == 1 + 5


@pytest.mark.parametrize("words", [{}, {"mamba": False}, {"cnn": False}], ids=str)
def test_what_is_expected_of_a_voxel_does_not_come_from_its_own_data(words):
    """Derivatives with respect to its own data are exactly 0, for all parameters."""
    network, one = random_network(words), seen(protocol(PROTOCOLS[2]), shape=(11, 10))
    vector, start = (v.requires_grad_(True) for v in (one.vector, one.start))
    prior = network.prior(one)
    places, generator = one.mask.nonzero(), torch.Generator().manual_seed(0)
    for own, (x, y) in enumerate(places.tolist()):
        told = [v[own] for v in prior]  # mean, variance, factors, features
        told = sum((v * torch.randn(v.shape, generator=generator)).sum() for v in told)
        by_vector, by_start = torch.autograd.grad(told, [vector, start], retain_graph=True)
        assert not by_vector[:, own].any()
        assert not by_start[:, x, y].any()
        moved = (by_start != 0).any(0)
        moved[one.mask] |= (by_vector != 0).any(0)
        near = slice(max(0, x - 2), x + 3), slice(max(0, y - 2), y + 3)
        assert int(moved[near].sum()) == int(one.mask[near].sum()) - 1  # all neighbours tell
        if words.get("mamba", True):
            assert moved[one.mask].float().mean() > 0.8  # and who is far, too


@pytest.mark.parametrize("part", ["mean", "variance", "factors", "features"])
def test_each_part_of_a_prior_sees_the_neighbours(part):
    network, one = random_network({}), seen(protocol(PROTOCOLS[2]))
    one.vector.requires_grad_(True)
    one.start.requires_grad_(True)
    told = getattr(network.prior(one), part)[10]
    vector, start = torch.autograd.grad(told.square().sum(), [one.vector, one.start],
                                        allow_unused=True)  # fmt: skip
    assert not start[:, one.mask][:, 10].any()
    assert start[:, one.mask][:, 11].any()
    if part in ("mean", "factors"):
        assert not vector[:, 10].any()
        assert vector[:, 11].any()


@pytest.mark.parametrize("words", [{}, {"decay": True}], ids=str)
def test_a_voxels_own_signals_move_no_prior_but_those_of_others(words):
    """As above, from the signals on, b0 images left alone; their mean weighs volumes.

    What is said of the slice as a whole is held: of that each voxel has its share.
    """
    acq, network = protocol(PROTOCOLS[2]), random_network(words)
    signal, mask, sigma = picture(acq)
    other = signal.clone()
    other[~torch.as_tensor(acq.is_b0.copy()), 5, 3] *= 0.6
    with torch.no_grad():
        seen = [tokens(v, mask, acq, sigma, EYE, SPACE) for v in (signal, other)]
        one, two = (network.prior(v._replace(facts=seen[0].facts)) for v in seen)
    own = int(mask.flatten()[: 5 * 7 + 3].sum())
    apart = [(a - b).abs().flatten(1).amax(1) for a, b in zip(one, two, strict=True)]
    for part in apart:
        assert float(part[own]) < 1e-3 * float(part.max())
        assert float(part[own + 1]) > 0.01 * float(part.max())


def test_factors_turn_with_the_head():
    acq, rotation = protocol(PROTOCOLS[3]), turn(4)
    signal, mask, sigma = picture(acq)
    network = random_network({})
    with torch.no_grad():
        here, there = (
            network.prior(tokens(signal, mask, a, sigma, EYE, SPACE))
            for a in (acq, turned(acq, rotation))
        )
    torch.testing.assert_close(here.variance, there.variance, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(here.factors[:, 3:], there.factors[:, 3:], atol=0.01)
    for at in (slice(0, 3), slice(3, 8), slice(8, 13), slice(13, 22)):
        products = [v.factors[:, at].mT @ v.factors[:, at] for v in (here, there)]
        if at.start == 0:
            products = [v.factors[:, at] for v in (here, there)]
        assert float(products[0].abs().max()) > 0.01
        torch.testing.assert_close(*products, atol=1e-3, rtol=1e-3)


def test_filters_see_neighbours_inside_the_mask_only():
    filters = NETWORK.filters
    mask = torch.ones(9, 7, dtype=torch.bool)
    mask[:, 4:] = False
    images = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        here = filters(images, mask)
        there = filters(torch.where(mask, images, 1e3), mask)
        flat = filters(torch.full((1, 9, 7), 3.0), mask)
        spot = torch.zeros(1, 9, 7)
        spot[0, 4, 1] = 1.0
        touched = torch.zeros(FILTERS, 9, 7)
        touched[:, mask] = filters(spot, mask)[0]
    assert torch.equal(here, there)
    near = torch.zeros(9, 7, dtype=torch.bool)
    near[2:7, :4] = True
    near[4, 1] = False  # itself
    assert torch.equal(touched != 0, near.expand_as(touched))
    torch.testing.assert_close(flat, torch.full_like(flat, 3.0))


def test_dark_and_odd_voxels_make_no_nan():
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq)
    mask[:] = True
    signal[:, 4, 4] = 0
    signal[acq.is_b0, 5, 5] = 0
    signal[:, 6, 6] = 1e6
    with torch.no_grad():
        for one in (mask, torch.zeros_like(mask).index_fill(1, torch.tensor([2]), True)):
            found = NETWORK(tokens(signal, one, acq, sigma, EYE, SPACE))
            assert all(torch.isfinite(v).all() for v in found)
            assert len(found.mean) == int(one.sum())
        single = tokens(signal[:, :1, :1], mask[:1, :1], acq, sigma[:1, :1], EYE, SPACE)
        assert all(torch.isfinite(v).all() for v in NETWORK(single))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 6), (8, 8), (13, 3)])
def test_any_size_goes_through(size):
    acq = protocol(PROTOCOLS[1])
    signal, _, sigma = picture(acq, shape=(14, 14))
    mask = torch.zeros(14, 14, dtype=torch.bool)
    mask[: size[0], : size[1]] = True
    cut = (slice(None), slice(size[0]), slice(size[1]))
    with torch.no_grad():
        alone = NETWORK(tokens(signal[cut], mask[cut[1:]], acq, sigma[cut[1:]], EYE, SPACE))
    assert alone.mean.shape == (size[0] * size[1], 24)
    torch.testing.assert_close(alone.weights.sum(1), torch.ones(len(alone.weights)))
    assert (alone.weights >= 0).all()


def test_voxels_come_in_the_order_of_the_mask():
    """The network is a function of the neighbourhood: another corner tells other voxels less."""
    acq = protocol(PROTOCOLS[2])
    signal, mask, sigma = picture(acq, shape=(24, 24), noise=0.0)
    with torch.no_grad():
        one = NETWORK(tokens(signal, mask, acq, sigma, EYE, SPACE)).mean
        signal[:, 20:, 20:] *= torch.linspace(1, 0.5, len(acq))[:, None, None]
        other = NETWORK(tokens(signal, mask, acq, sigma, EYE, SPACE)).mean
    change = torch.zeros(24, 24)
    change[mask] = (one - other).abs().mean(1)
    assert change[20:, 20:].min() > 10 * change[1:8, 1:8].max()


@pytest.mark.parametrize("part", ["mamba", "cnn", "physical", "decay"])
def test_ablations_are_networks_too(part):
    network = Codebook(Shape(metrics=METRICS[:3], **TINY, **{part: part == "decay"}))
    found = network(seen(protocol(PROTOCOLS[1])))
    assert found.mean.shape[1] == 3
    assert torch.isfinite(found.mean).all()
    found.mean.sum().backward()
    assert network.gates.weight.grad.any()


def test_every_parameter_learns():
    network = tiny_network(1)
    found = network(seen(protocol(PROTOCOLS[2])))
    timed = replace(protocol(PROTOCOLS[3]), delta=15.0, Delta=30.0)  # tells the size of spheres
    told = network.kernels.signal(found.weights, found.odf, timed, EYE)
    (found.mean.sum() + found.log_sd.sum() + told.square().sum()).backward()
    still = [k for k, v in network.named_parameters() if v.grad is None or not v.grad.any()]
    assert not still
    assert all(torch.isfinite(v.grad).all() for v in network.parameters() if v.grad is not None)


@pytest.mark.parametrize("name", ["inputs", "told"])
def test_settled_inputs_lie_around_zero(name):
    torch.manual_seed(2)
    network = Codebook(Shape(METRICS, **TINY))
    examples = [seen(protocol(p), seed=k) for k, p in enumerate(PROTOCOLS)]
    settle(network, examples)
    standard = getattr(network, name)
    standard.seen = []
    with torch.no_grad():
        for one in examples:
            network(one)
    inputs = (torch.cat(standard.seen) - standard.centre) / standard.spread
    # the head sees priors, which change a little once the inputs are settled
    slack = {"inputs": 2e-3, "told": 0.03}[name]
    torch.testing.assert_close(inputs.mean(0), torch.zeros(inputs.shape[1]), atol=slack, rtol=0)
    assert float(inputs.std(0).max()) == pytest.approx(1, abs=max(slack, 0.01))


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
    d_par = d_par.detach()
    assert D_RANGE[0] <= float(d_par.min())
    assert float(d_par.max()) <= D_RANGE[1] + 1e-6
    radii = kernels.radii().detach()
    assert RADII[0] <= float(radii.min()) <= float(radii.max()) <= RADII[1]


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


def test_a_slice_tells_how_alike_the_noise_of_neighbours_is():
    acq, size = shells(1000.0, count=20, b0=6), 24
    clean = tissue_signal(tissue(1), acq).float().expand(size * size, -1).T.reshape(-1, size, size)
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(len(acq), size, size + 1, generator=g)
    mask = torch.ones(size, size, dtype=torch.bool)

    def lags(noise: torch.Tensor) -> torch.Tensor:
        seen = clean + 0.03 * noise / noise.std()
        told = tokens(seen, mask, acq, 0.03 * mask, torch.eye(3), SPACE)
        return told.facts[-len(LAGS) :]

    white, along = lags(noise[..., 1:]), lags(noise[..., 1:] + noise[..., :-1])
    assert LAGS[:2] == ((1, 0), (0, 1))
    assert float(white.abs().max()) < 0.05
    assert float(along[1]) == pytest.approx(0.5, abs=0.05)
    assert float(along[[0, 2, 3]].abs().max()) < 0.05
