"""The codebook in the Slicer module: with weights that know nothing, and without any."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import slicer_scene as ss
import test_slicer_widget as widget
from test_slicer_logic import Heard, full_mask, temporary, wait  # noqa: F401
from test_slicer_widget import boxes, desktop, log, panel  # noqa: F401
from tiny_codebook import one_thread, tiny_weights  # noqa: F401


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    ss.boot()
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """Let the library come without weights."""
    from DMRIMicroLib.weights import store

    monkeypatch.setattr(store, "SHIPPED", tmp_path)
    return tmp_path


@pytest.fixture
def logic():
    with ss.clean_scene():
        from DMRIMicroSlicer.logic import DMRIMicroLogic

        yield DMRIMicroLogic()


def scan_node(name: str = "brain"):
    from DMRIMicroSlicer.nodes import node_from_scan

    return node_from_scan(ss.scan(name=name))


def by_name(nodes) -> dict:
    return {node.GetName(): node for node in nodes}


def test_all_metrics_are_shown_apart_from_those_of_a_fit(logic, weights):
    from DMRIMicroLib.training.pool import METRICS

    dwi = scan_node()
    logic.fit(dwi, "dti", full_mask(), device="cpu")
    nodes = by_name(logic.codebook(dwi, full_mask(), weights=str(weights), device="cpu"))
    assert list(nodes) == [f"brain codebook {name}" for name in (*METRICS, "residual")]
    md = nodes["brain codebook MD"]
    assert md.GetAttribute("DMRIMicro.metric") == "MD"
    assert md.GetAttribute("DMRIMicro.unit") == md.GetVoxelValueUnits().GetCodeValue() == "mm2/s"
    made = json.loads(md.GetAttribute("DMRIMicro.provenance"))["codebook"]
    assert made["weights"]["name"] == "tiny-1.0.0"
    assert made["prior_driven"]


def test_prior_driven_metrics_are_marked_in_their_nodes(logic, weights):
    slicer = ss.boot().slicer
    nodes = by_name(
        logic.codebook(scan_node(), full_mask(), weights=str(weights), uncertainty=True)
    )
    told = json.loads(nodes["brain codebook MK"].GetAttribute("DMRIMicro.provenance"))
    leaning = told["codebook"]["prior_driven"]
    marked = {
        name.split()[2] for name, n in nodes.items() if n.GetAttribute("DMRIMicro.prior_driven")
    }
    assert marked == set(leaning)
    assert {"MK", "NDI"} <= marked
    assert "FA" not in marked
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    for name in ("brain codebook MK", "brain codebook MK SD"):
        node = nodes[name]
        assert node.GetAttribute("DMRIMicro.prior_driven") == "; ".join(leaning["MK"])
        assert "Prior-driven: this acquisition by itself" in node.GetDescription()
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        assert hierarchy.GetItemName(folder) == "prior-driven"
    fa = nodes["brain codebook FA"]
    assert fa.GetDescription() == "Fractional anisotropy"
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(fa))
    assert hierarchy.GetItemName(folder) == "brain codebook microstructure"


def test_the_worker_gives_the_same_maps_and_says_what_they_lean_on(logic, weights, temporary):  # noqa: F811
    dwi, heard, notes = scan_node(), Heard(), []
    job = logic.startCodebook(
        dwi, full_mask(), device="cpu", uncertainty=True, weights=str(weights),
        onProgress=lambda *told: heard.progress.append(told),
        onDone=heard.done.append, onError=heard.errors.append, onNote=notes.append,
    )  # fmt: skip
    assert wait(job) == "done", heard.errors
    assert heard.progress[-1][0] == 1
    there = by_name(heard.done[0])
    util = ss.boot().slicer.util
    here = logic.codebook(dwi, full_mask(), weights=str(weights), uncertainty=True, device="cpu")
    for node, (name, other) in zip(here, there.items(), strict=True):
        assert node.GetName() == f"{name}_1"
        np.testing.assert_allclose(
            util.arrayFromVolume(node), util.arrayFromVolume(other), rtol=1e-3, atol=1e-6
        )
    made_of = {n.GetNodeReferenceID("DMRIMicro.scan") for n in (*here, *there.values())}
    assert made_of == {dwi.GetID()}
    assert "brain codebook FA SD" in there
    assert any("by itself does not determine: MK" in note for note in notes)
    assert list(temporary.iterdir()) == []


def test_without_weights_nothing_starts_and_the_fix_is_told(logic, weights, tmp_path, temporary):  # noqa: F811
    from DMRIMicroLib.errors import InputError

    with pytest.raises(InputError, match="Install a release of DMRIMicro, which brings them; or"):
        logic.startCodebook(scan_node())
    broken = tmp_path / "broken.safetensors"
    shutil.copy(weights.with_suffix(".json"), broken.with_suffix(".json"))
    broken.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut off: get it anew"):
        logic.startCodebook(scan_node(), weights=str(broken))
    assert "cut off: get it anew" in logic.offers(str(broken))["codebook"].problem
    with pytest.raises(TypeError, match="the codebook has no option 'robust'"):
        logic.startCodebook(scan_node(), weights=str(weights), robust=True)
    assert list(temporary.iterdir()) == []


def test_a_metric_of_the_users_own_is_shown(logic, weights, tmp_path):
    import DMRIMicroLib as dm

    scan = ss.scan(shape=(12, 12, 4))
    scan = scan.with_mask(np.ones(scan.shape, bool))
    brightness = scan.signal[..., 0].astype(np.float32)
    file = tmp_path / "mine.safetensors"
    dm.adapt(weights, scan, brightness, name="mine", unit="um", out=file, device="cpu")
    nodes = by_name(
        logic.codebook(scan_node(), full_mask(), weights=str(weights), extra=[str(file)])
    )
    mine = nodes["brain codebook mine"]
    assert mine.GetVoxelValueUnits().GetCodeValue() == "um"


def test_the_panel_says_what_to_do_when_there_are_no_weights(panel):  # noqa: F811
    widget.add_scan()
    box = boxes(panel)["codebook"]
    said = box.text().replace("\n", " ")
    assert said.startswith("Codebook (all 24 metrics, any protocol): there are no weights")
    assert "Install a release of DMRIMicro" in said
    assert not box.isEnabled()
    assert "Install a release" in box.toolTip()
    panel.ui.dwiSelector.setCurrentNode(None)
    assert not box.isEnabled()


def test_the_panel_marks_prior_driven_metrics_and_runs_fit_and_codebook(
    desktop, panel, weights, tmp_path  # noqa: F811
):  # fmt: skip
    widget.add_scan()
    panel.ui.maskSelector.setCurrentNode(widget.add_mask())
    panel.ui.weightsPath.setCurrentPath(str(weights))
    box = boxes(panel)["codebook"]
    assert box.isEnabled()
    assert "FA, MD, AD, RD, MK*, AK*" in box.text()
    assert "* prior-driven in this scan" in box.text()
    assert "MK: Mean kurtosis (prior-driven: a fit would need " in box.toolTip()
    assert max(map(len, box.text().splitlines())) <= 60
    assert not panel.ui.cautionLabel.text()
    box.setChecked(True)
    assert "(prior-driven): MK, AK" in panel.ui.cautionLabel.text()
    panel.ui.applyButton.click()
    widget.wait_for(desktop, lambda: panel.job is None)
    assert desktop.shown == []
    said = log(panel)
    assert said.index("Added 'brain FA'") < said.index("Added 'brain codebook FA'")
    assert "Note: codebook: metrics that this acquisition by itself does not determine" in said
    assert panel.ui.applyButton.isEnabled()
    widget.picture(panel, tmp_path / "codebook.png")


def test_choices_of_the_codebook_are_kept_in_the_scene(panel, weights):  # noqa: F811
    from DMRIMicroSlicer.parameters import parameters

    widget.add_scan()
    panel.ui.weightsPath.setCurrentPath(str(weights))
    panel.ui.extraPath.setCurrentPath("mine.safetensors")
    boxes(panel)["codebook"].setChecked(True)
    panel.enter()  # looks for the weights again
    kept = parameters()
    assert (kept.weights, kept.extra) == (str(weights), "mine.safetensors")
    assert kept.models == "dti,codebook"
    assert panel.list.chosen() == ["dti", "codebook"]


def test_a_job_that_cannot_start_does_not_hold_up_the_next():
    ss.boot()
    from DMRIMicroSlicer.jobs import JobQueue

    class Job:
        def __init__(self):
            self.state = "running"

        def poll(self):
            return self.state

        def cancel(self):
            self.state = "cancelled"

    def refuse():
        raise ValueError("no")

    failures, jobs = [], [Job(), Job()]
    queue = JobQueue(failures.append)
    queue.run([refuse, lambda: jobs[0], lambda: jobs[1]])
    assert (len(failures), queue.current) == (1, jobs[0])
    assert not queue.poll()
    jobs[0].state = "failed"
    assert queue.poll()
    assert queue.current is jobs[1]
    queue.cancel()
    assert (queue.current, jobs[1].state) == (None, "cancelled")
