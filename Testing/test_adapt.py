"""A new metric from labelled voxels."""

import time

import nibabel as nib
import numpy as np
import pytest
import torch
from phantom import protocol, ring_scan
from tiny_codebook import one_thread, tiny_weights  # noqa: F401

import DMRIMicroLib as dm
from DMRIMicroLib.codebooks.heads import features, open_head
from DMRIMicroLib.codebooks.labels import FOLDS, fold_of
from DMRIMicroLib.codebooks.ridge import ridge
from DMRIMicroLib.codebooks.slices import open_codebook, predictions
from DMRIMicroLib.codebooks.stack import on_grid, slice_order
from DMRIMicroLib.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def scan():
    made = ring_scan(protocol({1000.0: 12, 2000.0: 20}), shape=(20, 18, 4), sigma=30.0)
    mask = np.ones(made.shape, bool)
    mask[:2] = False
    return made.with_mask(mask)


@pytest.fixture(scope="module")
def linear(weights, scan):
    """A map that is a linear function of what the network makes of the scan."""
    _, usable, (columns,) = predictions(
        scan, open_codebook(weights), lambda found, _: (features(found),), torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(1)
    slopes = torch.randn(columns.shape[1], generator=generator) / columns.std(0).clamp(min=1e-2)
    values = columns @ slopes
    values = 2 + (values - values.mean()) / values.std()
    return on_grid(values, slice_order(usable), scan.shape)


def test_a_linear_function_of_the_features_is_found_again(weights, scan, linear, tmp_path):
    some = np.zeros(scan.shape, bool)
    some[2:12] = True  # labels on one side, the rest is new
    file = tmp_path / "mine.safetensors"
    started = time.perf_counter()
    made = dm.adapt(weights, scan, linear, name="mine", unit="ms", mask=some, out=file)
    assert time.perf_counter() - started < 20
    assert made.correlation > 0.99
    maps = dm.codebook(scan, weights=weights, extra=[file])
    new = scan.mask & ~some
    error = maps["mine"].data[new] - linear[new]
    assert np.sqrt(np.mean(error**2)) < 0.1
    assert not maps["mine"].data[~scan.mask].any()
    assert maps["mine"].unit == "ms"
    assert maps["mine"].uncertainty[new].min() > 0
    assert maps.provenance["codebook"]["extra"][0]["name"] == "mine-1.0.0"
    back = dm.MapSet.load(maps.save(tmp_path / "maps").parent)
    np.testing.assert_allclose(back["mine"].data, maps["mine"].data)


def test_the_deviation_is_that_of_new_voxels(weights, scan, linear):
    generator = np.random.default_rng(0)
    noise = np.where(linear > 2, 0.6, 0.2) * generator.standard_normal(scan.shape)
    labels, other = linear + noise, linear - noise
    made = dm.adapt(weights, scan, labels, name="mine", mask=scan.mask)
    _, usable, (columns,) = predictions(
        scan, open_codebook(weights), lambda found, _: (features(found),), torch.device("cpu")
    )
    mean, sd = made.head(columns)
    order = slice_order(usable)
    inside = np.abs(other.ravel()[order] - mean.numpy()) < 1.96 * sd.numpy()
    assert 0.9 < inside.mean() < 0.985
    wide = linear.ravel()[order] > 2
    assert sd.numpy()[wide].mean() > 1.5 * sd.numpy()[~wide].mean()


def test_files_and_several_scans_are_taken(weights, scan, linear, tmp_path):
    file = tmp_path / "target.nii.gz"
    nib.save(nib.Nifti1Image(linear, scan.affine), file)
    empty = np.full(scan.shape, np.nan)
    empty[5, 5, 0] = 1.0
    made = dm.adapt(weights, [scan, scan], [file, empty], name="mine", title="Of mine")
    assert made.voxels == int((linear[scan.mask] != 0).sum()) + 1
    assert made.metric.title == "Of mine"


def test_another_network_refuses_the_metric(weights, scan, linear, tmp_path):
    file = tmp_path / "mine.safetensors"
    dm.adapt(weights, scan, linear, name="mine", out=file)
    other = tiny_weights(tmp_path / "other", seed=1, name="other")
    with pytest.raises(InputError, match=r"learned on the codebook tiny-1.0.0 .* not on other"):
        dm.codebook(scan, weights=other, extra=[file])
    with pytest.raises(InputError, match="has the name of another, mine"):
        dm.codebook(scan, weights=weights, extra=[file, file])
    with pytest.raises(InputError, match="is a codebook-metric"):
        dm.codebook(scan, weights=file)
    assert open_head(file).metric.name == "mine"


def test_labels_that_teach_nothing_are_refused(weights, scan, linear):
    def refused(target, **words):
        with pytest.raises(InputError) as error:
            dm.adapt(weights, scan, target, **{"name": "mine", **words})
        return str(error.value)

    few = np.where(np.arange(linear.size).reshape(linear.shape) % 40 == 0, linear, np.nan)
    assert "voxels are labelled and have a signal, at least 200" in refused(few)
    assert "all labels are 3" in refused(np.full(scan.shape, 3.0))
    holes = linear.copy()
    holes[6, 6, 1] = np.nan
    assert "1 of 1296 labels are NaN" in refused(holes, mask=scan.mask)
    assert "target has shape (5, 5, 5)" in refused(np.ones((5, 5, 5)))
    assert "has a metric FA already" in refused(linear, name="FA")
    assert "has no letter" in refused(linear, name="-")
    with pytest.raises(InputError, match="1 scans and 2 targets"):
        dm.adapt(weights, scan, [linear, linear], name="mine")


def test_another_grid_is_refused_by_the_affine(weights, scan, linear, tmp_path):
    file = tmp_path / "moved.nii.gz"
    moved = scan.affine.copy()
    moved[0, 3] += 1
    nib.save(nib.Nifti1Image(linear, moved), file)
    with pytest.raises(InputError, match="another affine"):
        dm.adapt(weights, scan, file, name="mine")


def test_a_metric_that_the_network_does_not_see_comes_with_a_warning(weights, scan):
    noise = 5 + np.random.default_rng(2).standard_normal(scan.shape)
    made = dm.adapt(weights, scan, noise, name="mine")
    assert "hardly sees this metric" in made.notes[0]


def test_blocks_share_voxels_evenly_and_stay_whole():
    place = torch.cartesian_prod(
        torch.zeros(1).long(), torch.arange(64), torch.arange(40), torch.arange(2)
    )
    folds = fold_of(place)
    assert len(folds.unique()) == FOLDS
    assert len(folds.bincount().unique()) == 1
    block = (place[:, 1] // 8) * 5 + place[:, 2] // 8
    assert all(len(folds[block == k].unique()) == 1 for k in range(40))


def test_ridge_is_that_of_the_normal_equations():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator) * torch.tensor([1, 5, 0.1, 1, 1, 0]) + 3
    y = x @ torch.tensor([1.0, 0.2, 4, 0, 0, 7]) + 0.5 * torch.randn(300, generator=generator)
    folds = torch.arange(300) % 5
    found = ridge(x, y, folds)
    z = torch.cat([((x - x.mean(0)) / x.std(0))[:, :5], torch.ones(300, 1)], 1).double()
    target = (y - y.mean()).double()

    def by_hand(rows):
        left = z[rows].T @ z[rows] + found.penalty * int(rows.sum()) * torch.eye(6)
        return torch.linalg.solve(left, z[rows].T @ target[rows])

    every = torch.ones(300, dtype=torch.bool)
    own = x.double() @ found.weights[:-1] + found.weights[-1]
    torch.testing.assert_close(own, z @ by_hand(every) + y.mean(), atol=1e-4, rtol=0)
    for k in range(5):
        held = z[folds == k] @ by_hand(folds != k) + y.mean()
        torch.testing.assert_close(found.held_out[folds == k], held, atol=1e-4, rtol=0)
