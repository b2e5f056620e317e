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


def test_a_model_that_the_scan_cannot_determine_is_greyed_out(panel, desktop):
    add_scan(directions=5, name="few")
    row = list(panel.models).index("dti")
    assert not panel.ui.modelCombo.model().item(row).isEnabled()
    tip = panel.ui.modelCombo.itemData(row, int(desktop.qt.Qt.ToolTipRole))
    assert "6 distinct directions" in tip
    assert not panel.ui.applyButton.isEnabled()
    assert "6 distinct directions" in panel.ui.applyButton.toolTip()
    panel.ui.dwiSelector.setCurrentNode(add_scan(name="enough"))
    assert panel.ui.modelCombo.model().item(row).isEnabled()
    assert panel.ui.applyButton.isEnabled()


def test_import_of_nifti_selects_the_scan(desktop, panel, tmp_path):
    from DMRIMicroLib.io import nifti

    panel.ui.importButton.click()
    assert desktop.shown == ["Choose a NIfTI file first."]
    panel.ui.niftiPath.setCurrentPath(str(tmp_path / "none.nii.gz"))
    panel.ui.importButton.click()
    assert "none.nii.gz" in desktop.shown[1]
    panel.ui.niftiPath.setCurrentPath(str(nifti.save(ss.scan(-1), tmp_path / "dwi.nii.gz")))
    panel.ui.importButton.click()
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
    assert (kept.dwi, kept.mask, kept.model) == (node, mask, "dti")


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


def test_notes_of_an_import_are_logged(panel, tmp_path):
    from DMRIMicroLib.io import nifti

    file = nifti.save(ss.scan(), tmp_path / "dwi.nii.gz")
    np.savetxt(tmp_path / "dwi.bval", ss.scan().acquisition.bvals[None] / 1000)
    panel.ui.niftiPath.setCurrentPath(str(file))
    panel.ui.importButton.click()
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


def fake_worker(panel, tmp_path, code: str) -> None:
    """Let Apply start a worker that runs `code`: the logic is replaced, the job is real."""
    from DMRIMicroSlicer.job import FitJob

    def start(node, models, maskNode, onProgress, onDone, onError, onNote):
        folder = tmp_path / "job"
        folder.mkdir()
        command = [sys.executable, "-u", "-c", code]
        return FitJob(
            command, folder, str, on_progress=onProgress, on_done=onDone, on_error=onError
        )

    panel.logic.start = start


def picture(panel, path) -> None:
    """Save what the stand-in shows, to be looked at; not a picture of Slicer."""
    panel.parent.resize(480, 720)
    panel.parent.show()
    panel.parent.grab().save(str(path))
    panel.parent.hide()
    assert path.stat().st_size > 1000
