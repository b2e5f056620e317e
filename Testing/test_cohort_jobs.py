"""One scan of a cohort: what is made, under which names, and when it counts as done."""

import errno
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import bids_data
import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_codebook import one_thread, tiny_weights  # noqa: F401

import DMRIMicroLib as dm
from DMRIMicroLib.cohort import derivatives, state, work
from DMRIMicroLib.cohort.dataset import Dataset
from DMRIMicroLib.cohort.group import states_of
from DMRIMicroLib.cohort.jobs import Job, Options, Outcome
from DMRIMicroLib.cohort.methods import OTHERS
from DMRIMicroLib.cohort.work import keep_failure, run_job
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.fitting.run import Run
from DMRIMicroLib.io.bids import entities_of

DTI = Options(methods=("dti",)).settled()
SMT = Options(methods=("smt",)).settled()
BOTH = Options(methods=("dti", "smt")).settled()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return bids_data.raw(tmp_path_factory.mktemp("raw"), 2)


def jobs(source, out, options=BOTH):
    return [Job(scan, options, out) for scan in Dataset.open(source).scans()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in derivatives.outputs(folder)}


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert [run_job(job).status for job in jobs(source, out)] == ["done", "done"]
    return out


def test_maps_are_those_of_fit(source, made):
    scan = next(Dataset.open(source).scans())
    expected = dm.fit(scan.load(), ["dti"])
    name = "sub-01_model-dti_param-FA_dwimap.nii.gz"
    found = nib.load(made / "sub-01" / "dwi" / name)
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected["FA"].data)
    np.testing.assert_allclose(found.affine, expected.affine)


def test_names_are_those_of_bids_and_every_image_has_a_sidecar(made):
    names = {f.name for f in derivatives.outputs(made)}
    for name in names:
        if name.endswith(".nii.gz"):
            assert derivatives.sidecar_name(name) in names
            order = [k for k in entities_of(Path(name)) if k in ("sub", "model", "param", "desc")]
            assert order == [k for k in ("sub", "model", "param", "desc") if k in order]
    assert "sub-01_model-smt_param-SMTDpar_dwimap.nii.gz" in names
    assert "sub-02_desc-dtiflags_dseg.nii.gz" in names
    told = json.loads((made / "sub-01/dwi/sub-01_model-dti_param-V1_dwimap.json").read_text())
    assert told["OrientationEncoding"]["Type"] == "unit3vector"
    assert "bids:source:sub-01/dwi/sub-01_dwi.nii.gz" in told["Sources"]
    assert "bids:source:dwi.json" in told["Sources"]
    assert told["SkullStripped"] is True


def test_the_same_input_gives_the_same_bytes(source, made, tmp_path):
    for job in jobs(source, tmp_path):
        run_job(job)
    assert contents(tmp_path) == contents(made)


def test_what_is_done_is_left(source, made):
    before = {f: f.stat().st_mtime_ns for f in derivatives.outputs(made)}
    assert [run_job(job).status for job in jobs(source, made)] == ["present", "present"]
    assert {f: f.stat().st_mtime_ns for f in derivatives.outputs(made)} == before
    anew = replace(jobs(source, made)[0], anew=True)
    assert run_job(anew).status == "done"


def test_another_method_leaves_those_that_are_done(source, tmp_path, monkeypatch):
    first = jobs(source, tmp_path, DTI)[0]
    run_job(first)
    before = contents(tmp_path)
    fitted = []
    monkeypatch.setattr(work, "make_maps", spy(work.make_maps, fitted))
    second = replace(first, options=BOTH)
    assert list(second.open_methods()) == ["smt"]
    assert run_job(second).status == "done"
    assert fitted == [["smt"]]
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not first.open_methods()


def spy(function, told):
    def spied(scan, options, methods):
        told.append(methods)
        return function(scan, options, methods)

    return spied


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "sub-01/dwi/sub-01_dwi.bval").write_text("0 " * 5 + "900 " * 30),
        lambda folder: (folder / "dwi.json").write_text('{"EchoTime": 0.07}'),
        lambda folder: (folder / "sub-01/dwi/sub-01_dwi.json").write_text("{}"),
    ],
)
def test_a_change_of_an_input_is_seen(tmp_path, change):
    folder = bids_data.raw(tmp_path / "raw", 1)
    run_job(jobs(folder, tmp_path / "out")[0])
    change(folder)
    assert list(jobs(folder, tmp_path / "out")[0].open_methods()) == ["dti", "smt"]


def test_options_weights_and_version_are_part_of_what_is_done(source, tmp_path, monkeypatch):
    job = jobs(source, tmp_path)[0]
    plain = job.digests()
    robust = replace(BOTH, fit={"robust": True})
    assert replace(job, options=robust).digests() != plain
    assert replace(job, options=replace(BOTH, degibbs=True)).digests() != plain
    for same in (replace(BOTH, threads=2), replace(BOTH, device="cpu")):
        assert replace(job, options=same).digests() == plain
    first = Options(("codebook",), weights=str(tiny_weights(tmp_path / "a"))).settled()
    moved = Options(("codebook",), weights=str(tiny_weights(tmp_path / "b"))).settled()
    other = Options(("codebook",), weights=str(tiny_weights(tmp_path / "c", seed=1))).settled()
    told = [replace(job, options=options).digests() for options in (first, moved, other)]
    assert told[0] == told[1] != told[2]
    monkeypatch.setattr("DMRIMicroLib.cohort.jobs.__version__", "99")
    assert job.digests() != plain


def test_a_change_within_a_large_gzip_file_is_seen(tmp_path):
    content = np.random.default_rng(0).bytes(1_000_000)
    changed = bytearray(content)
    changed[500_000] ^= 1
    files = [tmp_path / f"{k}.nii.gz" for k in range(3)]
    for file, data in zip(files, (content, bytes(changed), content), strict=True):
        file.write_bytes(gzip.compress(data, mtime=0))
    assert all(f.stat().st_size > 2 * state.ENDS for f in files)
    one, two, three = map(state.file_digest, files)
    assert one == three != two


def test_codebook_and_models_stand_side_by_side(source, tmp_path):
    weights = str(tiny_weights(tmp_path / "weights"))
    options = Options(("dti", "codebook"), weights=weights).settled()
    (job, _) = jobs(source, tmp_path / "out", options)
    outcome = run_job(job)
    assert outcome.status == "done", outcome.trace
    names = {f.name for f in derivatives.outputs(tmp_path / "out")}
    assert "sub-01_model-dti_param-FA_dwimap.nii.gz" in names
    assert "sub-01_model-codebook_param-FA_dwimap.nii.gz" in names
    assert "sub-01_model-codebook_param-NDI_desc-sd_dwimap.nii.gz" in names


@pytest.mark.parametrize("anew", [False, True])
def test_a_process_that_dies_in_a_network_takes_no_model_along(source, tmp_path, monkeypatch, anew):
    def die(scan, options):
        raise KeyboardInterrupt

    weights = str(tiny_weights(tmp_path / "weights"))
    options = Options(("codebook", "dti"), weights=weights).settled()
    (job, _) = jobs(source, tmp_path / "out", options)
    job = replace(job, anew=anew)
    with monkeypatch.context() as patch:
        patch.setitem(OTHERS, "codebook", replace(OTHERS["codebook"], run=die))
        with pytest.raises(KeyboardInterrupt):
            run_job(job)
    assert list(replace(job, anew=False).open_methods()) == ["codebook"]
    run_job(jobs(source, tmp_path / "dti", DTI)[0])
    assert contents(tmp_path / "out") == contents(tmp_path / "dti")
    outcome = run_job(replace(job, anew=False))
    assert (outcome.status, outcome.left_out) == ("done", {})
    assert not replace(job, anew=False).open_methods()


def test_a_model_that_a_scan_does_not_allow_is_left_out_by_name(tmp_path):
    folder = bids_data.raw(tmp_path / "raw", 1)
    (folder / "dwi.json").unlink()
    job = jobs(folder, tmp_path / "out", Options(("dti", "mapmri")).settled())[0]
    outcome = run_job(job)
    assert outcome.status == "done"
    assert "gradient timing" in outcome.left_out["mapmri"]
    assert run_job(job).status == "present"


def test_a_failure_leaves_nothing_and_tells_all(tmp_path):
    folder = bids_data.raw(tmp_path / "raw", 1)
    image = folder / "sub-01/dwi/sub-01_dwi.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    job = jobs(folder, tmp_path / "out")[0]
    outcome = run_job(job)
    assert outcome.status == "failed"
    assert "cannot be read" in outcome.error
    assert outcome.file == str(image)
    assert not contents(tmp_path / "out")
    keep_failure(tmp_path / "out", outcome)
    assert [told["key"] for told in state.failures(tmp_path / "out")] == ["sub-01"]
    image.write_bytes(whole)  # mended
    assert run_job(job).status == "done"
    assert not list(state.failures(tmp_path / "out"))


def broken(monkeypatch, *models, error=RuntimeError):
    """Have the fits of some models end in an error."""
    fit = Run.fit

    def fit_or_fail(self, *words):
        if self.model.name in models:
            raise error(f"{self.model.name} is broken" if error is RuntimeError else "the same")
        return fit(self, *words)

    monkeypatch.setattr(Run, "fit", fit_or_fail)


def test_a_method_that_fails_takes_no_other_along(source, made, tmp_path, monkeypatch):
    run_job(jobs(source, tmp_path / "dti", DTI)[0])
    out, tried = tmp_path / "out", []
    job = jobs(source, out)[0]
    with monkeypatch.context() as patch:
        broken(patch, "smt")
        patch.setattr(work, "make_maps", spy(work.make_maps, tried))
        outcome = run_job(job)
        assert outcome.status == "partial"
        assert outcome.error == "smt: RuntimeError: smt is broken"
        assert "test_cohort_jobs.py" in outcome.failures["smt"].trace
        keep_failure(out, outcome)
        assert contents(out) == contents(tmp_path / "dti")
        assert list(job.open_methods()) == ["smt"]
        assert run_job(job).status == "partial"  # there is still what was made before
    assert tried == [["dti", "smt"], ["smt"]]
    assert contents(out) == contents(tmp_path / "dti")
    (told,) = state.failures(out)
    assert (told["key"], told["method"]) == ("sub-01", "smt")
    assert told["error"] == "RuntimeError: smt is broken"
    assert run_job(job).status == "done"
    assert contents(out) == {k: v for k, v in contents(made).items() if k.startswith("sub-01")}
    assert not list(state.failures(out))


def test_anew_the_next_attempt_makes_only_what_failed(source, tmp_path, monkeypatch):
    job = replace(jobs(source, tmp_path)[0], anew=True)
    with monkeypatch.context() as patch:
        broken(patch, "smt")
        again = job.again(run_job(job))
        assert list(again.open_methods()) == ["smt"]
        again = again.again(run_job(again))
    assert list(again.open_methods()) == ["smt"]
    assert list(job.open_methods()) == ["dti", "smt"]


def test_all_methods_may_fail_of_one_cause_or_each_of_its_own(source, tmp_path, monkeypatch):
    job = jobs(source, tmp_path)[0]
    with monkeypatch.context() as patch:
        broken(patch, "dti", "smt")
        each = run_job(job)
    assert (each.status, list(each.failures)) == ("failed", ["dti", "smt"])
    keep_failure(tmp_path, each)
    assert [told["method"] for told in state.failures(tmp_path)] == ["dti", "smt"]
    with monkeypatch.context() as patch:
        broken(patch, "dti", "smt", error=MemoryError)
        one = run_job(job)
    assert (one.key, one.status, one.error) == ("sub-01", "failed", "MemoryError: the same")
    assert not one.failures
    keep_failure(tmp_path, one)
    (told,) = state.failures(tmp_path)
    assert "method" not in told
    assert not contents(tmp_path)


def test_a_failure_of_a_method_that_is_not_asked_for_stays_told(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        broken(patch, "smt")
        keep_failure(tmp_path, run_job(jobs(source, tmp_path)[0]))
    assert run_job(jobs(source, tmp_path, DTI)[0]).status == "present"
    assert [told["method"] for told in state.failures(tmp_path)] == ["smt"]


def test_a_method_that_fails_by_itself_is_no_failure_of_the_scan(source, tmp_path, monkeypatch):
    dti, smt = (replace(jobs(source, tmp_path)[0], options=o) for o in (DTI, SMT))
    run_job(dti)
    with monkeypatch.context() as patch:
        broken(patch, "smt")
        outcome = run_job(smt)
    assert (outcome.status, outcome.error) == ("failed", "RuntimeError: smt is broken")
    keep_failure(tmp_path, outcome)
    for _ in range(2):
        assert states_of(state.failures(tmp_path)) == {"sub-01": "in part: smt failed"}
        assert run_job(dti).status == "present"  # and does not take back what failed
    assert run_job(smt).status == "done"
    assert not list(state.failures(tmp_path))


def test_a_full_disk_is_told_from_other_errors(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nib, "save", full)
    outcome = run_job(jobs(source, tmp_path)[0])
    assert outcome.status == "failed"
    assert outcome.full
    assert not contents(tmp_path)
    assert not Outcome.failed("a", InputError("bad", "mend")).full


@pytest.mark.parametrize("share", [0.1, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_a_job_killed_while_it_writes_is_made_again(source, made, tmp_path, monkeypatch, share):
    """Every file goes into place by a rename: kill it at one of them."""
    calls, rename = [], os.replace

    def counted(*words):
        calls.append(1)
        if len(calls) == limit:
            raise KeyboardInterrupt
        rename(*words)

    monkeypatch.setattr(os, "replace", counted)
    limit = 0
    run_job(jobs(source, tmp_path / "whole")[0])
    limit = int(share * len(calls))
    calls.clear()
    job = jobs(source, tmp_path / "killed")[0]
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    assert job.open_methods()
    assert run_job(job).status == "done"
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed" / state.STATE / state.WORK).iterdir())


def test_a_file_that_is_gone_or_cut_is_made_again(source, tmp_path):
    job = jobs(source, tmp_path)[0]
    run_job(job)
    before = contents(tmp_path)
    file = tmp_path / "sub-01/dwi/sub-01_model-dti_param-MD_dwimap.nii.gz"
    file.write_bytes(file.read_bytes()[:-5])
    assert list(job.open_methods()) == ["dti"]
    run_job(job)
    assert contents(tmp_path) == before


def test_maps_that_are_no_longer_made_go(source, tmp_path):
    job = jobs(source, tmp_path, replace(DTI, fit={"uncertainty": True}))[0]
    run_job(job)
    assert any("desc-sd" in name for name in contents(tmp_path))
    run_job(replace(job, options=DTI))
    assert not any("desc-sd" in name for name in contents(tmp_path))
    assert not replace(job, options=DTI).open_methods()


def test_a_data_set_of_others_is_not_written_into(source, tmp_path):
    derivatives.describe(tmp_path / "out", source)
    derivatives.describe(tmp_path / "out", source)  # again is well
    told = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert told["DatasetType"] == "derivative"
    assert told["License"] == "CC0"
    assert (tmp_path / "out" / told["DatasetLinks"]["source"]).resolve() == source.resolve()
    with pytest.raises(InputError, match="another data set"):
        derivatives.describe(source, tmp_path)


def test_weights_that_are_others_on_a_machine_are_refused(source, tmp_path):
    options = Options(("codebook",), weights=str(tiny_weights(tmp_path))).settled()
    tiny_weights(tmp_path, seed=1)
    outcome = run_job(jobs(source, tmp_path / "out", options)[0])
    assert "others here" in outcome.error


def test_methods_are_checked_before_anything_is_started():
    with pytest.raises(InputError, match="no model 'magic'"):
        Options(("magic",)).settled()
    with pytest.raises(InputError, match="no method"):
        Options(()).settled()
    assert "noddi" in Options(("all",)).settled().methods


def test_a_defect_of_ours_comes_with_its_traceback():
    try:
        torch.zeros(2) + torch.zeros(3)
    except RuntimeError as error:
        outcome = Outcome.failed("sub-01", error)
    assert outcome.error.startswith("RuntimeError: ")
    assert "test_cohort_jobs.py" in outcome.trace
