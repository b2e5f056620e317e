"""Small BIDS data sets of simulated fibres, every participant another."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from phantom import RING_AFFINE, protocol, ring_scan

from DMRIMicroLib.io import nifti

SHELLS = {1000.0: 15, 2000.0: 15}
SHAPE = (12, 14, 6)


def describe(folder: Path, kind: str = "raw") -> None:
    """Write what a data set says of itself, and timing for all scans."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"Name": "Simulated", "BIDSVersion": "1.11.0", "DatasetType": kind}
    told |= {"License": "CC0", "Authors": ["Nobody", "Nobody Else"]}
    if kind == "derivative":
        told["GeneratedBy"] = [{"Name": "QSIPrep", "Version": "1.0"}]
    (folder / "dataset_description.json").write_text(json.dumps(told))
    (folder / "README").write_text("Simulated fibres.\n" * 10)


def scan_of(number: int, shape=SHAPE, sigma: float = 20.0):
    """Return the scan of a participant: fibres in rings, noise of its own."""
    return ring_scan(protocol(SHELLS, b0=5), shape=shape, sigma=sigma, seed=number)


def raw(folder: Path, participants: int, sessions: tuple[str, ...] = (), shape=SHAPE) -> Path:
    """Write a raw data set, participant k with noise k; the sidecar lies at the top for all."""
    describe(folder)
    timing = {"EchoTime": 0.08, "SmallDelta": 0.015, "BigDelta": 0.04}
    (folder / "dwi.json").write_text(json.dumps(timing))
    for number in range(1, participants + 1):
        for session in sessions or ("",):
            parts = [f"sub-{number:02d}", *([f"ses-{session}"] if session else [])]
            image = folder.joinpath(*parts, "dwi", "_".join([*parts, "dwi.nii.gz"]))
            nifti.save(scan_of(number, shape), image)
    return folder


def brain(shape=SHAPE) -> np.ndarray:
    """Return a mask that leaves the edge out."""
    mask = np.zeros(shape, np.uint8)
    mask[1:-1, 1:-1, :] = 1
    return mask


def qsiprep(folder: Path) -> Path:
    """Write one participant as QSIPrep does."""
    describe(folder, "derivative")
    home, stem = folder / "sub-A1" / "dwi", "sub-A1_dir-AP_run-1_space-ACPC"
    nifti.save(scan_of(1), home / f"{stem}_desc-preproc_dwi.nii.gz")
    nib.save(nib.Nifti1Image(brain(), RING_AFFINE), home / f"{stem}_desc-brain_mask.nii.gz")
    nib.save(nib.Nifti1Image(brain(), RING_AFFINE), home / f"{stem}_dwiref.nii.gz")
    return folder


def hcp(folder: Path, subject: str = "100307") -> Path:
    """Write one subject as the HCP's pipelines do."""
    home = folder / subject / "T1w" / "Diffusion"
    nifti.save(scan_of(1), home / "data.nii.gz")
    (home / "data.bval").rename(home / "bvals")
    (home / "data.bvec").rename(home / "bvecs")
    nib.save(nib.Nifti1Image(brain(), RING_AFFINE), home / "nodif_brain_mask.nii.gz")
    return folder
