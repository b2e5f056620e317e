"""`dmrimicro codebook`, `adapt` and `train codebook`, with networks that know nothing."""

import json
import os
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from phantom import protocol, ring_scan
from tiny_codebook import TINY, one_thread, tiny_weights  # noqa: F401
from typer.testing import CliRunner

import DMRIMicroLib as dm
from DMRIMicroLib.cli import app
from DMRIMicroLib.codebooks.kernel_maps import IMAGE, TABLE
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.io import nifti
from DMRIMicroLib.training.pool import METRICS


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


def ran(*words):
    run = CliRunner().invoke(app, [str(w) for w in words])
    if run.exception is not None and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == 0, run.output
    return run


def test_codebook_writes_maps_deviations_and_report(scan_files, weights, tmp_path):
    mask = scan_files.with_name("mask.nii.gz")
    words = ["codebook", scan_files, "--mask", mask, "--weights", weights, "--out", tmp_path]
    run = ran(*words, "--kernels", "--progress", "json")
    shares = [json.loads(line)["progress"] for line in run.output.splitlines() if line[0] == "{"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    maps = dm.MapSet.load(tmp_path)
    assert len(maps) == 25
    assert maps["NDI"].uncertainty is not None
    report = (tmp_path / "report.html").read_text().split('id="provenance"')[0]
    assert report.count("metrics that this acquisition by itself does not determine: MK, AK") == 1
    heads = [part.split("</h4>")[0] for part in report.split("<h4 ")[1:]]
    heads = [head for head in heads if "prior-driven" in head]
    marked = {name for name in METRICS if any(re.search(f">{name}[: ]", h) for h in heads)}
    assert marked == set(maps.provenance["codebook"]["prior_driven"])
    assert "Standard deviation of NDI" in report
    assert "a fit would need 2 non-zero shells" in report
    image = nib.load(tmp_path / IMAGE)
    table = json.loads((tmp_path / TABLE).read_text())
    book = image.get_fdata()
    assert book.shape[3] == len(table["volumes"]) == TINY["kernels"]
    np.testing.assert_allclose(book.sum(3)[maps.mask], 1, atol=1e-3)
    assert not book[~maps.mask].any()
    assert table["volumes"][-2]["kind"] == "free water"
    ran(*words, "--no-report")  # what would tell of other maps goes
    assert not (tmp_path / IMAGE).exists()
    assert not (tmp_path / TABLE).exists()
    assert not (tmp_path / "report.html").exists()


def test_a_metric_is_learned_and_used(weights, tmp_path):
    scan = ring_scan(protocol({1000.0: 12}), shape=(16, 16, 4), sigma=30.0)
    nifti.save(scan.with_mask(np.ones(scan.shape)), tmp_path / "dwi.nii.gz")
    image, mask = tmp_path / "dwi.nii.gz", tmp_path / "dwi_mask.nii.gz"
    known = dm.codebook(scan.with_mask(np.ones(scan.shape)), weights=weights)["FA"].data
    nib.save(nib.Nifti1Image(100 * known, scan.affine), tmp_path / "percent.nii.gz")
    file = tmp_path / "percent.safetensors"
    words = ["adapt", image, tmp_path / "percent.nii.gz", "--name", "percent", "--unit", "%"]
    words += ["--mask", mask, "--weights", weights, "--out", file]
    said = ran(*words).output
    assert "1024 voxels" in said
    with pytest.raises(InputError, match="is there already"):
        ran(*words)
    ran(
        *["codebook", image, "--mask", mask, "--weights", weights, "--out", tmp_path / "maps"],
        *["--extra", file, "--no-report"],
    )
    maps = dm.MapSet.load(tmp_path / "maps")
    assert maps["percent"].unit == "%"
    assert np.corrcoef(maps["percent"].data.ravel(), known.ravel())[0, 1] > 0.95


def test_without_weights_of_that_name_the_error_is_short(scan_files, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"there are no weights 'magic'.*\.safetensors file"):
        ran("codebook", scan_files, "--weights", "magic", "--out", out)
    assert not out.exists()


@pytest.fixture
def short(monkeypatch):
    """Make the cpu preset one of seconds, and slices tiny ones."""
    from DMRIMicroLib.training import recipe

    def tiny(preset, name):
        if name == "demic":
            sizes = {"widths": [4, 8], "kernels": 12}
            settings = {"steps": 3, "batch": 1, "warmup": 1, "save_every": 1}
            return recipe.Recipe(preset, 2, 0.5, 0, 1, sizes, settings, {"edge": 16}, kind=name)
        settings = {"steps": 3, "batch": 1, "warmup": 1, "save_every": 1}
        return recipe.Recipe(
            preset, 2, 0.5, 1, 1, dict(TINY), settings, {"edge": 16}, head=(6, 2, 1)
        )

    monkeypatch.setattr(recipe, "read_recipe", tiny)


def test_train_makes_weights_that_codebook_takes(short, tmp_path, monkeypatch, scan_files):
    from test_codebook_training import tiny_pool

    pool = tiny_pool(tmp_path / "pool", 2, seed=5)
    words = ["train", "codebook", "--out", tmp_path / "run", "--pool", pool, "--slices", 2]
    words += ["--seed", 5, "--workers", 0, "--anatomies", "small"]
    assert "codebook-1.0.0.safetensors" in ran(*words).output
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(log) == 4
    card = json.loads((tmp_path / "run" / "codebook-1.0.0.json").read_text())
    assert len(card["data"]["calibration"]) == 24
    assert card["training"]["recipe"]["seed"] == 5
    before = (tmp_path / "run" / "codebook-1.0.0.safetensors").read_bytes()
    ran(*words)  # nothing left to do: the same weights
    assert (tmp_path / "run" / "codebook-1.0.0.safetensors").read_bytes() == before
    with pytest.raises(InputError, match="begun with other settings: training"):
        ran(*words, "--steps", 9)
    file = tmp_path / "run" / "codebook-1.0.0.safetensors"
    mask = scan_files.with_name("mask.nii.gz")
    words = ["codebook", scan_files, "--mask", mask, "--weights", file, "--no-report"]
    ran(*words, "--out", tmp_path / "maps")


def test_train_makes_demic_and_leaves_metrics_out(short, tmp_path):
    from test_codebook_training import tiny_pool

    pool = tiny_pool(tmp_path / "pool", 2, seed=5)
    words = ["--pool", pool, "--slices", 2, "--seed", 5, "--workers", 0, "--anatomies", "small"]
    told = ran("train", "demic", "--out", tmp_path / "demic", *words).output
    assert "demic-1.0.0.safetensors" in told
    assert json.loads((tmp_path / "demic" / "demic-1.0.0.json").read_text())["kind"] == "demic"
    ran("train", "codebook", "--out", tmp_path / "less", "--without", "MK, RTOP", *words)
    card = json.loads((tmp_path / "less" / "codebook-1.0.0.json").read_text())
    assert len(card["data"]["metrics"]) == len(card["arguments"]["metrics"]) == 22
    assert card["training"]["recipe"]["without"] == ["MK", "RTOP"]
    with pytest.raises(InputError, match="there is no metric MKK"):
        ran("train", "codebook", "--out", tmp_path / "x", "--without", "MKK", *words)
    assert not (tmp_path / "x").exists()


def test_the_library_needs_no_lightning_and_training_says_what_it_needs(tmp_path):
    code = (
        "import sys; sys.modules['lightning_fabric'] = None\n"
        "import DMRIMicroLib as dm\n"
        "dm.codebook, dm.adapt, dm.fit\n"
        "import DMRIMicroLib.training\n"
        "from DMRIMicroLib.cli import run\n"
        f"sys.argv = ['dmrimicro', 'train', 'codebook', '--out', {str(tmp_path / 'run')!r}]\n"
        "run()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode == 2
    assert 'pip install "dmrimicro[train]"' in run.stderr
    assert not (tmp_path / "run").exists()


def test_presets_build_networks_and_trainings():
    from DMRIMicroLib.codebooks.network import Codebook
    from DMRIMicroLib.training.examples import ExampleConfig
    from DMRIMicroLib.training.loop import Training
    from DMRIMicroLib.training.recipe import read_recipe
    from DMRIMicroLib.weights.store import LARGEST

    for preset in ("cpu", "gpu"):
        recipe = read_recipe(preset)
        network = Codebook(recipe.shape())
        assert 4 * sum(v.numel() for v in network.state_dict().values()) < LARGEST
        assert Training(**recipe.training).steps > 1000
        assert ExampleConfig(**recipe.examples).edge >= 32
    with pytest.raises(InputError, match="no preset 'tpu'"):
        read_recipe("tpu")
