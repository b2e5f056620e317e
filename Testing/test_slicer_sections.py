"""The sections of the panel for enhancement and tractography, in a stand-in for the desktop."""

from __future__ import annotations

import json
import sys

import numpy as np
import slicer_scene as ss
import test_slicer_widget as widget
from test_slicer_tracts import box, bundle, lines_of
from test_slicer_widget import desktop, log, panel  # noqa: F401


def fake(panel, verb: str, tmp_path, code: str) -> list[tuple]:  # noqa: F811
    """Let a verb of the logic start a worker that runs `code`; returns what it was asked for."""
    from DMRIMicroSlicer.job import FitJob

    asked = []

    def start(*given, onProgress, onDone, onError, onNote, **options):
        asked.append((given, options))
        folder = tmp_path / f"job{len(asked)}"
        folder.mkdir()
        return FitJob(
            [sys.executable, "-u", "-c", code], folder, lambda _: [],
            on_progress=onProgress, on_done=onDone, on_error=onError,
        )  # fmt: skip

    setattr(panel.logic, verb, start)
    return asked


def test_the_lists_are_those_of_the_library(panel):  # noqa: F811
    from DMRIMicroSlicer import enhance_section, tract_section

    from DMRIMicroLib.cli_tracts import Follow, Way
    from DMRIMicroLib.rish.table import AUTO, METHODS

    assert enhance_section.METHODS == (AUTO, *METHODS)
    assert set(tract_section.WAYS) == {way.value for way in Way}
    assert set(tract_section.FOLLOWED) == {follow.value for follow in Follow}
    ui = panel.ui
    for field in (*enhance_section.FIELDS.values(), *tract_section.FIELDS.values()):
        if field.values:
            assert getattr(ui, field.widget).count() == len(field.values)


def test_enhance_hands_on_the_choices_and_can_be_cancelled(panel, desktop, tmp_path):  # noqa: F811
    event = json.dumps({"progress": 0.42, "text": "Half"})
    asked = fake(panel, "startEnhance", tmp_path, f"import time; print({event!r}); time.sleep(60)")
    ui = panel.ui
    assert not ui.enhanceApplyButton.isEnabled()
    node, mask = widget.add_scan(), widget.add_mask()
    ui.maskSelector.setCurrentNode(mask)
    assert ui.enhanceApplyButton.isEnabled()
    assert "learned this from simulated pairs" in ui.enhanceCaution.text()
    assert ui.enhanceCaution.isVisibleTo(panel.parent)
    ui.enhanceMethodBox.setCurrentIndex(2)
    ui.enhanceSamplesSpin.setValue(4)
    ui.enhanceResolutionBox.setCurrentIndex(2)
    ui.enhanceEdgeSpin.setValue(1.5)
    before = ss.count_nodes()
    ui.enhanceApplyButton.click()
    widget.wait_for(desktop, lambda: ui.progressBar.value() == 42)
    assert not ui.enhanceApplyButton.isEnabled()
    assert not ui.applyButton.isEnabled()
    ui.enhanceApplyButton.click()
    ((given, options),) = asked
    assert given == (node,)
    assert options == {
        "method": "ldm", "resolution": 1.5, "samples": 4, "weights": "", "maskNode": mask,
    }  # fmt: skip
    ui.cancelButton.click()
    assert "Cancelled. Nothing was added." in log(panel)
    assert ss.count_nodes() == before
    assert ui.enhanceApplyButton.isEnabled()
    ui.enhanceMethodBox.setCurrentIndex(6)
    ui.enhanceResolutionBox.setCurrentIndex(1)
    assert not ui.enhanceCaution.isVisibleTo(panel.parent)
    ui.enhanceApplyButton.click()
    assert asked[1][1] == {
        "method": "interpolate", "resolution": "keep", "samples": 1, "weights": "",
        "maskNode": mask,
    }  # fmt: skip


def test_tracking_fills_the_scene(panel, desktop, tmp_path):  # noqa: F811
    ui = panel.ui
    assert not ui.tractsApplyButton.isEnabled()
    nodes, middle, axis = bundle()
    tensor = next(n for n in nodes if n.GetClassName() == "vtkMRMLDiffusionTensorVolumeNode")
    ui.tensorSelector.setCurrentNode(tensor)
    assert ui.tractMapsLabel.text() == "Maps for rules: FA."
    assert [ui.colourBox.itemText(k) for k in range(ui.colourBox.count())] == ["direction", "FA"]
    ui.colourBox.setCurrentText("FA")
    ui.includeSelector.setCurrentNode(box(middle, axis))
    ui.densitySpin.setValue(0.2)
    widget.picture(panel, tmp_path / "sections.png")
    ui.tractsApplyButton.click()
    assert panel.job is not None, desktop.shown
    widget.wait_for(desktop, lambda: panel.job is None, seconds=300)
    assert desktop.shown == []
    assert "Added 'head tracts'" in log(panel)
    node = desktop.scene.GetFirstNodeByName("head tracts")
    assert len(lines_of(node)) > 10
    assert node.GetDisplayNode().GetActiveScalarName() == "FA"
    assert ui.tractsApplyButton.isEnabled()


def test_a_wrong_rule_is_told_before_a_worker_starts(panel, desktop):  # noqa: F811
    nodes, *_ = bundle()
    panel.ui.tensorSelector.setCurrentNode(nodes[-1])
    panel.ui.seedsEdit.setText("FA >")
    panel.ui.tractsApplyButton.click()
    assert panel.job is None
    assert "the rule 'FA >' cannot be read" in desktop.shown[0]
    panel.ui.seedsEdit.setText("NDI > 0.3")
    panel.ui.tractsApplyButton.click()
    assert "there is no map 'NDI'" in desktop.shown[1]


def test_without_a_tensor_the_scan_is_taken(panel, tmp_path):  # noqa: F811
    asked = fake(panel, "startTracts", tmp_path, "import time; time.sleep(60)")
    node = widget.add_scan()
    assert "fitted to the scan first" in panel.ui.tractMapsLabel.text()
    panel.ui.followBox.setCurrentIndex(1)
    panel.ui.wayBox.setCurrentIndex(1)
    panel.ui.tractsApplyButton.click()
    given, options = asked[0]
    assert given == (node, "FA > 0.3")
    assert (options["odf"], options["method"], options["dwiNode"]) == ("csd", "probabilistic", node)
    assert (options["include"], options["min_length"]) == (None, 20)
    panel.ui.dwiSelector.setCurrentNode(None)


def test_choices_of_the_sections_are_kept_in_the_scene(panel, desktop):  # noqa: F811
    from DMRIMicroSlicer.parameters import parameters

    nodes, middle, axis = bundle()
    roi = box(middle, axis)
    ui = panel.ui
    ui.tensorSelector.setCurrentNode(nodes[-1])
    ui.excludeSelector.setCurrentNode(roi)
    ui.seedsEdit.setText("FA > 0.5")
    ui.leastLengthSpin.setValue(35)
    ui.enhanceSamplesSpin.setValue(3)
    ui.enhanceResolutionBox.setCurrentIndex(1)
    kept = parameters()
    assert (kept.tensor, kept.exclude) == (nodes[-1], roi)
    assert (kept.seeds, kept.least_length, kept.enhance_samples) == ("FA > 0.5", 35, 3)
    assert kept.enhance_resolution == "keep"
    kept.seeds, kept.way, kept.enhance_edge, kept.exclude = "FA > 0.6", "probabilistic", 2.0, None
    desktop.scene.InvokeEvent(desktop.scene.EndImportEvent)
    assert ui.wayBox.currentText() == "probabilistic"
    assert ui.seedsEdit.text() == "FA > 0.6"
    assert ui.enhanceEdgeSpin.value() == 2
    assert ui.excludeSelector.currentNode() is None
    assert kept.least_length == 35


def test_a_tensor_of_another_program_is_refused_in_words(panel, desktop):  # noqa: F811
    from DMRIMicroSlicer.results import _set_tensors

    node = desktop.scene.AddNewNodeByClass("vtkMRMLDiffusionTensorVolumeNode", "other")
    _set_tensors(node, np.ones((3, 3, 3, 9), np.float32))
    panel.ui.tensorSelector.setCurrentNode(node)
    panel.ui.tractsApplyButton.click()
    assert "'other' is no map of this module" in desktop.shown[0]


def test_every_selector_is_told_of_the_scene(panel):  # noqa: F811
    """In the desktop a selector without a connection in the .ui file stays without a scene."""
    import qt

    selectors = panel.parent.findChildren(qt.WIDGETS["qMRMLNodeComboBox"])
    assert len(selectors) > 5
    assert [s.objectName() for s in selectors if s.scene is None] == []
