"""Seeds, rules, regions and tracking, on fibres that are known."""

import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from bundles import ACROSS, ALONG, GRIDS, ball, map_set, packed, ring, straight, world_of
from phantom import OBLIQUE, directions, fibre_tensors, protocol, ring_scan, tensor_signal

import DMRIMicroLib as dm
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.physics.sh import sh_basis
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.tracts.csd import deconvolve, single_fibre
from DMRIMicroLib.tracts.field import tensor_deviation, tensor_field, tensor_odf, turned_odf
from DMRIMicroLib.tracts.peaks import sh_peaks
from DMRIMicroLib.tracts.regions import Region, dense, read_region, selected
from DMRIMicroLib.tracts.rules import Layers, Rule
from DMRIMicroLib.tracts.seeds import Seeds, seeds
from DMRIMicroLib.tracts.track import tracts


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def offsets(points, middle, axis):
    """Distance from the axis of a straight bundle, and place along it."""
    along = (points - middle) @ axis
    return np.linalg.norm(points - middle - along[:, None] * axis, axis=1), along


# rules


@pytest.fixture
def layers():
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 10
    return {"NDI": values, "FWF": values[::-1], "NDI_sd": np.where(values > 0.5, np.nan, 0.05)}


def test_a_rule_means_what_python_means(layers):
    text = "NDI > 0.1 and not (FWF >= 0.6 or NDI == 0.2) and NDI_sd < 0.1 and 0 <= FWF < 9e9"
    ndi, fwf, sd = layers["NDI"], layers["FWF"], layers["NDI_sd"]
    truth = (ndi > 0.1) & ~((fwf >= 0.6) | (ndi == 0.2)) & (sd < 0.1)
    np.testing.assert_array_equal(Rule.parse(text).where(layers), truth)
    assert truth.any()
    assert Rule.parse(text).names == {"NDI", "FWF", "NDI_sd"}


def test_what_is_not_finite_is_never_chosen(layers):
    assert not Rule.parse("not NDI_sd < 0.01").where(layers)[layers["NDI"] > 0.5].any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("__import__('os').system('true')", "more than names"),
        ("NDI.data > 0", "more than names"),
        ("NDI[0] > 0", "more than names"),
        ("(lambda: 1)() > NDI", "more than names"),
        ("NDI + 1 > 0", "more than names"),
        ("NDI in FWF", "the comparison In"),
        ("NDI", "compared with nothing"),
        ("0.3", "compared with nothing"),
        ("-0.3", "a number alone"),
        ("NDI > 0.3 and FWF", "compared with nothing"),
        ("NDI > True", "True and False"),
        ("NDI > 'a'", "more than names"),
        ("1 < 2", "without a map"),
        ("NDI >", "cannot be read"),
        ("", "cannot be read"),
        ("(" * 300 + "NDI > 0" + ")" * 300, "cannot be read"),
        ("NDI > 0" + " and NDI > 0" * 300, "characters"),
    ],
)
def test_a_rule_that_is_none_says_what_is_wrong(text, says):
    with pytest.raises(InputError, match=says):
        Rule.parse(text)


def test_names_come_from_maps_their_deviations_and_files(tmp_path):
    maps, *_ = straight(GRIDS["negative"])
    maps = replace(
        maps, maps=maps.maps | {"FA": replace(maps["FA"], uncertainty=maps["FA"].data / 9)}
    )
    x = world_of(maps.affine, maps.mask.shape)[..., 0]
    other = GRIDS["negative"] @ np.diag([0.5, 0.5, 0.5, 1])
    fine = world_of(other, (62, 20, 20))[..., 0]
    nib.save(nib.Nifti1Image(fine.astype(np.float32), other), tmp_path / "x.nii.gz")
    layers = Layers(maps, {"X": tmp_path / "x.nii.gz"})
    assert list(layers) == ["X", "FA", "FA_sd"]
    np.testing.assert_allclose(layers["X"], x, atol=1e-3)
    np.testing.assert_allclose(layers["FA_sd"], maps["FA"].data / 9)
    with pytest.raises(InputError, match="Did you mean FA"):
        Rule.parse("fa > 0.3").where(layers)
    with pytest.raises(InputError, match="tensor is a tensor"):
        Rule.parse("tensor > 0.3").where(layers)
    with pytest.raises(InputError, match="--uncertainty"):
        Rule.parse("FA_sd > 0.3").where(Layers(straight(GRIDS["negative"])[0]))


# seeds


@pytest.mark.parametrize("grid", GRIDS)
def test_seeds_lie_in_the_voxels_that_a_rule_names(grid):
    maps, *_ = straight(GRIDS[grid])
    voxels = int((maps["FA"].data > 0.5).sum())
    found = seeds(maps, "FA > 0.5", density=3, seed=1)
    assert len(found) == 3 * voxels == len(np.asarray(found))
    index = np.rint((found.points - maps.affine[:3, 3]) @ np.linalg.inv(maps.affine[:3, :3]).T)
    times = np.zeros(maps.mask.shape)
    np.add.at(times, tuple(index.astype(int).T), 1)
    assert (times[maps["FA"].data > 0.5] == 3).all()
    assert len(np.unique(found.points, axis=0)) == len(found)
    np.testing.assert_array_equal(found.points, seeds(maps, "FA > 0.5", density=3, seed=1).points)
    assert (found.points != seeds(maps, "FA > 0.5", density=3, seed=2).points).all()


def test_seeds_can_be_counted_thinned_and_held_in_a_region():
    maps, middle, _ = straight(GRIDS["oblique"])
    assert len(seeds(maps, "FA > 0.5", count=17)) == 17
    voxels = int((maps["FA"].data > 0.5).sum())
    assert 0.3 * voxels < len(seeds(maps, "FA > 0.5", density=0.5)) < 0.7 * voxels
    region = ball(middle, 6.0, maps.affine, maps.mask.shape)
    near = seeds(maps, "FA > 0.5", within=region, density=20).points
    assert 3 < np.linalg.norm(near - middle, axis=1).max() < 6 + 2
    with pytest.raises(InputError, match=r"holds in no voxel of the maps.*FA is 0.05 to 0.8"):
        seeds(maps, "FA > 0.9")
    far = ball(world_of(maps.affine, maps.mask.shape)[0, 0, 0], 1.0, maps.affine, maps.mask.shape)
    with pytest.raises(InputError, match="in no voxel of ball"):
        seeds(maps, "FA > 0.5", within=far)
    with pytest.raises(InputError, match="both"):
        seeds(maps, "FA > 0.5", count=1, density=1)
    with pytest.raises(InputError, match="above 0"):
        seeds(maps, "FA > 0.5", count=0)


def test_seeds_keep_out_of_what_the_mask_leaves_out():
    maps, *_ = straight(GRIDS["positive"])
    half = np.zeros_like(maps.mask)
    half[:15] = True
    found = seeds(replace(maps, mask=half), "FA > 0.5").points
    index = (found - maps.affine[:3, 3]) @ np.linalg.inv(maps.affine[:3, :3]).T
    assert index[:, 0].max() < 14.5 + 1e-6


def test_seeds_go_through_a_file(tmp_path):
    maps, *_ = straight(GRIDS["negative"])
    found = seeds(maps, "FA > 0.5")
    back = Seeds.load(found.save(tmp_path / "seeds.csv"))
    np.testing.assert_allclose(back.points, found.points, atol=1e-6)
    with pytest.raises(InputError, match="there already"):
        found.save(tmp_path / "seeds.csv")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no list of seeds"):
        Seeds.load(tmp_path / "bad.csv")
    (tmp_path / "empty.csv").write_text("x,y,z\n")
    with pytest.raises(InputError, match="no seeds"):
        Seeds.load(tmp_path / "empty.csv")


# regions


def lines_of(*ends):
    return [np.linspace(a, b, 5).astype(np.float32) for a, b in ends]


def cube(low, high, affine=GRIDS["isotropic"], shape=(20, 20, 20), name="cube"):
    at = world_of(affine, shape)
    return Region(((at >= low) & (at <= high)).all(-1), affine, name)


def test_regions_select_what_passes_avoids_and_ends():
    lines = lines_of(([0, 0, 0], [30, 0, 0]), ([0, 10, 0], [30, 10, 0]), ([0, 0, 0], [0, 30, 0]))
    start, far = cube([-1, -1, -1], [3, 3, 3]), cube([27, -1, -1], [33, 13, 3])
    middle = cube([13, -1, -1], [15, 11, 1])
    assert selected(lines, include=[middle]).tolist() == [True, True, False]
    assert selected(lines, include=[middle, start]).tolist() == [True, False, False]
    assert selected(lines, exclude=[start]).tolist() == [False, True, False]
    assert selected(lines, ends=[start]).tolist() == [True, False, True]
    assert selected(lines, ends=[far, start]).tolist() == [True, False, False]
    assert selected(lines, ends=[middle]).tolist() == [False, False, False]
    assert selected([line[::-1] for line in lines], ends=[far, start]).tolist()[0]
    assert selected(lines).all()
    assert selected([], include=[start], exclude=[start], ends=[start]).shape == (0,)
    with pytest.raises(InputError, match="two ends"):
        selected(lines, ends=[start, far, middle])


def test_one_end_in_each_of_two_regions_that_overlap():
    lines = lines_of(([0, 0, 0], [2, 0, 0]), ([0, 0, 0], [30, 0, 0]))
    both = cube([-1, -1, -1], [5, 3, 3])
    assert selected(lines, ends=[both, both]).tolist() == [True, False]


def test_a_line_of_few_points_cannot_jump_over_a_region():
    line = [np.array([[0, 0, 0], [38, 0, 0]], np.float32)]
    assert selected(line, include=[cube([17, -1, -1], [19, 1, 1])]).all()
    points, owner = dense([line[0], line[0] + 1], 0.7)
    assert np.linalg.norm(np.diff(points[owner == 0], axis=0), axis=1).max() <= 0.7
    np.testing.assert_array_equal(points[owner == 1][[0, -1]], line[0] + 1)


def test_regions_are_read_by_label_on_any_grid(tmp_path):
    labels = np.zeros((6, 6, 6), np.int16)
    labels[1], labels[2], labels[3] = 1, 2, 7
    nib.save(nib.Nifti1Image(labels, OBLIQUE), tmp_path / "seg.nii.gz")
    file = tmp_path / "seg.nii.gz"
    assert read_region(file).inside.sum() == 108
    two = read_region(f"{file}:2,7")
    np.testing.assert_array_equal(two.inside, np.isin(labels, (2, 7)))
    assert two.name == "seg:2,7"
    at = world_of(OBLIQUE, labels.shape)
    np.testing.assert_array_equal(two.contains(at), two.inside)
    assert not two.contains(at + 1000).any()
    with pytest.raises(InputError, match=r"no voxel has label 5.*0, 1, 2, 7"):
        read_region(f"{file}:5")
    with pytest.raises(InputError, match="no list of labels"):
        read_region(f"{file}:two")
    with pytest.raises(InputError, match="no such file"):
        read_region(tmp_path / "none.nii.gz")


# tracking


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("odf", ["tensor", "harmonics"])
def test_a_straight_bundle_is_tracked_straight(grid, odf):
    affine = GRIDS[grid]
    direction = affine[:3, :3] @ [30, 3, -2]
    maps, middle, axis = straight(affine, direction=direction)
    given = "tensor"
    if odf == "harmonics":
        given = np.where((maps["FA"].data > 0.5)[..., None], delta(axis), 0)
    start = seeds(maps, "FA > 0.5", count=40)
    lines = tracts(maps, start, odf=given, inside="FA > 0.5", min_length=5, threads=1)
    assert len(lines) > 30
    for line in lines:
        away, along = offsets(line.astype(float), middle, axis)
        assert np.ptp(away) < 0.05
        steps = np.diff(along)
        assert (np.sign(steps) == np.sign(steps[0])).all()
    longest = lines.lengths.max()
    assert longest > 0.6 * 30 * np.linalg.norm(affine[:3, 0])


def delta(axis, order=8):
    return sh_basis(torch.tensor(axis), order).numpy()


@pytest.mark.parametrize("step", [0.25, 1.0])
def test_on_a_ring_lines_drift_as_euler_steps_do(step):
    maps, middle = ring()
    start = middle + np.array([[25.0, 0, 0], [23, 0, 0.5]])
    lines = tracts(maps, start, inside="FA > 0.5", step=step, threads=1, max_length=150)
    assert len(lines) == 2
    for line, radius in zip(lines, (25, 23), strict=True):
        found = np.hypot(*(line - middle)[:, :2].T.astype(float))
        assert abs(found.min() - radius) < 0.1 * step + 0.02
        # r^2 grows by step^2 a step: a quarter of a turn is pi r / 2 / step of them
        drift = np.sqrt(radius**2 + step * np.pi * radius / 2) - radius
        assert found.max() - radius == pytest.approx(drift, rel=0.2, abs=0.05)
        np.testing.assert_allclose(line[:, 2], line[0, 2], atol=1e-4)
    assert lines.lengths[0] == pytest.approx(np.pi * 25, rel=0.03)


def crossing(affine=GRIDS["isotropic"], shape=(25, 25, 7)):
    """Harmonics of two straight bundles that cross at right angles in the middle."""
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    one, two = affine[:3, 0] / 2, affine[:3, 1] / 2
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    offset = world_of(affine, shape) - middle
    first, second = np.abs(offset @ two) < 5, np.abs(offset @ one) < 5
    odf = first[..., None] * delta(one) + second[..., None] * delta(two)
    maps = map_set(affine, first | second, np.broadcast_to(one, (*shape, 3)))
    return maps, odf, middle, one, two


@pytest.mark.parametrize("grid", ["isotropic", "oblique"])
@pytest.mark.parametrize("method", ["deterministic", "probabilistic"])
def test_lines_go_straight_through_a_crossing(grid, method):
    maps, odf, middle, one, two = crossing(GRIDS[grid])
    start = middle - 18 * one + np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    lines = tracts(
        maps, start, odf=odf, method=method, inside="FA > 0.5", min_length=10, threads=1, seed=3
    )
    assert len(lines) == 2
    for line in lines:
        ends = np.ptp((line - middle) @ one)
        assert ends > 40
        limit = 0.3 if method == "deterministic" else 5
        assert np.ptp((line - middle) @ two) < limit
    both = tracts(maps, middle[None], odf=odf, inside="FA > 0.5", threads=1)
    assert len(both) == 2  # a line along either axis


def test_regions_are_applied_while_tracking():
    maps, odf, middle, one, two = crossing()
    start = seeds(maps, "FA > 0.5", count=200, seed=1)
    shape = maps.mask.shape
    left, right = (ball(middle + s * 20 * one, 7, maps.affine, shape) for s in (-1, 1))
    top = ball(middle + 20 * two, 7, maps.affine, shape)
    options = {"odf": odf, "inside": "FA > 0.5", "threads": 1}
    every = tracts(maps, start, **options)
    passing = tracts(maps, start, include=[left, right], **options)
    assert 0 < len(passing) < len(every)
    assert all(np.ptp((line - middle) @ one) > 25 for line in passing)
    chosen = selected(every, include=[left, right])
    np.testing.assert_array_equal(
        np.concatenate(list(every.only(chosen))), np.concatenate(list(passing))
    )
    assert len(tracts(maps, start, include=[left, top], **options)) == 0
    rest = tracts(maps, start, exclude=[left, right], **options)
    assert not selected(rest, include=[left]).any()
    assert passing.provenance["include"] == ["ball", "ball"]


def test_length_angle_and_inside_hold():
    maps, middle = ring()
    start = seeds(maps, "FA > 0.5", count=60)
    options = {"inside": "FA > 0.5", "threads": 1}
    lengths = tracts(maps, start, min_length=40, max_length=80, **options).lengths
    assert len(lengths)
    assert lengths.min() >= 40
    assert lengths.max() <= 80
    # a turn of 1 mm / 25 mm is 2.3 degrees a step, but directions are compared over a voxel
    assert not len(tracts(maps, start, max_angle=0.5, **options))
    top = replace(maps, mask=world_of(maps.affine, maps.mask.shape)[..., 1] > middle[1])
    for line in tracts(top, start, **options):
        assert line[:, 1].min() > middle[1] - 2.1


@pytest.mark.parametrize("method", ["deterministic", "probabilistic"])
def test_the_same_seed_gives_the_same_lines(method):
    maps, odf, *_ = crossing()
    start = seeds(maps, "FA > 0.5", count=80)
    options = {"odf": odf, "method": method, "inside": "FA > 0.5"}
    first, again = (tracts(maps, start, seed=5, threads=t, **options) for t in (1, 2))
    assert len(first) == len(again) > 10
    np.testing.assert_array_equal(np.concatenate(list(first)), np.concatenate(list(again)))
    other = tracts(maps, start, seed=6, threads=1, **options)
    same = len(other) == len(first) and all(
        np.array_equal(a, b) for a, b in zip(other, first, strict=True)
    )
    assert same == (method == "deterministic")


def test_lines_from_one_point_fan_out_when_drawn():
    maps, middle, axis = straight(GRIDS["oblique"], shape=(30, 15, 15), radius=20)
    start = middle - 10 * axis + np.random.default_rng(0).normal(0, 0.01, (60, 3))
    drawn = tracts(maps, start, method="probabilistic", inside="FA > 0.5", min_length=5, threads=1)
    assert drawn.provenance["followed"] == "tensor"
    ends = np.array([line[np.argmax((line - middle) @ axis)] for line in drawn])
    spread = offsets(ends.astype(float), middle, axis)[0]
    assert spread.std() > 1
    straight_ones = tracts(maps, start, inside="FA > 0.5", min_length=5, threads=1)
    assert max(offsets(line.astype(float), middle, axis)[0].max() for line in straight_ones) < 0.2


def test_each_seed_tracks_in_its_sample():
    affine = GRIDS["isotropic"]
    maps, middle, _ = straight(affine, shape=(21, 21, 21), radius=100)
    ways = np.eye(3)
    samples = [
        np.broadcast_to(packed(fibre_tensors(way, ALONG, ACROSS)), (21, 21, 21, 6)) for way in ways
    ]
    start = np.repeat(middle[None], 7, axis=0) + 0.1
    lines = tracts(maps, start, samples=samples, inside="FA > 0.5", threads=1)
    assert len(lines) == 7
    number = lines.per_line["sample"][:, 0].astype(int)
    assert np.bincount(number).tolist() == [3, 2, 2]
    for line, which in zip(lines, number, strict=True):
        assert np.ptp(line[:, which]) > 35
        assert np.ptp(np.delete(line, which, axis=1), axis=0).max() < 0.01
    harmonics = [np.broadcast_to(delta(way), (21, 21, 21, 45)) for way in ways]
    again = tracts(maps, start, samples=harmonics, odf="csd", inside="FA > 0.5", threads=1)
    np.testing.assert_array_equal(again.per_line["sample"], lines.per_line["sample"])


def test_the_fits_uncertainty_spreads_lines_as_much_as_repeated_scans_do():
    """Deviations from AD and RD, against V1 of 400 noisy fits of the same voxel."""
    acq = protocol({1000.0: 30}, b0=3)
    axis = np.array([1.0, 2, 0.5]) / np.linalg.norm([1.0, 2, 0.5])
    clean = tensor_signal(acq, fibre_tensors(axis, 1.5e-3, 0.4e-3), 1000.0)
    noise = np.random.default_rng(0).normal(0, 40, (400, len(clean)))
    scan = Scan((clean + noise).astype(np.float32)[:, None, None], np.eye(4), acq)
    scan = scan.with_mask(np.ones((400, 1, 1)))
    fits = dm.fit(scan, "dti", uncertainty=True, sigma=40.0, device="cpu")
    true = off_axis(fits["V1"].data.reshape(-1, 3), axis)
    deviation = tensor_deviation(fits)
    draws = fits["tensor"].data + deviation * np.random.default_rng(1).normal(size=deviation.shape)
    v1 = tensor_field(draws, fits.mask, np.eye(4)).axes[:, 0, 0, 0]
    drawn = off_axis(v1, fits["V1"].data.reshape(-1, 3))
    assert drawn == pytest.approx(true, rel=0.15)


def off_axis(v1, axis):
    """Root mean square angle between axes [degrees]."""
    cosine = np.abs((v1 * axis).sum(-1)).clip(max=1)
    return np.rad2deg(np.sqrt(np.mean(np.arccos(cosine) ** 2)))


def test_a_fit_with_deviations_is_tracked_in_draws_of_it():
    acq = protocol({1000.0: 20})
    scan = ring_scan(acq, GRIDS["isotropic"], (24, 24, 7), sigma=60.0)
    scan = scan.with_mask(np.ones(scan.shape))
    maps = dm.fit(scan, "dti", uncertainty=True, device="cpu")
    start = seeds(maps, "FA > 0.3", count=48)
    lines = tracts(maps, start, method="probabilistic", min_length=5, threads=1)
    assert "24 draws" in lines.provenance["followed"]
    assert len(np.unique(lines.per_line["sample"])) > 12


# distributions


def test_peaks_of_harmonics_are_found_between_the_vertices():
    axes = directions(60, seed=4)
    others = np.cross(axes, directions(60, seed=5))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    both = sh_basis(torch.tensor(axes), 8) + 0.7 * sh_basis(torch.tensor(others), 8)
    found, height = sh_peaks(both)
    for truth, which in ((axes, 0), (others, 1)):
        assert off_axis(found[:, which].numpy(), truth) < 0.5
    np.testing.assert_allclose(height[:, 1], 0.7, atol=0.1)
    assert not height[:, 2].any()
    assert sh_peaks(both[:0])[0].shape == (0, 3, 3)


@pytest.mark.parametrize("grid", GRIDS)
def test_harmonics_keep_their_values_when_turned(grid):
    affine = GRIDS[grid]
    frame = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    rng = np.random.default_rng(0)
    odf, at = rng.normal(size=(4, 45)), torch.tensor(directions(20, seed=7))
    turned = turned_odf(odf, frame)
    before = odf @ sh_basis(at, 8).T.numpy()
    after = turned @ sh_basis(at @ torch.tensor(frame), 8).T.numpy()
    np.testing.assert_allclose(after, before, atol=1e-8)


def test_the_distribution_of_a_tensor_is_that_of_its_diffusion():
    """Against the share of a million Gaussian displacements in a cone."""
    tensor = fibre_tensors(np.array([0, 0, 1.0]), 1.2e-3, 0.5e-3)
    odf = tensor_odf(torch.tensor(packed(tensor))[:, None])
    rng = np.random.default_rng(0)
    moved = rng.normal(size=(1_000_000, 3)) * np.sqrt([0.5, 0.5, 1.2])
    cosine = np.abs(moved[:, 2]) / np.linalg.norm(moved, axis=1)
    edges = np.linspace(0, 1, 11)
    shares = np.histogram(cosine, edges)[0] / len(cosine)
    t = torch.tensor((edges[:-1] + edges[1:]) / 2)
    at = torch.stack([(1 - t * t).sqrt(), 0 * t, t], -1)
    density = (sh_basis(at, 8) @ odf[0] * 4 * np.pi * 0.1).numpy()
    np.testing.assert_allclose(density, shares, rtol=0.02)


def test_deconvolution_tells_a_crossing_that_the_tensor_cannot():
    acq = protocol({2500.0: 60}, b0=0, seed=2)
    rng = np.random.default_rng(0)
    one = directions(80, seed=1)
    two = np.cross(one, rng.normal(size=(80, 3)))
    two /= np.linalg.norm(two, axis=1, keepdims=True)
    angle = np.deg2rad(60)
    two = np.cos(angle) * one + np.sin(angle) * two
    single = tensor_signal(acq, fibre_tensors(one), 1.0)
    both = (single + tensor_signal(acq, fibre_tensors(two), 1.0)) / 2
    both += rng.normal(0, 0.01, both.shape)
    g = torch.tensor(acq.bvecs)
    response = single_fibre(single, g, packed(fibre_tensors(one)), 8)
    # the response itself: a tensor along z
    t = np.linspace(0, 1, 9)
    wanted = np.exp(-2.5 * (0.3 + 1.4 * t**2))
    made = np.polynomial.legendre.legval(t, np.insert(response.numpy(), range(1, 5), 0))
    np.testing.assert_allclose(made, wanted, atol=0.005)
    axes, height = sh_peaks(deconvolve(torch.tensor(both), g, response))
    assert (height[:, 1] > 0.5).all()
    nearest = [
        np.abs((axes[:, :2].numpy() * truth[:, None]).sum(-1)).max(1).clip(max=1)
        for truth in (one, two)
    ]
    errors = np.rad2deg(np.arccos(np.array(nearest)))
    assert np.median(errors) < 4
    assert (errors < 12).all()


def test_deconvolution_agrees_with_dipy():
    from dipy.core.gradients import gradient_table
    from dipy.core.sphere import HemiSphere
    from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel

    acq = protocol({2000.0: 64}, b0=1)
    one, two = directions(20, seed=1), directions(20, seed=9)
    mixed = tensor_signal(acq, fibre_tensors(one), 1.0) + tensor_signal(
        acq, fibre_tensors(two), 1.0
    )
    table = gradient_table(acq.bvals, bvecs=acq.bvecs)
    model = ConstrainedSphericalDeconvModel(
        table, (np.array([1.7e-3, 3e-4, 3e-4]), 1.0), sh_order_max=8
    )
    at = torch.tensor(directions(300))
    theirs = model.fit(mixed / 2).odf(HemiSphere(xyz=at.numpy()))
    weighted = ~acq.is_b0
    g = torch.tensor(acq.bvecs[weighted])
    clean = tensor_signal(acq, fibre_tensors(one), 1.0)[:, weighted]
    response = single_fibre(clean, g, packed(fibre_tensors(one)), 8)
    ours = deconvolve(torch.tensor(mixed[:, weighted] / 2), g, response) @ sh_basis(at, 8).T
    same = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.numpy(), theirs, strict=True)]
    assert min(same) > 0.97


def test_a_scan_is_tracked_through_its_crossing():
    """Two bundles at right angles: with deconvolution lines pass, on the tensor none know how."""
    affine, shape = OBLIQUE, (25, 25, 5)
    _, _, middle, one, two = crossing(affine, shape)
    offset = world_of(affine, shape) - middle
    first, second = np.abs(offset @ two) < 5, np.abs(offset @ one) < 5
    acq = protocol({2500.0: 60})
    parts = [first[..., None], second[..., None]]
    signal = sum(
        p * tensor_signal(acq, fibre_tensors(way), 1000.0)
        for p, way in zip(parts, (one, two), strict=True)
    )
    signal = np.where(first & second, 0.5, 1.0)[..., None] * signal
    water = tensor_signal(acq, 1e-3 * np.eye(3), 1000.0)
    signal = np.where((first | second)[..., None], signal, water).astype(np.float32)
    scan = Scan(signal, affine, acq, np.ones(shape, bool))
    fitted = dm.fit(scan, "dti", device="cpu")
    start = middle - 20 * one + np.linspace(-2, 2, 5)[:, None] * two
    lines = tracts(
        fitted,
        start,
        scan=scan,
        odf="csd",
        inside="FA > 0.12 or MD < 0.0008",
        device="cpu",
        threads=1,
    )
    crossed = [line for line in lines if np.ptp((line - middle) @ one) > 35]
    assert len(crossed) >= 4
    assert all(np.ptp((line - middle) @ two) < 4 for line in crossed)
    moved = affine.copy()
    moved[0, 3] += 5
    with pytest.raises(InputError, match="different grids"):
        tracts(fitted, start, scan=replace(scan, affine=moved), odf="csd")
    few = scan.select(range(12))
    with pytest.raises(InputError, match="15 directions, there are 10"):
        tracts(fitted, start, scan=few, odf="csd")


# progress, cancel, errors


def test_tracking_tells_its_progress_and_stops_when_asked():
    maps, *_ = straight(GRIDS["negative"])
    start = seeds(maps, "FA > 0.5", density=2)
    shares = []
    tracts(maps, start, threads=1, progress=lambda share, text: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    asked = iter([False, True])
    with pytest.raises(Cancelled):
        tracts(maps, start, threads=1, cancelled=lambda: next(asked))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "wild"}, "no method 'wild'"),
        ({"odf": "qball"}, "no odf 'qball'"),
        ({"odf": "csd"}, "needs the scan"),
        ({"odf": np.zeros((3, 3, 3, 45))}, "has shape"),
        ({"samples": []}, "stack of samples is empty"),
        ({"samples": [np.zeros((30, 9, 9, 7))]}, "has shape"),
        ({"step": 0}, "the step is 0"),
        ({"step": 9}, "the step is 9"),
        ({"max_angle": 90}, "largest angle"),
        ({"min_length": 30, "max_length": 20}, "30 to 20 mm"),
        ({"inside": "FA >"}, "cannot be read"),
        ({"inside": "MD > 0"}, "no map 'MD'"),
    ],
)
def test_what_cannot_be_tracked_is_said(options, says):
    maps, middle, _ = straight(GRIDS["negative"])
    with pytest.raises(InputError, match=says):
        tracts(maps, middle[None], **options)


def test_maps_without_a_tensor_and_odd_seeds_are_refused():
    maps, middle, _ = straight(GRIDS["negative"])
    bare = replace(maps, maps={"FA": maps["FA"]})
    with pytest.raises(InputError, match="no tensor among these maps"):
        tracts(bare, middle[None])
    for odd in (np.zeros((0, 3)), np.zeros(3), np.full((2, 3), np.nan)):
        with pytest.raises(InputError, match="seeds"):
            tracts(maps, odd)


def test_sheared_voxels_are_refused():
    sheared = np.eye(4)
    sheared[0, 1] = 0.1
    maps, middle, _ = straight(sheared)
    with pytest.raises(InputError, match="sheared"):
        tracts(maps, middle[None])


def test_seeds_outside_the_image_or_the_fibres_give_no_lines():
    maps, *_ = straight(GRIDS["negative"])
    assert len(tracts(maps, np.array([[1e4, 0, 0]]), threads=1)) == 0


def test_damaged_voxels_are_passed_by():
    maps, middle, _ = straight(GRIDS["isotropic"])
    tensor = maps["tensor"].data.copy()
    tensor[5] = np.nan
    damaged = replace(maps, maps=maps.maps | {"tensor": replace(maps["tensor"], data=tensor)})
    lines = tracts(damaged, middle[None], inside="FA > 0.5", threads=1)
    assert np.isfinite(lines[0]).all()
    assert lines[0][:, 0].min() >= 5 * 2 - 1


def test_the_package_is_the_verb():
    code = (
        "import DMRIMicroLib as dm, sys; assert 'torch' not in sys.modules;"
        "import DMRIMicroLib.tracts.rules; assert callable(dm.tracts);"
        "assert dm.tracts.rules.Rule; assert callable(dm.seeds)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=dm.__path__[0] + "/..")
    maps, middle, _ = straight(GRIDS["negative"])
    assert len(dm.tracts(maps, middle[None], threads=1)) == 1
