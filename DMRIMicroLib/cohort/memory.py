"""How much memory a process needs, from the headers of scans, and as a user writes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from ..io.bids import ScanFiles
from .methods import ENHANCE, PIGMENT

if TYPE_CHECKING:
    from .jobs import Options

BYTES_PER_VALUE = 4
"""Of float32."""

SIGNALS = 3.0
"""Copies of the signal that a fit holds at its highest: 1.3 for itself (`benchmarks/dti.py`), the
rest for reading integers, denoising and maps."""

BRAIN, PER_VOXEL = 0.5, 2000.0
"""Share of a grid that a brain fills, at most, and bytes that PIGMENT needs for a voxel of it (1 kB
and 140 for each of up to 7 samples, see `prior.estimate.pigment`)."""

KEEP, HIGH, FINE = "keep", "7T", 1.05
"""Resolutions of an enhancement by name (`rish.plan`), and the edge of the latter's voxels [mm]."""

LIBRARIES = 1_000_000_000
"""Bytes of a process with PyTorch and dipy in it."""

SAMPLE = 32
"""Scans whose headers are looked at: those of a study are much alike."""

UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> float:
    """Turn "8GB" or "512 MiB" into bytes."""
    digits = text.strip().rstrip("BKMGTbkmgtIi ")
    unit = text.strip()[len(digits) :].strip().upper()
    try:
        value = float(digits) * (UNITS[unit if unit.endswith("B") else f"{unit}B"] if unit else 1)
        if not (math.isfinite(value) and value > 0):
            raise ValueError
    except (ValueError, KeyError):
        raise InputError(f"the memory is {text!r}", "Write it like 8GB.") from None
    return value


def needed_memory(scans: Sequence[ScanFiles], options: Options | None = None) -> float:
    """Estimate the bytes that a process needs for the largest of some scans, from their headers.

    A scan whose header cannot be read counts nothing: its job will tell.
    """
    from ..io.nifti import open_image

    most = 0.0
    for scan in scans:
        try:
            image = open_image(scan.image)
        except (InputError, OSError):
            continue
        signal = SIGNALS * BYTES_PER_VALUE * math.prod(image.shape)
        edges = [float(edge) for edge in image.header.get_zooms()[:3]]
        other = 0.0 if options is None else _beside(options, image.shape, edges)
        most = max(most, signal + other)
    return LIBRARIES + most


def _beside(options: Options, shape: Sequence[int], edges: Sequence[float]) -> float:
    """Estimate what the methods need beside the signal [bytes]; they run one after the other."""
    needs = [0.0]
    if PIGMENT in options.methods:
        needs.append(BRAIN * PER_VOXEL * math.prod(shape[:3]))
    if ENHANCE in options.methods:
        resolution = options.enhance["resolution"]
        edge = {KEEP: min(edges), HIGH: min(FINE, *edges)}.get(resolution) or float(resolution)
        finer = math.prod(edges) / edge**3 if resolution != KEEP else 1.0
        needs.append(finer * SIGNALS * BYTES_PER_VALUE * math.prod(shape))
    return max(needs)
