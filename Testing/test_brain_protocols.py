"""Protocols: named ones, random ones, and directions good and bad."""

import numpy as np
import pytest
import torch

from DMRIMicroLib.brain.directions import CONE, FEW, STYLES, half_sphere, rotation, spread
from DMRIMicroLib.brain.protocols import (
    DESIGNS,
    GAMMA,
    REFOCUSING,
    ProtocolConfig,
    draw_protocol,
    duration,
    named,
)
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.table import count_directions


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def energy(g):
    """Electrostatic energy of directions and their opposites, pair by pair."""
    both = np.concatenate([g, -g])
    apart = np.linalg.norm(both[:, None] - both[None], axis=-1)
    return sum(1 / apart[i, j] for i in range(len(both)) for j in range(i))


@pytest.mark.parametrize("name", DESIGNS)
def test_named_protocols_are_what_their_design_says(name):
    acq, design = named(name), DESIGNS[name]
    assert int(acq.is_b0.sum()) == design.b0
    assert [(s.b, len(s)) for s in acq.shells] == [(float(b), n) for b, n in design.shells]
    assert (acq.delta, acq.Delta, acq.TE) == (design.delta, design.Delta, design.TE)
    assert design.delta <= design.Delta < design.TE
    assert acq == named(name)
    assert acq.is_b0[0]


def test_an_unknown_protocol_is_told_with_the_known_ones():
    with pytest.raises(InputError, match="hcp3t"):
        named("hpc")


def test_spread_directions_repel_each_other():
    g = spread(30, seeded()).numpy()
    np.testing.assert_allclose(np.linalg.norm(g, axis=1), 1, atol=1e-12)
    rng = np.random.default_rng(0).normal(size=(30, 3))
    assert energy(g) < 0.9 * energy(rng / np.linalg.norm(rng, axis=1, keepdims=True))
    # six directions come to rest on the axes of an icosahedron: all cosines are 1 / sqrt 5
    six = spread(6, seeded(3)).numpy()
    cosines = np.abs(six @ six.T)[np.triu_indices(6, 1)]
    np.testing.assert_allclose(cosines, 5**-0.5, atol=0.03)


def test_bad_directions_are_bad_in_their_own_way():
    clustered = STYLES["clustered"](40, seeded()).numpy()
    cosines = clustered @ clustered.T
    assert cosines.min() > np.cos(np.deg2rad(2 * CONE))
    few = STYLES["few"](40, seeded()).numpy()
    assert count_directions(few) == FEW
    half = half_sphere(40, seeded()).numpy()
    assert np.linalg.norm(half.mean(0)) > 0.4


def test_rotations_are_rotations():
    turn = rotation(seeded())
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(turn)) == pytest.approx(1)


def test_durations_solve_the_equation_of_stejskal_and_tanner():
    for b, gradient in ((1000.0, 40.0), (3000.0, 80.0), (6000.0, 300.0)):
        delta = duration(b, gradient)
        Delta = delta + REFOCUSING
        assert (GAMMA * gradient * delta) ** 2 * (Delta - delta / 3) * 1e3 == pytest.approx(b)


def test_random_protocols_span_what_scanners_play():
    drawn = [draw_protocol(seeded(s)) for s in range(150)]
    volumes = [len(a) for a in drawn]
    assert min(volumes) <= 5
    assert max(volumes) >= 200
    assert max(volumes) <= 300
    assert min(volumes) >= 3
    assert {1, 2, 3, 4, 5} <= {len(a.shells) for a in drawn}
    assert max(a.bvals.max() for a in drawn) > 4500
    assert all(a.is_b0.any() and a.TE is not None for a in drawn)
    timed = [a for a in drawn if a.delta is not None]
    assert 0.5 < len(timed) / len(drawn) < 0.9
    assert all(a.delta < a.Delta < a.TE for a in timed)
    assert any(0 < a.bvals[a.is_b0].max() <= 50 for a in drawn)


def test_a_protocol_is_a_function_of_its_generator():
    assert draw_protocol(seeded(5)) == draw_protocol(seeded(5))
    assert draw_protocol(seeded(5)) != draw_protocol(seeded(6))


def test_without_b0_the_lowest_shell_serves():
    config = ProtocolConfig(missing_b0=1.0, shells=(2, 3), volumes=(30, 60))
    acq = draw_protocol(seeded(1), config)
    assert acq.bvals.min() >= 90
    assert acq.is_b0.any()
    assert (~acq.is_b0).any()
