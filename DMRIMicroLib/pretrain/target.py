"""What a network is to be made for: scheme, voxels and noise of the scans that it will see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..acquisition import Acquisition
from ..codebooks.tokens import informative
from ..errors import InputError
from ..io.bids import NIFTI
from ..io.gradients import fsl_to_ras, read_bval, read_bvec
from ..io.load import load
from ..table import to_s_per_mm2

SNR = (10.0, 40.0)
"""Range of b0 signals over noise where nothing is said: from fast clinical to good scans."""


@dataclass(frozen=True)
class Target:
    """Of the scans to come.

    Attributes
    ----------
    acquisition : Acquisition
    voxel : (float, float, float) or None
        Edges [mm]; None: those of the scans that are learned from.
    snr : (float, float)
        Range of median b0 signals over noise, drawn evenly in the logarithm.
    subsets : bool
        Whether every example is of some of the volumes only, for a network of many protocols.
    """

    acquisition: Acquisition
    voxel: tuple[float, float, float] | None = None
    snr: tuple[float, float] = SNR
    subsets: bool = False

    def __post_init__(self) -> None:
        low, high = self.snr
        if not 0 < low <= high < np.inf:
            raise InputError(f"the SNR is {low:g} to {high:g}", "Give a range of positive numbers.")
        kept = informative(self.acquisition)
        if not kept.is_b0.any() or not kept.shells:
            raise InputError(
                f"the target's scheme has {self.acquisition.describe()}",
                "Give a scheme with b = 0 and a shell that the codebook can use.",
            )
        object.__setattr__(self, "acquisition", kept)

    def told(self) -> dict[str, Any]:
        """Return it as JSON values, for the card."""
        voxel = None if self.voxel is None else list(self.voxel)
        own = {"acquisition": self.acquisition.describe(), "voxel_mm": voxel}
        return own | {"snr": list(self.snr), "subsets": self.subsets}


def read_scheme(text: str, **timing: float | None) -> Acquisition:
    """Read a scheme from a b-value and a b-vector file in FSL's convention, or from a scan.

    Parameters
    ----------
    text : str
        Both files, with a comma between; or a NIfTI image that has them beside it.
    **timing
        delta, Delta, TE [ms].
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1 and parts[0].endswith(NIFTI):
        return load(parts[0], **timing).acquisition
    if len(parts) != 2 or not all(parts):
        raise InputError(
            f"the scheme is {text!r}",
            "Give two files, scheme.bval,scheme.bvec, or a scan with them beside it: short.nii.gz.",
        )
    files = [Path(part) for part in parts]
    for file in files:
        if not file.exists():
            raise InputError("there is no such file", "Check the path.", file=file)
    b, _ = to_s_per_mm2(read_bval(files[0]), file=files[0])
    g = read_bvec(files[1], len(b))
    if len(g) != len(b):
        what = f"there are {len(g)} b-vectors, and {len(b)} b-values"
        raise InputError(what, "Give files that belong together.", file=files[1])
    # FSL's vectors belong to an image: here one whose axes are the world's
    return Acquisition(b, fsl_to_ras(g, np.eye(4)), **timing)
