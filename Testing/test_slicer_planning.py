"""Structures at risk from the panel: a lesion beside a bundle, in a stand-in for the desktop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import slicer_scene as ss
import test_slicer_widget as widget
from test_slicer_logic import emptied, temporary  # noqa: F401
from test_slicer_tracts import box, bundle, numbers, words
from test_slicer_widget import desktop, log, panel  # noqa: F401


@pytest.fixture
def opened(monkeypatch):
    """Pages that would be opened in the browser."""
    import slicer_standin

    slicer_standin.start()
    from DMRIMicroSlicer import plan_section

    pages: list[Path] = []
    monkeypatch.setattr(plan_section, "open_page", pages.append)
    return pages


def lesion_at(middle, axis, away: float = 9.0, radius: float = 3.0, name: str = "lesion"):
    """Add a ball beside the bundle's axis, as a segmentation."""
    slicer = ss.boot().slicer
    centre = middle + away * np.linalg.svd(axis[None])[2][1]
    grid = np.diag([1.0, 1, 1, 1])
    grid[:3, 3] = centre - 9.5
    inside = np.linalg.norm(ss.positions(grid, (20, 20, 20)) - centre, axis=-1) < radius
    labels = ss.volume_node(inside.astype(np.uint8), grid, name="drawn")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node)
    slicer.mrmlScene.RemoveNode(labels)
    return node


def ready(panel, **ball):  # noqa: F811
    """Choose lesion, tensor and bundle; return the bundle's node and the lesion's."""
    nodes, middle, axis = bundle()
    lines = panel.logic.tracts(nodes, count=40)
    lines.SetName("left = right / CST")  # a name that files cannot have
    lesion = lesion_at(middle, axis, **ball)
    tensor = next(n for n in nodes if n.GetClassName() == "vtkMRMLDiffusionTensorVolumeNode")
    panel.ui.tensorSelector.setCurrentNode(tensor)
    panel.ui.lesionSelector.setCurrentNode(lesion)
    return lines, lesion, nodes


def tables(desktop, lesion: str = "lesion") -> list:  # noqa: F811
    names = (f"{lesion} structures at risk", f"{lesion} tissue")
    return [desktop.scene.GetFirstNodeByName(name) for name in names]


def test_the_button_adds_tables_and_opens_the_page(panel, desktop, opened, temporary, tmp_path):  # noqa: F811
    assert not panel.ui.planApplyButton.isEnabled()
    assert "choose a lesion" in panel.ui.planApplyButton.toolTip()
    _, lesion, nodes = ready(panel)
    panel.ui.riskDistanceSpin.setValue(8)
    widget.picture(panel, tmp_path / "planning.png")
    panel.ui.planApplyButton.click()
    assert panel.job is not None, desktop.shown
    widget.wait_for(desktop, lambda: panel.job is None, seconds=300)
    assert desktop.shown == []
    near, tissue = tables(desktop)
    assert words(near, "bundle") == ["left = right / CST"]
    assert words(near, "at risk") == ["yes"]
    assert {"lesion", "rim"} <= set(words(tissue, "region"))
    ((here, _), _) = panel.logic.structuresAtRisk(
        lesion, {"b": panel.logic.bundles()[0]}, nodes, 8, folder=tmp_path / "here"
    )
    for column in ("distance [mm]", "lines within", "lines"):
        np.testing.assert_allclose(numbers(near, column), numbers(here, column), atol=0.02)
    (page,) = opened
    assert str(page) == near.GetAttribute("DMRIMicro.page")
    assert "Research use only. Not a medical device." in page.read_text(encoding="utf-8")
    assert page.parent.parent == temporary  # the scene has not been saved
    told = json.loads((page.parent / "planning.json").read_text(encoding="utf-8"))
    assert (told["facts"]["distance_mm"], told["facts"]["rim_mm"]) == (8, 5)
    assert f"the page is {page}" in log(panel)
    assert "Research use only" in log(panel)
    assert [p.name for p in temporary.iterdir()] == [page.parent.name]


def test_pages_lie_next_to_a_saved_scene(panel, desktop, opened, temporary, tmp_path):  # noqa: F811
    lines, _, _ = ready(panel, name='tumour: "left"')
    panel.ui.bundleSelector.setCurrentNode(lines)
    desktop.scene.SetURL(str(tmp_path / "scene.mrml"))
    for _ in range(2):
        panel.ui.planApplyButton.click()
        widget.wait_for(desktop, lambda: panel.job is None, seconds=300)
    assert desktop.shown == []
    folders = [page.parent.relative_to(tmp_path).as_posix() for page in opened]
    assert folders == ["tumour_ _left_ planning", "tumour_ _left_ planning 2"]
    assert emptied(temporary)


def test_cancel_and_trouble_leave_no_page(panel, desktop, opened, temporary):  # noqa: F811
    ready(panel, away=500.0)
    before = ss.count_nodes()
    panel.ui.planApplyButton.click()
    panel.ui.cancelButton.click()
    assert panel.job is None
    panel.ui.planApplyButton.click()
    widget.wait_for(desktop, lambda: panel.job is None, seconds=300)
    assert "the lesion does not overlap the maps" in desktop.shown[0]
    assert ss.count_nodes() == before
    assert opened == []
    assert emptied(temporary)


def test_what_is_missing_is_said(panel, desktop):  # noqa: F811
    nodes, middle, axis = bundle()
    panel.ui.lesionSelector.setCurrentNode(lesion_at(middle, axis))
    assert "choose a tensor" in panel.ui.planApplyButton.toolTip()
    panel.ui.tensorSelector.setCurrentNode(nodes[-1])
    assert "track fibres" in panel.ui.planApplyButton.toolTip()
    assert not panel.ui.planApplyButton.isEnabled()
    panel.logic.tracts(nodes, count=5, include=box(middle, axis))
    panel._refresh_sections()
    assert panel.ui.planApplyButton.isEnabled()


def test_bundles_of_one_name_are_told_apart():
    ss.boot()
    from DMRIMicroSlicer.plan_worker import named

    with ss.clean_scene() as booted:
        add = booted.scene.AddNewNodeByClass
        nodes = [add("vtkMRMLModelNode", name) for name in ("a", "b", "c", "a 2")]
        nodes[1].SetName("a")
        assert list(named(nodes)) == ["a", "a 2", "c", "a 2 2"]


def several(middle, axis, name: str = "drawn"):
    """Add a segmentation of a ball beside the bundle, "oedema", and a larger one, "tumour"."""
    node = lesion_at(middle, axis, radius=2.0, name=name)
    other = lesion_at(middle, axis, radius=4.0, name="other")
    segments = node.GetSegmentation()
    segments.GetNthSegment(0).SetName("oedema")
    ball = other.GetSegmentation().GetNthSegment(0)
    ball.SetName("tumour")
    segments.AddSegment(ball, "second")
    ss.boot().scene.RemoveNode(other)
    return node


def listed(panel) -> list[str]:  # noqa: F811
    box = panel.ui.lesionSegmentBox
    return [box.itemText(k) for k in range(box.count())]


def test_one_segment_can_be_the_lesion(panel, desktop, opened, temporary):  # noqa: F811
    nodes, middle, axis = bundle()
    lesion, ui = several(middle, axis), panel.ui
    lines = panel.logic.tracts(nodes, count=40)
    ui.tensorSelector.setCurrentNode(nodes[-1])
    assert listed(panel) == ["(all together)"]
    assert not ui.lesionSegmentBox.isEnabled()
    ui.lesionSelector.setCurrentNode(lesion)
    assert listed(panel) == ["(all together)", "oedema", "tumour"]
    ui.lesionSegmentBox.setCurrentIndex(2)
    assert panel._parameters.lesion_segment == "second"
    ui.planApplyButton.click()
    assert panel.job is not None, desktop.shown
    widget.wait_for(desktop, lambda: panel.job is None, seconds=300)
    assert desktop.shown == []
    near, _ = tables(desktop, "drawn:tumour")
    ((one, _), _), ((first, _), _) = (
        panel.logic.structuresAtRisk((lesion, key), lines, nodes)
        for key in ("second", lesion.GetSegmentation().GetNthSegmentID(0))
    )
    np.testing.assert_allclose(
        numbers(near, "distance [mm]"), numbers(one, "distance [mm]"), atol=0.02
    )
    assert numbers(first, "distance [mm]")[0] > numbers(one, "distance [mm]")[0] + 1


def test_the_list_follows_the_order_of_the_segments(panel):  # noqa: F811
    _, middle, axis = bundle()
    lesion, ui = several(middle, axis), panel.ui
    ui.lesionSelector.setCurrentNode(lesion)
    ui.lesionSegmentBox.setCurrentIndex(2)
    lesion.GetSegmentation().SetSegmentIndex("second", 0)
    panel.enter()
    assert listed(panel) == ["(all together)", "tumour", "oedema"]
    assert ui.lesionSegmentBox.currentText() == "tumour"
    assert panel._parameters.lesion_segment == "second"


def test_a_segment_that_goes_or_another_lesion_is_not_passed_over(panel, desktop):  # noqa: F811
    nodes, middle, axis = bundle()
    panel.logic.tracts(nodes, count=5)
    lesion, ui = several(middle, axis), panel.ui
    ui.tensorSelector.setCurrentNode(nodes[-1])
    ui.lesionSelector.setCurrentNode(lesion)
    ui.lesionSegmentBox.setCurrentIndex(2)
    desktop.scene.InvokeEvent(desktop.scene.EndImportEvent)
    assert ui.lesionSegmentBox.currentText() == "tumour"
    lesion.GetSegmentation().RemoveSegment("second")
    panel.enter()
    assert not ui.planApplyButton.isEnabled()
    assert "the segment that was chosen is gone" in ui.planApplyButton.toolTip()
    ui.lesionSegmentBox.setCurrentIndex(0)
    assert ui.planApplyButton.isEnabled()
    lesion = several(middle, axis, "again")
    ui.lesionSelector.setCurrentNode(lesion)
    ui.lesionSegmentBox.setCurrentIndex(1)
    ui.lesionSelector.setCurrentNode(several(middle, axis, "third"))
    assert panel._parameters.lesion_segment == ""
    assert ui.lesionSegmentBox.currentText() == "(all together)"
