"""Building anatomies: what is needed, what is skipped, what a stop leaves behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REAL
from toy_anatomy import onion
from typer.testing import CliRunner

from DMRIMicroLib.brain import build as building
from DMRIMicroLib.brain import sources
from DMRIMicroLib.brain.anatomy import anatomy_folder, load_anatomy, save
from DMRIMicroLib.brain.build import NAMES, build
from DMRIMicroLib.brain.register import Image, Warp, world
from DMRIMicroLib.cli import app
from DMRIMicroLib.errors import InputError


@pytest.fixture
def data(tmp_path):
    """A folder with the names of all files, and nothing in them."""
    root = tmp_path / "data"
    names = [f"anatomy/{f}" for f in sources.ATLAS_FILES] + [f"orientation/{sources.TEMPLATE}"]
    names += [f"orientation/{f}" for files in sources.PERSON_FILES.values() for f in files]
    names += [f"orientation/{folder}/AF_L.trk" for folder in sources.BUNDLE_FOLDERS]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def quick(monkeypatch):
    """The long part of the work left out; gives the names of what was made."""
    made = []

    def anatomy(workshop, name):
        made.append(name)
        workshop.begin("anatomy", f"Putting {name} together")
        return replace(onion(), name=name)

    monkeypatch.setattr(building._Workshop, "anatomy", anatomy)
    return made


def test_every_atlas_meets_every_person():
    assert len(NAMES) == 8
    assert {"icbm-tractseg", "sri24-afni"} < set(NAMES)


def test_all_are_built_and_can_be_loaded(data, quick, tmp_path):
    told = []
    out = tmp_path / "out"
    built = build(data, out, progress=lambda share, text: told.append(share))
    assert [b.name for b in built] == quick == list(NAMES)
    assert all(load_anatomy(b.file).name == b.name and b.seconds is not None for b in built)
    assert told == sorted(told)
    assert told[-1] <= 1


def test_a_stopped_build_is_taken_up_where_it_stopped(data, quick, tmp_path):
    out = tmp_path / "out"

    def stop(share, text):
        if NAMES[2] in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(data, out, progress=stop)
    assert sorted(f.name for f in out.iterdir()) == sorted(f"{n}.safetensors" for n in NAMES[:2])
    quick.clear()
    built = build(data, out)
    assert quick == list(NAMES[2:])
    assert [b.seconds is None for b in built] == [True, True] + [False] * 6


def test_what_is_there_needs_no_data(quick, tmp_path):
    save(onion(), tmp_path / "icbm-afni.safetensors")
    assert build(tmp_path / "nowhere", tmp_path, names=["icbm-afni"])[0].seconds is None
    assert not quick


def test_a_damaged_anatomy_and_one_asked_for_again_are_built_anew(data, quick, tmp_path):
    (tmp_path / "icbm-afni.safetensors").write_bytes(b"broken")
    build(data, tmp_path, names=["icbm-afni"])
    build(data, tmp_path, names=["icbm-afni"])
    build(data, tmp_path, names=["icbm-afni"], rebuild=True)
    assert quick == ["icbm-afni"] * 2


def test_missing_files_are_named_before_any_work(data, quick, tmp_path):
    (data / "orientation/afni/DT_V1+orig.BRIK.gz").unlink()
    build(data, tmp_path / "out", names=["icbm-niivue"])  # which does not need them
    with pytest.raises(InputError, match="afni/DT_V1"):
        build(data, tmp_path / "out")
    (data / "orientation/centroids_mni/AF_L.trk").unlink()
    with pytest.raises(InputError, match=r"centroids_mni/\*.trk"):
        build(data, tmp_path / "out", names=["sri24-niivue"])
    assert quick == ["icbm-niivue"]


def test_a_damaged_source_is_named(data, tmp_path):
    with pytest.raises(InputError, match=r"pbmap|brain_mask"):
        build(data, tmp_path / "out", names=["icbm-tractseg"])
    with pytest.raises(InputError, match=r"dsistudio.fib.gz: cannot be read"):
        sources.dsistudio(data / "orientation")
    assert not (tmp_path / "out").exists()


def test_an_unknown_anatomy_is_refused(data):
    with pytest.raises(InputError, match="icbm-nobody"):
        build(data, names=["icbm-nobody"])


def test_what_anatomies_share_is_worked_out_once(monkeypatch, tmp_path):
    """The real order of work, on a toy of a brain, with registration left out."""
    calls = []
    affine, shape = np.diag([20.0, 20.0, 20.0, 1.0]), (9, 11, 9)
    affine[:3, 3] = (-80, -110, -73.5)
    monkeypatch.setattr(building, "GRID", ((-80.0, -110.0, -73.5), shape, 20.0))
    monkeypatch.setattr(building, "COARSE", ((-80.0, -110.0, -73.5), shape, 20.0))
    radius = np.linalg.norm(world(affine, shape) - world(affine, shape).mean((0, 1, 2)), axis=-1)
    white, grey = (radius < 50).astype(np.float32), ((radius >= 50) & (radius < 75)) * 0.9
    fluid = ((radius >= 50) & (radius < 75)) * 0.1
    atlas = Image(np.stack([white, grey, fluid]).astype(np.float32), affine)
    fa = Image((0.5 * white).astype(np.float32), affine)
    along = np.zeros((1, 3, *shape), np.float32)
    along[0, 0] = white

    def register(static, moving, **_):
        calls.append("register")
        return Warp(static.affine, world(static.affine, static.data.shape))

    def person(name):
        return lambda folder: sources.FibreSource(name, fa, Image(along, affine), name)

    monkeypatch.setattr(building, "register", register)
    monkeypatch.setattr(building, "without_rim", lambda image: image)
    monkeypatch.setattr("DMRIMicroLib.brain.assemble.without_rim", lambda image: image)
    monkeypatch.setattr("DMRIMicroLib.brain.assemble.GRID", building.GRID)
    monkeypatch.setattr(sources, "check", lambda *_: None)
    monkeypatch.setattr(sources, "icbm", lambda _: atlas)
    monkeypatch.setattr(sources, "sri24", lambda _: atlas)
    monkeypatch.setattr(sources, "fa_template", lambda _: fa)
    monkeypatch.setattr(sources, "SUBJECTS", {n: person(n) for n in sources.SUBJECTS})
    none = np.zeros(shape, np.uint8)
    monkeypatch.setattr(building.bundles, "label", lambda *_: (none, ("AF",)))
    shares = []
    built = build(tmp_path, tmp_path / "out", progress=lambda share, text: shares.append(share))
    assert len(calls) == 1 + 4 + 2  # template, people, SRI24 by an affine and by a warp
    assert shares == sorted(shares)
    assert len(shares) == len(set(shares)) == 1 + 1 + 1 + 4 + 1 + 8
    head = load_anatomy(built[-1].file)
    assert head.name == "sri24-afni"
    inside = torch.from_numpy(white > 0)
    assert head.tissue[0][inside].float().mean() > 0.8
    assert head.peaks[0, 0][inside].abs().float().mean() > 0.8


# the command


def test_the_command_builds_and_lists(data, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("DMRIMICRO_CACHE", str(tmp_path / "cache"))
    run = CliRunner().invoke(
        app, ["anatomy", "build", "--data", str(data), "--names", "icbm-afni,sri24-afni"]
    )
    assert run.exit_code == 0, run.output
    assert "icbm-afni:" in run.output
    assert load_anatomy("sri24-afni").name == "sri24-afni"
    assert (anatomy_folder() / "icbm-afni.safetensors").exists()
    said = CliRunner().invoke(app, ["anatomy", "list"]).output
    assert "small:" in said
    assert "sri24-afni:" in said
    assert "not built: icbm-tractseg" in said
    again = CliRunner().invoke(
        app, ["anatomy", "build", "--data", str(data), "--names", "icbm-afni"]
    )
    assert "was there" in again.output


def test_the_command_wants_one_source(data):
    for words in ([], ["--data", str(data), "--from-nilearn"]):
        error = CliRunner().invoke(app, ["anatomy", "build", *words]).exception
        assert isinstance(error, InputError)
        assert "either --data" in str(error)


def test_without_nilearn_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nilearn", None)
    words = ["anatomy", "build", "--from-nilearn", "--out", str(tmp_path)]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, InputError)
    assert "pip install nilearn" in str(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not (REAL.parent / "anatomy").exists(), reason="public data are not here")
def test_the_layout_of_the_public_data_is_the_one_that_is_checked():
    sources.check(sources.SUBJECTS, REAL.parent)
