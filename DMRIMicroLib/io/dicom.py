"""DICOM folders, through dcm2niix.

X. Li, P. S. Morgan, J. Ashburner, J. Smith, C. Rorden, J. Neurosci. Methods 264 (2016) 47-56.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from . import nifti
from .gradients import Gradients

TIMEOUT_S = 3600
LOOK_S = 0.1
"""How often it is asked whether to go on [s]."""

NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
"""Windows opens a console for a program otherwise."""

MOST_WARNINGS = 5


def load(folder: Path, progress: Callable[[float, str], None] | None = None) -> Gradients:
    """Convert a folder of DICOM files and open the one diffusion series in it.

    `progress` is called while dcm2niix works, which does not tell how far it is; what it raises
    ends that.
    """
    program = find_dcm2niix()
    with tempfile.TemporaryDirectory(prefix="dmrimicro-") as temporary:
        command = [program, "-z", "n", "-b", "y", "-f", "%s_%d", "-o", temporary, str(folder)]
        try:
            said = _converted(command, progress)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"dcm2niix failed ({error})", "Convert it by hand and give the NIfTI.", file=folder
            ) from error
        images = sorted(f for f in Path(temporary).glob("*.nii") if f.with_suffix(".bval").exists())
        if not images:
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


def _converted(command: Sequence[str], progress: Callable[[float, str], None] | None) -> list[str]:
    """Run dcm2niix to its end; return the lines that it has printed."""
    until = time.monotonic() + TIMEOUT_S
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        creationflags=NO_WINDOW,
    ) as run:
        try:
            while True:
                if progress:
                    progress(0.0, "Converting DICOM")
                try:
                    out, err = run.communicate(timeout=LOOK_S)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > until:
                        raise
                    continue
                return (out + err).strip().splitlines()
        except BaseException:
            run.kill()
            raise


def _version(program: str) -> str:
    said = subprocess.run(
        [program, "-v"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        creationflags=NO_WINDOW,
    ).stdout
    version = [word for word in said.split() if word.startswith("v1.")]
    return f"dcm2niix {version[0]}" if version else "dcm2niix"
