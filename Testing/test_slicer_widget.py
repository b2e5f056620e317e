"""The panel, driven as a user would, in a stand-in for the desktop (see slicer_standin.py)."""

from __future__ import annotations

import json
import sys
import time
import types

import numpy as np
import pytest
import slicer_scene as ss


@pytest.fixture
def desktop(monkeypatch):
    import slicer_standin

    desktop = slicer_standin.start()
    shown: list[str] = []
    monkeypatch.setattr(desktop.slicer.util, "errorDisplay", lambda text, **_: shown.append(text))
    monkeypatch.setattr(desktop.slicer.util, "setSliceViewerLayers", lambda **_: None)
    with ss.clean_scene():
        yield types.SimpleNamespace(**vars(desktop), shown=shown)


@pytest.fixture
def panel(desktop):
    import slicer_standin

    widget = slicer_standin.load_widget()
    widget.dependencies = types.SimpleNamespace(ensure=lambda: True)
    yield widget
    widget.cleanup()


def add_scan(**options):
    from DMRIMicroSlicer.nodes import node_from_scan

    return node_from_scan(ss.scan(**options), name=options.get("name"))


def add_mask():
    scan = ss.scan()
    return ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine, name="my mask")


def wait_for(desktop, condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        desktop.application.processEvents()
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.01)


def log(panel) -> str:
    return panel.ui.logText.toPlainText()


def test_module_says_what_it_is(panel):
    assert panel.info.title == "DMRIMicro"
    assert panel.info.categories == ["Diffusion"]
    assert "Not a medical device" in panel.info.helpText
    assert panel.info.contributors == ["DMRIMicro developers"]
    assert "Not a medical device" in panel.ui.noticeLabel.text()


def test_empty_scene_asks_for_a_scan(panel):
    assert not panel.ui.applyButton.isEnabled()
    assert not panel.ui.cancelButton.isEnabled()
    assert "Choose or import" in panel.ui.foundLabel.text()


def test_a_scan_is_selected_and_described(panel):
    add_scan()
    assert panel.ui.foundLabel.text().startswith("2 b0, 12 x b1000; 5 x 6 x 4 voxels")
    assert panel.ui.applyButton.isEnabled()


def test_apply_fits_and_fills_the_scene(desktop, panel, tmp_path):
    add_scan()
    panel.ui.maskSelector.setCurrentNode(add_mask())
    panel.ui.applyButton.click()
    assert panel.job is not None, desktop.shown
    assert not panel.ui.applyButton.isEnabled()
    assert panel.ui.cancelButton.isEnabled()
    wait_for(desktop, lambda: panel.job is None)
    assert desktop.shown == []
    assert "Added 'brain FA', 'brain MD'" in log(panel)
    assert "Note: dti: fitted in 120 voxels" in log(panel)
    assert desktop.scene.GetFirstNodeByName("brain FA") is not None
    assert panel.ui.applyButton.isEnabled()
    picture(panel, tmp_path / "panel.png")


def test_progress_is_shown_and_cancel_stops(desktop, panel, tmp_path):
    event = json.dumps({"progress": 0.42, "text": "Half"})
    fake_worker(panel, tmp_path, f"import time; print({event!r}); time.sleep(60)")
    add_scan()
    before = ss.count_nodes()
    panel.ui.applyButton.click()
    wait_for(desktop, lambda: panel.ui.progressBar.value() == 42)
    assert panel.ui.statusLabel.text() == "Half"
    picture(panel, tmp_path / "running.png")
    panel.ui.cancelButton.click()
    assert panel.job is None
    assert panel.ui.applyButton.isEnabled()
    assert "Cancelled. Nothing was added." in log(panel)
    assert ss.count_nodes() == before


def test_a_failed_fit_is_shown(desktop, panel, tmp_path):
    fake_worker(panel, tmp_path, "import sys; sys.exit('no space is left. Free some.')")
    add_scan()
    panel.ui.applyButton.click()
    wait_for(desktop, lambda: panel.job is None)
    assert desktop.shown == ["no space is left. Free some."]
    assert "Error: no space is left" in log(panel)
    assert panel.ui.applyButton.isEnabled()


def boxes(panel):
    """Return the check boxes of the models by name."""
    return panel.list.boxes


def test_every_model_is_listed_with_its_title_and_its_maps(panel):
    from DMRIMicroLib.models import MODELS

    assert list(boxes(panel)) == [*MODELS, "codebook", "pigment"]
    assert len(boxes(panel)) >= 9
    for model in MODELS.values():
        said = boxes(panel)[model.name].text()
        title, gives = said.replace("\n", " ").split(": ")
        assert title == model.title
        assert gives.split(", ") == [m.name for m in model.metrics if m.kind == "scalar"]
        assert max(map(len, said.splitlines())) <= 60


def test_a_model_that_the_scan_cannot_determine_is_greyed_out(panel, desktop):
    add_scan(directions=5, name="few")
    dti = boxes(panel)["dti"]
    assert not dti.isEnabled()
    assert "6 distinct directions" in dti.toolTip()
    assert not panel.ui.applyButton.isEnabled()
    assert "6 distinct directions" in panel.ui.applyButton.toolTip()
    panel.ui.dwiSelector.setCurrentNode(add_scan(name="enough"))
    assert dti.isEnabled()
    assert "FA: Fractional anisotropy" in dti.toolTip()
    assert "MD [" in dti.toolTip()
    assert panel.ui.applyButton.isEnabled()


def test_one_shell_leaves_only_the_models_that_it_determines(panel):
    from DMRIMicroLib.models import MODELS

    node = add_scan()
    suitable = panel.logic.suitability(node)
    for name, told in suitable.items():
        assert boxes(panel)[name].isEnabled() == (not told.lacks)
    assert "2 non-zero shells" in boxes(panel)["dki"].toolTip()
    assert boxes(panel)["dti"].isEnabled()
    assert 0 < sum(box.isEnabled() for box in boxes(panel).values()) < len(MODELS)


def test_all_chooses_what_the_scan_allows_and_nothing_can_be_chosen_away(panel):
    add_scan()
    panel.ui.allButton.click()
    assert panel.list.chosen() == [n for n, box in boxes(panel).items() if box.isEnabled()]
    for box in boxes(panel).values():
        box.setChecked(False)
    assert not panel.ui.applyButton.isEnabled()
    assert "choose a model" in panel.ui.applyButton.toolTip()


def test_apply_hands_on_the_choices_and_says_what_is_left_out(panel, tmp_path):
    asked = fake_worker(panel, tmp_path, "import time; time.sleep(60)")
    add_scan()
    boxes(panel)["dki"].setChecked(True)  # as for an earlier scan
    panel.ui.uncertaintyCheck.setChecked(True)
    panel.ui.applyButton.click()
    assert asked[0]["models"] == ["dti"]
    assert asked[0]["uncertainty"] is True
    assert asked[0]["robust"] is False
    assert "Left out: Diffusion kurtosis needs 22 volumes (there are 14)" in log(panel)
    assert not boxes(panel)["dti"].isEnabledTo(panel.parent)  # while a fit runs
    panel.ui.cancelButton.click()
    assert boxes(panel)["dti"].isEnabledTo(panel.parent)


def test_cautions_of_the_chosen_models_are_shown(panel, monkeypatch):
    dti = panel.models["dti"]
    monkeypatch.setattr(
        type(dti), "cautions", lambda self, acq: ("read it so",) if len(acq) == 14 else ()
    )
    add_scan()
    assert panel.ui.cautionLabel.text() == "Diffusion tensor: read it so"
    assert panel.ui.cautionLabel.isVisibleTo(panel.parent)
    boxes(panel)["dti"].setChecked(False)
    assert not panel.ui.cautionLabel.isVisibleTo(panel.parent)


def test_threshold_and_timing_are_kept_with_the_scan(panel):
    from DMRIMicroSlicer.nodes import acquisition_from_node

    node, other = add_scan(name="one"), add_scan(name="other")
    panel.ui.dwiSelector.setCurrentNode(node)
    assert panel.ui.thresholdSpin.value() == 50
    assert panel.ui.deltaSpin.text() == "not known"
    lacks = boxes(panel)["sandi"].toolTip()
    assert "gradient timing" in lacks
    panel.ui.deltaSpin.setValue(16.2)
    panel.ui.bigDeltaSpin.setValue(26.5)
    panel.ui.thresholdSpin.setValue(80)
    found = acquisition_from_node(node)
    assert (found.delta, found.Delta, found.TE, found.b0_threshold) == (16.2, 26.5, None, 80)
    assert "gradient timing" not in boxes(panel)["sandi"].toolTip()
    panel.ui.dwiSelector.setCurrentNode(other)
    assert panel.ui.thresholdSpin.value() == 50
    assert panel.ui.deltaSpin.value() == 0
    assert acquisition_from_node(other).delta is None
    panel.ui.dwiSelector.setCurrentNode(node)
    assert panel.ui.deltaSpin.value() == 16.2
    panel.ui.deltaSpin.setValue(0)
    assert acquisition_from_node(node).delta is None


def test_import_of_nifti_selects_the_scan(desktop, panel, tmp_path):
    from DMRIMicroLib.io import nifti

    panel.ui.importButton.click()
    assert desktop.shown == ["Choose a NIfTI file first."]
    panel.ui.niftiPath.setCurrentPath(str(tmp_path / "none.nii.gz"))
    panel.ui.importButton.click()
    wait_for(desktop, lambda: panel.job is None)
    assert "none.nii.gz" in desktop.shown[1]
    panel.ui.niftiPath.setCurrentPath(str(nifti.save(ss.scan(-1), tmp_path / "dwi.nii.gz")))
    panel.ui.importButton.click()
    wait_for(desktop, lambda: panel.job is None)
    assert panel.ui.dwiSelector.currentNode().GetName() == "dwi"
    assert "2 b0, 12 x b1000" in panel.ui.foundLabel.text()
    assert len(desktop.shown) == 2


def test_closing_the_scene_stops_the_work(desktop, panel, tmp_path):
    fake_worker(panel, tmp_path, "import time; time.sleep(60)")
    add_scan()
    panel.ui.applyButton.click()
    job = panel.job
    desktop.scene.InvokeEvent(desktop.scene.StartCloseEvent)
    assert job.state == "cancelled"
    assert panel.job is None


def test_removing_the_scan_disables_apply(desktop, panel):
    node = add_scan()
    assert panel.ui.applyButton.isEnabled()
    desktop.scene.RemoveNode(node)
    assert not panel.ui.applyButton.isEnabled()


def test_choices_are_kept_in_the_scene(panel):
    from DMRIMicroSlicer.parameters import parameters

    node, mask = add_scan(), add_mask()
    panel.ui.maskSelector.setCurrentNode(mask)
    kept = parameters()
    assert (kept.dwi, kept.mask, kept.models) == (node, mask, "dti")
    assert (kept.uncertainty, kept.robust) == (False, False)
    boxes(panel)["noddi"].setChecked(True)
    panel.ui.robustCheck.setChecked(True)
    kept = parameters()
    assert kept.models == "dti,noddi"
    assert (kept.uncertainty, kept.robust) == (False, True)


def test_a_scene_that_is_loaded_brings_its_choices(desktop, panel):
    from DMRIMicroSlicer.parameters import parameters

    add_scan()
    kept = parameters()
    kept.models, kept.uncertainty = "smt,dti", True
    desktop.scene.InvokeEvent(desktop.scene.EndImportEvent)
    assert panel.list.checked() == ["dti", "smt"]
    assert panel.ui.uncertaintyCheck.isChecked()
    assert not panel.ui.robustCheck.isChecked()
    assert kept.models == "smt,dti"  # showing them is not choosing anew


def test_missing_packages_are_explained_and_nothing_starts(desktop, panel):
    from DMRIMicroSlicer.dependencies import DependencyError

    def refuse():
        raise DependencyError("PyTorch is not installed.")

    panel.dependencies = types.SimpleNamespace(ensure=refuse)
    add_scan()
    panel.ui.applyButton.click()
    assert desktop.shown == ["PyTorch is not installed."]
    assert panel.job is None
    panel.dependencies = types.SimpleNamespace(ensure=lambda: False)
    panel.ui.applyButton.click()
    assert "Nothing was installed" in log(panel)
    assert panel.job is None


def test_without_packages_apply_becomes_install(panel):
    def absent():
        raise ImportError("No module named 'torch'")

    real, panel.logic.models = panel.logic.models, absent
    panel._fill_models()
    panel._refresh()
    assert panel.ui.applyButton.text() == "Install Python packages"
    assert panel.ui.applyButton.isEnabled()
    assert "No module named 'torch'" in log(panel)
    panel.logic.models = real
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text() == "Apply"
    assert "dti" in panel.models


def test_torch_comes_only_through_the_pytorch_extension(desktop, monkeypatch):
    from DMRIMicroSlicer import dependencies

    monkeypatch.setattr(dependencies, "torch_missing", lambda: True)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(
        dependencies.DependencyError, match=r"Extensions Manager, install 'PyTorch'"
    ):
        dependencies.ensure()

    class Offline:
        def installTorch(self, askConfirmation=False, torchVersionRequirement=None):
            raise RuntimeError("no network")

    monkeypatch.setitem(
        sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Offline)
    )
    with pytest.raises(dependencies.DependencyError, match=r"no network.*internet connection"):
        dependencies.ensure()
    Offline.installTorch = lambda self, askConfirmation: None
    assert dependencies.ensure() is False


@pytest.mark.parametrize("old_extension", [False, True])
def test_torch_is_asked_for_with_its_version(desktop, monkeypatch, old_extension):
    from DMRIMicroSlicer import dependencies

    asked = []
    absent = [True]

    def install(self, askConfirmation, **version):
        if old_extension and version:
            raise TypeError("unexpected keyword argument 'torchVersionRequirement'")
        asked.append(version)
        absent[0] = old_extension
        return object()

    logic = type("Logic", (), {"installTorch": install})
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=logic))
    monkeypatch.setattr(dependencies, "torch_missing", lambda: absent[0])
    if old_extension:
        with pytest.raises(dependencies.DependencyError, match="still missing or not torch"):
            dependencies.ensure()
        assert asked == [{}]
    else:
        assert dependencies.ensure()
        assert asked == [{"torchVersionRequirement": ">=2.4"}]


@pytest.mark.parametrize(
    ("version", "is_missing"), [("2.3.1+cu121", True), ("2.4.0+cpu", False), ("2.10.0", False)]
)
def test_an_old_torch_counts_as_missing(desktop, monkeypatch, version, is_missing):
    from DMRIMicroSlicer import dependencies

    monkeypatch.setattr(dependencies, "_version", lambda name: version)
    assert dependencies.torch_missing() is is_missing


def test_an_old_slicer_is_refused_in_words(desktop, monkeypatch):
    from DMRIMicroSlicer import dependencies

    old = types.SimpleNamespace(version_info=(3, 9, 10))
    monkeypatch.setattr(dependencies, "sys", old)
    with pytest.raises(dependencies.DependencyError, match=r"Python 3\.11 or newer \(5\.10"):
        dependencies.ensure()


def test_notes_of_an_import_are_logged(desktop, panel, tmp_path):
    from DMRIMicroLib.io import nifti

    file = nifti.save(ss.scan(), tmp_path / "dwi.nii.gz")
    np.savetxt(tmp_path / "dwi.bval", ss.scan().acquisition.bvals[None] / 1000)
    panel.ui.niftiPath.setCurrentPath(str(file))
    panel.ui.importButton.click()
    wait_for(desktop, lambda: panel.job is None)
    assert "Note: b-values up to 1 were read as ms/um2" in log(panel)


def test_packages_are_installed_only_after_asking(desktop, monkeypatch, tmp_path):
    from DMRIMicroSlicer import dependencies

    file = tmp_path / "requirements.txt"
    file.write_text("# needed\nnumpy>=1.20\nno-such-package-xyz>=2  # why\n\n--only-binary :all:\n")
    assert dependencies.missing(file) == ["no-such-package-xyz>=2"]
    asked, installed = [], []
    util = desktop.slicer.util
    monkeypatch.setattr(
        util, "confirmOkCancelDisplay", lambda text, **_: asked.append(text) or bool(installed)
    )
    monkeypatch.setattr(util, "pip_install", installed.append)
    assert dependencies.ensure(file) is False
    assert "no-such-package-xyz>=2" in asked[0]
    assert installed == []
    monkeypatch.setattr(util, "confirmOkCancelDisplay", lambda text, **_: True)
    with pytest.raises(
        dependencies.DependencyError, match="Still missing after installing: no-such-package-xyz"
    ):
        dependencies.ensure(file)
    assert installed == [["no-such-package-xyz>=2"]]


def test_newer_slicer_asks_by_itself(desktop, monkeypatch, tmp_path):
    from DMRIMicroSlicer import dependencies

    file = tmp_path / "requirements.txt"
    file.write_text("no-such-package-xyz>=2\n")
    packaging = types.ModuleType("slicer.packaging")

    def decline(_requirements, requester):
        raise RuntimeError("User declined package installation")

    packaging.load_requirements, packaging.pip_ensure = (lambda path: [path]), decline
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(desktop.slicer, "packaging", packaging, raising=False)
    assert dependencies.ensure(file) is False

    def offline(_requirements, requester):
        raise OSError("pip failed")

    packaging.pip_ensure = offline
    with pytest.raises(dependencies.DependencyError, match=r"pip failed.*internet"):
        dependencies.ensure(file)


def fake_worker(panel, tmp_path, code: str) -> list[dict]:
    """Let Apply start a worker that runs `code`: the logic is replaced, the job is real.

    Returns what Apply asked for, call by call.
    """
    from DMRIMicroSlicer.job import FitJob

    asked = []

    def start(node, models, maskNode, onProgress, onDone, onError, onNote, **options):
        asked.append({"models": models, **options})
        folder = tmp_path / "job"
        folder.mkdir()
        command = [sys.executable, "-u", "-c", code]
        return FitJob(
            command, folder, str, on_progress=onProgress, on_done=onDone, on_error=onError
        )

    panel.logic.start = start
    return asked


def picture(panel, path) -> None:
    """Save what the stand-in shows, to be looked at; not a picture of Slicer."""
    panel.parent.resize(480, 2100)  # Slicer scrolls what is higher than its window
    panel.parent.show()
    panel.parent.grab().save(str(path))
    panel.parent.hide()
    assert path.stat().st_size > 1000
