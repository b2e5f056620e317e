"""An enhanced scan, and what was done to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import staged
from ..io import nifti
from ..scan import Scan

PARTS = ("rish-before", "rish-after", "scale", "sd")
"""Images written beside the scan, by the end of their names."""


@dataclass(frozen=True, eq=False)
class Enhanced:
    """An enhanced scan.

    Attributes
    ----------
    scan : Scan
        With the gradients of the scan that was enhanced, in their order.
    before, after : (3, x, y, z) float32 arrays
        RISH features of orders 0, 2, 4 of the shell that the method knows best, on the new grid: of
        the interpolated scan, and as they were scaled to; 0 outside the mask.
    scale : (3, x, y, z) float32 array
        Scale maps lambda of that shell, their mean over samples; 1 outside the mask.
    sd : (x, y, z, m) float32 array or None
        Standard deviation of the signal over samples.
    provenance : dict
    """

    scan: Scan
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    scale: NDArray[np.float32]
    sd: NDArray[np.float32] | None
    provenance: dict[str, Any]

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the scan and what belongs to it, or nothing; return the image's path.

        Beside ``NAME.nii.gz``: ``.bval``, ``.bvec``, ``.json`` (provenance), ``_mask.nii.gz``,
        features before and after, scale maps and, of several samples, ``_sd.nii.gz``.

        Raises
        ------
        InputError
            If the name is not a NIfTI file's, or the file is there and `overwrite` is off.
        """
        path = Path(path)
        check_image(path, overwrite=overwrite)
        base, affine = nifti.stem(path), self.scan.affine
        images = dict(zip(PARTS, (self.before, self.after, self.scale), strict=False))
        with staged(path.parent, last=path.name) as stage:
            for name, data in images.items():
                image = nib.Nifti1Image(np.ascontiguousarray(np.moveaxis(data, 0, -1)), affine)
                nib.save(image, stage / f"{base}_{name}.nii.gz")
            if self.sd is not None:
                nib.save(nib.Nifti1Image(self.sd, affine), stage / f"{base}_sd.nii.gz")
            told = json.dumps(self.provenance, indent=2) + "\n"
            (stage / f"{base}.json").write_text(told, encoding="utf-8")
            nifti.save(self.scan, stage / path.name)
        if self.sd is None:  # that of an earlier run would tell of another scan
            (path.parent / f"{base}_sd.nii.gz").unlink(missing_ok=True)
        return path


def check_image(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that no NIfTI file has, and a file that is there."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError("is no name of a NIfTI file", "Let it end in .nii.gz.", file=path)
    if path.exists() and not overwrite:
        raise InputError("is there already", "Name another, or add --overwrite.", file=path)
