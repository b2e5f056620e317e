"""DWI NRRD in: every space, frame and axis order gives the same scan; what is wrong is named."""

from pathlib import Path

import nrrd
import numpy as np
import pytest
from phantom import AFFINES, protocol, ring_scan

import DMRIMicroLib as dm
from DMRIMicroLib.errors import InputError


def write_nrrd(
    path: Path, scan, *, space: str, frame: np.ndarray, first: bool, detached: bool = False
) -> None:
    """A DWI NRRD in the given space, gradients seen through a measurement frame."""
    signs = {"right-anterior-superior": [1, 1, 1], "left-posterior-superior": [-1, -1, 1]}[space]
    acq, lps = scan.acquisition, np.diag(signs)
    directions = [(lps @ scan.affine[:3, k]).tolist() for k in range(3)]
    empty = [np.nan] * 3
    header = {
        "space": space,
        "space directions": np.array([empty, *directions] if first else [*directions, empty]),
        "space origin": lps @ scan.affine[:3, 3],
        "kinds": ["vector", *["space"] * 3] if first else [*["space"] * 3, "list"],
        "measurement frame": frame.T,  # pynrrd lists the columns
        "encoding": "gzip",
        "modality": "DWMRI",
        "DWMRI_b-value": f"{acq.bvals.max():g}",
    }
    in_frame = acq.bvecs @ lps @ frame  # frame is a rotation: its inverse is its transpose
    scaled = in_frame * np.sqrt(acq.bvals / acq.bvals.max())[:, None]
    for k, g in enumerate(scaled):
        header[f"DWMRI_gradient_{k:04d}"] = " ".join(f"{x:.12f}" for x in g)
    data = np.moveaxis(scan.signal, -1, 0) if first else scan.signal
    nrrd.write(str(path), data, header, detached_header=detached)


@pytest.mark.parametrize("space", ["right-anterior-superior", "left-posterior-superior"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_nrrd_gives_the_same_scan(tmp_path, space, first, affine):
    scan = ring_scan(protocol({700.0: 6, 2000.0: 12}), affine=affine)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    write_nrrd(tmp_path / "dwi.nrrd", scan, space=space, frame=turn, first=first)
    back = dm.load(tmp_path / "dwi.nrrd")
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-9)
    np.testing.assert_allclose(back.acquisition.bvals, scan.acquisition.bvals, atol=1e-4)
    np.testing.assert_allclose(back.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-6)
    np.testing.assert_allclose(back.volumes(range(20)), scan.signal)


def test_nrrd_without_b_value_is_refused(tmp_path):
    axes = np.vstack([np.eye(3), np.full(3, np.nan)])
    header = {"space": "left-posterior-superior", "space directions": axes}
    nrrd.write(str(tmp_path / "x.nrrd"), np.zeros((3, 3, 3, 8), np.float32), header)
    with pytest.raises(InputError, match="DWMRI_b-value is missing"):
        dm.load(tmp_path / "x.nrrd")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("DWMRI_gradient_0005", None, "DWMRI_gradient_0005 is missing"),
        ("DWMRI_gradient_0005", "0 nan 1", "DWMRI_gradient_0005 is"),
        ("DWMRI_b-value", "many", "DWMRI_b-value is 'many'"),
        ("DWMRI_NEX_0005", "two", "NEX is 'two'"),
    ],
)
def test_bad_nrrd_fields_are_named(tmp_path, field, value, words):
    file = tmp_path / "dwi.nrrd"
    write_nrrd(file, ring_scan(), space="left-posterior-superior", frame=np.eye(3), first=True)
    data, header = nrrd.read(str(file))
    header.pop(field, None)
    if value is not None:
        header[field] = value
    nrrd.write(str(file), data, header)
    with pytest.raises(InputError, match=f"dwi.nrrd: .*{words}"):
        dm.load(file)


def test_damaged_nrrd_is_named(tmp_path):
    file = tmp_path / "dwi.nrrd"
    write_nrrd(file, ring_scan(), space="left-posterior-superior", frame=np.eye(3), first=True)
    whole = file.read_bytes()
    for bad in (
        b"",
        whole[: len(whole) - 400],
        whole[:-400] + bytes(400),
        b"NRRD0004\ntype: odd\n\n",
    ):
        file.write_bytes(bad)
        with pytest.raises(InputError, match=r"dwi.nrrd: not a readable NRRD image"):
            dm.load(file)
