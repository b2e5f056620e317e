"""Sentences that a user sees can be translated, and are translated by the main thread."""

from __future__ import annotations

import ast
import re
import sys
import threading

import numpy as np
import pytest
import slicer_scene as ss
from test_slicer_logic import Heard, dwi, logic, scene, temporary, wait  # noqa: F401

MODULES = sorted((ss.ROOT / "DMRIMicro" / "DMRIMicroSlicer").glob("*.py"))

SEEN = {
    "InputError", "WorkerError", "DependencyError", "log", "note", "fail", "on_error", "setText",
    "setToolTip", "confirmOkCancelDisplay", "errorDisplay", "_lose", "_fail",
}  # fmt: skip
"""Calls whose words a user sees."""


def called(node) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def sentences(node):
    """Yield the literal words among an argument that are not given to `_`, nor a part of that."""
    if isinstance(node, ast.Constant | ast.JoinedStr):
        held = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(str(v.value) for v in held if isinstance(v, ast.Constant))
        if isinstance(getattr(node, "value", ""), str) and re.search(r"[A-Za-z]{2}", text):
            yield text
    elif isinstance(node, ast.Subscript):
        yield from sentences(node.value)
    elif not (isinstance(node, ast.Call) and called(node) in ("_", "join")):
        for child in ast.iter_child_nodes(node):
            yield from sentences(child)


@pytest.mark.parametrize("file", MODULES, ids=lambda f: f.stem)
def test_what_a_user_sees_is_marked(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        if called(node) in SEEN:
            left = [text for given in node.args for text in sentences(given)]
            assert not left, f"{file.name}:{node.lineno}: mark with _(): {left}"
        if called(node) == "_":
            (given,) = node.args
            assert isinstance(given, ast.Constant), f"{file.name}:{node.lineno}: give plain words"


def test_the_words_of_the_other_language_are_used(logic, dwi, monkeypatch):  # noqa: F811
    from DMRIMicroSlicer import dependencies, tract_inputs

    monkeypatch.setattr(tract_inputs, "_", lambda text: f"<{text}>")
    with pytest.raises(Exception, match=r"<there are no maps>. <Fit the tensor first, or give"):
        logic.tracts(None)
    monkeypatch.setattr(dependencies, "_", lambda text: f"<{text}>")
    monkeypatch.setattr(dependencies, "torch_missing", lambda: True)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(dependencies.DependencyError, match=r"^<PyTorch \(torch>=2.4\) is not"):
        dependencies.ensure()


def test_only_the_main_thread_asks_for_words(logic, dwi, temporary, monkeypatch, tmp_path):  # noqa: F811
    from DMRIMicroSlicer import importing, job, masks, process, steps

    asked = []

    def word(text):
        asked.append((threading.current_thread(), text))
        return text

    for module in (importing, job, masks, process, steps):
        monkeypatch.setattr(module, "_", word)
    heard, far = Heard(), ss.affine()
    far[:3, 3] += 1000
    mask = ss.volume_node(np.ones((3, 3, 3), np.uint8), far, name="far")
    jobs = [logic.start(dwi, "dti", mask, device="cpu", onError=heard.errors.append)]
    missing = tmp_path / "none.nii.gz"
    jobs.append(logic.startImportNifti(str(missing), onError=heard.errors.append))
    for code in ("import sys; sys.exit(3)", "import os, signal; os.kill(os.getpid(), 9)"):
        folder = tmp_path / f"job{len(jobs)}"
        folder.mkdir()
        command = [sys.executable, "-c", code]
        jobs.append(job.FitJob(command, folder, str, write=lambda _: [], **heard.callbacks()))
    assert [wait(one) for one in jobs] == ["failed"] * 4
    told = "\n".join(heard.errors)
    for words in ("covers no voxel", "no such file", "ended with code 3", "ran out: give a mask"):
        assert words in told
    assert {thread for thread, _ in asked} == {threading.main_thread()}
