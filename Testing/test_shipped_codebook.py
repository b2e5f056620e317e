"""The weights that come with the library: what they say of a simulated head that they never saw."""

import numpy as np
import pytest

import DMRIMicroLib as dm
from DMRIMicroLib.brain.anatomy import load_anatomy
from DMRIMicroLib.brain.simulate import simulate
from DMRIMicroLib.weights import available, verify

pytestmark = pytest.mark.skipif(not available("codebook"), reason="no codebook is shipped")

LEAST = {"FA": 0.9, "NDI": 0.75, "ODI": 0.8}
"""Correlation with the truth in tissue, of 13 volumes. The truth does not ring, the scan does: by
more than what is uncertain of the mean diffusivity."""

KEPT = {0: 1, 1000: 6, 2000: 6}
"""Volumes of each b-value that are left."""


@pytest.fixture(scope="module")
def head():
    options = {"protocol": "b1k_b2k", "voxel_size": 4.0, "models": ["dti", "noddi"]}
    made = simulate(load_anatomy("small"), seed=20_261, **options)
    bvals, kept = made.scan.acquisition.bvals, []
    for b, count in KEPT.items():
        at = np.flatnonzero(np.abs(bvals - b) < 50)
        kept += [int(v) for v in at[np.linspace(0, len(at) - 1, count).round().astype(int)]]
    return made.scan.select(sorted(kept)), made.truth


@pytest.fixture(scope="module")
def maps(head):
    return dm.codebook(head[0], device="cpu")


def tissue(maps, truth):
    return maps.mask & truth.mask & (np.asarray(truth["FWF"].data) < 0.3)


@pytest.mark.parametrize("metric", LEAST)
def test_thirteen_volumes_tell_the_truth(maps, head, metric):
    inside = tissue(maps, head[1])
    found, true = (np.asarray(m[metric].data)[inside] for m in (maps, head[1]))
    assert np.corrcoef(found, true)[0, 1] > LEAST[metric]
    assert abs(found.mean() - true.mean()) < 0.3 * true.std()


@pytest.mark.parametrize("metric", LEAST)
def test_the_truth_is_as_near_as_is_said(maps, head, metric):
    inside = tissue(maps, head[1])
    found, true = (np.asarray(m[metric].data)[inside] for m in (maps, head[1]))
    inside_95 = np.abs(found - true) < 1.96 * np.asarray(maps[metric].uncertainty)[inside]
    assert 0.8 < inside_95.mean() < 0.995


def test_the_card_is_that_of_the_file():
    _, card = verify("codebook", "codebook")
    assert len(card.data["metrics"]) == 24
    assert card.licence
