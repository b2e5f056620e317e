"""Data sets: which scans there are, and which files belong to them."""

import json
from pathlib import Path

import bids_data
import numpy as np
import pytest

from DMRIMicroLib.cohort.dataset import Dataset, Unusable
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.io.bids import ScanFiles, entities_of, natural


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return bids_data.raw(tmp_path_factory.mktemp("raw"), 3, ("a", "b"))


def keys(dataset):
    return [scan.key for scan in dataset.scans()]


def test_every_scan_of_a_raw_data_set_is_found(raw):
    dataset = Dataset.open(raw)
    expected = [f"sub-{n:02d}_ses-{s}" for n in (1, 2, 3) for s in "ab"]
    assert keys(dataset) == expected
    first = next(dataset.scans())
    assert first.image == raw / "sub-01" / "ses-a" / "dwi" / "sub-01_ses-a_dwi.nii.gz"
    assert (first.subject, first.session) == ("01", "a")


def test_a_sidecar_at_the_top_tells_of_all_scans(raw):
    scan = next(Dataset.open(raw).scans()).load()
    acq = scan.acquisition
    assert (acq.delta, acq.Delta, acq.TE) == pytest.approx((15.0, 40.0, 80.0))
    assert scan.name == "sub-01_ses-a"
    assert next(Dataset.open(raw).scans()).load(TE=70.0).acquisition.TE == 70.0


def test_the_nearest_sidecar_wins(tmp_path):
    folder = bids_data.raw(tmp_path, 2)
    own = folder / "sub-02" / "dwi" / "sub-02_dwi.json"
    own.write_text(json.dumps({"EchoTime": 0.06}))
    (folder / "acq-other_dwi.json").write_text(json.dumps({"EchoTime": 0.99}))
    first, second = Dataset.open(folder).scans()
    assert first.timing["TE"] == pytest.approx(80.0)
    assert second.timing["TE"] == pytest.approx(60.0)
    assert second.timing["delta"] == pytest.approx(15.0)
    assert own in second.inputs.values()
    assert own not in first.inputs.values()


def test_tables_may_lie_at_the_top(tmp_path):
    folder = bids_data.raw(tmp_path, 2)
    for end in ("bval", "bvec"):
        for number in ("01", "02"):
            found = folder / f"sub-{number}" / "dwi" / f"sub-{number}_dwi.{end}"
            found.rename(folder / f"dwi.{end}")
    scans = list(Dataset.open(folder).scans())
    assert [scan.bval for scan in scans] == [folder / "dwi.bval"] * 2
    assert len(scans[1].load().acquisition) == 35


def test_participants_and_sessions_are_picked(raw):
    assert keys(Dataset.open(raw, ["sub-03", "1".zfill(2)], ["ses-b"])) == [
        "sub-01_ses-b",
        "sub-03_ses-b",
    ]
    with pytest.raises(InputError, match="no participant 07"):
        Dataset.open(raw, ["07"])
    assert len(Dataset.open(raw).sample(1)) == 2  # one participant, two sessions


def test_preprocessed_scans_come_with_their_mask(tmp_path):
    (scan,) = Dataset.open(bids_data.qsiprep(tmp_path)).scans()
    assert scan.key == "sub-A1_dir-AP_run-1_space-ACPC"
    assert scan.mask is not None
    np.testing.assert_array_equal(scan.load().mask, bids_data.brain() > 0)


def test_of_a_derivative_only_the_preprocessed_scan_counts(tmp_path):
    folder = bids_data.qsiprep(tmp_path)
    stem = "sub-A1_dir-AP_run-1_space-ACPC"
    for end in (".nii.gz", ".bval", ".bvec"):
        done = folder / "sub-A1" / "dwi" / f"{stem}_desc-preproc_dwi{end}"
        (done.parent / f"{stem}_desc-denoised_dwi{end}").write_bytes(done.read_bytes())
    assert keys(Dataset.open(folder)) == [stem]


def test_the_layout_of_the_hcp_is_read(tmp_path):
    dataset = Dataset.open(bids_data.hcp(tmp_path, "100307_V1_MR"))
    (scan,) = dataset.scans()
    assert dataset.layout == "hcp"
    assert scan.key == "sub-100307V1MR_space-T1w"
    assert scan.load().mask.sum() == bids_data.brain().sum()


def test_phases_are_left_out(tmp_path):
    folder = bids_data.raw(tmp_path, 1)
    home = folder / "sub-01" / "dwi"
    for end in (".nii.gz", ".bval", ".bvec"):
        for part in ("mag", "phase"):
            new = home / f"sub-01_part-{part}_dwi{end}"
            new.write_bytes((home / f"sub-01_dwi{end}").read_bytes())
        (home / f"sub-01_dwi{end}").unlink()
    assert keys(Dataset.open(folder)) == ["sub-01_part-mag"]


def test_a_broken_scan_hides_no_other(tmp_path):
    folder = bids_data.raw(tmp_path, 3)
    (folder / "sub-02" / "dwi" / "sub-02_dwi.bvec").unlink()
    one, two, three = Dataset.open(folder).scans()
    assert isinstance(one, ScanFiles)
    assert isinstance(three, ScanFiles)
    assert isinstance(two, Unusable)
    assert two.key == "sub-02"
    assert "no bvec file belongs to it" in str(two.error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda home: (home / "sub-01_dwi.nii").write_bytes(b""), "2 images of this scan"),
        (lambda home: (home / "sub-01_dwi.json").write_text("{"), "not readable JSON"),
        (lambda home: (home / "sub-01_dwi.nii.gz").rename(home / "sub-9_dwi.nii.gz"), "lies in"),
    ],
)
def test_what_is_wrong_with_a_scan_is_told(tmp_path, change, says):
    folder = bids_data.raw(tmp_path, 1)
    change(folder / "sub-01" / "dwi")
    found = list(Dataset.open(folder).scans())
    assert all(isinstance(one, Unusable) for one in found)
    assert says in str(found[0].error)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Dataset.open(tmp_path / "no")
    with pytest.raises(InputError, match="BIDS"):
        Dataset.open(tmp_path)


def test_names_are_taken_apart_and_sorted_naturally():
    assert entities_of(Path("sub-01_acq-b1000_run-2_dwi.nii.gz")) == {
        "sub": "01",
        "acq": "b1000",
        "run": "2",
    }
    assert sorted(["10", "9", "a2", "a10"], key=natural) == ["9", "10", "a2", "a10"]
