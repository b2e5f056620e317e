"""`dmrimicro cohort`, run as a user runs it."""

import os
import subprocess
import sys
from functools import wraps

import bids_data
import pytest
import typer
from conftest import ROOT

from DMRIMicroLib.cli_cohort import cohort as cohort_command
from DMRIMicroLib.cli_cohort_labels import LabelsCommand
from DMRIMicroLib.cohort.derivatives import outputs

pytest.importorskip("distributed")


def cohort(*words):
    command = [sys.executable, "-m", "DMRIMicroLib", "cohort", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = bids_data.raw(tmp_path_factory.mktemp("raw"), 3, ("a", "b"))
    (folder / "sub-02" / "ses-a" / "dwi" / "sub-02_ses-a_dwi.bvec").write_text("1 0 0")
    return folder


def test_participants_then_group(source, tmp_path):
    out = tmp_path / "out"
    words = [source, out, "participant", "--methods", "dti", "--workers", 2, "--memory", "2GB"]
    first = cohort(*words)
    assert first.returncode == 3, first.stderr
    assert "5 scans done" in first.stdout
    assert "1 failed, 1 tried again" in first.stdout
    assert "sub-02_ses-a: " in first.stderr
    assert "Traceback" not in first.stderr
    names = {f.name for f in outputs(out)}
    assert "sub-03_ses-b_model-dti_param-FA_dwimap.nii.gz" in names
    again = cohort(*words, "--participant-label", "sub-01,03", "--session", "a")
    assert again.returncode == 0
    assert "0 scans done" in again.stdout
    assert "2 done before" in again.stdout
    dry = cohort(*words, "--dry-run")
    assert "sub-01_ses-a: done" in dry.stdout
    assert "sub-02_ses-a: dti" in dry.stdout
    assert "1 to do, 5 done, 0 broken" in dry.stdout
    planned = cohort(source, out, "group", "--dry-run")
    assert "5 scans would be written" in planned.stdout
    assert not (out / "group").exists()
    summary = cohort(source, out, "group")
    assert summary.returncode == 0
    assert (out / "group" / "index.html").exists()
    assert "sub-02_ses-a" in (out / "group" / "failed.tsv").read_text()


def test_a_dry_run_writes_nothing(source, tmp_path):
    words = [source, tmp_path / "out", "participant", "--methods", "dti,smt", "--dry-run"]
    labelled = cohort(*words, "--participant_label", "02", "--session_label", "ses-b")
    assert "1 to do" in labelled.stdout
    dry = cohort(*words)
    assert dry.returncode == 0
    assert "sub-01_ses-a: dti, smt" in dry.stdout
    assert "6 to do" in dry.stdout
    assert not (tmp_path / "out").exists()


def test_a_model_that_fails_is_named_and_the_others_are_made(source, tmp_path):
    from test_registry import MINE

    own = MINE.replace("return torch.stack", "raise ZeroDivisionError('by accident')  #")
    (tmp_path / "own.py").write_text(own)
    words = [source, tmp_path / "out", "participant", "--model-file", tmp_path / "own.py"]
    words += ["--participant-label", "01", "--session", "a", "--memory", "2GB", "--workers", 1]
    words += ["--methods", "dti,my-ball"]
    run = cohort(*words)
    assert run.returncode == 3, run.stderr
    assert "1 done in part, 0 failed, 1 tried again" in run.stdout
    said = run.stderr.replace("\n", " ")
    assert "failed in part: sub-01_ses-a: my-ball: ZeroDivisionError: by accident" in said
    assert "sub-01_ses-a: my-ball\n" in cohort(*words, "--dry-run").stdout


def test_a_dry_run_says_what_is_made_anew_and_goes_on_behind_a_scan_that_is_not_there(tmp_path):
    folder = bids_data.raw(tmp_path / "raw", 3)
    words = [folder, tmp_path / "out", "participant", "--memory", "2GB", "--workers", 1]
    assert cohort(*words, "--participant-label", "01").returncode == 0
    gone = folder / "sub-02" / "dwi" / "sub-02_dwi.nii.gz"
    gone.rename(tmp_path / "elsewhere.nii.gz")
    gone.symlink_to("nowhere")  # as of git-annex, before the file is fetched
    dry = cohort(*words, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "sub-02: cannot be used: cannot be read (No such file" in dry.stdout
    assert "1 to do, 1 done, 1 broken" in dry.stdout
    assert "2 to do, 0 done, 1 broken" in cohort(*words, "--dry-run", "--no-resume").stdout


@pytest.mark.parametrize(
    ("given", "participants", "sessions"),
    [
        ("s o participant --participant-label 01 02 --retries 1", ["01", "02"], None),
        ("s o participant --participant_label sub-1 2,3 --session a b", ["sub-1", "2,3"], "ab"),
        ("s o group --participant-label=1 2 --participant-label 3", ["1", "2", "3"], None),
        ("--participant-label 01 s o participant --session-label a", ["01"], "a"),
        ("s --participant-label 01 o --session a participant --session b", ["01"], "ab"),
    ],
)
def test_labels_stand_apart_repeated_or_with_commas(given, participants, sessions):
    app = typer.Typer(add_completion=False)
    heard = {}
    app.command(cls=LabelsCommand)(wraps(cohort_command)(lambda **words: heard.update(words)))
    app(given.split(), standalone_mode=False)
    assert [str(heard[name]) for name in ("bids_dir", "out_dir")] == ["s", "o"]
    assert heard["participant_label"] == participants
    assert heard["session"] == (sessions and list(sessions))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{source}", "{source}", "participant"], "is the input, too"),
        (["{source}/no", "o", "participant"], "no such folder"),
        (["{source}", "o", "participant", "--methods", "magic"], "no model 'magic'"),
        (["{source}", "o", "participant", "--participant-label", "9"], "no participant 9"),
        (["{source}", "o", "participant", "--participant-label", ""], "participant is empty"),
        (["{source}", "o", "participant", "--session", ","], "label of the session is empty"),
        (["{source}", "o", "participant", "--participant-label", "1", "8"], "no participant 1, 8"),
        (["{source}", "o", "participant", "--session", "a", "d"], "no diffusion scan of session d"),
        (["{source}", "o", "participant", "--cluster", "slrum"], "no scheduler answers"),
        (["{source}", "o", "participant", "--memory", "much"], "the memory is 'much'"),
        (["{source}", "{tmp}", "group"], "no scan is done there"),
        (["{source}", "{tmp}", "group", "--session", "a"], "takes every scan"),
        (["{source}", "o", "participant", "--session", "c"], "no diffusion scan of session c"),
        (["{source}", "o", "participant", "--methods", "pigment,magic"], "Or: codebook, pigment"),
        (
            ["{source}", "o", "participant", "--methods", "enhance", "--resolution", "fine"],
            "resolution is 'fine'",
        ),
    ],
)
def test_errors_are_told_before_anything_is_started(source, tmp_path, words, says):
    given = [w.format(source=source, tmp=tmp_path) for w in words]
    given = [str(tmp_path / "o") if w == "o" else w for w in given]
    run = cohort(*given)
    assert run.returncode == 2
    assert says in run.stderr.replace("\n", " ")
    assert "Traceback" not in run.stderr
