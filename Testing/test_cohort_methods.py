"""What is made beside fits: codebook, PIGMENT and enhanced scans of a cohort; odd data sets."""

import json
import shutil
from dataclasses import replace

import bids_data
import nibabel as nib
import numpy as np
import pytest
from tiny_codebook import one_thread, tiny_weights  # noqa: F401

import DMRIMicroLib as dm
from DMRIMicroLib.cohort import derivatives, memory
from DMRIMicroLib.cohort.dataset import Dataset
from DMRIMicroLib.cohort.jobs import Job, Options
from DMRIMicroLib.cohort.methods import OTHERS
from DMRIMicroLib.cohort.summary import methods_summary
from DMRIMicroLib.cohort.work import run_job
from DMRIMicroLib.errors import InputError

ENHANCE = Options(("enhance",), enhance={"method": "linear", "resolution": "keep"})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return bids_data.raw(tmp_path_factory.mktemp("raw"), 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(tiny_weights(tmp_path_factory.mktemp("weights")))


def job(source, out, options):
    (scan,) = Dataset.open(source).scans()
    return Job(scan, options.settled(), out)


def test_pigment_makes_its_maps_beside_those_of_models(weights, tmp_path):
    asked = {"models": ["dti"], "preset": "fast", "seed": 3}
    options = Options(("dti", "pigment"), weights=weights, pigment=asked)
    source = bids_data.raw(tmp_path / "raw", 1, shape=(7, 6, 2))
    todo = job(source, tmp_path, options)
    outcome = run_job(todo)
    assert outcome.status == "done", outcome.trace
    home = tmp_path / "sub-01" / "dwi"
    found = nib.load(home / "sub-01_model-pigment_param-FA_dwimap.nii.gz")
    expected = dm.pigment(todo.scan.load(), **asked, weights=weights)["FA"].data
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    assert (home / "sub-01_model-pigment_param-FA_desc-sd_dwimap.nii.gz").exists()
    assert (home / "sub-01_model-dti_param-FA_dwimap.nii.gz").exists()
    assert not list(home.glob("*NDI*"))


def test_an_enhanced_scan_may_be_the_input_of_the_next_cohort(source, tmp_path):
    todo = job(source, tmp_path / "out", replace(ENHANCE, methods=("dti", "enhance")))
    assert run_job(todo).status == "done"
    derivatives.describe(tmp_path / "out", source)
    (made,) = Dataset.open(tmp_path / "out").scans()
    assert made.key == "sub-01_res-enhanced"
    assert made.timing == pytest.approx({"delta": 15.0, "Delta": 40.0, "TE": 80.0})
    scan = made.load()
    expected = dm.enhance(todo.scan.load(), "linear", "keep").scan
    np.testing.assert_array_equal(scan.volumes([0, 10]), expected.volumes([0, 10]))
    np.testing.assert_array_equal(scan.mask, expected.mask)
    second = Job(made, Options(("dti",)).settled(), tmp_path / "second")
    assert run_job(second).status == "done"
    home = tmp_path / "second" / "sub-01" / "dwi"
    for image in home.glob("*.nii.gz"):  # `res` asks for a word on it
        told = json.loads((home / derivatives.sidecar_name(image.name)).read_text())
        assert told["Resolution"] == "2 x 2 x 2.5 mm, by linear"


def test_an_enhancement_that_changes_is_made_again_and_no_other_method(source, tmp_path):
    todo = job(source, tmp_path, replace(ENHANCE, methods=("dti", "enhance")))
    run_job(todo)
    assert not todo.open_methods()
    changed = {"method": "linear", "resolution": "1.9"}
    other = job(source, tmp_path, replace(todo.options, enhance=changed))
    assert list(other.open_methods()) == ["enhance"]
    (tmp_path / "sub-01" / "dwi" / "sub-01_res-enhanced_desc-preproc_dwi.bval").unlink()
    assert list(todo.open_methods()) == ["enhance"]


def test_the_codebook_tells_metrics_that_it_was_taught(source, weights, tmp_path):
    scan = next(iter(Dataset.open(source).scans())).load()
    labels = dm.fit(scan, ["dti"])["FA"].data
    file = tmp_path / "own.safetensors"
    dm.adapt(weights, scan, labels, name="Own", out=file)
    plain = Options(("codebook",), weights=weights)
    todo = job(source, tmp_path / "out", replace(plain, extra=(str(file),)))
    assert run_job(todo).status == "done"
    made = tmp_path / "out/sub-01/dwi/sub-01_model-codebook_param-Own_dwimap.nii.gz"
    expected = dm.codebook(scan, weights=weights, extra=[file])["Own"].data
    np.testing.assert_array_equal(np.asarray(nib.load(made).dataobj), expected)
    assert job(source, tmp_path / "out", plain).open_methods()  # without it, another result
    other = str(tiny_weights(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match="was learned on"):
        replace(plain, weights=other, extra=(str(file),)).settled()


def test_settings_of_one_method_do_not_touch_another(source, weights, tmp_path):
    options = Options(("dti", "codebook", "pigment"), weights=weights)
    plain = job(source, tmp_path, options).digests()
    seeded = job(source, tmp_path, replace(options, pigment={"seed": 1})).digests()
    assert {m for m in plain if plain[m] != seeded[m]} == {"pigment"}
    robust = job(source, tmp_path, replace(options, fit={"robust": True})).digests()
    assert {m for m in plain if plain[m] != robust[m]} == {"dti"}


def test_a_scan_without_the_directions_is_not_enhanced_and_keeps_its_maps(source, tmp_path):
    folder = tmp_path / "raw"
    shutil.copytree(source, folder)
    (image,) = folder.glob("sub-01/dwi/*.nii.gz")
    few = bids_data.scan_of(1).select(range(5 + 8))
    bids_data.nifti.save(few, image)
    outcome = run_job(job(folder, tmp_path / "out", replace(ENHANCE, methods=("dti", "enhance"))))
    assert outcome.status == "done"
    assert "directions" in outcome.left_out["enhance"]
    assert (tmp_path / "out/sub-01/dwi/sub-01_model-dti_param-FA_dwimap.nii.gz").exists()


def test_an_enhancement_that_fails_leaves_the_maps(source, tmp_path, monkeypatch):
    def run(scan, options):
        raise RuntimeError("by accident")

    monkeypatch.setitem(OTHERS, "enhance", replace(OTHERS["enhance"], run=run))
    todo = job(source, tmp_path, replace(ENHANCE, methods=("dti", "enhance")))
    outcome = run_job(todo)
    assert (outcome.status, list(outcome.failures)) == ("partial", ["enhance"])
    assert list(todo.open_methods()) == ["enhance"]
    assert (tmp_path / "sub-01/dwi/sub-01_model-dti_param-FA_dwimap.nii.gz").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(("pigment",), pigment={"preset": "slow"}), "no preset 'slow'"),
        (Options(("pigment",), pigment={"models": ["magic"]}), "no model 'magic'"),
        (Options(("enhance",), enhance={"method": "magic"}), "no method 'magic'"),
        (Options(("enhance",), enhance={"resolution": "fine"}), "resolution is 'fine'"),
        (Options(("enhance",), enhance={"directions": "turn"}), "directions are .turn."),
        (Options(("magic",)), "Or: codebook, pigment, enhance"),
        (Options(("dti",), extra=("a.safetensors",)), "Add codebook"),
        (Options(("codebook",), extra=("none.safetensors",)), "none"),
    ],
)
def test_settings_are_checked_before_anything_is_started(options, says):
    with pytest.raises(InputError, match=says):
        options.settled()


def test_all_models_and_the_codebook_may_be_asked_for_together(weights):
    settled = Options(("all", "codebook"), weights=weights).settled()
    assert {"dti", "noddi", "codebook"} <= set(settled.methods)
    assert "all" not in settled.methods


def test_what_the_default_means_is_settled_where_the_run_is_started():
    settled = Options(("enhance",)).settled()
    assert settled.enhance["method"] != "auto"
    assert len(settled.hashes["enhance"]["enhance"]) == 64


def test_a_finer_grid_needs_more_memory(source):
    scans = list(Dataset.open(source).scans())
    plain = memory.needed_memory(scans, Options(("dti",)).settled())
    kept, fine = (
        memory.needed_memory(scans, replace(ENHANCE, enhance={"resolution": r}).settled())
        for r in ("keep", "7T")
    )
    assert plain < kept < fine
    signal = 4 * memory.SIGNALS * np.prod(bids_data.SHAPE) * 35
    assert fine - plain == pytest.approx(signal * 2 * 2 * 2.5 / 1.05**3)


def test_values_that_were_set_to_their_limit_are_counted(source, weights):
    scan = next(iter(Dataset.open(source).scans())).load()
    maps = dm.codebook(scan, weights=weights)
    data = maps["FA"].data
    data[maps.mask] = 0.5
    data[tuple(np.argwhere(maps.mask)[0])] = 1.0
    told = methods_summary([maps])["codebook"]["FA"]
    assert told["at_limit"] == pytest.approx(1 / maps.mask.sum(), rel=1e-4)


def test_maps_of_preprocessed_scans_say_what_bids_asks_of_their_names(tmp_path):
    folder = bids_data.qsiprep(tmp_path / "qsiprep")
    for file in folder.glob("sub-A1/dwi/*space-ACPC*"):
        file.rename(file.with_name(file.name.replace("ACPC", "ACPC_res-2mm")))
    options = Options(("dti",))
    outcome = run_job(job(folder, tmp_path / "out", options))
    assert outcome.status == "done"
    (name,) = tmp_path.glob("out/sub-A1/dwi/*space-ACPC_res-2mm_model-dti_param-FA_dwimap.json")
    assert json.loads(name.read_text())["Resolution"]
