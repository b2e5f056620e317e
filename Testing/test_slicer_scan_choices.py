"""Mask and tensor are chosen for a scan, in a stand-in for the desktop."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import slicer_scene as ss
import test_slicer_widget as widget
from test_slicer_logic import full_mask, temporary, wait  # noqa: F401
from test_slicer_widget import desktop, log, panel  # noqa: F401


def fitted(panel, name: str, **options):  # noqa: F811
    """Add a scan and fit its tensor; return both nodes."""
    scan = widget.add_scan(name=name, **options)
    nodes = panel.logic.fit(scan, "dti", full_mask(), device="cpu")
    return scan, next(n for n in nodes if n.IsA("vtkMRMLDiffusionTensorVolumeNode"))


def choose(selector, node):
    selector.setCurrentNode(node)


def test_mask_and_tensor_stay_with_their_scan_and_come_back_with_it(panel, desktop):  # noqa: F811
    ui = panel.ui
    (one, tensor), (other, _) = fitted(panel, "one"), fitted(panel, "other")
    mask = widget.add_mask()
    choose(ui.dwiSelector, one)
    choose(ui.maskSelector, mask)
    choose(ui.tensorSelector, tensor)
    assert "belongs to" not in log(panel)
    choose(ui.dwiSelector, other)
    assert ui.maskSelector.currentNode() is None
    assert ui.tensorSelector.currentNode() is None
    assert (panel._parameters.mask, panel._parameters.tensor) == (None, None)
    for node in ("my mask", tensor.GetName()):
        assert f"'{node}' belongs to 'one' and is no longer chosen for 'other'" in log(panel)
    choose(ui.dwiSelector, one)
    assert ui.maskSelector.currentNode() is mask
    assert ui.tensorSelector.currentNode() is tensor
    assert log(panel).count("belongs to") == 2
    desktop.scene.InvokeEvent(desktop.scene.EndImportEvent)
    assert ui.maskSelector.currentNode() is mask


def test_a_mask_can_be_chosen_for_a_second_scan(panel):  # noqa: F811
    ui, one, other = panel.ui, widget.add_scan(name="one"), widget.add_scan(name="other")
    mask = widget.add_mask()
    choose(ui.dwiSelector, one)
    choose(ui.maskSelector, mask)
    choose(ui.dwiSelector, other)
    choose(ui.maskSelector, mask)
    assert "Note: 'my mask' was made of" not in log(panel)  # nobody knows of what
    for scan in (one, other, one):
        choose(ui.dwiSelector, scan)
        assert ui.maskSelector.currentNode() is mask


def test_a_mask_that_was_chosen_before_any_scan_is_taken(panel):  # noqa: F811
    mask = widget.add_mask()
    choose(panel.ui.maskSelector, mask)
    widget.add_scan(name="one")
    assert panel.ui.dwiSelector.currentNode().GetName() == "one"
    assert panel.ui.maskSelector.currentNode() is mask


def test_a_mask_goes_on_to_the_enhanced_scan_of_the_head_but_the_tensor_does_not(panel):  # noqa: F811
    ui, (one, tensor) = panel.ui, fitted(panel, "one", directions=20)
    (finer,) = panel.logic.enhance(one, "interpolate", "keep", maskNode=full_mask())
    mask = widget.add_mask()
    choose(ui.dwiSelector, one)
    choose(ui.maskSelector, mask)
    choose(ui.tensorSelector, tensor)
    choose(ui.dwiSelector, finer)
    assert ui.maskSelector.currentNode() is mask
    assert ui.tensorSelector.currentNode() is None


def test_what_was_chosen_for_the_enhanced_scan_is_not_replaced_by_the_mask_before(panel):  # noqa: F811
    from DMRIMicroSlicer.results import mark_scan

    ui, one, finer = panel.ui, widget.add_scan(name="one"), widget.add_scan(name="finer")
    mark_scan(finer, one.GetID())
    coarse, own = widget.add_mask(), widget.add_mask()
    for scan, mask in ((finer, own), (one, coarse)):
        choose(ui.dwiSelector, scan)
        choose(ui.maskSelector, mask)
    for scan, mask in ((finer, own), (one, coarse), (finer, own)):
        choose(ui.dwiSelector, scan)
        assert ui.maskSelector.currentNode() is mask
    assert "belongs to" not in log(panel)


def test_a_mask_goes_on_to_a_scan_that_was_enhanced_twice(panel):  # noqa: F811
    from DMRIMicroSlicer.results import mark_scan

    ui, scans = panel.ui, [widget.add_scan(name=name) for name in ("one", "finer", "finest")]
    for made, source in zip(scans[1:], scans[:-1], strict=True):
        mark_scan(made, source.GetID())
    mask = widget.add_mask()
    choose(ui.dwiSelector, scans[0])
    choose(ui.maskSelector, mask)
    for scan in (scans[2], scans[1], scans[2]):
        choose(ui.dwiSelector, scan)
        assert ui.maskSelector.currentNode() is mask


def test_a_mask_does_not_go_on_when_its_scan_is_removed(panel, desktop):  # noqa: F811
    ui, one = panel.ui, widget.add_scan(name="one")
    other = widget.add_scan(name="other")
    choose(ui.dwiSelector, one)
    choose(ui.maskSelector, widget.add_mask())
    desktop.scene.RemoveNode(one)
    assert ui.dwiSelector.currentNode() is other
    assert ui.maskSelector.currentNode() is None
    assert "'my mask' belongs to 'one'" in log(panel)


def test_a_tensor_of_another_scan_can_be_chosen_but_not_with_deconvolution(panel):  # noqa: F811
    ui, (_, tensor), other = panel.ui, fitted(panel, "one"), widget.add_scan(name="other")
    choose(ui.dwiSelector, other)
    choose(ui.tensorSelector, tensor)
    assert f"Note: '{tensor.GetName()}' was made of 'one', not of 'other'." in log(panel)
    assert ui.tractsApplyButton.isEnabled()
    ui.followBox.setCurrentIndex(1)
    assert not ui.tractsApplyButton.isEnabled()
    told = ui.tractsApplyButton.toolTip()
    assert f"'{tensor.GetName()}' was made of 'one', deconvolution would take 'other'" in told


def test_flags_as_a_mask_are_of_their_scan(panel):  # noqa: F811
    from DMRIMicroSlicer.results import scan_of, show_maps

    import DMRIMicroLib as dm

    ui, one, other = panel.ui, widget.add_scan(name="one"), widget.add_scan(name="other")
    scan = ss.scan().with_mask(np.ones(ss.scan().shape, bool))
    maps = dm.fit(scan, ["dti"], device="cpu")
    maps = replace(maps, flags={"dti": np.full(scan.shape, 3, np.uint8)})
    nodes = show_maps(maps, "other", other.GetID())
    flags = next(n for n in nodes if n.IsA("vtkMRMLLabelMapVolumeNode"))
    assert {scan_of(n).GetID() for n in nodes} == {other.GetID()}
    choose(ui.dwiSelector, one)
    choose(ui.maskSelector, flags)
    assert "was made of 'other', not of 'one'" in log(panel)
    choose(ui.dwiSelector, other)
    assert ui.maskSelector.currentNode() is flags  # where it belongs


def test_maps_of_a_worker_name_and_refer_to_their_scan(panel, temporary):  # noqa: F811
    from DMRIMicroSlicer.results import PROVENANCE, scan_of
    from DMRIMicroSlicer.tract_inputs import Maps

    scan, done = widget.add_scan(name="head"), []
    job = panel.logic.start(scan, "dti", full_mask(), device="cpu", onDone=done.extend)
    assert wait(job) == "done"
    assert {scan_of(node).GetID() for node in done} == {scan.GetID()}
    assert json.loads(done[0].GetAttribute(PROVENANCE))["dti"]["scan"]["name"] == "head"
    assert Maps.unfitted(done[0]).name == "head"
