"""DICOM folders, through dcm2niix.

X. Li, P. S. Morgan, J. Ashburner, J. Smith, C. Rorden, J. Neurosci. Methods 264 (2016) 47-56.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from . import nifti
from .gradients import Gradients

TIMEOUT_S = 3600
MOST_WARNINGS = 5


def load(folder: Path) -> Gradients:
    """Convert a folder of DICOM files and open the one diffusion series in it."""
    program = find_dcm2niix()
    with tempfile.TemporaryDirectory(prefix="dmrimicro-") as temporary:
        command = [program, "-z", "n", "-b", "y", "-f", "%s_%d", "-o", temporary, str(folder)]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"dcm2niix failed ({error})", "Convert it by hand and give the NIfTI.", file=folder
            ) from error
        images = sorted(f for f in Path(temporary).glob("*.nii") if f.with_suffix(".bval").exists())
        if not images:
            said = (run.stdout + run.stderr).strip().splitlines()
            raise InputError(
                "no diffusion series was found in it "
                f"(dcm2niix: {said[-1] if said else 'no output'})",
                "Give the folder of one diffusion series.",
                file=folder,
            )
        if len(images) > 1:
            raise InputError(
                f"there are {len(images)} diffusion series in it: "
                f"{', '.join(f.stem for f in images)}",
                "Give the folder of one series, or convert with dcm2niix and give one NIfTI.",
                file=folder,
            )
        said = (run.stdout + run.stderr).splitlines()
        warnings = [f"dcm2niix: {line.strip()}" for line in said if line.startswith("Warning")]
        image = nifti.load(images[0])
        signal = np.asarray(image.signal, dtype=np.float32)  # the temporary file goes away
    return replace(
        image,
        signal=signal,
        source=folder,
        bval_file=folder,
        bvec_file=folder,
        notes=(
            f"converted from DICOM by {_version(program)}",
            *warnings[:MOST_WARNINGS],
            *image.notes,
        ),
    )


def find_dcm2niix() -> str:
    """Return the path of dcm2niix: the PyPI package's, else the one on PATH."""
    try:
        import dcm2niix

        return str(dcm2niix.bin)
    except (ImportError, AttributeError):
        if found := shutil.which("dcm2niix"):
            return found
    raise InputError(
        "reading DICOM needs dcm2niix, which is not installed", "Install it: pip install dcm2niix."
    )


def _version(program: str) -> str:
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
    version = [word for word in said.split() if word.startswith("v1.")]
    return f"dcm2niix {version[0]}" if version else "dcm2niix"
