import json
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from phantom import ring_scan

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.files import staged
from DMRIMicroLib.maps import Flag, voxel_remarks
from DMRIMicroLib.models import MODELS


@pytest.fixture(scope="module")
def maps():
    return dm.fit(ring_scan(sigma=20).with_mask(np.ones((12, 14, 6))), "dti")


def listing(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_files_carry_the_maps_their_grid_and_their_making(maps, tmp_path):
    index = json.loads(maps.save(tmp_path / "out").read_text())
    assert {e["metric"] for e in index["maps"]} == {m.name for m in MODELS["dti"].metrics}
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
    assert set(back.flags) == {"dti"}
    np.testing.assert_array_equal(back.flags["dti"], maps.flags["dti"])
    assert back["FA"].uncertainty is None


def flagged(maps, model="dti"):
    """Return maps of which one voxel has no answer and one of each flag above good is set."""
    flags = maps.flags["dti"].copy()
    flags[0, 0, :4] = Flag.EMPTY, Flag.NOT_CONVERGED, Flag.OUT_OF_RANGE, Flag.UNDETERMINED
    return replace(
        maps,
        maps={"FA": replace(maps["FA"], model=model)},
        mask=flags > 0,
        provenance={model: maps.provenance["dti"]},
        flags={model: flags},
    )


def test_flags_say_in_the_file_what_they_mean(maps, tmp_path):
    index = json.loads(flagged(maps).save(tmp_path).read_text())
    assert index["flags"] == {"dti": "model-dti_desc-flags_dseg.nii.gz"}
    assert index["flag_meaning"] == {str(int(f)): f.name.lower() for f in Flag}
    image = nib.load(tmp_path / index["flags"]["dti"])
    assert image.get_data_dtype() == np.uint8
    back = dm.MapSet.load(tmp_path)
    assert list(back.flags["dti"][0, 0, :5]) == [0, 2, 3, 4, 1]
    assert not back.mask[0, 0, 0]
    assert back.mask[0, 0, 1:].all()


def test_standard_deviations_are_saved_beside_their_maps(maps, tmp_path):
    sd = np.full_like(maps["FA"].data, 0.02)
    known = replace(maps, maps={**maps.maps, "FA": replace(maps["FA"], uncertainty=sd)})
    index = json.loads(known.save(tmp_path).read_text())
    (entry,) = (e for e in index["maps"] if "uncertainty_file" in e)
    assert entry["uncertainty_file"] == "model-dti_param-FA_desc-sd_dwimap.nii.gz"
    np.testing.assert_array_equal(dm.MapSet.load(tmp_path)["FA"].uncertainty, sd)


def test_two_models_keep_their_own_flags_in_one_set_and_in_one_folder(maps, tmp_path):
    other = replace(flagged(maps, "other"), mask=np.zeros_like(maps.mask))
    both = maps.merged(other)
    assert set(both.flags) == {"dti", "other"}
    assert both.mask.all()
    maps.save(tmp_path)
    other.save(tmp_path)
    back = dm.MapSet.load(tmp_path)
    assert set(back.flags) == {"dti", "other"}
    np.testing.assert_array_equal(back.flags["other"], other.flags["other"])
    assert back.mask[0, 0, 0]  # empty for one model, answered by the other


def test_maps_of_an_older_format_are_named(maps, tmp_path):
    index = json.loads(maps.save(tmp_path).read_text())
    (tmp_path / "maps.json").write_text(json.dumps({**index, "version": 1}))
    with pytest.raises(InputError, match=r"not a readable list of maps \(.*version 1\)"):
        dm.MapSet.load(tmp_path)


def test_remarks_name_what_of_the_voxels_cannot_be_used():
    told = voxel_remarks(
        "noddi",
        {"left_out": 2, "not_converged": 3, "out_of_range": 0, "undetermined": 5},
    )
    assert [t.split()[1] for t in told] == ["2", "3", "5"]
    assert all(t.startswith("noddi: ") for t in told)


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
