"""Ways in: every format gives the same scan, and whatever is wrong is named."""

import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from phantom import AFFINES, OBLIQUE, RING_AFFINE, angle_deg, protocol, ring_axes, ring_scan

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.io.gradients import fsl_to_ras, ras_to_fsl
from DMRIMicroLib.masking import onto_grid


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_nifti_round_trip_keeps_world_directions(tmp_path, affine):
    scan = ring_scan(affine=affine)
    nifti.save(scan, tmp_path / "dwi.nii.gz")
    back = dm.load(tmp_path / "dwi.nii.gz")
    np.testing.assert_allclose(back.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-6)
    np.testing.assert_allclose(back.volumes(range(14)), scan.signal)
    maps = dm.fit(back.with_mask(np.ones(scan.shape)), "dti")
    assert angle_deg(np.asarray(maps["V1"]), ring_axes(affine, scan.shape)).max() < 0.05


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_fsl_rule(affine):
    """x is reversed for a positive determinant only; ras_to_fsl is the inverse."""
    world = fsl_to_ras(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]), affine)
    axes = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    np.testing.assert_allclose(world[1:], axes[1:])
    np.testing.assert_allclose(world[0], axes[0] * (-1 if np.linalg.det(affine) > 0 else 1))
    g = protocol().bvecs
    np.testing.assert_allclose(ras_to_fsl(fsl_to_ras(g, affine), affine), g, atol=1e-12)


def test_flipping_the_storage_order_changes_nothing_in_the_world(tmp_path):
    """The same scan stored with x reversed, as another converter might: bvecs as FSL wants them."""
    scan = ring_scan()
    nifti.save(scan, tmp_path / "a.nii.gz")
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = scan.shape[0] - 1
    nib.save(nib.Nifti1Image(scan.signal[::-1], scan.affine @ flip), tmp_path / "b.nii.gz")
    for ending in (".bval", ".bvec"):  # FSL's rule makes the numbers in the file the same
        shutil.copy(tmp_path / f"a{ending}", tmp_path / f"b{ending}")
    a, b = dm.load(tmp_path / "a.nii.gz"), dm.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(a.acquisition.bvecs, b.acquisition.bvecs, atol=1e-6)


@pytest.mark.parametrize("names", [("bvals", "bvecs"), ("dwi.bvals", "dwi.bvecs")])
def test_tables_beside_the_image_are_found(scan_files, names):
    for old, new in zip(("dwi.bval", "dwi.bvec"), names, strict=True):
        scan_files.with_name(old).rename(scan_files.with_name(new))
    scan_files.with_name("._x.bval").write_text("rubbish of another system")
    scan = dm.load(scan_files)
    assert len(scan.acquisition) == 14
    assert scan.notes == ()


def test_a_foreign_table_is_taken_only_where_it_must_be_the_one_and_said(scan_files):
    folder = scan_files.parent
    (folder / "dwi.bval").rename(folder / "other.bval")
    assert "other.bval was taken as the table of dwi.nii.gz" in dm.load(scan_files).notes
    shutil.copy(scan_files, folder / "second.nii.gz")
    with pytest.raises(
        InputError, match=r"no dwi.bval lies beside it .there is other.bval.*--bval"
    ):
        dm.load(scan_files)
    assert len(dm.load(scan_files, bval=folder / "other.bval").acquisition) == 14


def test_transposed_tables_are_accepted(scan_files):
    reference = dm.load(scan_files).acquisition
    for name in ("dwi.bval", "dwi.bvec"):
        file = scan_files.with_name(name)
        np.savetxt(file, np.atleast_2d(np.loadtxt(file)).T, fmt="%.17g")
    assert dm.load(scan_files).acquisition == reference


def test_signal_is_not_read_before_it_is_asked_for(scan_files):
    assert not isinstance(dm.load(scan_files).signal, np.ndarray)


def test_exclude_leaves_volumes_out(scan_files):
    table = np.loadtxt(scan_files.with_name("dwi.bvec"))
    table[:, 13] = 0  # a scanner's trace image
    np.savetxt(scan_files.with_name("dwi.bvec"), table)
    with pytest.raises(
        InputError, match=r"dwi.bvec: b-vector of volume 13 is zero at b = 1000.*--exclude 13"
    ):
        dm.load(scan_files)
    scan = dm.load(scan_files, exclude=[13])
    assert scan.signal.shape[3] == len(scan.acquisition) == 13
    assert "1 of 14 volumes were excluded on request" in scan.notes
    with pytest.raises(InputError, match="volume 99 cannot be excluded: there are 14"):
        dm.load(scan_files, exclude=[99])


@pytest.mark.parametrize(("scale", "words"), [(1e-3, "ms/um2"), (1e6, "s/m2")])
def test_units_of_b_are_recognised_and_said(scan_files, scale, words):
    file = scan_files.with_name("dwi.bval")
    np.savetxt(file, np.atleast_2d(np.loadtxt(file)) * scale)
    scan = dm.load(scan_files)
    assert scan.acquisition.bvals.max() == pytest.approx(1000)
    assert any(words in note for note in scan.notes)


def test_lowest_b_that_is_not_zero_is_used_and_said(scan_files):
    file = scan_files.with_name("dwi.bval")
    np.savetxt(file, np.maximum(np.loadtxt(file), 5)[None])
    scan = dm.load(scan_files)
    assert scan.acquisition.is_b0.sum() == 2
    assert any("lowest b-value is 5 s/mm2" in note for note in scan.notes)


def test_no_b0_is_refused_with_a_way_out(scan_files):
    file = scan_files.with_name("dwi.bval")
    np.savetxt(file, np.maximum(np.loadtxt(file), 200)[None])
    vectors = np.loadtxt(scan_files.with_name("dwi.bvec"))
    vectors[0, :2] = 1
    np.savetxt(scan_files.with_name("dwi.bvec"), vectors)
    with pytest.raises(
        InputError, match=r"no b0 volume: the lowest b-value is 200.*--b0-threshold 201"
    ):
        dm.fit(dm.load(scan_files), "dti")
    assert dm.fit(dm.load(scan_files, b0_threshold=201), "dti").mask.any()


def _edit(name, text):
    return lambda folder: (folder / name).write_text(text)


def _image(data, affine=RING_AFFINE):
    return lambda folder: nib.save(nib.Nifti1Image(data, affine), folder / "dwi.nii.gz")


def _cut(folder):
    whole = (folder / "dwi.nii.gz").read_bytes()
    (folder / "dwi.nii.gz").write_bytes(whole[: len(whole) // 2])


def _flat(folder):
    image = nib.Nifti1Image(np.ones((3, 3, 3, 14), np.float32), None)
    image.header["sform_code"] = 1
    nib.save(image, folder / "dwi.nii.gz")


def _table(change):
    def apply(folder):
        table = np.loadtxt(folder / "dwi.bvec")
        change(table)
        np.savetxt(folder / "dwi.bvec", table)

    return apply


BAD = {
    "fewer b-values": (
        _edit("dwi.bval", "0 0 1000"),
        r"dwi.bval: there are 3 b-values, and 14 volumes in dwi.nii.gz",
    ),
    "fewer b-vectors": (_table(lambda t: None), None),
    "b-value is a word": (
        _edit("dwi.bval", "0 0 many"),
        r"dwi.bval: not a table of numbers .*many",
    ),
    "empty b-values": (_edit("dwi.bval", ""), r"dwi.bval: the file is empty"),
    "ragged b-vectors": (
        _edit("dwi.bvec", "1 2 3\n1 2\n1 2 3"),
        r"dwi.bvec: its lines have different lengths .3, 2, 3",
    ),
    "b-vectors for b-values": (
        _edit("dwi.bval", "1 0\n0 1\n1 1"),
        r"dwi.bval: has 3 lines of 2 numbers",
    ),
    "not unit": (
        _table(lambda t: t.__setitem__((slice(None), 5), [0.3, 0, 0])),
        r"dwi.bvec: b-vector of volume 5 has length 0.3",
    ),
    "zero": (
        _table(lambda t: t.__setitem__((slice(None), 5), 0)),
        r"dwi.bvec: b-vector of volume 5 is zero at b = 1000",
    ),
    "NaN": (
        _table(lambda t: t.__setitem__((0, 5), np.nan)),
        r"dwi.bvec: b-vector of volume 5 is .nan",
    ),
    "all b zero": (_edit("dwi.bval", " ".join(["0"] * 14)), r"dwi.bval: all b-values are 0"),
    "absurd b": (
        _edit("dwi.bval", " ".join(["0", *["3e5"] * 13])),
        r"dwi.bval: highest b-value is 300000",
    ),
    "3-D image": (
        _image(np.ones((12, 14, 6), np.float32)),
        r"dwi.nii.gz: the image has 3 dimensions",
    ),
    "cut off": (_cut, r"dwi.nii.gz: (the image data cannot be read|not a readable)"),
    "not an image": (_edit("dwi.nii.gz", "hello"), r"dwi.nii.gz: not a readable NIfTI image"),
    "singular affine": (_flat, r"dwi.nii.gz: its affine is singular"),
    "all zero": (_image(np.zeros((12, 14, 6, 14), np.float32)), r"no brain was found|no voxel"),
    "all NaN": (
        _image(np.full((12, 14, 6, 14), np.nan, np.float32)),
        r"no brain was found|no voxel",
    ),
}
BAD["fewer b-vectors"] = (
    _edit("dwi.bvec", "1 0\n0 1\n0 0"),
    r"dwi.bvec: there are 2 b-vectors, and 14 volumes",
)


@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_named_and_writes_nothing(scan_files, tmp_path, spoil, words):
    spoil(scan_files.parent)
    with pytest.raises(InputError, match=words) as caught:
        dm.fit(dm.load(scan_files), "dti").save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert caught.value.fix


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_named(scan_files):
    scan_files.with_name("dwi.bval").chmod(0)
    with pytest.raises(InputError, match=r"dwi.bval: cannot be read"):
        dm.load(scan_files)


def test_missing_file_and_unknown_type_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        dm.load(tmp_path / "no.nii.gz")
    (tmp_path / "dwi.mif").write_bytes(b"mrtrix image")
    with pytest.raises(InputError, match="mrconvert"):
        dm.load(tmp_path / "dwi.mif")


def test_mask_of_another_grid_is_resampled_or_refused(scan_files, tmp_path):
    scan = dm.load(scan_files)
    fine = scan.affine @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] -= scan.affine[:3, :3] @ np.full(3, 0.25)
    shape = [2 * n for n in scan.shape]
    inside = np.zeros(shape, np.uint8)
    inside[4:12] = 1
    nib.save(nib.Nifti1Image(inside, fine), tmp_path / "fine.nii.gz")
    mask = dm.load(scan_files, mask=tmp_path / "fine.nii.gz").mask
    assert mask[2:6].all()
    assert not mask[:2].any()
    assert not mask[6:].any()
    far = scan.affine.copy()
    far[:3, 3] += 500
    nib.save(nib.Nifti1Image(np.ones(scan.shape, np.uint8), far), tmp_path / "far.nii.gz")
    with pytest.raises(InputError, match=r"far.nii.gz: the mask does not overlap"):
        dm.load(scan_files, mask=tmp_path / "far.nii.gz")
    nib.save(
        nib.Nifti1Image(np.zeros(scan.shape, np.uint8), scan.affine), tmp_path / "empty.nii.gz"
    )
    with pytest.raises(InputError, match=r"empty.nii.gz: the mask is empty"):
        dm.load(scan_files, mask=tmp_path / "empty.nii.gz")


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("edge", [4.0, 1.7, 2.0])
def test_a_full_mask_covers_its_whole_field_of_view(flip, edge):
    """Of any resolution, storage order and float32 header; only the outermost voxels may differ."""
    scan_grid = OBLIQUE.astype(np.float32).astype(float)
    shape = (12, 10, 8)
    step = edge / np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    count = np.round(np.array(shape) / step).astype(int)
    cover = np.diag([*(np.array(shape) / count), 1.0])
    cover[:3, 3] = (np.array(shape) / count - 1) / 2  # edges together, not centres
    grid = OBLIQUE @ cover
    if flip < 0:
        turn = np.diag([-1.0, 1, 1, 1])
        turn[0, 3] = count[0] - 1
        grid = grid @ turn
    full = onto_grid(np.ones(count), grid.astype(np.float32).astype(float), shape, scan_grid)
    assert full.all()


def test_select_takes_a_bool_for_each_volume(scan_files):
    scan = dm.load(scan_files)
    weighted = scan.select(scan.acquisition.bvals > 0)
    assert len(weighted.acquisition) == 12
    np.testing.assert_array_equal(weighted.signal, scan.volumes(range(2, 14)))
    with pytest.raises(InputError, match="volume 14 does not exist"):
        scan.select([0, 14])
    with pytest.raises(InputError, match="chosen by bool of shape"):
        scan.select([True, False])


def test_a_weak_weighting_without_direction_is_averaged_and_said(tmp_path):
    acq = protocol({45.0: 12, 1000.0: 12}, b0=0)
    scan = ring_scan(acq)
    nifti.save(scan, tmp_path / "dwi.nii.gz")
    table = np.loadtxt(tmp_path / "dwi.bvec")
    table[:, :12] = 0
    np.savetxt(tmp_path / "dwi.bvec", table)
    back = dm.load(tmp_path / "dwi.nii.gz")
    assert any("have no direction" in note for note in back.notes)
    maps = dm.fit(back.with_mask(np.ones(scan.shape)), "dti")
    assert np.median(maps["MD"]) == pytest.approx((1.7e-3 + 0.6e-3) / 3, rel=0.005)


def test_complex_images_are_refused(scan_files):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 14), np.complex64), RING_AFFINE), scan_files)
    with pytest.raises(InputError, match=r"dwi.nii.gz: holds values of type complex64"):
        dm.load(scan_files)


def test_a_singleton_axis_is_no_obstacle(scan_files):
    image = nib.load(scan_files)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, :, None], image.affine), scan_files)
    assert dm.load(scan_files).volumes([0, 13]).shape == (12, 14, 6, 2)


def test_other_units_of_length_are_converted_and_said(scan_files):
    image = nib.load(scan_files)
    micron = nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1e3, 1e3, 1e3, 1]) @ image.affine)
    micron.header.set_xyzt_units("micron")
    nib.save(micron, scan_files)
    scan = dm.load(scan_files)
    np.testing.assert_allclose(scan.affine, image.affine, atol=1e-4)
    assert any("micron" in note for note in scan.notes)


def test_damaged_file_with_excluded_volumes_is_named(scan_files):
    _cut(scan_files.parent)
    with pytest.raises(InputError, match=r"dwi.nii.gz: the image data cannot be read"):
        dm.load(scan_files, exclude=[13])


def test_noise_estimate_is_right():
    scan = ring_scan(protocol(b0=8), sigma=25, shape=(20, 20, 6)).with_mask(np.ones((20, 20, 6)))
    assert scan.noise.sigma == pytest.approx(25, rel=0.05)
    assert "8 b0 repeats" in scan.noise.method
    assert scan.snr == pytest.approx(40, rel=0.06)
    single = ring_scan(protocol(b0=1), sigma=25, shape=(20, 20, 6)).with_mask(np.ones((20, 20, 6)))
    assert single.noise.sigma == pytest.approx(25, rel=0.3)
    assert "single b0" in single.noise.method
