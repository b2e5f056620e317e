"""Enhanced scans: tiles, grids, methods, what is carried along; `dmrimicro enhance`."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from phantom import OBLIQUE, protocol, ring_scan
from torch.nn import functional
from typer.testing import CliRunner

import DMRIMicroLib as dm
from DMRIMicroLib.cli import app
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.rish import methods, table
from DMRIMicroLib.rish.data import Pair
from DMRIMicroLib.rish.features import harmonics
from DMRIMicroLib.rish.grid import resized
from DMRIMicroLib.rish.linear import learn_linear, save_linear
from DMRIMicroLib.rish.noise import Field
from DMRIMicroLib.rish.plan import _edge
from DMRIMicroLib.rish.tiles import over_tiles, overlap_of, padded, tile_of
from DMRIMicroLib.rish.units import Setting, Units
from DMRIMicroLib.weights import available

SHELLS = {1000.0: 30, 2000.0: 20}
EDGES = np.diag([1.25, 1.25, 1.25, 1.0])


def scan_of(affine=EDGES, shape=(12, 14, 10), shells=None, sigma=0.0):
    scan = ring_scan(protocol(shells or SHELLS, b0=3), affine, shape, sigma)
    mask = np.zeros(shape, bool)
    mask[1:-1, 2:-1, 1:-2] = True
    return scan.with_mask(mask)


def fake(monkeypatch, features, finer=None, **more):
    """Put a method "fake" beside the others."""
    monkeypatch.setitem(
        table.METHODS, "fake", lambda w, d: table.Method("fake", features, finer, **more)
    )


def scaling(*factors):
    """Return a method that scales the energies of each order by what it should."""

    def features(low, noise):
        units = Units()
        by = torch.tensor(factors)[:, None, None, None] ** 2
        return units.to_network(by * units.from_network(low))

    return features


# tiles


@pytest.mark.parametrize(("tile", "overlap"), [(16, 8), (24, 16), (40, 8), (8, 0)])
def test_tiling_changes_nothing_for_a_network_that_looks_no_further(tile, overlap):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 37, 26, 9, generator=generator)
    radius = overlap // 8  # two convolutions reach twice as far: a quarter of the overlap
    kernel = torch.randn(3, 3, *[2 * radius + 1] * 3, generator=generator)
    kernel /= kernel[0].numel() ** 0.5

    def network(patch, corner=None):
        assert all(n % 8 == 0 for n in patch.shape[1:])
        for _ in range(2):
            patch = functional.conv3d(patch[None], kernel, padding=radius)[0].tanh()
        return patch

    whole = network(padded(image))[:, :37, :26, :9]
    tiled = over_tiles(network, image, tile, overlap)
    assert whole.std() > 0.1
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_tiles_of_a_network_that_differs_by_tile_have_no_seam():
    seen = []

    def network(patch, corner):
        seen.append(corner)
        return torch.full_like(patch, len(seen) - 1)

    found = over_tiles(network, torch.zeros(1, 72, 8, 8), 32, 16)
    assert seen == [(x, 0, 0) for x in (0, 16, 32, 40)]
    steps = found[0, :, 0, 0].diff()
    assert steps.max() <= 1 / 7
    assert steps.min() >= 0
    assert found[0, :20, 0, 0].eq(0).all()
    with pytest.raises(InputError, match="multiples of 8"):
        over_tiles(network, torch.zeros(1, 8, 8, 8), 30, 16)


def test_noise_of_a_place_is_the_same_in_every_tile():
    whole = Field(3, 0, (0, 0, 0), (24, 16, 8))
    part = Field(3, 0, (8, 0, 0), (16, 16, 8))
    for _ in range(2):  # one call after the other
        one, other = whole((1, 4, 6, 4, 2)), part((1, 4, 4, 4, 2))  # a lattice of stride 4
        assert torch.equal(one[:, :, 2:], other)
        assert one.std() == pytest.approx(1, abs=0.15)
    assert not torch.equal(whole((1, 4, 6, 4, 2)), one)
    assert not torch.equal(Field(3, 1, (0, 0, 0), (24, 16, 8))((1, 4, 6, 4, 2)), one)
    fine = Field(3, 0, (0, 0, 0), (16, 16, 16))((2, 16, 16, 16)).flatten(1)
    assert abs(torch.corrcoef(fine)[0, 1]) < 0.1
    with pytest.raises(ValueError, match="does not divide"):
        Field(3, 0, (4, 0, 0), (8, 8, 8))


def test_the_spread_of_draws_does_not_shrink_where_tiles_overlap():
    image, draws = torch.zeros(1, 48, 16, 16), 40

    def drawn(draw):
        def network(patch, corner):
            return Field(0, draw, corner, patch.shape[1:])((1, *patch.shape))[0]

        return over_tiles(network, image, 16, 8)

    spread = torch.stack([drawn(k) for k in range(draws)]).std(0).mean((0, 2, 3))
    assert spread.min() > 0.95  # 0.71 in the middle of overlaps, of draws that are independent
    assert spread.max() < 1.03


# enhanced scans


def test_own_features_give_the_scan_back(monkeypatch):
    fake(monkeypatch, lambda low, noise: low)
    scan = scan_of(sigma=30.0)
    made = dm.enhance(scan, "fake", "keep", directions="keep")
    assert made.scan.acquisition == scan.acquisition
    np.testing.assert_allclose(made.scan.affine, scan.affine)
    np.testing.assert_allclose(made.scale, 1, atol=0.02)
    inside = (made.scan.signal / scan.b0[..., None] < 0.95)[scan.mask]
    difference = (made.scan.signal - scan.signal)[scan.mask][inside]
    assert np.abs(difference).max() < 1e-3 * 1000
    np.testing.assert_array_equal(made.scan.signal[~scan.mask], scan.signal[~scan.mask])


def test_features_become_what_the_method_says_and_fibres_do_not_turn(monkeypatch):
    fake(monkeypatch, scaling(1.05, 0.8, 1.2))
    scan = scan_of()
    made = dm.enhance(scan, "fake", "keep")
    signal = torch.from_numpy(np.moveaxis(made.scan.signal, -1, 0).copy())
    found = harmonics(signal, scan.acquisition).rish()[:, torch.from_numpy(scan.mask)]
    wanted = torch.from_numpy(made.after[:, scan.mask])
    torch.testing.assert_close(found[:2], wanted[:2], rtol=0.01, atol=1e-4)
    torch.testing.assert_close(found[2], wanted[2], rtol=0.05, atol=1e-4)
    by = made.after[:, scan.mask].mean(1) / made.before[:, scan.mask].mean(1)
    np.testing.assert_allclose(by, np.array([1.05, 0.8, 1.2]) ** 2, rtol=0.01)
    maps = [dm.fit(s, "dti") for s in (scan, made.scan)]
    v = [np.asarray(m["V1"].data)[scan.mask] for m in maps]
    assert np.abs((v[0] * v[1]).sum(-1)).min() > 0.999
    fa = [np.asarray(m["FA"].data)[scan.mask].mean() for m in maps]
    assert fa[1] < 0.95 * fa[0]


def test_each_shell_is_scaled_by_its_own_lambda_and_others_by_that_of_the_nearest(monkeypatch):
    seen = []

    def features(low, noise):
        seen.append(float(low[0].mean()))
        return scaling(1.0, (0.9, 0.6)[len(seen) - 1], 1.0)(low, noise)

    fake(monkeypatch, features, setting=Setting(shells=(700.0, 2000.0)))
    shells = {1000.0: 30, 1500.0: 8, 2000.0: 20, 4000.0: 20}
    scan = scan_of(shells=shells)
    made = dm.enhance(scan, "fake", "keep", tile=16)
    assert len(seen) == 2  # too few directions at 1500, and 4000 was not learned
    assert seen[0] > seen[1]  # b = 1000 first: less is lost
    assert made.provenance["b"] == [1000.0, 2000.0]

    def by(b):
        energies = []
        for one in (scan, made.scan):
            signal = torch.from_numpy(np.moveaxis(one.signal, -1, 0).copy())
            order = 4 if shells[b] > 15 else 2
            found = harmonics(signal, scan.acquisition, b, order).rish()
            energies.append(found[1, torch.from_numpy(scan.mask)].mean())
        return float((energies[1] / energies[0]).sqrt())

    wanted = {1000.0: 0.9, 1500.0: 0.9, 2000.0: 0.6, 4000.0: 0.6}
    assert {b: by(b) for b in shells} == pytest.approx(wanted, rel=0.02)
    notes = " ".join(made.provenance["notes"])
    assert "lambda of b = 1000 was used for b = 1500, too; its directions stay" in notes
    assert "lambda of b = 2000 was used for b = 4000, too" in notes


def test_a_noise_floor_stays_there_or_away(monkeypatch, tmp_path):
    fake(monkeypatch, scaling(1.0, 1.0, 1.0), setting=Setting(clean=True))
    with_floor = scan_of(sigma=30.0)
    for scan, kind in ((with_floor, "auto"), (replace(with_floor, lifted=False), "gaussian")):
        made = dm.enhance(scan, "fake", "keep")
        assert (made.provenance["noise_floor"] == "removed") is not scan.lifted
        made.save(tmp_path / f"{kind}.nii.gz")
        for again in (made.scan, dm.load(tmp_path / f"{kind}.nii.gz")):
            assert again.lifted is scan.lifted
            # Gaussian: the mean of y^2 is S^2 + s^2
            assert again.noise.coils == (1.0 if scan.lifted else 0.5)
            few = np.zeros(scan.shape, bool)
            few[5:7, 5:7, 5:7] = True
            found = dm.fit(again.with_mask(few), "noddi")
            assert found.provenance["noddi"]["options"]["likelihood"] == kind


def test_a_finer_scan_lies_where_the_scan_lies(monkeypatch):
    scan = scan_of(OBLIQUE, sigma=10.0)
    made = dm.enhance(scan, "interpolate", 1.2)
    assert made.scan.voxel_size == pytest.approx((1.2,) * 3)
    assert made.scan.shape == (20, 22, 20)
    ends = [(s.affine, np.array(s.shape) - 1) for s in (scan, made.scan)]
    middles = [a[:3, :3] @ (last / 2) + a[:3, 3] for a, last in ends]
    np.testing.assert_allclose(*middles, atol=1e-9)
    b0 = torch.from_numpy(np.moveaxis(scan.signal[..., :3], -1, 0).copy())
    factors = tuple(np.array(scan.voxel_size) / 1.2)
    expected = resized(b0, factors, made.scan.shape).numpy()
    np.testing.assert_allclose(np.moveaxis(made.scan.signal[..., :3], -1, 0), expected, rtol=1e-4)
    assert (made.scale == 1).all()
    assert made.sd is None
    assert 0.3 < made.scan.mask.mean() < 0.7
    assert "clipped" in " ".join(made.scan.notes)


def test_super_resolution_is_asked_where_it_was_trained(monkeypatch):
    asked = []

    def finer(features, factor, shape):
        asked.append((factor, shape))
        return resized(features, factor, shape, 1) + 0.3

    fake(monkeypatch, scaling(1.0, 1.0, 1.0), finer)
    scan = scan_of()
    made = dm.enhance(scan, "fake", "7T")
    factor = 1.25 / 1.05
    assert asked == [(pytest.approx((factor,) * 3), made.scan.shape)]
    assert made.scan.shape == tuple(round(n * factor) for n in scan.shape)
    assert made.provenance["super_resolution"] is True
    inner = made.scale[1][5:-5, 5:-5, 4:-4]
    assert inner.mean() > 1.05  # 0.3 spreads more in order 2
    other = dm.enhance(scan, "fake", 0.9)
    assert len(asked) == 1
    assert other.provenance["super_resolution"] is False
    np.testing.assert_allclose(other.scale, 1, atol=0.02)


def test_a_scan_of_other_voxels_is_brought_to_those_of_the_training(monkeypatch):
    seen = []

    def features(low, noise):
        seen.append(low.shape)
        return low

    fake(monkeypatch, features)
    scan = scan_of(np.diag([2.5, 2.5, 2.5, 1]), (8, 8, 8))
    made = dm.enhance(scan, "fake", "keep", tile=16, overlap=8)
    assert {tuple(s) for s in seen} == {(3, 16, 16, 16)}
    assert "were interpolated" in " ".join(made.provenance["notes"])
    np.testing.assert_allclose(made.scale, 1, atol=0.02)
    fine = dm.enhance(scan_of(np.diag([0.9, 0.9, 0.9, 1])), "interpolate", "7T")
    assert fine.scan.voxel_size == pytest.approx((0.9,) * 3)
    assert "its grid is kept" in " ".join(fine.provenance["notes"])


@pytest.mark.parametrize(
    ("edges", "resolution", "made", "notes"),
    [
        ((1.0, 1.0, 3.0), "7T", 1.05, ["cubes of 1.05 mm: along their long side"]),
        ((0.8, 0.8, 3.0), "7T", 0.8, ["in part finer than 1.05 mm", "cubes of 0.8 mm: along"]),
        ((0.9, 0.9, 1.25), "7T", 0.9, ["in part finer than 1.05 mm"]),
        ((1.05, 1.05, 1.05), "7T", None, ["is as fine as 1.05 mm"]),
        ((2.0, 2.0, 2.0), "7T", 1.05, []),
        ((1.0, 1.0, 3.0), 1.0, 1.0, ["cubes of 1 mm: along"]),
        ((1.0, 1.0, 3.0), "keep", None, []),
    ],
)
def test_thick_slices_and_fine_voxels_are_told_of(edges, resolution, made, notes):
    scan, told = scan_of(np.diag([*edges, 1.0])), []
    found = _edge(scan, resolution, table.Method("interpolate"), told)
    assert found == (made and pytest.approx(made))
    assert len(told) == len(notes)
    assert all(text in note for text, note in zip(notes, told, strict=True))


def test_a_resolution_that_loses_detail_is_refused():
    scan = scan_of(np.diag([1.0, 1.0, 3.0, 1.0]))
    with pytest.raises(InputError, match=r"1\.2 mm, the scan has 1 x 1 x 3 mm.*Give 1 mm or less"):
        dm.enhance(scan, "interpolate", 1.2)


def test_tiles_are_the_patches_of_the_training_unless_others_are_asked_for(monkeypatch):
    seen = []

    def features(low, noise):
        seen.append(tuple(low.shape[1:]))
        return low

    scan = scan_of(shape=(26, 14, 10))
    fake(monkeypatch, features, setting=Setting(patch=16))
    made = dm.enhance(scan, "fake", "keep")
    assert set(seen) == {(16, 16, 16)}
    assert made.provenance["tile"] == [16, 8]
    seen.clear()
    dm.enhance(scan, "fake", "keep", tile=24)
    assert set(seen) == {(24, 16, 16)}
    old = {k: v for k, v in Setting(patch=16).told().items() if k != "patch"}
    assert Setting.read(old).patch == 32  # of cards that do not tell
    assert Setting.read(Setting(patch=16).told()).patch == 16
    assert [tile_of(n) for n in (4, 30, 32, 48)] == [8, 24, 32, 48]
    assert [overlap_of(n) for n in (8, 24, 32)] == [0, 8, 16]


def test_samples_have_a_mean_and_a_spread_and_a_seed(monkeypatch):
    def features(low, noise):
        if noise is None:
            return low
        return low + 0.5 * noise((1, *low.shape))[0]

    fake(monkeypatch, features, random=True)
    scan = scan_of()
    one, two, again = (dm.enhance(scan, "fake", "keep", samples=n, seed=3) for n in (1, 3, 3))
    assert one.sd is None
    assert two.sd.shape == scan.signal.shape
    assert two.sd[scan.mask][:, 3:].mean() > 5
    assert not two.sd[~scan.mask].any()
    assert not two.sd[..., :3].any()
    np.testing.assert_array_equal(two.scan.signal, again.scan.signal)
    other = dm.enhance(scan, "fake", "keep", samples=3, seed=4)
    assert np.abs(other.scan.signal - two.scan.signal).max() > 1
    fake(monkeypatch, lambda low, noise: low)
    assert dm.enhance(scan, "fake", "keep", samples=3).sd is None


def test_scale_maps_of_one_give_the_scan_back(monkeypatch):
    scan = scan_of()
    noisy = scan.signal.copy()
    noisy[..., 5] = 1.2 * scan.b0  # noise beyond b = 0 is part of the scan
    scan = replace(scan, signal=noisy)
    fake(monkeypatch, lambda low, noise: low)
    made = dm.enhance(scan, "fake", "keep")
    np.testing.assert_allclose(made.scale, 1, atol=1e-3)  # features in network units and back
    plain = dm.enhance(scan, "interpolate", "keep")
    np.testing.assert_allclose(plain.scan.signal, noisy, rtol=1e-5, atol=1e-3)


def test_signals_stay_between_nothing_and_b0(monkeypatch):
    fake(monkeypatch, scaling(2.0, 3.0, 3.0))
    made = dm.enhance(scan_of(), "fake", "keep")
    ratio = made.scan.signal[..., 3:] / made.scan.b0[..., None]
    inside = made.scan.mask
    assert ratio[inside].max() <= 1 + 1e-6
    assert ratio[inside].min() >= 0
    note = next(n for n in made.provenance["notes"] if "clipped" in n)
    assert float(note.split("%")[0]) > 10


def test_a_shell_of_few_directions_is_scaled_as_far_as_it_tells(monkeypatch):
    fake(monkeypatch, scaling(0.9, 0.5, 0.5))
    scan = scan_of(shells={1000.0: 30, 2000.0: 6})
    made = dm.enhance(scan, "fake", "keep")
    assert "b = 2000: 6 directions tell harmonics up to order 2" in " ".join(
        made.provenance["notes"]
    )
    few = list(scan.acquisition.shell(2000).indices)
    changed = np.abs(made.scan.signal - scan.signal)[scan.mask][:, few]
    assert changed.mean() > 10


def test_the_shipped_method_enhances_a_scan_and_is_told():
    if not available("rish-residual"):
        pytest.skip("no weights are shipped")
    made = dm.enhance(scan_of(), resolution="keep")
    assert made.provenance["method"] == "residual"
    assert made.provenance["weights"]["name"].startswith("rish-residual")
    assert np.isfinite(made.scan.signal).all()
    inside = made.scan.mask
    assert np.asarray(made.scan.signal)[inside].mean() > 0


def test_a_method_without_weights_is_refused_with_the_command_that_trains_it(monkeypatch):
    scan = scan_of()
    for module in (methods, table):
        monkeypatch.setattr(module, "available", lambda kind: [])
    with pytest.raises(InputError, match=r"trained weights.*dmrimicro train.*rish-residual"):
        dm.enhance(scan)
    with pytest.raises(InputError, match="train rish-residual"):
        dm.enhance(scan, "residual")
    with pytest.raises(InputError, match="train rish-linear"):
        dm.enhance(scan, "linear")


def test_what_cannot_be_enhanced_is_refused_with_what_to_do(tmp_path, monkeypatch):
    scan = scan_of()
    with pytest.raises(InputError, match="no method 'best'"):
        dm.enhance(scan, "best")
    with pytest.raises(InputError, match="12 directions; order 4"):
        dm.enhance(scan_of(shells={1000.0: 12}), "interpolate")
    with pytest.raises(InputError, match="no shell at b = 1000"):
        dm.enhance(scan_of(shells={3000.0: 30}), "interpolate")
    with pytest.raises(InputError, match="resolution is 'fine'"):
        dm.enhance(scan, "interpolate", "fine")
    with pytest.raises(InputError, match="resolution is 2 mm"):
        dm.enhance(scan, "interpolate", 2.0)
    with pytest.raises(Cancelled):
        dm.enhance(scan, "interpolate", cancelled=lambda: True)


# linear harmonisation


def linear_weights(folder):
    low = torch.rand(3, 4, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    by = torch.tensor([0.9, 1.2, 1.5])
    high = low * by.square()[:, None, None, None]
    mask = torch.ones(4, 4, 4, dtype=torch.bool)
    pair = Pair(low, high, high, mask, mask, (1.25, 1.05))
    scale = learn_linear([pair, pair])
    torch.testing.assert_close(scale, by)
    return save_linear(scale, Setting(), folder)


def test_linear_harmonisation_scales_each_order_by_its_number(tmp_path):
    card = linear_weights(tmp_path)
    scan = scan_of()
    made = dm.enhance(scan, "auto", "keep", weights=card.with_suffix(".safetensors"))
    assert made.provenance["method"] == "linear"
    assert made.provenance["weights"]["name"] == "rish-linear-1.0.0"
    np.testing.assert_allclose(made.scale[:, scan.mask].mean(1), [0.9, 1.2, 1.5], rtol=0.01)


# command line


def test_the_command_writes_a_scan_that_opens_again(tmp_path):
    card = linear_weights(tmp_path / "weights")
    scan = scan_of(OBLIQUE, sigma=10.0)
    nifti.save(scan, tmp_path / "dwi.nii.gz")
    out = tmp_path / "out" / "new.nii.gz"
    words = ["enhance", tmp_path / "dwi.nii.gz", "--mask", tmp_path / "dwi_mask.nii.gz"]
    words += ["--out", out, "--weights", card.with_suffix(".safetensors"), "--resolution", "1.5"]
    run = CliRunner().invoke(app, [str(w) for w in words])
    assert run.exit_code == 0, run.output
    made = dm.load(out, mask=tmp_path / "out" / "new_mask.nii.gz")
    assert made.acquisition.describe() == scan.acquisition.describe()
    np.testing.assert_allclose(made.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-6)
    assert made.voxel_size == pytest.approx((1.5,) * 3, rel=1e-5)
    told = json.loads((tmp_path / "out" / "new.json").read_text())
    assert told["method"] == "linear"
    assert told["scan"]["fingerprint"] == dm.load(tmp_path / "dwi.nii.gz").fingerprint
    for name in ("rish-before", "rish-after", "scale"):
        assert nib.load(tmp_path / "out" / f"new_{name}.nii.gz").shape == (*made.shape, 3)
    assert not list((tmp_path / "out").glob(".dmrimicro*"))
    again = CliRunner().invoke(app, [str(w) for w in words])
    assert isinstance(again.exception, InputError)
    assert "--overwrite" in str(again.exception)
    assert CliRunner().invoke(app, [str(w) for w in (*words, "--overwrite")]).exit_code == 0
    wrong = CliRunner().invoke(app, [str(w) for w in (*words, "--overwrite", "--directions", "no")])
    assert wrong.exit_code != 0


@pytest.mark.parametrize("name", methods.trained())
def test_weights_that_come_with_the_library_are_those_of_its_networks(name):
    found = methods.load_method(name)
    assert found.provenance["name"].startswith(f"rish-{name}-")
    low = torch.zeros(3, 8, 8, 8)
    assert found.features(low).isfinite().all()
    assert found.finer(low, 1.25 / 1.05).shape == (3, 10, 10, 10)
