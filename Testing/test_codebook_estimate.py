"""From scan to maps by a network that knows nothing: every value in its place."""

import os
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
from phantom import AFFINES, protocol, ring_scan
from tiny_codebook import one_thread, tiny_weights  # noqa: F401

import DMRIMicroLib as dm
from DMRIMicroLib.codebooks import slices
from DMRIMicroLib.codebooks.apart import asked_of, habits_of
from DMRIMicroLib.codebooks.estimate import MODEL, RESIDUAL, owner
from DMRIMicroLib.codebooks.kernel_maps import IMAGE, kernel_maps
from DMRIMicroLib.codebooks.recalibrate import Habits, Said
from DMRIMicroLib.codebooks.slices import open_codebook
from DMRIMicroLib.codebooks.stack import Stack, with_usable
from DMRIMicroLib.codebooks.tokens import tokens
from DMRIMicroLib.codebooks.trunk import FILTERS
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.sigma import Noise
from DMRIMicroLib.training.pool import METRICS

ACQ = protocol({1000.0: 8, 2000.0: 12})
SHAPE = (9, 7, 5)
ASKED = protocol({700.0: 15, 1500.0: 15, 2500.0: 15}, b0=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def no_habits(acquisition, said, asked) -> Habits:
    return Habits.none(said[0].noise)


def holed(**words) -> Scan:
    """A scan whose slices differ, with masks of different shapes, one of them empty."""
    scan = ring_scan(ACQ, shape=SHAPE, sigma=30.0, **words)
    level = np.linspace(0.3, 1.0, SHAPE[2])[None, None, :, None]
    signal = (scan.signal * level).astype(np.float32)
    mask = np.random.default_rng(0).random(SHAPE) < 0.7
    mask[:, :, 2] = False
    mask[:4, :, 3] = False
    return Scan(signal, scan.affine, ACQ, mask, measured_noise=Noise(25.0, "given"))


def by_hand(scan: Scan, weights) -> dict[tuple[int, int, int], dict]:
    """Metrics of every voxel: slices cut by hand, prior, the scan's habits, posterior, metrics."""
    loaded, said_of = open_codebook(weights), []
    frame = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    levels = [z for z in range(scan.shape[2]) if scan.mask[:, :, z].any()]
    for z in levels:
        mask = scan.mask[:, :, z]
        rows, columns = (slice(i.min(), i.max() + 1) for i in np.nonzero(mask))
        data = torch.from_numpy(np.moveaxis(scan.signal[:, :, z] * mask[..., None], -1, 0).copy())
        seen = tokens(
            data[:, rows, columns],
            torch.from_numpy(mask[rows, columns]),
            scan.acquisition,
            torch.full(mask[rows, columns].shape, scan.noise.sigma),
            torch.from_numpy(frame.T.copy()),
            loaded.space,
        )
        with torch.no_grad():
            prior = loaded.network.prior(seen)
        said_of.append(Said.beside(prior, seen))
    stack = Stack(*with_usable(scan), loaded.space)
    with torch.no_grad():
        asked, out = asked_of(loaded.network, stack, torch.device("cpu")), {}
        habits = habits_of(scan.acquisition, said_of, asked)
    for z, said in zip(levels, said_of, strict=True):
        own = said.matrix, said.vector, said.noise
        best = habits.corrected(said.prior).posterior(*own)
        with torch.no_grad():
            found = loaded.network.tell(best, said.prior.features)
        values, sd = loaded.scale.decode(found.mean, found.log_sd.exp())
        for number, (x, y) in enumerate(np.argwhere(scan.mask[:, :, z])):
            told = dict(zip(METRICS, values[number].tolist(), strict=True))
            told |= {"sd": float(sd[number, METRICS.index("FA")]), "book": found.weights[number]}
            out[x, y, z] = told
    return out


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_every_value_lies_in_its_voxel(weights, affine):
    scan = holed(affine=affine)
    maps = dm.codebook(scan, weights=weights)
    book = kernel_maps(scan, weights=weights).weights
    wanted = by_hand(scan, weights)
    assert set(wanted) == set(map(tuple, np.argwhere(maps.mask)))
    for voxel, told in list(wanted.items())[:: len(wanted) // 40]:
        for name in ("FA", "NDI", "R_soma"):
            metric = maps[name].metric
            expected = np.clip(told[name], metric.low, metric.high)
            assert maps[name].data[voxel] == pytest.approx(expected, abs=2e-3), name
        assert maps["FA"].uncertainty[voxel] == pytest.approx(told["sd"], rel=1e-2)
        np.testing.assert_allclose(book[voxel], told["book"], atol=1e-3)
    assert np.array_equal(maps.mask, scan.mask)


def test_the_answer_is_a_set_of_maps_as_of_a_fit(weights, tmp_path):
    scan = holed()
    maps = dm.codebook(scan, weights=weights)
    assert list(maps) == [*METRICS, RESIDUAL.name]
    assert all(owner(name) is not None for name in METRICS)
    for item in maps.values():
        assert item.data.dtype == np.float32
        assert not item.data[~scan.mask].any(), item.metric.name
        assert np.isfinite(item.data).all()
        assert item.metric.low <= item.data[scan.mask].min()
        assert item.data[scan.mask].max() <= item.metric.high
    assert all((maps[name].uncertainty[scan.mask] >= 0).all() for name in METRICS)
    told = maps.provenance[MODEL]
    assert told["weights"]["name"] == "tiny-1.0.0"
    assert told["scan"]["fingerprint"] == scan.fingerprint
    assert "RTOP" in told["prior_driven"]  # needs a third shell
    assert "FA" not in told["prior_driven"]
    back = dm.MapSet.load(maps.save(tmp_path).parent)
    np.testing.assert_allclose(back["ODI"].data, maps["ODI"].data)


def test_turning_the_gradient_table_changes_no_metric(weights):
    scan = holed()
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    other = Scan(
        scan.signal,
        scan.affine,
        dm.Acquisition(ACQ.bvals, ACQ.bvecs @ turn.T),
        scan.mask,
        measured_noise=scan.measured_noise,
    )
    one, two = (dm.codebook(s, weights=weights) for s in (scan, other))
    for name in METRICS:
        span = np.ptp(one[name].data[scan.mask]) + 1e-12
        assert np.abs(one[name].data - two[name].data).max() < 0.1 * span + 1e-6, name  # rounding


def test_a_file_on_disk_gives_the_same(weights, tmp_path):
    scan = holed()
    nifti.save(scan, tmp_path / "dwi.nii.gz")
    opened = dm.load(tmp_path / "dwi.nii.gz", mask=tmp_path / "dwi_mask.nii.gz")
    assert not isinstance(opened.signal, np.ndarray)
    opened = opened.with_measured_noise(scan.measured_noise)
    here, there = (dm.codebook(s, weights=weights) for s in (scan, opened))
    np.testing.assert_allclose(here["FA"].data, there["FA"].data, atol=1e-4)


def test_slices_see_each_other_only_in_the_habits_of_the_scan(weights):
    scan = holed()
    mask = scan.mask.copy()
    mask[:, :, 1:] = False

    def apart():
        one = dm.codebook(scan, weights=weights)["FA"].data[..., 0]
        alone = dm.codebook(scan.with_mask(mask), weights=weights)["FA"].data[..., 0]
        return np.abs(one - alone).max()

    assert apart() > 1e-4
    with patch.object(slices, "habits_of", no_habits):
        assert apart() < 1e-5


def test_threads_change_nothing(weights):
    scan = holed()
    one = dm.codebook(scan, weights=weights)
    torch.set_num_threads(3)
    try:
        three = dm.codebook(scan, weights=weights)
    finally:
        torch.set_num_threads(1)
    for name in METRICS:
        np.testing.assert_allclose(one[name].data, three[name].data, rtol=1e-5, atol=1e-7)


def test_voxels_without_b0_or_with_a_hole_in_their_data_stay_empty(weights):
    scan = holed()
    x, y, z = np.argwhere(scan.mask)[3]
    u, v, w = np.argwhere(scan.mask)[40]
    scan.signal[x, y, z, ACQ.is_b0] = 0
    scan.signal[u, v, w, 5] = np.nan
    maps = dm.codebook(scan, weights=weights)
    assert not maps.mask[x, y, z]
    assert maps["FA"].data[x, y, z] == 0
    assert not maps.mask[u, v, w]  # a sample that is missing is not a signal of 0
    assert maps.mask.sum() == scan.mask.sum() - 2
    assert all(np.isfinite(item.data).all() for item in maps.values())


def test_what_cannot_be_used_is_refused(weights):
    scan = holed()
    weighted = np.flatnonzero(~ACQ.is_b0)
    with pytest.raises(InputError, match="0 b0"):
        dm.codebook(scan.select(weighted), weights=weights)
    with pytest.raises(InputError, match=r"has 2 b0\. Give a scan with a b0 and a weighted"):
        dm.codebook(scan.select([0, 1]), weights=weights)
    dark = Scan(np.zeros_like(scan.signal), scan.affine, ACQ, scan.mask)
    with pytest.raises(InputError, match="no voxel of the mask has a b0 signal"):
        dm.codebook(dark, weights=weights)
    scan.signal[..., 5] = np.nan
    with pytest.raises(InputError, match="a sample that is not finite"):
        dm.codebook(scan, weights=weights)


def test_it_can_be_stopped_and_tells_how_far_it_is(weights):
    shares = []
    with pytest.raises(Cancelled):
        dm.codebook(
            holed(),
            weights=weights,
            progress=lambda share, text: shares.append(share),
            cancelled=lambda: len(shares) > 2,
        )
    assert shares == pytest.approx([0, 0.7 / 4, 1.4 / 4])  # prior of two of four slices


def test_a_scan_of_six_directions_is_enough(weights):
    scan = ring_scan(protocol({1000.0: 6}, b0=1), sigma=20.0).with_mask(np.ones((12, 14, 6)))
    maps = dm.codebook(scan, weights=weights)
    assert {"MK", "NDI", "RTOP"} <= set(maps.provenance[MODEL]["prior_driven"])
    assert any("by itself does not determine: MK" in n for n in maps.provenance[MODEL]["notes"])


def test_kernel_maps_come_back_from_the_file(weights, tmp_path):
    made = kernel_maps(holed(), weights=weights)
    read = nib.load(made.save(tmp_path)).get_fdata()
    assert (tmp_path / IMAGE).exists()
    np.testing.assert_allclose(read, made.weights, atol=1e-5)
    kinds = [row["kind"] for row in made.table]
    assert kinds == ["zeppelin"] * 4 + ["sphere"] * 6 + ["free water", "still water"]


def test_weights_written_again_are_read_again(tmp_path):
    """The same file name, other weights: as after another training."""
    scan = holed()
    first = dm.codebook(scan, weights=tiny_weights(tmp_path, seed=1))["FA"].data
    second = dm.codebook(scan, weights=tiny_weights(tmp_path, seed=2))["FA"].data
    assert os.path.exists(tmp_path / "tiny-1.0.0.json")
    assert not np.allclose(first, second, atol=1e-3)


def test_a_folder_holds_one_map_of_a_metric(weights, tmp_path):
    scan = holed()
    dm.fit(scan, "dti").save(tmp_path)
    made = dm.codebook(scan, weights=weights)
    with pytest.raises(InputError, match="holds FA of dti already"):
        made.save(tmp_path)
    assert "tensor" in dm.MapSet.load(tmp_path)
    made.save(tmp_path, overwrite=True)
    back = dm.MapSet.load(tmp_path)
    assert set(back) == set(made)
    assert set(back.provenance) == {"codebook"}


def test_dense_data_without_noise_are_told_as_they_are_whatever_was_expected(tmp_path):
    """Two networks that read alike and expect other tissue."""

    def told(shells: dict[float, int], shift: float) -> np.ndarray:
        clean = ring_scan(protocol(shells), shape=(9, 8, 2)).with_mask(np.ones((9, 8, 2)))
        noise = Noise(0.005 * float(clean.signal.max()), "given")
        loaded = open_codebook(file)
        with torch.no_grad():
            gates = loaded.network.gates.bias.unflatten(0, (3, -1))
            gates[0, FILTERS * 3] += shift  # expected of the first number, everywhere
        said = []

        def keep(found, means):
            said.append(found.space)
            return (found.mean,)

        scan = clean.with_measured_noise(noise)
        with patch.object(slices, "habits_of", no_habits):
            slices.predictions(scan, loaded, keep, torch.device("cpu"))
        design, _, _ = loaded.space.design(ASKED, torch.eye(3))
        return torch.cat(said).double() @ design.T

    file = tiny_weights(tmp_path)
    change = []
    for shells in ({1000.0: 3}, {500.0: 30, 1000.0: 30, 2000.0: 30, 3000.0: 30}):
        one, other = (told(shells, shift) for shift in (0.0, 2.0))
        change.append(float((one - other).square().mean().sqrt()))
    assert change[0] > 0.01
    assert change[1] < 0.1 * change[0]
