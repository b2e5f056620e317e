"""What a job does beside the window: input written and output read in threads, shown bit by bit."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time

import numpy as np
import pytest
import slicer_scene as ss
from test_slicer_logic import Heard, dwi, emptied, full_mask, logic, scene, started, temporary, wait  # noqa: F401

MAIN = threading.main_thread()


def job_of(tmp_path, heard, write, code="pass", read=lambda folder: folder.name, **callbacks):
    """Start a job with input to be written, in a folder ``tmp_path / "job"``."""
    ss.boot()
    from DMRIMicroSlicer.job import FitJob

    folder = tmp_path / "job"
    folder.mkdir()
    command = [sys.executable, "-u", "-c", code]
    return FitJob(command, folder, read, write=write, **{**heard.callbacks(), **callbacks})


def test_parts_come_in_order_and_only_the_main_thread_shows(tmp_path):
    told: list[tuple[str, bool]] = []

    def note(what):
        told.append((what, threading.current_thread() is MAIN))

    def write(folder):
        note("write")
        (folder / "input").write_text("7")
        return ["3"]

    def read(folder):
        note("read")
        return (folder.parent / "output").read_text()

    def done(made):
        note("show")
        other = yield lambda: note("fill") or 5
        note(f"shown {made} {other}")

    event = json.dumps({"progress": 1, "text": ""})
    code = (
        f"import sys, pathlib as p; f = p.Path(sys.argv[1])\nprint({event!r})\n"
        "(f / 'output').write_text((f / 'input').read_text() + sys.argv[2])"
    )
    folder = tmp_path / "job"
    job = job_of(
        tmp_path, Heard(), lambda f: [str(f), *write(f)], code, read,
        on_progress=lambda *_: note("progress"), on_done=done,
    )  # fmt: skip
    assert wait(job) == "done"
    assert told == [
        ("write", False), ("progress", True), ("read", False), ("show", True), ("fill", False),
        ("shown 73 5", True),
    ]  # fmt: skip
    assert not folder.exists()


def test_cancel_while_writing_is_at_once_and_starts_nothing_that_stays(tmp_path):
    go, heard = threading.Event(), Heard()
    job = job_of(tmp_path, heard, lambda _: go.wait(20) and [], "import time; time.sleep(60)")
    assert job.poll() == "running"
    started_at = time.monotonic()
    job.cancel()
    assert time.monotonic() - started_at < 0.5
    assert job.poll() == "cancelled"
    go.set()
    assert emptied(tmp_path)
    assert job._process is None or job._process.wait(2) is not None
    assert heard.done == heard.errors == []


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_what_fails_while_writing_is_told_once(tmp_path, kind):
    heard = Heard()

    def write(_):
        raise kind("no space is left")

    job = job_of(tmp_path, heard, write)
    assert wait(job) == "failed"
    assert job.poll() == "failed"
    assert len(heard.errors) == 1
    assert "no space is left" in heard.errors[0]
    assert emptied(tmp_path)


def test_a_folder_that_vanishes_while_writing_is_told(logic, dwi, temporary, monkeypatch):  # noqa: F811
    from DMRIMicroSlicer import worker

    plain, heard = worker.scan_words, Heard()
    go, written = threading.Event(), threading.Event()

    def late(*given):
        words = plain(*given)
        written.set()
        go.wait(20)
        return words

    monkeypatch.setattr(worker, "scan_words", late)
    before = ss.count_nodes()
    job = logic.start(dwi, "dti", device="cpu", onError=heard.errors.append)
    assert written.wait(20)
    shutil.rmtree(job.folder)
    go.set()
    assert wait(job) == "failed"
    assert len(heard.errors) == 1
    assert "temporary folder" in heard.errors[0]
    assert ss.count_nodes() == before
    assert emptied(temporary)


def test_a_missing_program_is_told_when_the_input_is_written(tmp_path):
    from DMRIMicroSlicer.job import FitJob

    heard = Heard()
    (tmp_path / "job").mkdir()
    job = FitJob(
        ["/no/such/python"], tmp_path / "job", str, write=lambda _: [], **heard.callbacks()
    )
    assert wait(job) == "failed"
    assert "cannot be started" in heard.errors[0]
    assert emptied(tmp_path)


def test_a_mask_elsewhere_is_told_in_words(logic, dwi, temporary):  # noqa: F811
    far, heard = ss.affine(), Heard()
    far[:3, 3] += 1000
    mask = ss.volume_node(np.ones((3, 3, 3), np.uint8), far, name="far")
    job = logic.start(dwi, "dti", mask, device="cpu", onError=heard.errors.append)
    assert wait(job) == "failed"
    assert "the mask 'far' covers no voxel of the scan" in heard.errors[0]
    assert emptied(temporary)


def test_a_node_that_goes_while_it_is_written_is_written_whole(logic, temporary, monkeypatch):  # noqa: F811
    from DMRIMicroSlicer import worker
    from DMRIMicroSlicer.nodes import node_from_scan

    import DMRIMicroLib as dm

    scan = ss.scan(shape=(40, 40, 20))
    node, mask = node_from_scan(scan), full_mask()
    go, plain, written = threading.Event(), worker.scan_words, []

    def late(given, folder, *told):
        go.wait(20)
        words = plain(given, folder, *told)
        written.append(dm.load(folder / "scan.nii").volumes([0, 5, 13]))
        return words

    monkeypatch.setattr(worker, "scan_words", late)
    job = logic.start(node, "dti", mask, device="cpu")
    ss.boot().scene.RemoveNode(node)
    del node
    rubbish = [np.full((40, 40, 20, 14), -1, np.float32) for _ in range(4)]  # would take its place
    go.set()
    started(job)
    job.cancel()
    np.testing.assert_array_equal(written[0], scan.volumes([0, 5, 13]))
    assert len(rubbish) == 4
    assert emptied(temporary)


def test_cancel_while_maps_are_shown_takes_them_back(logic, dwi, monkeypatch):  # noqa: F811
    heard, mask = Heard(), full_mask()
    before = ss.count_nodes()
    job = logic.start(dwi, "dti", mask, device="cpu", onDone=heard.done.append)
    turns(monkeypatch)
    until = time.monotonic() + 120
    while ss.count_nodes() < before + 3:
        assert job.poll() == "running"
        assert time.monotonic() < until
    job.cancel()
    assert job.state == "cancelled"
    assert ss.count_nodes() == before
    assert heard.done == []


def turns(monkeypatch) -> None:
    """Let every poll go on by one step."""
    from DMRIMicroSlicer.background import Turns

    plain = Turns.go_on
    monkeypatch.setattr(Turns, "go_on", lambda self: plain(self, 0.0))


def test_a_map_that_the_user_removes_meanwhile_is_not_missed(logic, dwi, monkeypatch):  # noqa: F811
    turns(monkeypatch)
    heard = Heard()
    job = logic.start(
        dwi, "dti", full_mask(), device="cpu",
        onDone=heard.done.append, onError=heard.errors.append,
    )  # fmt: skip
    scene = ss.boot().scene  # noqa: F811
    until = time.monotonic() + 120
    while (first := scene.GetFirstNodeByName("brain FA")) is None:
        assert job.poll() == "running"
        assert time.monotonic() < until
    scene.RemoveNode(first)
    assert wait(job) == "done", heard.errors
    names = [node.GetName() for node in heard.done[0]]
    assert "brain MD" in names
    assert "brain FA" not in names


def test_a_callback_may_cancel_while_maps_are_shown(tmp_path):
    heard, undone = Heard(), []

    def done(_):
        try:
            job.cancel()
            yield
            heard.done.append("went on")
        except GeneratorExit:
            undone.append(1)
            raise

    job = job_of(tmp_path, heard, lambda _: [], on_done=done)
    assert wait(job) == "cancelled"
    assert undone == [1]
    assert heard.done == []


def steps(log, fail_at=None):
    """Count, let a thread double, and go on."""
    total = 0
    for k in range(4):
        log.append(k)
        yield

        def double(k=k):
            if k == fail_at:
                raise ValueError("odd")
            return 2 * k

        try:
            total += yield double
        except ValueError:
            total += 100
    return total


@pytest.mark.parametrize(("fail_at", "total"), [(None, 12), (2, 108)])
def test_steps_give_the_same_at_once_and_bit_by_bit(fail_at, total):
    ss.boot()
    from DMRIMicroSlicer.background import Turns, at_once

    once, slowly, ended = [], [], []
    assert at_once(steps(once, fail_at)) == total

    def outer():
        ended.append((yield from steps(slowly, fail_at)))

    gone_on = Turns(outer())
    looks = 1
    while not gone_on.go_on(0.0):
        looks += 1
    assert ended == [total]
    assert once == slowly == [0, 1, 2, 3]
    assert looks > 4


def test_an_error_in_a_thread_comes_out_of_steps_that_do_not_catch_it():
    ss.boot()
    from DMRIMicroSlicer.background import Turns, at_once

    def bad():
        yield lambda: 1 // 0

    with pytest.raises(ZeroDivisionError):
        at_once(bad())
    with pytest.raises(ZeroDivisionError):
        Turns(bad()).go_on(10.0)


@pytest.fixture
def windows(monkeypatch):
    """What programs a process of Windows would start, and with which flags."""
    ss.boot()
    import subprocess
    from types import SimpleNamespace

    from DMRIMicroSlicer import process

    begun: list[tuple[list[str], int]] = []

    def run(command, creationflags=0, **_):
        begun.append((list(command), creationflags))
        return SimpleNamespace(pid=7, wait=lambda seconds: 0)

    names = {"CREATE_NO_WINDOW": 0x08000000, "CREATE_NEW_PROCESS_GROUP": 0x200, "run": run}
    fake = SimpleNamespace(**{**vars(subprocess), **names, "Popen": run})
    monkeypatch.setattr(process, "subprocess", fake)
    monkeypatch.setattr(process, "os", SimpleNamespace(name="nt"))
    return begun


def test_no_console_flashes_on_windows(windows, tmp_path):
    from DMRIMicroSlicer import process

    files = (tmp_path / "out", tmp_path / "err")
    process.kill_tree(process.begin(["worker"], *files, None, process.sentences()))
    (worker, flags), (killer, its_flags) = windows
    assert worker == ["worker"]
    assert killer == ["taskkill", "/F", "/T", "/PID", "7"]
    assert flags & its_flags & 0x08000000
