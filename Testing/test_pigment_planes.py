"""Neighbours in three planes, and a prior that learns from the scan at hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from phantom import ring_scan
from tiny_codebook import one_thread, shells, tiny_network, tiny_space  # noqa: F401

from DMRIMicroLib.codebooks.network import GROUP, GROUPS, Prior
from DMRIMicroLib.codebooks.recalibrate import Habits, Said
from DMRIMicroLib.codebooks.stack import Stack, with_usable
from DMRIMicroLib.prior import adaptation
from DMRIMicroLib.prior.adaptation import LOOK, PATIENCE, adapted
from DMRIMicroLib.prior.goodness import left_out
from DMRIMicroLib.prior.volume import FEWEST_SLICES, LONGEST, Volume, planes_of
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import Noise

CPU = torch.device("cpu")
ACQ = shells(1000.0, 2000.0, count=8, b0=2)
SPACE = tiny_space()
C = SPACE.channels


def holed(shape=(7, 6, 5), acq=ACQ, faint: float = 1.0) -> Scan:
    scan = ring_scan(acq, shape=shape, sigma=30.0)
    signal = scan.signal.copy()
    signal[..., ~acq.is_b0] *= faint
    mask = np.random.default_rng(0).random(shape) < 0.8
    return Scan(signal, scan.affine, acq, mask, measured_noise=Noise(30.0, "given"))


def stack_of(scan: Scan) -> Stack:
    return Stack(*with_usable(scan), SPACE)


def tells_its_data(tokens) -> Prior:
    """Expect what the voxel's own signals say, so that every voxel is told from every other."""
    mean = tokens.start[:, tokens.mask].T
    n = len(mean)
    return Prior(mean, torch.ones(n, GROUPS), torch.zeros(n, C, 2), mean[:, :1])


NETWORK = SimpleNamespace(prior=tells_its_data)


# planes


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_along_any_axis_hold_the_same_voxels(axis):
    stack = stack_of(holed())
    other, at = stack.along(axis), np.argwhere(stack.usable)
    seen = np.zeros(len(at), int)
    for k in range(len(other)):
        rows, tokens = other.rows(k), other.tokens(k)
        seen[rows] += 1
        assert (at[rows][:, axis] == other.levels[k]).all()
        flat = [a for a in range(3) if a != axis]
        inside = np.argwhere(tokens.mask.numpy()) + at[rows][:, flat].min(0)
        assert np.array_equal(inside, at[rows][:, flat])
        first, where = stack.tokens(int(at[rows[0], 2])), stack.rows(int(at[rows[0], 2]))
        column = int(np.flatnonzero(where == rows[0])[0])
        # its own noise differs: a slice has its own median of b0, below which b0 counts as dim
        torch.testing.assert_close(
            tokens.vector[:, 0], first.vector[:, column], rtol=0.05, atol=0.5
        )
    assert (seen == 1).all()


def test_what_is_expected_is_the_mean_over_planes_each_voxel_in_its_place():
    scan = holed()
    one, three = (Volume(stack_of(scan), planes, CPU) for planes in ((2,), (2, 1, 0)))
    shares: list[float] = []
    single, mean = one.prior(NETWORK), three.prior(NETWORK, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    torch.testing.assert_close(single.mean, mean.mean, rtol=0.05, atol=0.05)
    assert float((single.mean - single.mean.mean(0)).std()) > 0.1
    assert three.prior(NETWORK, features=False).features.shape == (len(three), 0)


def test_every_slice_is_solved_with_its_own_mean_signal():
    """What volumes have in common weighs them, and differs from slice to slice."""
    scan = holed((7, 6, 4))
    level = np.linspace(0.2, 1.0, 4)[None, None, :, None]
    signal = np.where(ACQ.is_b0, scan.signal, scan.signal * level).astype(np.float32)
    scan = Scan(signal, scan.affine, ACQ, scan.mask, measured_noise=Noise(30.0, "given"))
    volume = Volume(stack_of(scan), (2, 1, 0), CPU)
    prior = volume.prior(NETWORK)
    found = volume.gathered([part.posterior().mean for part in volume.given(prior)])
    assert float((volume.data[0][0] - volume.data[-1][0]).norm() / volume.data[0][0].norm()) > 0.05
    for k, rows in enumerate(volume.rows):
        seen = stack_of(scan).tokens(k)
        own = Prior(*(v[rows] for v in prior))
        best = own.posterior(seen.matrix, seen.vector.T, seen.noise).mean
        torch.testing.assert_close(found[rows], best)


def test_thin_stacks_and_thick_slices_are_looked_at_in_one_plane():
    def planes(depth: int, thick: float) -> tuple[int, ...]:
        scan = holed((6, 6, depth))
        affine = np.diag([2.0, 2.0, 2.0 * thick, 1.0])
        scan = Scan(scan.signal, affine, ACQ, np.ones(scan.shape, bool))
        return planes_of(scan, scan.mask)

    assert planes(FEWEST_SLICES, 1.0) == (2, 1, 0)
    assert planes(FEWEST_SLICES, 0.99 * LONGEST) == (2, 1, 0)
    assert planes(FEWEST_SLICES, 1.01 * LONGEST) == (2,)
    assert planes(FEWEST_SLICES - 1, 1.0) == (2,)


def test_a_step_asks_of_one_plane_and_puts_every_voxel_in_its_place():
    volume = Volume(stack_of(holed()), (2, 1, 0), CPU)
    none, asked = Habits.none(torch.zeros(1)), []
    state = torch.randn(len(volume), C, generator=torch.Generator().manual_seed(0))

    def network(tokens) -> Prior:
        asked.append(tuple(tokens.mask.shape))
        return tells_its_data(tokens)

    ask = SimpleNamespace(prior=network)
    same = volume.beside(ask, none, state, 1.0, 0, lambda said, rows: state[rows])
    assert torch.equal(same, state)
    found = []
    for plane in range(4):
        asked.clear()
        # a state that is known to 1e-3 is told again, whatever the plane
        found.append(
            volume.beside(ask, none, state, 1e-3, plane, lambda said, rows: said.posterior().mean)
        )
        shape = volume.stacks[plane % 3].usable.shape
        wanted = [n for axis, n in enumerate(shape) if axis != (2, 1, 0)[plane % 3]]
        assert all(a <= b for a, b in zip(max(asked), wanted, strict=True))
        assert len(asked) == shape[(2, 1, 0)[plane % 3]]
        torch.testing.assert_close(found[-1], state, atol=0.02, rtol=0.02)


def test_habits_are_asked_of_a_slab_of_the_scan():
    volume = Volume(stack_of(holed((8, 8, 20))), (2,), CPU)
    slab = volume.slab()
    assert len(slab.stacks[0].levels) == 12
    assert slab.stacks[0].levels[0] == 4
    inside = volume.stacks[0].level_of
    kept = (inside >= 4) & (inside < 16)
    assert np.array_equal(slab.stacks[0].signal, volume.stacks[0].signal[kept])
    shares: list[float] = []
    habits = volume.habits(NETWORK, volume.prior(NETWORK), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert float(habits.factor[3]) > 0


def test_the_misfit_is_that_of_the_signals_over_the_noise():
    stack = stack_of(holed())
    numbers = torch.randn(len(stack.signal), C, generator=torch.Generator().manual_seed(0))
    design, offset, _ = SPACE.design(ACQ.subset(range(2, len(ACQ))), stack.frame)
    b0 = stack.signal[:, :2].mean(1, keepdims=True)
    told = (numbers.double() @ design.T + offset).numpy()
    wanted = np.sqrt(np.square(stack.signal[:, 2:] / b0 - told).mean(1)) / (30 / b0[:, 0])
    np.testing.assert_allclose(stack.misfit(numbers), wanted, rtol=1e-3)


# goodness


def test_volumes_left_out_are_predicted_from_the_others():
    """Along a ring all is a tensor: it predicts to the noise, and so does one who knows it."""
    scan = holed((8, 8, 4), shells(1000.0, count=24, b0=4))
    volume = Volume(stack_of(scan), (2,), CPU)
    none = Habits.none(torch.zeros(1))
    told = left_out(scan, volume, NETWORK, none)
    assert told["volumes"] == 12
    assert 0.9 < told["tensor"] < 1.3
    assert 0.9 < told["error"] < 2.5

    def guesses(tokens) -> Prior:
        n = int(tokens.mask.sum())
        return Prior(
            torch.zeros(n, C),
            torch.full((n, GROUPS), 1e-6),
            torch.zeros(n, C, 2),
            torch.zeros(n, 1),
        )

    blind = left_out(scan, volume, SimpleNamespace(prior=guesses), none)
    assert blind["error"] > 1.3 * told["error"]
    assert blind["tensor"] == told["tensor"]


def test_few_directions_have_no_tensor_and_too_few_volumes_nothing():
    none = Habits.none(torch.zeros(1))
    for count, wanted in ((10, {"volumes", "error", "tensor"}), (6, set())):
        scan = holed(acq=shells(1000.0, count=count))
        told = left_out(scan, Volume(stack_of(scan), (2,), CPU), NETWORK, none)
        assert set(told) == wanted
        assert told.get("tensor") is None


# adaptation


def parts(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_adaptation_makes_volumes_more_likely_that_it_was_not_shown(monkeypatch):
    monkeypatch.setattr(adaptation, "RATE", 3e-3)
    network, scan = tiny_network(), holed((8, 8, 6), faint=0.4)
    before, shares = parts(network), []
    after, course = adapted(network, stack_of(scan), 60, CPU, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    assert course[0] - min(course) > 0.3
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    moved = {
        n.split(".")[0] for n, v in after.state_dict().items() if not torch.equal(v, before[n])
    }
    prior = "filters alone ring encoder trunk features gates spread"
    assert moved <= set(prior.split())
    assert {"gates", "spread"} <= moved
    assert not after.training
    assert not any(p.requires_grad for p in after.parameters())


def test_the_cost_is_the_likelihood_of_the_other_half_once_this_one_is_known():
    stack, network = stack_of(holed((6, 6, 1))), tiny_network()
    half = adaptation._Half.of(stack, 0, CPU, np.random.default_rng(0))
    with torch.no_grad():
        cost = half.cost(network)
        prior = network.prior(half.shown)
    first = Said(prior, half.shown.matrix, half.shown.vector.T, half.shown.noise)
    # log p(all) - log p(shown), each with a dense covariance over the signals' space
    for k in (0, 5):
        one = torch.diag(prior.variance[k, GROUP]) + prior.factors[k] @ prior.factors[k].T
        told = []
        for seen in (half.every, half.shown):
            precision = seen.matrix / seen.noise[k] ** 2
            vector = (seen.vector[:, k] - seen.matrix @ first.prior.mean[k]) / seen.noise[k] ** 2
            inner = torch.linalg.inv(one) + precision
            volume = torch.linalg.slogdet(inner)[1] + torch.linalg.slogdet(one)[1]
            mean = first.prior.mean[k]
            own = (mean @ seen.matrix @ mean - 2 * seen.vector[:, k] @ mean) / seen.noise[k] ** 2
            told.append(0.5 * (own - vector @ torch.linalg.solve(inner, vector) + volume))
        assert float(cost[k]) == pytest.approx(float(told[0] - told[1]), rel=1e-3, abs=1e-2)


def test_adaptation_is_a_function_of_the_seed():
    network, stack = tiny_network(), stack_of(holed((6, 6, 3)))
    (one, first), (same, again), (_, last) = (
        adapted(network, stack, LOOK, CPU, seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != last
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in one.state_dict().items())


def test_adaptation_that_does_harm_stops_early_and_is_taken_back(monkeypatch):
    monkeypatch.setattr(adaptation, "RATE", 0.1)
    stack = stack_of(holed((6, 6, 2)))
    found, course = adapted(tiny_network(), stack, 20 * LOOK, CPU)
    assert len(course) == course.index(min(course)) + 1 + PATIENCE < 21
    assert course[-1] > min(course)
    same_voxels_left_out = adapted(found, stack, LOOK, CPU)[1]
    assert same_voxels_left_out[0] == pytest.approx(min(course), rel=1e-5)


def test_scans_too_small_to_learn_from_leave_the_network_alone():
    network = tiny_network()
    before = parts(network)
    tiny, few = holed((1, 1, 1)), holed(acq=shells(1000.0, count=3))
    for scan in (Scan(tiny.signal, tiny.affine, ACQ, np.ones((1, 1, 1), bool)), few):
        found, course = adapted(network, stack_of(scan), 30, CPU)
        assert course == []
        assert all(torch.equal(v, before[k]) for k, v in found.state_dict().items())
