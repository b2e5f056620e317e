"""Fixtures: where real scans lie, and small scans made from a tensor model."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantom import RING_AFFINE, ring_scan

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.io.example import fetch

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("DMRIMICRO_TEST_DATA", ROOT.parent / "shared" / "data" / "dwi"))
"""Folder of real scans (see CONTRIBUTING.md); tests that need it are skipped without."""


def real_scans() -> list[Path]:
    """Every real scan's image file."""
    return sorted(f for f in REAL.glob("*/*.nii.gz") if not f.name.endswith("_mask.nii.gz"))


@pytest.fixture(scope="session")
def example() -> tuple[Path, Path]:
    """Image and mask of the real two-slice scan."""
    folder = REAL / "b1k_b2k"
    if folder.exists():
        image = folder / "b1k_b2k_example_slices_24_38.nii.gz"
        return image, folder / "b1k_b2k_example_slices_24_38_mask.nii.gz"
    try:
        return fetch()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def scan_files(tmp_path: Path) -> Path:
    """A good scan on disk: dwi.nii.gz with dwi.bval and dwi.bvec beside it."""
    from DMRIMicroLib.io.nifti import save

    folder = tmp_path / "in"
    save(ring_scan(), folder / "dwi.nii.gz")
    mask = np.zeros(ring_scan().shape, np.uint8)
    mask[2:-2, 2:-2, :] = 1
    nib.save(nib.Nifti1Image(mask, RING_AFFINE), folder / "mask.nii.gz")
    return folder / "dwi.nii.gz"
