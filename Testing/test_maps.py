import dataclasses
import json
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from phantom import protocol, ring_scan

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.files import staged
from DMRIMicroLib.fitting.run import Run
from DMRIMicroLib.index import check_folder
from DMRIMicroLib.maps import Flag, voxel_remarks
from DMRIMicroLib.models import MODELS
from DMRIMicroLib.models.noddi import NODDI


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
    name = "FA" if model == "dti" else f"FA_{model}"  # a folder holds one map of a metric
    metric = replace(maps["FA"].metric, name=name)
    return replace(
        maps,
        maps={name: replace(maps["FA"], model=model, metric=metric)},
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
    told = r"not a readable list of maps \(an older DMRIMicro wrote it, in format version 1\)"
    with pytest.raises(InputError, match=told):
        dm.MapSet.load(tmp_path)
    with pytest.raises(InputError, match=told + r".*--overwrite"):
        maps.save(tmp_path)
    maps.save(tmp_path, overwrite=True)
    assert set(dm.MapSet.load(tmp_path)) == set(maps)


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


def test_a_folder_is_checked_before_a_fit(maps, tmp_path):
    mine = maps.provenance["dti"]["scan"]["fingerprint"]
    assert check_folder(tmp_path / "new", mine) is None
    maps.save(tmp_path)
    assert check_folder(tmp_path, mine)["provenance"] == maps.provenance
    with pytest.raises(InputError, match=r"maps of another scan \(ring\)"):
        check_folder(tmp_path, "other")
    assert check_folder(tmp_path, "other", overwrite=True) is None


def test_files_of_maps_that_are_listed_no_more_go(maps, tmp_path):
    sd = np.full_like(maps["FA"].data, 0.02)
    known = replace(maps, maps={**maps.maps, "FA": replace(maps["FA"], uncertainty=sd)})
    known.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    maps.save(tmp_path)
    assert not list(tmp_path.glob("*_desc-sd_*"))
    flagged(maps, "other").save(tmp_path)
    stranger = {"dti": {**maps.provenance["dti"], "scan": {"fingerprint": "another"}}}
    replace(maps, provenance=stranger).save(tmp_path, overwrite=True)
    assert not list(tmp_path.glob("model-other*"))
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "model-dti_param-FA_dwimap.json").exists()


def test_a_list_of_maps_cannot_have_other_files_removed(maps, tmp_path):
    index = json.loads(maps.save(tmp_path / "out").read_text())
    (tmp_path / "precious.nii.gz").write_text("x")
    (tmp_path / "out" / "dwi.nii.gz").write_text("x")
    more = [{"model": "dti", "file": f} for f in ("../precious.nii.gz", "dwi.nii.gz")]
    index["maps"] += more
    (tmp_path / "out" / "maps.json").write_text(json.dumps(index))
    maps.save(tmp_path / "out")
    assert (tmp_path / "precious.nii.gz").exists()
    assert (tmp_path / "out" / "dwi.nii.gz").exists()


def test_overwriting_maps_of_the_same_scan_keeps_other_models(maps, tmp_path):
    flagged(maps, "other").save(tmp_path)
    maps.save(tmp_path, overwrite=True)
    assert set(dm.MapSet.load(tmp_path).provenance) == {"dti", "other"}


def test_provenance_tells_the_constants_of_the_model():
    scan = ring_scan(sigma=20).with_mask(np.ones((12, 14, 6)))
    (told,) = dm.fit(scan, MODELS["dti"]).provenance.values()
    assert told["model"] == json.loads(json.dumps(dataclasses.asdict(MODELS["dti"])))
    two = ring_scan(protocol({1000.0: 12, 2000.0: 12}), shape=(3, 3, 2), sigma=20)
    two = two.with_mask(np.ones((3, 3, 2)))
    maps = dm.fit(two, NODDI(d_par=1.1))
    assert maps.provenance["noddi"]["model"]["d_par"] == 1.1


def nothing_of(model, monkeypatch):
    """Have a model find no answer anywhere."""
    real = Run.fit

    def fit(self, *args):
        found = real(self, *args)
        if self.model.name in model:
            found.flags[:] = Flag.EMPTY
        return found

    monkeypatch.setattr(Run, "fit", fit)


def test_a_model_without_any_answer_leaves_the_others_theirs(monkeypatch):
    scan = ring_scan(shape=(3, 3, 2), sigma=20).with_mask(np.ones((3, 3, 2)))
    nothing_of({"ballstick"}, monkeypatch)
    maps = dm.fit(scan, ["ballstick", "dti"])
    assert set(maps.provenance) == {"dti"}
    assert any(n.startswith("ballstick: no voxel") for n in maps.provenance["dti"]["notes"])
    nothing_of({"ballstick", "dti"}, monkeypatch)
    with pytest.raises(InputError, match="ballstick, dti: no voxel of the mask has a usable"):
        dm.fit(scan, ["ballstick", "dti"])


@pytest.mark.parametrize("sigma", [2000.0, 1e-6])
def test_noise_in_another_unit_than_the_signal_is_refused(sigma):
    scan = ring_scan(shape=(3, 3, 2), sigma=20).with_mask(np.ones((3, 3, 2)))
    with pytest.raises(InputError, match=r"median b0 signal is .*unit of the signal"):
        dm.fit(scan, "dti", sigma=sigma)


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
