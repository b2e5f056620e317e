import json
import os

import nibabel as nib
import numpy as np
import pytest
from phantom import ring_scan

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.files import staged
from DMRIMicroLib.models import METRICS, MODELS


@pytest.fixture(scope="module")
def maps():
    return dm.fit(ring_scan(sigma=20).with_mask(np.ones((12, 14, 6))), "dti")


def listing(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_files_carry_the_maps_their_grid_and_their_making(maps, tmp_path):
    index = json.loads(maps.save(tmp_path / "out").read_text())
    assert {e["metric"] for e in index["maps"]} == set(METRICS)
    fa = next(e for e in index["maps"] if e["metric"] == "FA")
    assert fa["file"] == "model-dti_param-FA_dwimap.nii.gz"
    image = nib.load(tmp_path / "out" / fa["file"])
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.affine, maps.affine)
    np.testing.assert_array_equal(image.dataobj, maps["FA"])
    sidecar = json.loads((tmp_path / "out" / "model-dti_param-MD_dwimap.json").read_text())
    assert sidecar["unit"] == "mm2/s"
    assert sidecar["provenance"]["options"]["method"] == "wls"
    assert len(sidecar["provenance"]["acquisition"]["sha256"]) == 64


def test_load_gives_back_what_was_saved(maps, tmp_path):
    maps.save(tmp_path)
    back = dm.MapSet.load(tmp_path)
    assert set(back) == set(maps)
    np.testing.assert_array_equal(back.mask, maps.mask)
    for name, one in maps.items():
        np.testing.assert_array_equal(one.data, back[name].data)
        assert (one.metric.unit, one.metric.kind, one.metric.window) == (
            back[name].metric.unit,
            back[name].metric.kind,
            back[name].metric.window,
        )
    assert back.provenance == maps.provenance


def test_a_failure_leaves_the_earlier_result_untouched(maps, tmp_path, monkeypatch):
    maps.save(tmp_path)
    before = listing(tmp_path)
    calls = []

    def fail_late(image, file):
        calls.append(file)
        if len(calls) > 4:
            raise OSError("No space left on device")
        real(image, file)

    real = nib.save
    monkeypatch.setattr(nib, "save", fail_late)
    with pytest.raises(InputError, match=r"No space left.*nothing there was changed"):
        maps.save(tmp_path)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_while_files_move_brings_the_earlier_result_back(
    maps, tmp_path, monkeypatch, error
):
    maps.save(tmp_path)
    before = listing(tmp_path)
    again = dm.fit(ring_scan(sigma=20).with_mask(np.ones((12, 14, 6))), "dti", method="ols")
    real, moved = os.replace, []

    def fail_late(source, target):
        moved.append(target)
        if len(moved) == 5:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_late)
    with pytest.raises((InputError, KeyboardInterrupt)):
        again.save(tmp_path, texts={"report.html": "new"})
    assert listing(tmp_path) == before


def test_a_stale_report_goes_with_its_maps(maps, tmp_path):
    maps.save(tmp_path, texts={"report.html": "about these maps"})
    assert (tmp_path / "report.html").exists()
    maps.save(tmp_path, texts={"report.html": None})
    assert not (tmp_path / "report.html").exists()


def test_ctrl_c_leaves_nothing(tmp_path):
    def interrupted():
        with staged(tmp_path / "out") as stage:
            (stage / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "out").exists()


def test_maps_of_another_scan_are_not_overwritten_unasked(maps, tmp_path):
    maps.save(tmp_path)
    before = listing(tmp_path)
    other = dm.fit(ring_scan(sigma=20, seed=5).with_mask(np.ones((12, 14, 6))), "dti")
    with pytest.raises(InputError, match="holds maps of another scan"):
        other.save(tmp_path)
    assert listing(tmp_path) == before
    other.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(dm.MapSet.load(tmp_path)["FA"].data, other["FA"].data)


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / "maps.json").write_text("{")
    with pytest.raises(InputError, match=r"maps.json: not a readable list of maps"):
        dm.MapSet.load(tmp_path)
    with pytest.raises(InputError, match=r"maps.json: there is no such file"):
        dm.MapSet.load(tmp_path / "none")


def test_a_folder_that_cannot_be_written_is_named(maps, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write there"):
        maps.save(tmp_path / "file" / "out")


def test_unknown_map_says_which_there_are(maps):
    with pytest.raises(KeyError, match="there are FA, MD"):
        maps["MK"]


def test_metric_names_are_unique_and_bids_labels_too():
    every = [m for model in MODELS.values() for m in model.metrics]
    assert len({m.name for m in every}) == len(every)
    for model in MODELS.values():
        assert len({m.label for m in model.metrics}) == len(model.metrics)
    for metric in every:
        assert metric.low < metric.high
        assert metric.low <= metric.window[0] < metric.window[1] <= metric.high
        assert metric.title
