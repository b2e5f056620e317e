"""The console verbs, and the fit in a process of its own: progress, cancel, crash."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import slicer_scene as ss


@pytest.fixture
def scene():
    with ss.clean_scene() as booted:
        yield booted


@pytest.fixture
def logic(scene):
    from DMRIMicroSlicer.logic import DMRIMicroLogic

    return DMRIMicroLogic()


@pytest.fixture
def dwi(logic):
    from DMRIMicroSlicer.nodes import node_from_scan

    return node_from_scan(ss.scan())


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Temporary folders land here, so that a test can see whether they are gone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Heard:
    """What a job has told."""

    def __init__(self):
        self.progress, self.done, self.errors = [], [], []

    def callbacks(self) -> dict:
        return {
            "on_progress": lambda fraction, text: self.progress.append((fraction, text)),
            "on_done": self.done.append,
            "on_error": self.errors.append,
        }


def run_job(code: str, tmp_path: Path, heard: Heard, read=lambda folder: folder.name):
    """Start a job whose worker runs `code`."""
    from DMRIMicroSlicer.job import FitJob

    folder = tmp_path / "job"
    folder.mkdir()
    return FitJob([sys.executable, "-u", "-c", code], folder, read, **heard.callbacks())


def wait(job, seconds: float = 60) -> str:
    """Poll as the widget's timer does."""
    until = time.monotonic() + seconds
    while job.poll() == "running":
        assert time.monotonic() < until, "the job does not end"
        time.sleep(0.02)
    return job.state


def started(job):
    """Poll until the input is written and the process runs."""
    until = time.monotonic() + 60
    while job._process is None and job.poll() == "running":
        assert time.monotonic() < until
        time.sleep(0.01)
    return job


def emptied(folder: Path, seconds: float = 2) -> bool:
    """Whether nothing is left in a folder, now or soon: a thread cleans up behind the window."""
    until = time.monotonic() + seconds
    while list(folder.iterdir()) and time.monotonic() < until:
        time.sleep(0.01)
    return not list(folder.iterdir())


@pytest.mark.parametrize("sign", [1, -1])
def test_fit_in_process_finds_the_tensor_in_the_world(logic, sign):
    from DMRIMicroSlicer.nodes import node_from_scan
    from vtk.util.numpy_support import vtk_to_numpy

    nodes = logic.fit(node_from_scan(ss.scan(sign)), "dti", full_mask(sign), device="cpu")
    maps = {node.GetAttribute("DMRIMicro.metric"): node for node in nodes}
    tensors = vtk_to_numpy(maps["tensor"].GetImageData().GetPointData().GetTensors()).reshape(
        -1, 3, 3
    )
    np.testing.assert_allclose(tensors, np.broadcast_to(ss.TENSOR, tensors.shape), atol=1e-6)
    assert [n.GetName() for n in nodes][:2] == ["brain FA", "brain MD"]


def test_fit_in_a_process_gives_the_same_nodes(logic, dwi, temporary):
    heard = Heard()
    job = logic.start(
        dwi, ("dti",), full_mask(), device="cpu",
        onProgress=lambda *told: heard.progress.append(told),
        onDone=heard.done.append, onError=heard.errors.append,
    )  # fmt: skip
    before = ss.count_nodes()
    assert job.state == "running"
    assert wait(job) == "done", heard.errors
    assert heard.errors == []
    assert ss.count_nodes() > before
    fractions = [fraction for fraction, _ in heard.progress]
    assert fractions
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    here = logic.fit(dwi, "dti", full_mask(), device="cpu")
    for ours, theirs in zip(here[:4], heard.done[0][:4], strict=True):
        util = ss.boot().slicer.util
        np.testing.assert_allclose(
            util.arrayFromVolume(ours), util.arrayFromVolume(theirs), rtol=1e-4, atol=1e-9
        )
    assert list(temporary.iterdir()) == []


def test_what_the_worker_refuses_is_reported_in_its_words(logic, dwi, temporary):
    heard = Heard()
    job = logic.start(dwi, "dti", full_mask(), device="cpu", sigma=1e9, onError=heard.errors.append)
    assert wait(job) == "failed"
    assert "Give sigma in the unit of the signal" in heard.errors[0].replace("\n", " ")
    assert "Traceback" not in heard.errors[0]
    assert list(temporary.iterdir()) == []


def test_progress_arrives_while_the_worker_runs(tmp_path):
    ss.boot()
    heard = Heard()
    events = [json.dumps({"progress": k / 4, "text": f"step {k}"}) for k in range(3)]
    code = f"import time\nfor e in {events!r}:\n    print(e); print('noise'); time.sleep(0.3)"
    job = run_job(code, tmp_path, heard)
    until = time.monotonic() + 10
    while not heard.progress and time.monotonic() < until:
        assert job.poll() == "running"
    assert wait(job) == "done"
    assert heard.progress == [(0.0, "step 0"), (0.25, "step 1"), (0.5, "step 2")]
    assert heard.done == ["maps"]
    assert not job.folder.exists()


def test_half_a_line_waits_for_its_end(tmp_path):
    ss.boot()
    heard = Heard()
    code = (
        "import sys, time; w = sys.stdout.write\n"
        'w(\'{"progress": 0.\'); sys.stdout.flush(); time.sleep(0.4); w(\'5, "text": "é"}\\n\')'
    )
    assert wait(run_job(code, tmp_path, heard)) == "done"
    assert [f for f, _ in heard.progress] == [0.5]


def test_cancel_kills_the_whole_tree_within_two_seconds(scene, tmp_path):
    heard = Heard()
    before = ss.count_nodes()
    child = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    code = (
        f"import subprocess, sys, time\np = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        'print(\'{"progress": 0, "text": "\' + str(p.pid) + \'"}\')\ntime.sleep(60)'
    )
    job = run_job(code, tmp_path, heard)
    until = time.monotonic() + 20
    while not heard.progress:
        job.poll()
        assert time.monotonic() < until
    started = time.monotonic()
    job.cancel()
    assert time.monotonic() - started < 2
    assert gone(int(heard.progress[0][1]))
    assert job.poll() == job.state == "cancelled"
    assert emptied(tmp_path)
    assert ss.count_nodes() == before
    assert heard.done == heard.errors == []


def damaged_node():
    """Add a scan with an empty voxel and one bad sample, under a transform."""
    from DMRIMicroSlicer.nodes import node_from_scan

    from DMRIMicroLib.scan import Scan

    scan = ss.scan()
    signal = scan.signal.copy()
    signal[0, 0, 0], signal[1, 0, 0, 5] = 0, np.nan
    node = node_from_scan(Scan(signal, scan.affine, scan.acquisition, name="damaged"))
    ss.linear_transform(np.eye(4), node)
    return node


EXPECTED_NOTES = (
    "the transform 'moved' was applied",
    "dti: fitted in 119 voxels",
    "dti: 1 voxels of the mask have no usable signal",
    "15 samples in 2 voxels are zero, negative or not finite",
)


def test_notes_and_counts_of_a_fit_here_are_logged(logic, caplog):
    with caplog.at_level("INFO"):
        logic.fit(damaged_node(), "dti", full_mask(), device="cpu")
    for words in EXPECTED_NOTES:
        assert words in caplog.text


def test_notes_and_counts_of_a_fit_in_a_process_are_told(logic):
    heard, notes = Heard(), []
    job = logic.start(
        damaged_node(), ("dti",), full_mask(), device="cpu",
        onDone=heard.done.append, onError=heard.errors.append, onNote=notes.append,
    )  # fmt: skip
    assert wait(job) == "done", heard.errors
    for words in EXPECTED_NOTES:
        assert sum(words in note for note in notes) == 1, notes
    provenance = json.loads(heard.done[0][0].GetAttribute("DMRIMicro.provenance"))
    assert EXPECTED_NOTES[0] in provenance["dti"]["notes"][0]


def test_notes_of_an_import_are_logged(logic, tmp_path, caplog):
    from DMRIMicroLib.io import nifti

    file = nifti.save(ss.scan(), tmp_path / "dwi.nii.gz")
    np.savetxt(tmp_path / "dwi.bval", ss.scan().acquisition.bvals[None] / 1000)
    with caplog.at_level("INFO"):
        logic.importNifti(str(file))
    assert "were read as ms/um2" in caplog.text


def test_a_raised_threshold_reaches_the_worker(logic):
    import test_slicer_nodes
    from DMRIMicroSlicer.nodes import node_from_scan

    heard = Heard()
    job = logic.start(
        node_from_scan(test_slicer_nodes.weak_b0s(205)), ("dti",), full_mask(), device="cpu",
        onDone=heard.done.append, onError=heard.errors.append,
    )  # fmt: skip
    arguments = started(job)._process.args
    assert arguments[arguments.index("--b0-threshold") + 1] == "205.0"
    assert wait(job) == "done", heard.errors


def test_a_job_whose_folder_vanishes_fails_once_in_words(tmp_path):
    ss.boot()
    heard = Heard()
    job = run_job("import time; time.sleep(60)", tmp_path, heard)
    shutil.rmtree(job.folder)
    assert job.poll() == "failed"
    assert job.poll() == "failed"
    assert len(heard.errors) == 1
    assert "temporary folder of the fit cannot be used" in heard.errors[0]
    assert gone(job._process.pid)


def test_cancelled_fit_leaves_scene_and_disk_untouched(logic, dwi, temporary):
    mask = full_mask()
    before = ss.count_nodes()
    job = logic.start(dwi, ("dti",), mask, device="cpu")
    job.cancel()
    job.cancel()
    assert ss.count_nodes() == before
    assert emptied(temporary)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "ended by signal 9. Perhaps memory ran out",
        ),
        ("import sys; sys.exit(3)", "ended with code 3"),
        (
            "import sys; sys.exit('the mask is empty. Give another.')",
            "the mask is empty. Give another.",
        ),
        ("print('\\n'.join(str(k) for k in range(90))); 1/0", "ZeroDivisionError"),
    ],
)
def test_a_crash_is_told_in_words(tmp_path, code, words):
    ss.boot()
    heard = Heard()
    job = run_job(code, tmp_path, heard)
    assert wait(job) == "failed"
    assert words in heard.errors[0]
    assert len(heard.errors[0].splitlines()) <= 7
    assert not job.folder.exists()


def test_unreadable_result_is_told_in_words(tmp_path):
    ss.boot()
    heard = Heard()

    def read(folder):
        raise OSError("disk full")

    assert wait(run_job("pass", tmp_path, heard, read)) == "failed"
    assert "cannot be used: disk full" in heard.errors[0]


def test_missing_program_is_told_in_words(tmp_path):
    ss.boot()
    from DMRIMicroSlicer.job import FitJob, WorkerError

    folder = tmp_path / "job"
    folder.mkdir()
    with pytest.raises(WorkerError, match="cannot be started"):
        FitJob(["/no/such/python"], folder, str)
    assert not folder.exists()


def test_slicers_python_is_preferred_over_the_application(tmp_path, monkeypatch, scene):
    from DMRIMicroSlicer import worker

    monkeypatch.setattr(worker.sys, "executable", "/opt/Slicer/SlicerApp-real")
    monkeypatch.setenv("PATH", "")
    from DMRIMicroLib.errors import InputError

    with pytest.raises(InputError, match="PythonSlicer was not found"):
        worker.python_executable()
    program = tmp_path / "bin" / ("PythonSlicer.exe" if os.name == "nt" else "PythonSlicer")
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(
        scene.slicer, "app", type("App", (), {"slicerHome": str(tmp_path)}), raising=False
    )
    assert worker.python_executable() == str(program)


def test_description_and_reasons(logic, dwi):
    from DMRIMicroSlicer.nodes import node_from_scan

    assert logic.describe(dwi) == "2 b0, 12 x b1000; 5 x 6 x 4 voxels of 2 x 2.2 x 2.5 mm"
    dti = logic.models()["dti"]
    assert logic.reasonsAgainst(dti, dwi) == ()
    few = node_from_scan(ss.scan(directions=5), name="few")
    assert "6 distinct directions" in " ".join(logic.reasonsAgainst(dti, few))


def test_suitability_tells_what_a_scan_means_for_each_model(logic, dwi):
    from DMRIMicroSlicer.nodes import node_from_scan

    from DMRIMicroLib.models import MODELS

    found = logic.suitability(dwi)
    assert list(found) == list(logic.models()) == list(MODELS)
    assert found["dti"].lacks == ()
    assert any("2 non-zero shells" in lack for lack in found["noddi"].lacks)
    shells = logic.suitability(node_from_scan(ss.two_shells()))
    assert shells["noddi"].lacks == ()
    assert any("gradient timing" in lack for lack in shells["sandi"].lacks)
    empty = ss.boot().scene.AddNewNodeByClass("vtkMRMLDiffusionWeightedVolumeNode", "empty")
    assert "holds no diffusion data" in logic.suitability(empty)["dti"].lacks[0]
    assert logic.suitability(None)["noddi"].lacks == ()


def test_cautions_are_those_of_the_volumes_that_a_fit_takes(logic, monkeypatch):
    from DMRIMicroSlicer.nodes import node_from_scan

    dti = logic.models()["dti"]
    monkeypatch.setattr(type(dti), "cautions", lambda self, acq: (acq.describe(),))
    found = logic.suitability(node_from_scan(ss.two_shells()), [dti])
    assert found["dti"].cautions == ("2 b0, 20 x b1000",)


def test_suitability_is_worked_out_once_for_an_acquisition(logic, dwi, monkeypatch):
    dti, asked = logic.models()["dti"], []
    monkeypatch.setattr(type(dti), "missing", lambda self, acq: asked.append(acq.delta) or ())
    logic.suitability(dwi, [dti])
    once = len(asked)
    assert once > 0
    logic.suitability(dwi, [dti])
    assert len(asked) == once
    logic.setAcquisition(dwi, delta=16.2)
    logic.suitability(dwi, [dti])
    assert len(asked) > once
    assert asked[-1] == 16.2


def test_what_an_option_rules_out_is_known_before_the_worker_starts(logic, monkeypatch):
    from DMRIMicroSlicer import logic as module
    from DMRIMicroSlicer.nodes import node_from_scan

    node = node_from_scan(ss.two_shells())
    logic.setAcquisition(node, delta=15.0, Delta=30.0)
    assert logic.suitability(node)["mapmri"].lacks == ()
    assert "robust switched off" in logic.suitability(node, robust=True)["mapmri"].lacks[0]
    assert logic.suitability(node)["mapmri"].lacks == ()
    started = []
    monkeypatch.setattr(module, "start_fit", lambda scan, chosen, **_: started.append(chosen))
    logic.start(node, "all", robust=True)
    assert "dti" in {model.name for model in started[0]}
    assert "mapmri" not in {model.name for model in started[0]}
    with pytest.raises(module.InputError, match="cannot be fitted: it needs 7 volumes"):
        logic.start(node, ["dti"], b_max=500)


def test_options_become_switches_of_the_worker():
    ss.boot()
    from DMRIMicroSlicer.worker import switches

    told = switches({"uncertainty": True, "robust": False, "b_max": None, "likelihood": "rician"})
    assert told == ["--uncertainty", "--likelihood", "rician"]
    assert switches({"coils": 4, "sigma": 12.5}) == ["--coils", "4", "--noise", "12.5"]
    with pytest.raises(TypeError, match="no option 'uncertainity'; there are method"):
        switches({"uncertainity": True})


def test_every_option_of_a_fit_and_of_its_preparation_has_a_switch_that_the_worker_knows():
    ss.boot()
    import inspect

    from DMRIMicroSlicer.logic import PREPARATIONS
    from DMRIMicroSlicer.worker import ACQUISITION_SWITCHES, SWITCHES

    from DMRIMicroLib.cli import fit
    from DMRIMicroLib.fitting.options import Options
    from DMRIMicroLib.preprocess import prepare

    assert set(SWITCHES) == set(Options.__dataclass_fields__) | set(PREPARATIONS)
    assert set(PREPARATIONS) <= set(inspect.signature(prepare).parameters)
    known = {"--" + name.replace("_", "-") for name in inspect.signature(fit).parameters}
    assert {*SWITCHES.values(), *ACQUISITION_SWITCHES.values(), "--model-file"} <= known


def test_all_models_with_uncertainty_in_a_process_are_shown_by_model(logic, temporary):
    from DMRIMicroSlicer.nodes import node_from_scan

    heard, notes = Heard(), []
    scan = ss.two_shells()
    mask = ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)
    node = node_from_scan(scan)
    job = logic.start(
        node, "all", mask, device="cpu", uncertainty=True, likelihood="gaussian",
        onDone=heard.done.append, onError=heard.errors.append, onNote=notes.append,
    )  # fmt: skip
    assert wait(job) == "done", heard.errors
    names = {n.GetName() for n in heard.done[0]}
    assert {"shells FA", "shells FA SD", "shells MK", "shells NDI", "shells NDI SD"} <= names
    assert sum(n.startswith("sandi is left out: it needs the gradient timing") for n in notes) == 1
    made = json.loads(heard.done[0][0].GetAttribute("DMRIMicro.provenance"))["dti"]
    assert made["options"]["likelihood"] == "gaussian"
    assert made["options"]["uncertainty"] is True
    hierarchy = ss.boot().slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(
        ss.boot().scene
    )
    folders = {
        n.GetName(): hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)))
        for n in heard.done[0]
    }
    assert folders["shells MK"] == "dki"
    assert folders["shells NDI SD"] == "noddi"


def test_options_of_a_fit_here_are_passed_on(logic, dwi):
    nodes = logic.fit(dwi, "dti", full_mask(), device="cpu", uncertainty=True, method="ols")
    names = [n.GetName() for n in nodes]
    assert names[:2] == ["brain FA", "brain FA SD"]
    made = json.loads(nodes[0].GetAttribute("DMRIMicro.provenance"))["dti"]
    assert made["options"]["method"] == "ols"
    with pytest.raises(TypeError, match="no option 'methd'"):
        logic.fit(dwi, "dti", full_mask(), device="cpu", methd="ols")


def test_the_scan_is_prepared_before_a_fit_here_if_asked_for(logic, dwi, monkeypatch):
    from DMRIMicroLib import preprocess

    seen = []

    def prepare(scan, progress=None, **asked):
        seen.append((asked, scan.mask is not None))
        return scan.with_notes("prepared")

    monkeypatch.setattr(preprocess, "prepare", prepare)
    nodes = logic.fit(dwi, "dti", full_mask(), device="cpu", degibbs=True, noise="pca")
    assert seen == [({"degibbs": True, "noise": "pca"}, True)]
    made = json.loads(nodes[0].GetAttribute("DMRIMicro.provenance"))["dti"]
    assert made["notes"] == ["prepared"]


@pytest.mark.parametrize(
    ("here", "there"),
    [("enhance", "startEnhance"), ("structuresAtRisk", "startStructuresAtRisk")],
)
def test_what_runs_in_a_process_says_all_its_options(logic, here, there):
    wanted = set(inspect.signature(getattr(logic, here)).parameters) - {"progress"}
    told = set(re.findall(r"\w+", getattr(logic, there).__doc__))
    assert wanted | {"onProgress", "onDone", "onError", "onNote"} <= told


def test_a_wrong_model_is_named_before_a_process_starts(logic, dwi, temporary):
    from DMRIMicroLib.errors import InputError

    with pytest.raises(InputError, match="there is no model 'nodi'"):
        logic.start(dwi, "dti,nodi", full_mask())
    with pytest.raises(TypeError, match="no option 'robst'"):
        logic.start(dwi, "dti", full_mask(), robst=True)
    assert list(temporary.iterdir()) == []


USERS_MODEL = """
from dataclasses import dataclass
from typing import ClassVar
from DMRIMicroLib.maps import Metric
from DMRIMicroLib.models.dti import DTI

@dataclass(frozen=True)
class Mine(DTI):
    name: ClassVar[str] = "mine"
    title: ClassVar[str] = "A model of my own"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mine_FA", "My FA"),)

    def derive(self, parameters):
        return {"mine_FA": super().derive(parameters)["FA"]}
"""


@pytest.fixture
def users_model(logic, tmp_path):
    from DMRIMicroLib.models import METRICS, MODELS

    file = tmp_path / "mine.py"
    file.write_text(USERS_MODEL)
    assert logic.loadModels(str(file)) == ["mine"]
    yield MODELS["mine"]
    del MODELS["mine"], METRICS["mine_FA"]


def test_a_model_of_the_users_own_reaches_the_worker(logic, dwi, users_model):
    heard = Heard()
    assert logic.models()["mine"].title == "A model of my own"
    job = logic.start(
        dwi, ("mine",), full_mask(), device="cpu",
        onDone=heard.done.append, onError=heard.errors.append,
    )  # fmt: skip
    assert wait(job) == "done", heard.errors
    assert [n.GetName() for n in heard.done[0]] == ["brain mine_FA"]


def test_a_model_without_a_file_is_refused_by_the_worker_in_words(
    logic, dwi, users_model, monkeypatch
):
    from DMRIMicroLib.errors import InputError

    monkeypatch.setattr(type(users_model), "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(InputError, match="'mine' does not come from a file"):
        logic.start(dwi, ("mine",), full_mask())


def test_timing_and_threshold_reach_the_worker(logic):
    from DMRIMicroSlicer.nodes import node_from_scan

    heard = Heard()
    scan = ss.two_shells()
    mask = ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)
    node = node_from_scan(scan)
    logic.setAcquisition(node, delta=16.2, Delta=26.5, b0_threshold=80)
    job = logic.start(
        node, "mapmri", mask, device="cpu",
        onDone=heard.done.append, onError=heard.errors.append,
    )  # fmt: skip
    command = started(job)._process.args
    for switch, value in {"--delta": "16.2", "--Delta": "26.5", "--b0-threshold": "80.0"}.items():
        assert command[command.index(switch) + 1] == value
    assert "--TE" not in command
    assert wait(job) == "done", heard.errors
    assert {"shells RTOP", "shells RTAP", "shells RTPP"} <= {n.GetName() for n in heard.done[0]}


def test_an_import_takes_a_threshold_and_timing(logic, tmp_path):
    import test_slicer_nodes
    from DMRIMicroSlicer.nodes import acquisition_from_node

    from DMRIMicroLib.io import nifti

    file = nifti.save(test_slicer_nodes.weak_b0s(205), tmp_path / "dwi.nii.gz")
    assert acquisition_from_node(logic.importNifti(str(file))).describe() != "2 b0, 12 x b1000"
    node = logic.importNifti(str(file), b0_threshold=205, delta=16.2)
    found = acquisition_from_node(node)
    assert found.describe() == "2 b0, 12 x b1000"
    assert (found.b0_threshold, found.delta, found.Delta) == (205, 16.2, None)


def full_mask(sign: int = 1):
    """Add a label map that covers the whole scan."""
    scan = ss.scan(sign)
    return ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)


def gone(pid: int) -> bool:
    """Say whether a process has ended (a zombie that nobody has waited for counts)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_the_module_loads_before_any_package_is_installed():
    code = (
        "for name in ('torch', 'nibabel', 'dipy', 'scipy', 'monai', 'matplotlib', 'SimpleITK'):\n"
        "    sys.modules[name] = None\n"
        "from DMRIMicroSlicer import dependencies, job, nodes, parameters, results\n"
        "from DMRIMicroSlicer.logic import DMRIMicroLogic\n"
        "node = nodes.node_from_scan(ss.scan())\n"
        "print(DMRIMicroLogic().describe(node))\n"
    )
    done = ss.run_python(code)
    assert done.returncode == 0, done.stderr[-800:]
    assert "2 b0, 12 x b1000" in done.stdout
