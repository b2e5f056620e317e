"""All scans together: tables, outliers, regions and the page."""

import csv
import shutil
from pathlib import Path

import bids_data
import nibabel as nib
import numpy as np
import pytest
from phantom import RING_AFFINE

from DMRIMicroLib.cohort import group, rois, state
from DMRIMicroLib.cohort.dataset import Dataset
from DMRIMicroLib.cohort.group import outliers, robust_z, roi_tasks, rows_of, tsv, write_group
from DMRIMicroLib.cohort.jobs import Job, Options, Outcome
from DMRIMicroLib.cohort.rois import labels_onto, run_rois
from DMRIMicroLib.cohort.work import keep_failure, run_job
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.io import nifti


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened, delimiter="\t"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Eight scans, the seventh much noisier, one of another acquisition, one failed."""
    folder = tmp_path_factory.mktemp("cohort")
    source = bids_data.raw(folder / "raw", 8)
    nifti.save(bids_data.scan_of(7, sigma=150.0), source / "sub-07" / "dwi" / "sub-07_dwi.nii.gz")
    short = bids_data.scan_of(9).select(range(20))
    nifti.save(short, source / "sub-09" / "dwi" / "sub-09_dwi.nii.gz")
    options = Options(("dti", "noddi")).settled()
    for scan in Dataset.open(source).scans():
        assert run_job(Job(scan, options, folder / "out")).status == "done"
    keep_failure(folder / "out", Outcome("sub-10", "failed", error="no\nbvec <file>", fix="Add it"))
    return folder / "out"


def atlas(folder: Path, step: int = 1) -> Path:
    """Two halves of the grid, at another resolution if `step` is 2."""
    labels = np.zeros(bids_data.SHAPE, np.int16)
    labels[:6], labels[6:] = 1, 7
    affine = RING_AFFINE @ np.diag([step, step, step, 1])
    nib.save(nib.Nifti1Image(labels[::step, ::step, ::step], affine), folder / "atlas.nii.gz")
    (folder / "atlas.tsv").write_text("index\tname\n1\tleft half\n")
    return folder / "atlas.nii.gz"


def test_the_quality_table_has_every_scan(out):
    write_group(out)
    rows = read(out / "group" / "quality.tsv")
    assert [row["scan"] for row in rows] == [f"sub-{k:02d}" for k in range(1, 10)]
    assert float(rows[0]["snr"]) == pytest.approx(50, rel=0.2)
    assert float(rows[6]["snr"]) < 10
    assert rows[0]["session_id"] == "n/a"
    assert rows[8]["acquisition"] == "5 b0, 15 x b1000"
    assert set(rows[0]) == set(group.SCAN_COLUMNS | group.QUALITY)


def test_metrics_failures_and_models_left_out_are_told(out):
    write_group(out)
    metrics = read(out / "group" / "metrics.tsv")
    assert {row["metric"] for row in metrics if row["method"] == "noddi"} == {"NDI", "ODI", "FWF"}
    (failed,) = read(out / "group" / "failed.tsv")
    assert failed["scan"] == "sub-10"
    assert failed["error"] == "no bvec <file>"
    (lacking,) = read(out / "group" / "left_out.tsv")
    assert (lacking["scan"], lacking["method"]) == ("sub-09", "noddi")
    assert "2 non-zero shells" in lacking["why"]


def test_scans_done_in_part_are_told_from_those_that_failed(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "out")
    one = {"noddi": Outcome("noddi", "failed", error="NaN")}
    keep_failure(copy, Outcome("sub-02", "partial", failures=one, attempts=2))
    keep_failure(copy, Outcome("sub-03", "failed", error="gone"))
    page = write_group(copy).read_text()
    states = {row["scan"]: row["state"] for row in read(copy / "group" / "quality.tsv")}
    assert states.pop("sub-02") == "in part: noddi failed"
    assert states.pop("sub-03") == "failed"
    assert set(states.values()) == {"done"}
    rows = {row["scan"]: row for row in read(copy / "group" / "failed.tsv")}
    assert (rows["sub-02"]["method"], rows["sub-02"]["attempts"]) == ("noddi", "2")
    assert rows["sub-10"]["method"] == "n/a"
    assert "<strong>7</strong>scans done<" in page
    assert '<strong class="alert">1</strong>scans done in part' in page
    assert '<strong class="alert">2</strong>scans failed' in page
    assert "<td>the whole scan</td>" in page


def test_the_noisy_scan_stands_out_and_the_short_one_does_not(out):
    found = outliers(rows_of(out))
    assert found[0].scan == "sub-07"
    assert {"snr", "dti FA"} <= {o.what for o in found if o.scan == "sub-07"}
    assert "sub-09" not in {o.scan for o in found}
    assert all(abs(o.z) > group.OUTLIER_Z for o in found)


def test_robust_scores_are_those_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    z, usual = robust_z(values)
    assert usual == pytest.approx(3, abs=0.1)
    assert z.std() == pytest.approx(1, abs=0.05)
    counts = [0] * 19 + [5]
    assert robust_z(counts)[0][-1] > group.OUTLIER_Z  # most are the same
    assert not robust_z([1.0] * 9)[0].any()


def test_b_vectors_that_do_not_fit_are_told_of_a_single_scan(out):
    row = rows_of(out)[0]
    row.quality["b_vectors"] = "inconsistent"
    assert [(o.scan, o.what) for o in outliers([row])] == [("sub-01", "b_vectors")]


@pytest.mark.parametrize("step", [1, 2])
def test_means_of_regions_are_those_of_the_maps(out, tmp_path, step):
    file = atlas(tmp_path, step)
    for task in roi_tasks(out, str(file)):
        assert run_rois(task).status == "done"
    write_group(out, rois=True)
    rows = read(out / "group" / "rois.tsv")
    found = next(r for r in rows if (r["scan"], r["metric"], r["label"]) == ("sub-02", "MD", "7"))
    home = out / "sub-02" / "dwi"
    md = nib.load(home / "sub-02_model-dti_param-MD_dwimap.nii.gz").get_fdata()
    good = nib.load(home / "sub-02_desc-dtiflags_dseg.nii.gz").get_fdata() == 1
    half = np.zeros(md.shape, bool)
    half[6 if step == 1 else 5 :] = True  # the coarse voxel at 6 begins half a voxel before
    inside = md[good & half] if step == 1 else None
    if inside is not None:
        assert int(found["voxels"]) == len(inside)
        assert float(found["mean"]) == pytest.approx(inside.mean(), rel=1e-5)
        assert float(found["median"]) == pytest.approx(np.median(inside), rel=1e-5)
    assert {r["roi"] for r in rows} == {"left half", "label 7"}
    assert found["unit"] == "mm2/s"


def test_regions_are_not_looked_at_twice_and_follow_the_maps(out, tmp_path):
    file = atlas(tmp_path)
    for _ in range(2):
        last = [run_rois(task).status for task in roi_tasks(out, str(file))]
    assert set(last) == {"present"}
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), file)
    assert {run_rois(task).status for task in roi_tasks(out, str(file))} == {"done"}


def test_an_atlas_may_be_each_scans_own(out, tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number:02d}").mkdir()
        atlas(tmp_path / f"{number:02d}")
    pattern = str(tmp_path / "{subject}" / "atlas.nii.gz")
    ended = {task.key: run_rois(task) for task in roi_tasks(out, pattern)}
    assert ended["sub-01"].status != "failed"
    assert "no such atlas" in ended["sub-03"].error
    assert rois.atlas_of("a/{subject}/{session}.nii", "1", "x") == Path("a/1/x.nii")


def test_labels_come_onto_another_grid_by_the_affines(tmp_path):
    labels = np.arange(1, 9).reshape(2, 2, 2)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.diag([2.0, 2, 2, 1])), tmp_path / "a.nii")
    fine = np.eye(4)
    fine[:3, 3] = -0.5
    found = labels_onto(tmp_path / "a.nii", (4, 4, 4), fine)
    np.testing.assert_array_equal(found, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    with pytest.raises(InputError, match="no label overlaps"):
        labels_onto(tmp_path / "a.nii", (2, 2, 2), np.array(np.diag([1.0, 1, 1, 1]) + 100))
    nib.save(nib.Nifti1Image(labels + 0.5, np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(InputError, match="no labels"):
        labels_onto(tmp_path / "b.nii", (2, 2, 2), np.eye(4))


def test_the_page_is_one_file_that_says_what_is_wrong(out):
    page = write_group(out).read_text()
    assert "sub-10" in page
    assert "no\nbvec &lt;file&gt;" in page
    assert "sub-07" in page
    assert "<script" not in page
    assert page.count("<svg") == page.count("<figure>") > 10
    assert "http" not in page


def test_nothing_done_is_said(tmp_path):
    with pytest.raises(InputError, match="no scan is done there"):
        write_group(tmp_path)


def test_a_table_has_one_line_a_row():
    told = tsv(["a", "b"], [[None, 'a "b"\nc'], [1.5, ""]])
    assert told == 'a\tb\nn/a\t"a ""b"" c"\n1.5\tn/a\n'


def test_marks_that_cannot_be_read_count_as_none(out):
    file = state.mark_file(out, "sub-01", "dti")
    kept = file.read_text()
    file.write_text(kept[:20])
    try:
        assert "dti" not in dict(state.marks(out))["sub-01"]
    finally:
        file.write_text(kept)
