"""The registry: what it promises, and models of the user's own."""

import inspect

import numpy as np
import pytest
from phantom import protocol, ring_scan

import DMRIMicroLib as dm
from DMRIMicroLib import models
from DMRIMicroLib.errors import InputError, NotIdentifiable

PROMISED = {
    "dti": {"FA", "MD", "AD", "RD"},
    "dki": {"MK", "AK", "RK"},
    "freewater": {"FW", "FA_t"},
    "noddi": {"NDI", "ODI", "FWF"},
    "smt": {"SMT_D_par", "SMT_D_perp", "uFA"},
    "mcsmt": {"v_int", "D_int", "D_ext_perp"},
    "sandi": {"f_neurite", "f_soma", "R_soma"},
    "mapmri": {"RTOP", "RTAP", "RTPP"},
}
"""The 8 models and 24 scalar metrics."""

MINE = '''
"""A ball, the simplest model there is."""
from dataclasses import dataclass
from typing import ClassVar
import torch
from DMRIMicroLib.acquisition import Needs
from DMRIMicroLib.maps import Metric
from DMRIMicroLib.models import NonlinearModel, Parameter
from DMRIMicroLib.physics.compartments import ball
from DMRIMicroLib.physics.weighting import weighting


@dataclass(frozen=True)
class Ball(NonlinearModel):
    name: ClassVar[str] = "my-ball"
    title: ClassVar[str] = "Ball"
    metrics: ClassVar = (Metric("my_D", "Diffusivity", "um2/ms", 0, 3, needs=Needs(2, 1, 1)),)
    parameters: ClassVar = (Parameter("d", 0.0, 3.0, "um2/ms"), Parameter("S0", 0.0, 5.0))

    def signal(self, acq, parameters):
        return parameters[1] * ball(weighting(acq, parameters).b[:, None], parameters[0])

    def start(self, acq, signal):
        return torch.stack([torch.full_like(signal[0], 0.8), torch.ones_like(signal[0])])[None]

    def derive(self, parameters):
        return {"my_D": parameters[0]}
'''


@pytest.fixture
def registry():
    """Let a test register models, and forget them afterwards."""
    kept = dict(models.MODELS), dict(models.METRICS)
    yield models.MODELS
    for now, before in zip((models.MODELS, models.METRICS), kept, strict=True):
        now.clear()
        now.update(before)


def test_eight_models_give_the_24_metrics():
    for name, metrics in PROMISED.items():
        scalars = {m.name for m in models.MODELS[name].metrics if m.kind == "scalar"}
        assert scalars == metrics, name
    assert sum(map(len, PROMISED.values())) == 24


def test_every_metric_tells_range_window_and_title():
    for metric in models.METRICS.values():
        assert metric.low <= metric.window[0] < metric.window[1] <= metric.high, metric.name
        assert metric.title
        assert metric.unit in {"", "mm2/s", "um2/ms", "um", "1/mm", "1/mm2", "1/mm3"}


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(InputError, match=r"'nodi'.*Choose from: dti"):
        models.get("nodi")


def test_all_takes_what_the_scan_allows_and_says_why_not_the_rest():
    chosen, notes = models.choose("all", protocol({1000.0: 12}))
    assert [m.name for m in chosen] == ["dti", "ballstick"]
    told = " ".join(notes)
    for name in ("dki", "noddi", "sandi", "mapmri", "freewater", "smt", "mcsmt"):
        assert f"{name} is left out" in told
    assert "2 non-zero shells (there are 1: b1000)" in told


def test_a_model_named_outright_is_refused_with_the_reason():
    with pytest.raises(NotIdentifiable, match=r"NODDI \(noddi\) cannot be fitted.*shells"):
        dm.fit(ring_scan(), "noddi")


def test_sandi_is_refused_without_gradient_timing():
    acq = protocol({1000.0: 30, 2500.0: 30})
    assert any("timing" in lack for lack in models.MODELS["sandi"].missing(acq))


def test_a_model_from_a_file_is_fitted_like_any_other(tmp_path, registry):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    (mine,) = models.load_models(file)
    assert registry["my-ball"] is mine
    scan = ring_scan(protocol({500.0: 12}))
    maps = dm.fit(scan.with_mask(np.ones(scan.shape)), "my-ball")
    assert 0.4 < np.median(maps["my_D"]) < 1.0
    assert "my-ball" in maps.flags


def test_a_model_cannot_take_the_name_of_another(tmp_path, registry):
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("my-ball", "dti"))
    with pytest.raises(InputError, match="there is a model 'dti' already"):
        models.load_models(file)
    file.write_text(MINE.replace("my_D", "FA"))
    with pytest.raises(InputError, match="there is a metric 'FA' already"):
        models.load_models(file)
    assert "my-ball" not in registry


def test_a_model_is_found_by_its_own_spelling(tmp_path, registry):
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("my-ball", "MyBall"))
    (mine,) = models.load_models(file)
    assert models.get("MyBall") is mine
    assert models.get("DTI") is registry["dti"]


def test_loading_a_file_again_replaces_its_models_or_changes_nothing(tmp_path, registry):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    models.load_models(file)
    file.write_text(MINE.replace('"Ball"', '"Round"').replace("my_D", "my_D2"))
    (mine,) = models.load_models(file)
    assert registry["my-ball"] is mine
    assert (mine.title, "my_D" in models.METRICS) == ("Round", False)
    clash = MINE + "\n\nclass Other(Ball):\n    name = 'dti'\n"
    file.write_text(clash)
    before = dict(registry), dict(models.METRICS)
    with pytest.raises(InputError, match=r"there is a (model|metric)"):
        models.load_models(file)
    assert (dict(registry), dict(models.METRICS)) == before


def test_files_of_one_name_in_two_folders_are_kept_apart(tmp_path, registry):
    for folder, name in (("a", "ball-a"), ("b", "ball-b")):
        file = tmp_path / folder / "mine.py"
        file.parent.mkdir()
        file.write_text(MINE.replace("my-ball", name).replace("my_D", f"D_{folder}"))
        models.load_models(file)
    assert {"ball-a", "ball-b"} <= set(registry)
    assert inspect.getfile(type(registry["ball-a"])) == str(tmp_path / "a" / "mine.py")


def test_a_base_without_a_name_in_a_file_is_no_model(tmp_path, registry):
    base = "class Base(NonlinearModel):\n    def signal(self, acq, parameters): ...\n"
    base += "    def start(self, acq, signal): ...\n    def derive(self, parameters): ...\n\n\n"
    text = MINE.replace("@dataclass", base + "@dataclass").replace(
        "Ball(NonlinearModel)", "Ball(Base)"
    )
    (tmp_path / "mine.py").write_text(text)
    assert [m.name for m in models.load_models(tmp_path / "mine.py")] == ["my-ball"]
    (tmp_path / "mine.py").write_text(
        MINE.replace("    def signal", "    d: float\n\n    def signal")
    )
    with pytest.raises(InputError, match="cannot be made without arguments"):
        models.load_models(tmp_path / "mine.py")


def test_models_that_cannot_be_told_apart_are_refused():
    acq = protocol({1000.0: 12, 2000.0: 12})
    assert len(models.choose(["noddi", models.NODDI()], acq)[0]) == 1
    with pytest.raises(InputError, match="two different models have the name 'noddi'"):
        models.choose([models.NODDI(d_par=1.7), models.NODDI(d_par=1.1)], acq)

    class Twin(models.DTI):
        name = "twin"

    with pytest.raises(InputError, match="'dti' and 'twin' both have a metric 'FA'"):
        models.choose(["dti", Twin()], acq)


def test_kinds_of_models_can_be_derived_from():
    assert issubclass(models.SMT, models.PowderModel)
    assert issubclass(models.MAPMRI, models.FramedModel)


def test_a_file_that_is_no_model_is_refused_in_words(tmp_path, registry):
    with pytest.raises(InputError, match="no such Python file"):
        models.load_models(tmp_path / "none.py")
    for text, told in (("x = 1", "defines no model"), ("1 / 0", "ZeroDivisionError")):
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(InputError, match=told):
            models.load_models(tmp_path / "bad.py")


def test_all_leaves_out_what_an_option_takes_the_volumes_from():
    scan = ring_scan(protocol({1000.0: 12, 2000.0: 12}), sigma=20)
    scan = scan.with_mask(np.ones(scan.shape))
    maps = dm.fit(scan, "all", b_max=1500)
    assert set(maps.provenance) == {"dti", "ballstick"}
    maps = dm.fit(scan, "all", robust=True)
    assert "dki" not in maps.provenance
    told = maps.provenance["dti"]["notes"]
    assert "dki is left out: it needs 44 volumes for a robust fit (there are 26)" in told
    with pytest.raises(NotIdentifiable, match="44 volumes for a robust fit"):
        dm.fit(scan, "dki", robust=True)
