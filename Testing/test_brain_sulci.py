"""Gyri and sulci of a subject's own, and the fluid around the brain."""

import brain_head
import numpy as np
import pytest
import torch
from brain_head import PLAIN, RADII

from DMRIMicroLib.brain import sulci
from DMRIMicroLib.brain.anatomy import CLASSES
from DMRIMicroLib.brain.phantom import draw_subject, render

CSF, CORTEX, DEEP, WHITE = (CLASSES.index(name) for name in ("csf", "cortex", "deep", "white"))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def mixed(count):
    """Probabilities that are the same everywhere."""
    one = torch.zeros(4)
    one[CSF], one[CORTEX], one[DEEP], one[WHITE] = 0.1, 0.5, 0.1, 0.3
    return one.expand(count, 4)


@pytest.mark.parametrize(("folding", "off"), [(0.0, 1e-6), (0.9, 0.06), (1.0, 1e-3)])
def test_classes_keep_their_probability_and_sum_to_one(folding, off):
    rank = (torch.arange(4000) + 0.5) / 4000
    got = sulci.layered(mixed(4000), rank, folding)
    torch.testing.assert_close(got.sum(1), torch.ones(4000))
    if folding == 0:
        torch.testing.assert_close(got, mixed(4000))
    torch.testing.assert_close(got.mean(0), mixed(1)[0], atol=off, rtol=0)


def test_layers_run_from_fluid_over_cortex_to_white_matter():
    rank = torch.tensor([0.0, 0.3, 0.65, 1.0])
    got = sulci.layered(mixed(4), rank, 1.0).argmax(1)
    assert got.tolist() == [CSF, CORTEX, DEEP, WHITE]


def test_ranks_are_evenly_spread_where_there_is_cortex():
    pattern = sulci.draw_pattern(rng(), 6.0).dense().rows[:, 0]
    assert float(pattern.std()) == pytest.approx(1, abs=0.1)
    far = torch.full_like(pattern, 50.0)
    rank = sulci.ranks(pattern, far, torch.ones_like(pattern))
    shares = torch.histc(rank, 5, 0, 1) / len(rank)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.03, rtol=0)
    assert (sulci.ranks(pattern, 0 * far, torch.ones_like(pattern)) == 0).all()
    assert (sulci.ranks(pattern, far, torch.zeros_like(pattern)) == 0.5).all()


def test_sulci_are_about_evenly_apart():
    """A band of wavelengths: the pattern is negatively correlated half a wave away."""
    rows = sulci.draw_pattern(rng(), 8.0).dense()
    image = rows.rows[:, 0].view(rows.shape)
    step = 256.0 / (rows.shape[0] - 1)
    apart = round(2.5 * 8.0 / step)
    a, b = image[:-apart], image[apart:]
    assert float(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < -0.05


def test_every_sulcus_holds_fluid():
    tissue = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.0, 0.6]])
    got = sulci.opened(tissue, 0.2)
    torch.testing.assert_close(got.sum(1), torch.ones(3))
    assert float(got[0, CSF] / got[0, CORTEX]) == pytest.approx(0.2)
    torch.testing.assert_close(got[1:], tissue[1:])


def test_the_hull_bridges_gaps_and_fluid_fills_it():
    x, y, z = np.meshgrid(*[np.arange(-30, 31) * 2.0] * 3, indexing="ij")
    ball = (x**2 + y**2 + z**2 < 40**2) & ~((np.abs(x) < 4) & (z > 0))
    distance = sulci.outside(ball.astype(float), np.full(3, 2.0))
    assert distance[30, 30, 30 + 15] < 0  # in the gap, 10 mm under the hull
    assert distance[30, 30, 30 + 25] > 5
    assert distance[30 + 10, 30, 30] == pytest.approx(-20, abs=3)
    tissue = torch.zeros(3, 4)
    tissue[0, WHITE] = 1
    got = sulci.fluid_around(tissue, torch.tensor([-20.0, -5.0, 5.0]), 1.0)
    assert got[:, CSF].tolist() == [0, 1, 0]
    assert got[0, WHITE] == 1


def test_folding_is_the_subjects_own_and_leaves_pure_tissue_alone():
    from dataclasses import replace

    grid = brain_head.affine(), (brain_head.SIDE,) * 3
    config = replace(PLAIN, folding=(0.9, 4.0))
    plain = render(brain_head.head(), draw_subject(rng(1), PLAIN), *grid)
    folded = render(brain_head.head(), draw_subject(rng(1), config), *grid)
    torch.testing.assert_close(folded.tissue, plain.tissue, atol=1e-4, rtol=0)
    rim = render(brain_head.head(), draw_subject(rng(1), replace(PLAIN, rim=(6, 6))), *grid)
    points = brain_head.distances().norm(dim=0)
    layer = (points > RADII["outer"] + 1) & (points < RADII["outer"] + 3)
    assert rim.mask[layer].all()
    assert not plain.mask[layer].any()
