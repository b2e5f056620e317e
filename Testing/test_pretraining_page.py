"""The walk-through of docs/pretraining.md, line by line, with networks that know nothing."""

import json
import re
import shlex

import pytest
from conftest import ROOT
from test_cli_codebook import ran
from test_pretrain_training import QUICK, presets, quick_fits
from tiny_codebook import one_thread, tiny_weights  # noqa: F401

from DMRIMicroLib import cli_cohort
from DMRIMicroLib.cohort.derivatives import describe
from DMRIMicroLib.cohort.work import run_job
from DMRIMicroLib.pretrain.dictionary import begin
from DMRIMicroLib.weights import store, verify

BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.S)
SIZE = re.compile(r"(--voxel-size|--target-voxel) \d+")


def blocks(language: str) -> list[str]:
    """Return the code of the section that is to be copied."""
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    section = page.split("## Try it on simulated scans\n")[1].split("\n## ")[0]
    return [code for kind, code in BLOCK.findall(section) if kind == language]


def here(data, options, out, place, retries, anew, progress) -> None:
    """Run a cohort in this process: starting others takes seconds."""
    describe(out, data.folder)
    for job in cli_cohort._jobs(data, options, out, anew, [0]):
        outcome = run_job(job)
        assert outcome.status == "done", outcome.trace


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Run all commands in a folder, with voxels as coarse as can be and hardly any training."""
    folder = tmp_path_factory.mktemp("walk")
    tiny_weights(tmp_path_factory.mktemp("shipped"), name="codebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(store, "SHIPPED", next(folder.parent.glob("shipped*")))
        patch.setattr("DMRIMicroLib.pretrain.prepare.fitted", quick_fits)
        few_atoms = begin(20, 0.1)
        patch.setattr("DMRIMicroLib.pretrain.prepare.learn", lambda *a, **k: few_atoms)
        patch.setattr(cli_cohort, "_participants", here)
        presets(patch, QUICK)
        said = {}
        for line in "".join(blocks("")).splitlines():
            program, *words = shlex.split(SIZE.sub(r"\1 10", line))
            assert program == "dmrimicro"
            said[line] = ran(*words).output
        yield folder, said


def test_the_commands_of_the_page_lead_to_maps(walked):
    folder, said = walked
    for name in ("mine", "mine-maps"):
        _, card = verify(folder / name / "codebook-finetuned-1.0.0.safetensors", "codebook")
        assert card.training["begun with"]["weights"]["name"] == "codebook-pretrained-1.0.0"
        assert card.training["data"]["subjects"] == 3
    home = folder / "maps" / "sub-04" / "dwi"
    for model in ("codebook", "pigment"):
        told = json.loads((home / f"sub-04_model-{model}_param-NDI_dwimap.json").read_text())
        assert "codebook-finetuned-1.0.0" in json.dumps(told)
    assert any("SNR of b0" in text for text in said.values())


def test_the_lines_for_slicer_put_maps_into_the_scene(walked, monkeypatch):
    import slicer_scene as ss

    slicer = ss.boot().slicer
    with ss.clean_scene():
        from DMRIMicroSlicer.logic import DMRIMicroLogic

        monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: DMRIMicroLogic())
        (code,), names = blocks("python"), {"slicer": slicer}
        exec(code, names)
        made = json.loads(names["nodes"][0].GetAttribute("DMRIMicro.provenance"))["codebook"]
        assert made["weights"]["name"] == "codebook-finetuned-1.0.0"
