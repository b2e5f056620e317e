"""Anatomies: files, fibre fields, cortical direction, bundles, registration, own scans."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import REAL
from nibabel.streamlines import Tractogram
from nibabel.streamlines import save as save_lines
from scipy.ndimage import gaussian_filter

from DMRIMicroLib.brain import bundles, fibres, ownscan, shipped, sources
from DMRIMicroLib.brain.anatomy import Anatomy, available, load_anatomy, save
from DMRIMicroLib.brain.assemble import by_anisotropy, like_reference
from DMRIMicroLib.brain.cortex import radial
from DMRIMicroLib.brain.nuclei import deep_region, with_deep
from DMRIMicroLib.brain.register import Image, Warp, register, sample, still, world
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.maps import Map, MapSet
from DMRIMicroLib.models.dti import DTI

ORIENTATION = REAL.parent / "orientation"
FLIPPED = np.diag([-2.0, 2.0, 2.0, 1.0])  # radiological storage: x runs to the left


@pytest.fixture(scope="module")
def small() -> Anatomy:
    return load_anatomy("small")


def at(anatomy: Anatomy, *mm: float) -> tuple[int, ...]:
    index = torch.linalg.inv(anatomy.affine) @ torch.tensor([*mm, 1.0], dtype=torch.float64)
    return tuple(index[:3].round().long().tolist())


def turned(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cosine = np.abs((fibres.unit(a) * fibres.unit(b)).sum(-1))
    return np.degrees(np.arccos(np.clip(cosine, 0, 1)))


def ball(n: int = 24) -> np.ndarray:
    """Tissue of concentric shells: white inside, then cortex, then fluid."""
    radius = np.linalg.norm(np.indices((n, n, n)) - (n - 1) / 2, axis=0)
    edges = [0, 5, 8, 10]
    shells = [
        np.clip(radius - low + 0.5, 0, 1) * np.clip(high - radius + 0.5, 0, 1)
        for low, high in pairwise(edges)
    ]
    shells[0] = np.clip(5.5 - radius, 0, 1)
    return np.stack([shells[0], shells[1], np.zeros_like(radius), shells[2]]).astype(np.float32)


# the shipped anatomy


def test_the_shipped_anatomy_has_the_volumes_of_a_head(small):
    litres = small.tissue.float().sum((1, 2, 3)) * abs(torch.linalg.det(small.affine)) / 1e6
    white, cortex, deep, csf = litres.tolist()
    assert 0.4 < white < 0.8
    assert 0.5 < cortex < 1.1
    assert 0.02 < deep < 0.08
    assert 0.1 < csf < 0.5


def test_fractions_and_shares_are_fractions(small):
    total = small.tissue.float().sum(0)
    assert small.tissue.min() >= 0
    assert total.max() < 1.01
    lengths = small.peaks.float().norm(dim=1)
    fibrous = lengths.sum(0) > 0
    torch.testing.assert_close(
        lengths.sum(0)[fibrous], torch.ones(int(fibrous.sum())), atol=0.02, rtol=0
    )
    assert (lengths[:-1] - lengths[1:]).min() > -0.01
    assert 0 <= small.coherence.min() <= small.coherence.max() <= 1


def test_every_white_voxel_has_a_fibre(small):
    white = small.tissue[0] > 0.1
    assert (small.peaks[0].float().norm(dim=0)[white] > 0.3).all()


def test_nothing_lies_outside_the_brain(small):
    outside = small.tissue.float().sum(0) == 0
    assert not small.peaks[:, :, outside].any()
    assert not small.bundle[outside].any()


@pytest.mark.parametrize(
    ("name", "axis"), [("CC_Fr", 0), ("CG_L", 1), ("CG_R", 1), ("PYT_L", 2), ("PYT_R", 2)]
)
def test_bundles_run_the_way_they_do_in_people(small, name, axis):
    index = small.bundles.index(name) + 1
    inside = (small.bundle == index) & (small.tissue[0] > 0.8) & (small.coherence > 0.5)
    if name == "CC_Fr":  # the corpus callosum runs across near the midline only
        x = torch.arange(inside.shape[0]) * small.affine[0, 0] + small.affine[0, 3]
        inside &= (x.abs() < 8)[:, None, None]
    if name.startswith("CG"):  # above the corpus callosum, not in the temporal lobe
        y, z = (
            torch.arange(inside.shape[a]) * small.affine[a, a] + small.affine[a, 3] for a in (1, 2)
        )
        inside &= ((y.abs() < 25)[:, None] & (z > 25)[None])[None]
    mean = small.peaks[0].float().norm(dim=0)[inside]
    along = small.peaks[0].float().abs()[:, inside].sum(1) / mean.sum()
    assert inside.sum() > 10
    assert along.argmax() == axis, along


def test_left_bundles_lie_left(small):
    x = torch.arange(small.bundle.shape[0]) * small.affine[0, 0] + small.affine[0, 3]
    for name, index in ((n, i) for i, n in enumerate(small.bundles, 1)):
        if name.endswith(("_L", "_R")) and (small.bundle == index).any():
            mean = x[(small.bundle == index).nonzero()[:, 0]].mean()
            assert (mean < 0) == name.endswith("_L"), name


def test_fibres_run_on_into_their_neighbours(small):
    from DMRIMicroLib.report.coherence import coherence

    first = small.peaks[0].float().movedim(0, -1).numpy()
    fa = small.coherence.float().numpy() * (small.tissue[0] > 0.5).numpy()
    found = coherence(fa, fibres.unit(first, axis=-1), small.affine.numpy(), fa > 0)
    assert found.verdict == "consistent", found


def test_the_thalamus_is_deep_grey_and_the_insula_is_not(small):
    # the shipped head is deformed by some millimetres: look around the place, not at it
    def most(row: int, *mm: float) -> float:
        x, y, z = at(small, *mm)
        return float(small.tissue[row, x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3].max())

    for side in (-1, 1):
        assert most(2, side * 11, -18, 8) > 0.8
        assert most(2, side * 42, 5, -3) < 0.1


def test_the_shipped_file_is_small_and_names_its_licences(small):
    assert available()["small"].stat().st_size < 4e6
    said = " ".join(small.sources)
    assert all(word in said for word in ("ICBM152", "Apache-2.0", "CC BY 4.0", "deformed"))


# files


def test_saving_and_loading_changes_nothing_twice(small, tmp_path):
    again = load_anatomy(save(small, tmp_path / "head.safetensors"))
    for field in ("affine", "tissue", "coherence", "bundle"):
        assert torch.equal(getattr(again, field), getattr(small, field)), field
    torch.testing.assert_close(again.peaks, small.peaks, atol=0.01, rtol=0)
    assert (again.name, again.bundles, again.sources) == (small.name, small.bundles, small.sources)


def test_a_wrong_name_says_which_there_are():
    with pytest.raises(InputError, match="small"):
        load_anatomy("nobody")


def test_another_file_is_no_anatomy(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"not this")
    with pytest.raises(InputError, match="cannot be read"):
        load_anatomy(file)


def test_a_saved_head_can_be_read_by_whom_other_files_can(small, tmp_path):
    other = tmp_path / "other"
    other.touch()
    file = save(small, tmp_path / "head.safetensors")
    assert file.stat().st_mode == other.stat().st_mode
    assert set(tmp_path.iterdir()) == {file, other}


def test_a_failed_save_leaves_the_old_file(small, tmp_path, monkeypatch):
    file = save(small, tmp_path / "head.safetensors")
    before = file.read_bytes()

    def broken(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(InputError, match="no space"):
        save(small, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


# fields


def test_interpolation_does_not_care_about_signs():
    rng = np.random.default_rng(0)
    shape = (8, 8, 8)
    direction = np.broadcast_to(np.array([0.6, 0.8, 0.0])[:, None, None, None], (3, *shape))
    signs = rng.choice([-1.0, 1.0], shape)
    field = Image((direction * signs)[None], np.eye(4))
    warp = Warp(np.eye(4), world(np.eye(4), (6, 6, 6)) + 0.9)
    out = fibres.resample(field, warp)[0]
    assert angle_between(np.moveaxis(out, 0, -1), np.array([0.6, 0.8, 0])).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(out, axis=0), 1, atol=1e-5)


def test_crossings_keep_both_fibres_when_neighbours_list_them_in_another_order():
    one, two = np.eye(3)[0] * 0.6, np.eye(3)[1] * 0.4
    field = np.zeros((2, 3, 6, 6, 6))
    field[0, :, :3], field[1, :, :3] = one[:, None, None, None], two[:, None, None, None]
    field[0, :, 3:], field[1, :, 3:] = two[:, None, None, None], one[:, None, None, None]
    warp = Warp(np.eye(4), world(np.eye(4), (5, 5, 5)) + 0.5)
    out = fibres.shares(fibres.resample(Image(field, np.eye(4)), warp), 2)
    np.testing.assert_allclose(
        np.abs(out[0]), np.broadcast_to([[[[0.6]]], [[[0]]], [[[0]]]], out[0].shape), atol=1e-5
    )
    np.testing.assert_allclose(np.abs(out[1, 1]), 0.4, atol=1e-5)


def test_directions_turn_with_the_head():
    rotation = turned(0.5)
    centre = np.array([10.0, 10.0, 10.0])
    grid = world(np.eye(4), (21, 21, 21))
    # the voxel at x shows the other head at R'(x - c) + c: that head, turned by R
    warp = Warp(np.eye(4), (grid - centre) @ rotation + centre)
    along = np.array([1.0, 0.0, 0.0])
    field = np.broadcast_to(along[:, None, None, None], (1, 3, 21, 21, 21))
    out = fibres.resample(Image(field, np.eye(4)), warp)[0][:, 10, 10, 10]
    assert angle_between(out, rotation @ along) < 0.1


def test_shear_turns_directions_by_the_rule_of_the_principal_direction():
    shear = np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])  # other head -> this one
    grid = world(FLIPPED, (9, 9, 9))
    warp = Warp(FLIPPED, grid @ np.linalg.inv(shear).T)
    np.testing.assert_allclose(warp.turning()[4, 4, 4], shear, atol=1e-9)


def test_warps_chain():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    shift = Warp(affine, world(affine, (9, 9, 9)) + np.array([1.0, 0, 0]))
    other = Warp(affine, world(affine, (9, 9, 9)) + np.array([0, 2.0, 0]))
    both = shift.after(other)
    np.testing.assert_allclose(
        both.points - world(affine, (9, 9, 9)), [[[[1, 2, 0]]]] * np.ones((9, 9, 9, 1)), atol=1e-5
    )


def test_smoothing_takes_noise_out_of_directions():
    rng = np.random.default_rng(1)
    true = np.array([0.0, 0.6, 0.8])
    noisy = fibres.unit(true + 0.25 * rng.standard_normal((12, 12, 12, 3)), axis=-1)
    noisy *= rng.choice([-1, 1], (12, 12, 12, 1))
    field = np.moveaxis(noisy, -1, 0)[None]
    out = fibres.smooth(field, np.ones((12, 12, 12)), 1.0)[0]
    before = angle_between(noisy, true).mean()
    after = angle_between(np.moveaxis(out, 0, -1), true).mean()
    assert after < 0.4 * before


def test_filling_reaches_every_wanted_voxel_and_keeps_the_direction():
    field = np.zeros((1, 3, 30, 8, 8))
    field[0, 2, :3] = 1.0
    out = fibres.fill(field, np.ones((30, 8, 8), bool))[0]
    assert angle_between(np.moveaxis(out, 0, -1), np.array([0, 0, 1.0])).max() < 1


def test_near_parallel_populations_are_one():
    field = np.zeros((3, 3, 1, 1, 1))
    field[0, :, 0, 0, 0] = [0.5, 0, 0]
    field[1, :, 0, 0, 0] = [-0.3, 0.05, 0]
    field[2, :, 0, 0, 0] = [0, 0.2, 0]
    out = fibres.shares(field)[..., 0, 0, 0]
    assert np.linalg.norm(out[0]) == pytest.approx(0.8, abs=0.01)
    assert np.linalg.norm(out[1]) == pytest.approx(0.2, abs=0.01)
    assert not out[2].any()


def test_crossings_come_from_another_person_where_ours_has_one_direction():
    ours = np.zeros((1, 3, 2, 1, 1))
    ours[0, 0, 0] = -1.0  # the second voxel has none
    theirs = np.zeros((3, 3, 2, 1, 1))
    theirs[0, 1] = 0.4
    theirs[1, 0] = 0.6
    out = fibres.with_crossings(ours, theirs)
    np.testing.assert_allclose(out[0, :, 0, 0, 0], [-0.6, 0, 0], atol=1e-6)
    np.testing.assert_allclose(out[1, :, 0, 0, 0], [0, 0.4, 0], atol=1e-6)
    np.testing.assert_allclose(np.abs(out[0, :, 1, 0, 0]), [0.6, 0, 0], atol=1e-6)


def test_crossing_fibres_need_less_anisotropy_to_be_ordered():
    tissue = np.zeros((4, 2, 1, 1))
    tissue[0] = 1
    peaks = np.zeros((2, 3, 2, 1, 1))
    peaks[0, 0, 0] = 1
    peaks[0, 0, 1] = peaks[1, 1, 1] = 0.5
    single, crossing = fibres.coherence(np.full((2, 1, 1), 0.4), peaks, tissue).ravel()
    assert single == pytest.approx(0.4 / fibres.FA_SINGLE)
    assert crossing == pytest.approx(single * np.sqrt(2), rel=1e-3)


# classes


@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED])
def test_cortical_fibres_are_radial_whatever_the_storage(affine):
    tissue = ball()
    out = np.moveaxis(radial(tissue, affine), 0, -1)
    away = world(affine, tissue.shape[1:])
    away = fibres.unit(away - away.mean((0, 1, 2)), axis=-1)
    cortex = tissue[1] > 0.5
    cosine = (out * away).sum(-1)[cortex]
    assert cosine.min() > np.cos(np.deg2rad(12))


def test_mixed_voxels_have_the_fibres_of_both_tissues():
    tissue = np.array([0.7, 0.3, 0, 0]).reshape(4, 1, 1, 1)
    peaks = np.array([[1.0, 0, 0], [0, 0, 0]]).reshape(2, 3, 1, 1, 1)
    out = fibres.layered(peaks, np.array([0, 0, 1.0]).reshape(3, 1, 1, 1), tissue)[..., 0, 0, 0]
    np.testing.assert_allclose(out, [[0.7, 0, 0], [0, 0, 0.3]], atol=1e-6)


def test_nuclei_are_symmetric_and_split_grey_matter():
    points = np.array([[11.5, -18, 7.5], [-11.5, -18, 7.5], [50.0, 0, 0]])
    region = deep_region(points)
    assert region[0] == region[1] > 0.99
    assert region[2] < 0.01
    split = with_deep(np.zeros(3), np.ones(3), np.zeros(3), points)
    np.testing.assert_allclose(split.sum(0), 1, atol=1e-6)
    assert split[2, 0] > 0.99
    assert split[1, 2] > 0.99


def test_anisotropy_moves_tissue_but_makes_none():
    tissue = np.zeros((4, 3, 3, 3), np.float32)
    tissue[0], tissue[1] = 0.45, 0.45
    fa = np.full((3, 3, 3), 0.5)
    drawn = by_anisotropy(tissue, fa)
    assert drawn[0].min() > 0.6
    np.testing.assert_allclose(drawn.sum(0), 0.9, atol=1e-5)
    np.testing.assert_array_equal(by_anisotropy(tissue, 0 * fa), tissue)


def test_noisy_anisotropy_is_brought_to_the_reference():
    rng = np.random.default_rng(6)
    tissue = np.zeros((4, 8, 8, 8))
    tissue[0, :4], tissue[1, 4:] = 1, 1
    base = np.where(tissue[0] > 0, 0.45, 0.15) + 0.02 * rng.standard_normal((8, 8, 8))
    noisy = 0.2 + 0.8 * base
    noisy[0] = 0  # outside the field of view
    out = like_reference(noisy, base, tissue)
    np.testing.assert_allclose(out[1:], base[1:], atol=0.02)
    assert not out[0].any()


# bundles


def test_bundles_are_labelled_where_their_lines_run(tmp_path):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -20
    lines = {
        "AF_L": np.linspace([-10, -15, 0], [-10, 15, 0], 20),
        "PYT_R": np.linspace([10, 0, -15], [10, 0, 15], 5),
    }
    for name, line in lines.items():
        save_lines(
            Tractogram([line.astype(np.float32)], affine_to_rasmm=np.eye(4)),
            str(tmp_path / f"{name}_centroid.trk"),
        )
    files = bundles.bundle_files(tmp_path)
    assert list(files) == ["AF_L", "PYT_R"]
    labels, names = bundles.label(files, affine, np.ones((21, 21, 21)))
    assert names == ("AF_L", "PYT_R")
    assert (labels[5, 4:17, 10] == 1).all()
    assert (labels[15, 10, 4:17] == 2).all()
    assert labels[10, 0, 0] == 0
    none, _ = bundles.label(files, affine, np.zeros((21, 21, 21)))
    assert not none.any()


# registration


def test_registration_finds_a_known_movement_and_a_flipped_axis():
    n = 28
    grid = np.indices((n, n, n)) - (n - 1) / 2
    texture = gaussian_filter(np.random.default_rng(4).standard_normal((n, n, n)), 2)
    head = np.exp(-((np.linalg.norm(grid, axis=0) / 9) ** 4)) * (1 + 3 * texture / texture.max())
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    flipped = affine @ np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 2 * (n - 1) + 6  # the same head, stored from left to right, 6 mm further
    warp = register(Image(head, affine), Image(head[::-1], flipped), affine_only=True)
    shift = (warp.points - world(affine, head.shape))[8:20, 8:20, 8:20]
    np.testing.assert_allclose(shift.reshape(-1, 3).mean(0), [6, 0, 0], atol=0.3)
    np.testing.assert_allclose(shift[..., 0], 6, atol=1)


def test_sampling_a_still_warp_changes_nothing():
    data = np.random.default_rng(2).random((2, 5, 6, 7)).astype(np.float32)
    same = sample(Image(data, FLIPPED), still(FLIPPED, (5, 6, 7)).points)
    np.testing.assert_allclose(same, data, atol=1e-6)


# one's own scan


def own_maps() -> MapSet:
    """Maps of the ball, with fibres along y."""
    tissue = ball()
    rng = np.random.default_rng(3)
    values = {"FA": (0.5, 0.15, 0.15, 0.1), "MD": (0.7e-3, 0.85e-3, 0.8e-3, 2.9e-3)}
    mask = tissue.sum(0) > 0.5
    data = {k: np.tensordot(v, tissue, 1) * mask for k, v in values.items()}
    data = {k: v * (1 + 0.03 * rng.standard_normal(v.shape)) for k, v in data.items()}
    data["V1"] = np.broadcast_to([0, 1.0, 0], (*mask.shape, 3)) * mask[..., None]
    metrics = {m.name: m for m in DTI.metrics}
    maps = {k: Map(metrics[k], "dti", v.astype(np.float32)) for k, v in data.items()}
    return MapSet(maps, FLIPPED, mask, {"dti": {}}, {"dti": mask.astype(np.uint8)})


def test_a_fitted_scan_becomes_an_anatomy(tmp_path):
    maps = own_maps()
    maps.save(tmp_path)
    made = ownscan.open_anatomy(tmp_path)
    truth = torch.from_numpy(ball())
    grey = made.tissue[1].float() + made.tissue[2].float()
    assert made.tissue[0][truth[0] > 0.99].float().mean() > 0.9
    assert grey[truth[1] > 0.99].mean() > 0.9
    assert made.tissue[3][truth[3] > 0.99].float().mean() > 0.9
    inner = truth[0] > 0.99
    assert made.peaks[0, 1].abs()[inner].min() > 0.9
    np.testing.assert_allclose(made.affine, FLIPPED)


def test_maps_without_directions_are_refused():
    maps = own_maps()
    del maps.maps["V1"]
    with pytest.raises(InputError, match="V1"):
        ownscan.build_from_scan(maps)


def test_a_folder_with_one_anatomy_is_that_anatomy(small, tmp_path):
    save(small, tmp_path / "a.safetensors")
    assert ownscan.open_anatomy(tmp_path).name == "small"
    save(small, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="2 anatomies"):
        ownscan.open_anatomy(tmp_path)


def test_invented_fibres_fill_white_matter():
    made = ownscan.with_invented_fibres("made", ball(), np.diag([2.0, 2.0, 2.0, 1.0]), "test")
    lengths = made.peaks.float().norm(dim=1)
    assert (lengths[0][made.tissue[0] > 0.5] > 0).all()
    assert made.tissue.shape[0] == 4


def test_the_random_head_is_one_to_one_and_the_same_every_time():
    affine, shape = np.diag([6.0, 6.0, 6.0, 1.0]), (24, 28, 24)
    points = shipped.random_points(affine, shape, 5)
    np.testing.assert_array_equal(points, shipped.random_points(affine, shape, 5))
    assert np.abs(points - shipped.random_points(affine, shape, 6)).max() > 1
    assert np.linalg.det(Warp(affine, points).turning()).min() > 0.2


# real data


@pytest.mark.skipif(not ORIENTATION.exists(), reason="public orientation data are not here")
@pytest.mark.parametrize("name", list(sources.SUBJECTS))
def test_vectors_of_every_source_are_read_in_the_right_frame(name):
    from DMRIMicroLib.report.coherence import coherence

    person = sources.SUBJECTS[name](ORIENTATION)
    v1 = fibres.unit(np.moveaxis(person.peaks.data[0], 0, -1), axis=-1)
    fa = np.clip(person.fa.data, 0, 1)
    assert coherence(fa, v1, person.fa.affine, fa > 0.05).verdict == "consistent"
