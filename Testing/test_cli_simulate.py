"""`dmrimicro simulate`, on a head of onion shells and voxels as coarse as can be."""

import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from toy_anatomy import onion
from typer.testing import CliRunner

import DMRIMicroLib as dm
from DMRIMicroLib.brain.anatomy import save
from DMRIMicroLib.brain.protocols import named
from DMRIMicroLib.cli import app
from DMRIMicroLib.cohort.dataset import Dataset
from DMRIMicroLib.errors import InputError

BVALS = "0 1000 1000 1000 1000 1000 1000 2000"
BVECS = np.concatenate(
    [np.zeros((1, 3)), np.eye(3), [[0.6, 0.8, 0], [0, 0.6, 0.8], [0.8, 0, 0.6], [0.6, 0, -0.8]]]
)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return save(onion(), tmp_path_factory.mktemp("head") / "onion.safetensors")


@pytest.fixture
def tables(tmp_path):
    """A gradient table in FSL's files."""
    bval, bvec = tmp_path / "a.bval", tmp_path / "a.bvec"
    bval.write_text(BVALS)
    np.savetxt(bvec, BVECS.T)
    return bval, bvec


def simulated(head, out, *words):
    usual = ["simulate", "--anatomy", head, "--voxel-size", 10, "--models", "none", "--out", out]
    run = CliRunner().invoke(app, [str(w) for w in (*usual, *words)])
    if run.exception is not None and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == 0, run.output
    return run


def refused(head, out, *words):
    with pytest.raises(InputError) as error:
        simulated(head, out, *words)
    return str(error.value)


def test_a_protocol_by_name_gives_a_scan_that_can_be_fitted(tmp_path):
    run = simulated("small", tmp_path, "--protocol", "clinical6", "--seed", 7, "--models", "dti")
    assert "1 b0, 6 x b1000" in run.output
    scan = dm.load(tmp_path / "dwi.nii.gz", mask=tmp_path / "dwi_mask.nii.gz")
    found, known = dm.fit(scan, "dti"), dm.MapSet.load(tmp_path / "truth")
    both = found.mask & known.mask
    fitted, true = found["MD"].data[both], known["MD"].data[both]
    # eddy currents, ringing and pulsation of the usual scanner: voxels differ, the median does not
    assert np.corrcoef(fitted, true)[0, 1] > 0.85
    assert abs(np.median(fitted - true)) < 3e-5
    assert "NDI" not in known


def test_the_same_words_give_the_same_scan(head, tmp_path):
    for name in ("a", "b"):
        simulated(head, tmp_path / name, "--seed", 3, "--protocol", "clinical6")
    simulated(head, tmp_path / "c", "--seed", 4, "--protocol", "clinical6")
    a, b, c = (
        np.asarray(nib.load(tmp_path / name / "dwi.nii.gz").dataobj) for name in ("a", "b", "c")
    )
    np.testing.assert_array_equal(a, b)
    assert a.shape != c.shape or (a != c).any()


def test_a_protocol_of_files_is_played_and_written_back(head, tables, tmp_path):
    bval, bvec = tables
    simulated(head, tmp_path / "out", "--protocol", f"{bval},{bvec}", "--TE", 70)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "out" / "dwi.bval"), np.loadtxt(bval))
    played = np.loadtxt(tmp_path / "out" / "dwi.bvec")
    np.testing.assert_allclose(played, BVECS.T, atol=1e-6)  # as FSL has them, not mirrored
    assert json.loads((tmp_path / "out" / "dwi.json").read_text())["EchoTime"] == 0.07


def test_subjects_of_a_data_set_are_found_with_masks_and_timing(head, tmp_path):
    words = ["--protocol", "b1k_b2k", "--seed", 3]
    run = simulated(head, tmp_path / "set", "--bids", "01,sub-02", *words)
    assert "set/derivatives/simulated" in run.output.replace("\n", "").replace("\\", "/")
    one, two = Dataset.open(tmp_path / "set").scans()
    played = named("b1k_b2k")
    wanted = {name: getattr(played, name) for name in ("delta", "Delta", "TE")}
    assert one.timing == pytest.approx(wanted)
    assert (one.key, two.key) == ("sub-01", "sub-02")
    # as by itself, with the seed after the first
    simulated(head, tmp_path / "alone", "--protocol", "b1k_b2k", "--seed", 4)
    alone = dm.load(tmp_path / "alone" / "dwi.nii.gz", mask=tmp_path / "alone" / "dwi_mask.nii.gz")
    scan = two.load()
    np.testing.assert_array_equal(scan.volumes([0, 20]), alone.volumes([0, 20]))
    np.testing.assert_array_equal(scan.mask, alone.mask)
    np.testing.assert_allclose(scan.acquisition.bvecs, alone.acquisition.bvecs)
    known = tmp_path / "set" / "derivatives" / "simulated" / "sub-02"
    assert sorted(f.name for f in known.iterdir()) == ["state.safetensors", "truth"]
    assert json.loads((tmp_path / "set" / "dataset_description.json").read_text())["Name"]


def test_subjects_that_are_there_stay_and_odd_labels_are_refused(head, tmp_path):
    words = ["--protocol", "clinical6", "--bids"]
    simulated(head, tmp_path, *words, "02")
    image = tmp_path / "sub-02" / "dwi" / "sub-02_dwi.nii.gz"
    before = image.read_bytes()
    assert "--overwrite" in refused(head, tmp_path, *words, "01,02", "--seed", 5)
    assert not (tmp_path / "sub-01").exists()
    simulated(head, tmp_path, *words, "01,02", "--seed", 5, "--overwrite")
    assert image.read_bytes() != before
    assert "no label" in refused(head, tmp_path, *words, "a_b")
    assert "twice" in refused(head, tmp_path, *words, "03,sub-03")


def test_columns_and_other_units_are_read_as_from_a_scan(head, tables, tmp_path):
    bval, bvec = tables
    bval.write_text("\n".join(f"{float(b) / 1000:g}" for b in BVALS.split()))
    np.savetxt(bvec, BVECS)
    run = simulated(head, tmp_path / "out", "--protocol", f"{bval},{bvec}")
    assert "ms/um2" in run.output
    assert np.loadtxt(tmp_path / "out" / "dwi.bval").max() == 2000
    np.testing.assert_allclose(np.loadtxt(tmp_path / "out" / "dwi.bvec"), BVECS.T, atol=1e-6)


def test_bad_tables_are_refused_by_file_and_reason(head, tables, tmp_path):
    (bval, bvec), out = tables, tmp_path / "out"
    both = f"{bval},{bvec}"
    assert "missing.bvec: cannot be read" in refused(
        head, out, "--protocol", f"{bval},{tmp_path / 'missing.bvec'}"
    )
    assert "has 3 files" in refused(head, out, "--protocol", f"{both},{bval}")
    assert "one row or one column of b-values" in refused(head, out, "--protocol", f"{bvec},{bval}")
    bval.write_text(BVALS + " 2000")
    said = refused(head, out, "--protocol", both)
    assert "a.bvec: there are 8 b-vectors and 9 b-values" in said
    bval.write_text(BVALS.replace("2000", "nan"))
    assert "b-value of volume 7 is nan" in refused(head, out, "--protocol", both)
    bval.write_text(BVALS)
    np.savetxt(bvec, 0.5 * BVECS.T)
    assert "length 0.5" in refused(head, out, "--protocol", both)
    assert not out.exists()


def test_unknown_names_are_refused_and_known_ones_told(head, tmp_path):
    out = tmp_path / "out"
    assert "demyelination" in refused(head, out, "--lesion", "cold")
    assert "clinical30" in refused(head, out, "--protocol", "clinical31")
    assert "hcp7t" in refused(head, out, "--scanner", "hcp9t")
    assert "mapmri" in refused(head, out, "--models", "dti,mapmry")
    assert "small" in refused("nobody", out)
    assert "Add --lesion stroke" in refused(head, out, "--lesion-masks", tmp_path)
    assert "with two files only" in refused(head, out, "--TE", 60)
    assert not out.exists()


def test_a_lesion_shows_in_the_truth(head, tmp_path):
    for name, words in (("well", ()), ("ill", ("--lesion", "tumour"))):
        simulated(head, tmp_path / name, "--seed", 5, "--protocol", "clinical6", *words)
    well, ill = (
        dm.MapSet.load(tmp_path / n / "truth")["state_neurite"].data for n in ("well", "ill")
    )
    assert (ill - well).min() < -0.1
    told = json.loads((tmp_path / "ill" / "dwi.json").read_text())["DMRIMicro"]
    assert told["subject"]["lesion"] == "tumour"


def test_a_named_scanner_brings_its_own_voxels(head, tmp_path):
    simulated(head, tmp_path, "--scanner", "lowfield", "--protocol", "lowfield", "--field", 3)
    assert nib.load(tmp_path / "dwi.nii.gz").header.get_zooms()[:3] == (2.5, 2.5, 6.0)
    assert json.loads((tmp_path / "dwi.json").read_text())["MagneticFieldStrength"] == 0.064


def test_help_names_the_units():
    shown = CliRunner().invoke(app, ["simulate", "--help"]).output
    words = " ".join(shown.replace("\u2502", " ").split())
    for told in ("[T]", "in mm", "in ms"):  # [mm] would be taken for a colour
        assert told in words


def test_a_field_that_no_tissue_is_known_for_is_refused_at_once(head, tmp_path):
    run = CliRunner().invoke(app, ["simulate", "--field", "9.4", "--out", str(tmp_path / "out")])
    assert run.exit_code == 2
    assert "7.5" in run.output


def test_names_are_listed_without_a_folder():
    run = CliRunner().invoke(app, ["simulate", "--list"])
    assert run.exit_code == 0, run.output
    for name in ("clinical30", "hcp7t", "tumour", "small", "lowfield: 0.064 T"):
        assert name in run.output


def test_an_earlier_simulation_stays_unless_it_may_be_replaced(head, tmp_path):
    simulated(head, tmp_path, "--protocol", "clinical6", "--models", "dti")
    before = (tmp_path / "dwi.nii.gz").read_bytes()
    (tmp_path / "notes.txt").write_text("mine")
    assert "--overwrite" in refused(head, tmp_path, "--protocol", "clinical6", "--seed", 1)
    assert (tmp_path / "dwi.nii.gz").read_bytes() == before
    simulated(head, tmp_path, "--protocol", "clinical6", "--seed", 1, "--overwrite")
    assert (tmp_path / "dwi.nii.gz").read_bytes() != before
    assert "FA" not in dm.MapSet.load(tmp_path / "truth")
    assert not list((tmp_path / "truth").glob("*FA*"))  # the truth of another seed's tensors
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failure_while_writing_leaves_nothing(head, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("DMRIMicroLib.io.nifti.save", full)  # the last thing that is written
    assert "No space left" in refused(head, tmp_path / "out", "--protocol", "clinical6")
    assert not (tmp_path / "out").exists()


def test_progress_rises_to_one_in_many_steps(head, tmp_path):
    words = ("--protocol", "clinical6", "--models", "dti,noddi", "--progress", "json")
    run = simulated(head, tmp_path, *words)
    shares = [json.loads(x)["progress"] for x in run.output.splitlines() if x.startswith("{")]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(set(shares)) >= 6


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_no_folder(head, tmp_path):
    out = tmp_path / "out"
    words = ["simulate", "--anatomy", head, "--voxel-size", 4, "--out", out, "--progress", "json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "DMRIMicroLib", *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as run:
        for line in run.stdout:
            if "Truth" in line:
                break
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Stopped" in said
    assert not out.exists()
