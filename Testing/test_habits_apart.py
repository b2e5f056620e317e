"""Habits of a prior, found from volumes that it has not seen."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from phantom import ring_scan
from tiny_codebook import one_thread, shells, tiny_space  # noqa: F401

from DMRIMicroLib.codebooks.apart import FEWEST, asked_of, habits_of, halves
from DMRIMicroLib.codebooks.network import GROUPS, RANKS, Prior
from DMRIMicroLib.codebooks.recalibrate import Habits, Said, find_habits
from DMRIMicroLib.codebooks.stack import Stack, with_usable
from DMRIMicroLib.scan import Noise, Scan

CPU = torch.device("cpu")
DENSE = shells(1000.0, 2000.0, count=16, b0=2)
SHARE = 0.02
"""Variance that the network claims for each number."""


def believes(tokens) -> Prior:
    """Expect what the voxel's own signals say: the noise of data and expectation is the same."""
    mean = tokens.start[:, tokens.mask].T.contiguous()
    n, c = mean.shape
    factors = torch.zeros(n, c, 2)
    return Prior(mean, torch.full((n, GROUPS), SHARE), factors, torch.zeros(n, 1))


NETWORK = SimpleNamespace(prior=believes)


def stack_of(acquisition, sigma: float = 40.0) -> Stack:
    scan = ring_scan(acquisition, shape=(16, 16, 2), sigma=sigma)
    scan = Scan(scan.signal, scan.affine, acquisition, measured_noise=Noise(sigma, "given"))
    return Stack(*with_usable(scan.with_mask(np.ones(scan.shape, bool))), tiny_space())


def plain(stack: Stack) -> list[Said]:
    return [Said.of(NETWORK, stack.tokens(k)) for k in range(len(stack))]


def found_apart(stack: Stack, seed: int = 0) -> Habits:
    return habits_of(stack.acquisition, plain(stack), asked_of(NETWORK, stack, CPU), seed)


@pytest.mark.parametrize("counts", [(16, 16), (3, 6), (7,), (1, 1, 1, 1, 1, 1, 1, 1)])
def test_halves_share_the_b0_only_and_each_shell_is_halved(counts):
    b = np.concatenate([[0, 0], *(np.full(n, 300.0 * (k + 1)) for k, n in enumerate(counts))])
    g = np.random.default_rng(0).normal(size=(len(b), 3))
    acquisition = type(DENSE)(b, g / np.linalg.norm(g, axis=1)[:, None])
    one, other = halves(acquisition, np.random.default_rng(1))
    assert set(one) & set(other) == {0, 1}
    assert set(one) | set(other) == set(range(len(b)))
    assert abs(len(one) - len(other)) <= 1
    for shell in acquisition.shells:
        assert abs(len(set(one) & set(shell.indices)) - len(shell) / 2) <= 0.5


def test_noise_that_a_prior_has_seen_does_not_make_it_better():
    """The truth is the same everywhere along a ring; the expectation is noisy, and does not say."""
    stack = stack_of(DENSE)
    seen, apart = find_habits(plain(stack)), found_apart(stack)
    anisotropy = RANKS[0]  # the first component of degree 2
    assert float(seen.factor[anisotropy]) < 0.5  # it looks far better than it claims to be
    assert float(apart.factor[anisotropy]) > 2 * float(seen.factor[anisotropy])
    shrunk = apart.higher[0].diagonal().mean()
    assert float(shrunk) < float(seen.higher[0].diagonal().mean())
    assert torch.equal(apart.zeroth, seen.zeroth)
    assert torch.equal(apart.factor[: RANKS[0]], seen.factor[: RANKS[0]])


def test_what_is_expected_comes_from_one_half_and_the_data_from_the_other():
    stack = stack_of(DENSE)
    volumes = halves(DENSE, np.random.default_rng(0))
    shown, rest = (stack.of_volumes(v) for v in volumes)
    said = asked_of(NETWORK, stack, CPU)(*volumes)
    assert len(said) == len(stack)
    for k, one in enumerate(said):
        torch.testing.assert_close(one.prior.mean, believes(shown.tokens(k)).mean)
        torch.testing.assert_close(one.vector, rest.tokens(k).vector.T)
        torch.testing.assert_close(one.matrix, rest.tokens(k).matrix)


def test_too_few_volumes_are_not_halved():
    few = stack_of(shells(1000.0, count=FEWEST - 1))
    one, other = found_apart(few), find_habits(plain(few))
    assert torch.equal(one.factor, other.factor)
    assert torch.equal(one.higher[0], other.higher[0])


def test_the_same_seed_halves_alike():
    stack = stack_of(DENSE)
    made = [found_apart(stack, seed).factor for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
