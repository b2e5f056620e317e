"""PIGMENT in the Slicer module, beside the codebook: with weights that know nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer_scene as ss
import test_slicer_widget as widget
from test_slicer_codebook import by_name, logic, scan_node, shipped, weights  # noqa: F401
from test_slicer_logic import Heard, full_mask, temporary, wait  # noqa: F401
from test_slicer_widget import boxes, desktop, log, panel  # noqa: F401
from tiny_codebook import one_thread  # noqa: F401

QUICK = {"preset": "fast", "samples": 1}
TENSOR = ["FA", "MD", "AD", "RD"]
QUALITY = ["prior share", "residual"]


def test_maps_are_shown_apart_with_the_priors_share(logic, weights):  # noqa: F811
    dwi = scan_node()
    words = {"weights": str(weights), "device": "cpu", **QUICK}
    nodes = by_name(logic.pigment(dwi, full_mask(), models="dti, noddi", **words))
    names = [*TENSOR, "NDI", "ODI", "FWF", *QUALITY]
    assert list(nodes) == [f"brain pigment {name}" for name in names]
    assert nodes["brain pigment MD"].GetAttribute("DMRIMicro.unit") == "mm2/s"
    share = nodes["brain pigment prior share"]
    assert share.GetAttribute("DMRIMicro.metric") == "prior_share"
    values = ss.boot().slicer.util.arrayFromVolume(share)
    assert 0 < values.max() <= 1
    made = json.loads(share.GetAttribute("DMRIMicro.provenance"))["pigment"]
    assert (made["samples"], made["steps"]) == (1, 4)
    assert nodes["brain pigment NDI"].GetAttribute("DMRIMicro.prior_driven")
    assert not nodes["brain pigment FA"].GetAttribute("DMRIMicro.prior_driven")
    book = by_name(logic.codebook(dwi, full_mask(), weights=str(weights), device="cpu"))
    assert not set(book) & set(nodes)


def test_the_worker_gives_the_same_maps(logic, weights, temporary):  # noqa: F811
    dwi, heard, notes = scan_node(), Heard(), []
    words = {"weights": str(weights), "device": "cpu", "uncertainty": True, **QUICK}
    job = logic.startPigment(
        dwi, full_mask(), models=["dti", "noddi"], **words,
        onProgress=lambda *told: heard.progress.append(told),
        onDone=heard.done.append, onError=heard.errors.append, onNote=notes.append,
    )  # fmt: skip
    assert wait(job) == "done", heard.errors
    assert heard.progress[-1][0] == 1
    there = by_name(heard.done[0])
    assert "brain pigment FA SD" in there
    util = ss.boot().slicer.util
    here = logic.pigment(dwi, full_mask(), models=["dti", "noddi"], **words)
    for node, (name, other) in zip(here, there.items(), strict=True):
        assert node.GetName() == f"{name}_1"
        np.testing.assert_allclose(
            util.arrayFromVolume(node), util.arrayFromVolume(other), rtol=2e-3, atol=1e-5
        )
    made_of = {n.GetNodeReferenceID("DMRIMicro.scan") for n in (*here, *there.values())}
    assert made_of == {dwi.GetID()}
    assert any("pigment: metrics that this acquisition" in note for note in notes)
    assert list(temporary.iterdir()) == []


def test_what_cannot_run_says_so_and_leaves_nothing(logic, weights, temporary):  # noqa: F811
    from DMRIMicroLib.errors import InputError

    with pytest.raises(InputError, match="Install a release of DMRIMicro, which brings them; or"):
        logic.startPigment(scan_node())
    with pytest.raises(TypeError, match="PIGMENT has no option 'robust'"):
        logic.startPigment(scan_node(), weights=str(weights), robust=True)
    with pytest.raises(InputError, match="there is no model 'magic'"):
        logic.pigment(scan_node(), full_mask(), models="magic", weights=str(weights))
    heard = Heard()
    job = logic.startPigment(
        scan_node(), full_mask(), models="magic", weights=str(weights), onError=heard.errors.append
    )
    assert wait(job) == "failed"
    assert "there is no model 'magic'" in heard.errors[0]
    assert list(temporary.iterdir()) == []


def test_offers_tell_what_each_method_gives(logic, weights):  # noqa: F811
    offers = logic.offers(str(weights))
    assert list(offers) == ["codebook", "pigment"]
    names = [metric.name for metric in offers["pigment"].metrics]
    assert names == [*TENSOR, "MK", "AK", "RK", "NDI", "ODI", "FWF"]
    assert len(offers["codebook"].metrics) == 24
    told = logic.suitability(scan_node(), list(offers.values()))
    assert set(told["pigment"].prior_driven) == set(names) - set(TENSOR)
    assert any("a lesion may be missing or invented" in c for c in told["pigment"].cautions)
    assert not any("lesion" in c for c in told["codebook"].cautions)
    without = logic.offers()
    assert without["pigment"].problem == without["codebook"].problem != ""


def test_the_panel_says_what_to_do_when_there_are_no_weights(panel):  # noqa: F811
    widget.add_scan()
    box = boxes(panel)["pigment"]
    said = box.text().replace("\n", " ")
    assert said.startswith("PIGMENT (very few volumes; takes minutes): there are no weights")
    assert not box.isEnabled()


def test_the_panel_runs_a_fit_and_then_pigment(
    desktop, panel, weights, monkeypatch, tmp_path  # noqa: F811
):  # fmt: skip
    start = panel.logic.startPigment
    monkeypatch.setattr(panel.logic, "startPigment", lambda *a, **k: start(*a, **k, **QUICK))
    widget.add_scan()
    panel.ui.maskSelector.setCurrentNode(widget.add_mask())
    panel.ui.weightsPath.setCurrentPath(str(weights))
    box = boxes(panel)["pigment"]
    assert box.isEnabled()
    assert max(map(len, box.text().splitlines())) <= 60
    assert "NDI: " in box.toolTip()
    box.setChecked(True)
    assert "a lesion may be missing or invented" in panel.ui.cautionLabel.text()
    panel.ui.applyButton.click()
    widget.wait_for(desktop, lambda: panel.job is None, seconds=180)
    assert desktop.shown == []
    said = log(panel)
    assert said.index("Added 'brain FA'") < said.index("Added 'brain pigment FA'")
    assert panel.ui.applyButton.isEnabled()
    widget.picture(panel, tmp_path / "pigment.png")
