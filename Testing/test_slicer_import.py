"""Import without keeping the window: in a thread, with progress, cancel, and errors in words."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import slicer_scene as ss
import test_slicer_widget as widget
from test_slicer_logic import Heard, emptied, logic, scene, temporary, wait  # noqa: F401
from test_slicer_widget import desktop, log, panel  # noqa: F401


@pytest.fixture
def file(tmp_path):
    from DMRIMicroLib.io import nifti

    return nifti.save(ss.scan(-1), tmp_path / "dwi.nii.gz")


def start(logic, path, heard, **options):  # noqa: F811
    return logic.startImportNifti(
        str(path), onProgress=lambda *told: heard.progress.append(told),
        onDone=heard.done.append, onError=heard.errors.append, **options,
    )  # fmt: skip


def slow(monkeypatch, at: int = 1):
    """Read volume by volume, and stop before the `at`-th until told to go on."""
    from DMRIMicroLib import scan as scans

    plain, held = scans.read, SimpleNamespace(go=threading.Event(), seen=[], at=threading.Event())
    monkeypatch.setattr(scans, "READ_BYTES", 1)

    def read(*given):
        for k, block in enumerate(plain(*given)):
            if k == at:
                held.at.set()
                held.go.wait(20)
            held.seen.append(threading.current_thread())
            yield block

    from DMRIMicroSlicer import nodes

    monkeypatch.setattr(nodes, "read", read)
    return held


def test_a_thread_reads_and_tells_how_far_it_is(logic, file, monkeypatch):  # noqa: F811
    from DMRIMicroSlicer import importing
    from DMRIMicroSlicer.nodes import scan_from_node

    held, heard, readers, notes = slow(monkeypatch, 4), Heard(), [], []
    plain = importing.read_scan
    monkeypatch.setattr(
        importing, "read_scan", lambda *g: readers.append(threading.current_thread()) or plain(*g)
    )
    np.savetxt(file.parent / "dwi.bval", ss.scan().acquisition.bvals[None] / 1000)
    before = ss.count_nodes()
    job = start(logic, file, heard, onNote=notes.append, delta=16.2)
    while not held.at.is_set():
        assert job.poll() == "running"
    began = time.monotonic()
    for _ in range(3):
        job.poll()
    assert time.monotonic() - began < 0.5
    assert heard.progress[-1] == (pytest.approx(4 / 14), "Reading dwi.nii.gz")
    assert ss.count_nodes() == before
    held.go.set()
    assert wait(job) == "done", heard.errors
    assert threading.main_thread() not in [*held.seen, *readers]
    assert heard.progress[0] == (0.0, "Reading dwi.nii.gz")
    (node,) = heard.done
    assert "were read as ms/um2" in notes[0]
    here = logic.importNifti(str(file), delta=16.2)
    found, wanted = scan_from_node(node), scan_from_node(here)
    np.testing.assert_array_equal(found.signal, wanted.signal)
    np.testing.assert_array_equal(found.acquisition.bvecs, wanted.acquisition.bvecs)
    assert found.acquisition.delta == 16.2


@pytest.mark.parametrize("at", [0, 5])
def test_cancel_is_at_once_and_reads_no_further(logic, file, monkeypatch, at):  # noqa: F811
    held, heard, before = slow(monkeypatch, at), Heard(), ss.count_nodes()
    job = start(logic, file, heard)
    while not held.at.is_set():
        assert job.poll() == "running"
    began = time.monotonic()
    job.cancel()
    assert time.monotonic() - began < 0.5
    assert job.poll() == "cancelled"
    held.go.set()
    time.sleep(0.2)
    assert len(held.seen) == at + 1
    assert ss.count_nodes() == before
    assert heard.done == heard.errors == []


def cut(file):
    file.write_bytes(file.read_bytes()[:-200])
    return file


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda file: file.with_name("none.nii.gz"), {}, "none.nii.gz: there is no such file"),
        (cut, {}, "probably cut off or damaged"),
        (lambda file: file, {"b0_threshold": 1500}, "no volume of this scan is diffusion-weighted"),
    ],
)
def test_what_cannot_be_imported_is_told_in_words(logic, file, spoil, options, words):  # noqa: F811
    heard, before = Heard(), ss.count_nodes()
    job = start(logic, spoil(file), heard, **options)
    assert wait(job) in ("failed", "done")
    (told,) = heard.errors
    assert words in told
    assert "cannot be shown" not in told
    assert heard.done == []
    assert ss.count_nodes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="the converter is a shell script")
def test_cancel_ends_the_converter_of_dicom(logic, temporary, tmp_path, monkeypatch):  # noqa: F811
    from DMRIMicroLib.io import dicom

    program, mark = tmp_path / "dcm2niix", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {mark}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(dicom, "find_dcm2niix", lambda: str(program))
    (tmp_path / "series").mkdir()
    heard = Heard()
    job = start(logic, tmp_path / "series", heard)
    until = time.monotonic() + 20
    while (0.0, "Converting DICOM") not in heard.progress or not mark.exists():
        assert job.poll() == "running", heard.errors
        assert time.monotonic() < until
    job.cancel()
    assert emptied(temporary)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
    assert heard.errors == []


def test_the_button_can_be_cancelled(panel, desktop, file, monkeypatch):  # noqa: F811
    held, ui = slow(monkeypatch, 7), panel.ui
    ui.niftiPath.setCurrentPath(str(file))
    before = ss.count_nodes()
    ui.importButton.click()
    widget.wait_for(desktop, lambda: ui.progressBar.value() == 50)
    assert ui.statusLabel.text() == "Reading dwi.nii.gz"
    assert not ui.importButton.isEnabled()
    ui.cancelButton.click()
    held.go.set()
    assert panel.job is None
    assert "Cancelled. Nothing was added." in log(panel)
    assert ss.count_nodes() == before
    ui.importButton.click()
    widget.wait_for(desktop, lambda: panel.job is None)
    assert ui.dwiSelector.currentNode().GetName() == "dwi"
    assert "Imported 'dwi'." in log(panel)
    assert desktop.shown == []


def test_what_was_imported_is_not_said_to_be_nothing(panel, desktop, file):  # noqa: F811
    ui = panel.ui
    ui.niftiPath.setCurrentPath(str(file))
    ui.importButton.click()
    widget.wait_for(desktop, lambda: ui.dwiSelector.currentNode() is not None)
    assert panel.job is not None  # the end of the job has a turn of its own
    ui.cancelButton.click()
    assert "Cancelled. What had been added stays." in log(panel)
