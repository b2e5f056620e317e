"""Open a scan of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..masking import onto_grid
from ..scan import Scan
from ..table import B0_THRESHOLD
from . import dicom, nifti, nrrd
from .gradients import Gradients

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")


def load(
    path: str | Path,
    *,
    bval: str | Path | None = None,
    bvec: str | Path | None = None,
    mask: str | Path | None = None,
    b0_threshold: float = B0_THRESHOLD,
    exclude: Sequence[int] = (),
    delta: float | None = None,
    Delta: float | None = None,
    TE: float | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Scan:
    """Open a diffusion scan.

    Parameters
    ----------
    path : path-like
        NIfTI (``.nii``, ``.nii.gz``; read lazily), DWI NRRD (``.nrrd``, ``.nhdr``) or a folder of
        DICOM files (converted by dcm2niix).
    bval, bvec : path-like, optional
        b-values and b-vectors of a NIfTI file (FSL convention); found beside the image if left out.
    mask : path-like, optional
        Mask image, on any grid that overlaps.
    b0_threshold : float
        Volumes with b up to this count as b0 [s/mm2].
    exclude : sequence of int
        Volumes to leave out, counted from 0.
    delta, Delta, TE : float, optional
        Gradient timing and echo time [ms].
    progress : callable(fraction, text), optional
        Called again and again while DICOM is converted; what it raises stops that.

    Raises
    ------
    InputError
        With the file, the field, the value and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("there is no such file or folder", "Check the path.", file=path)
    name = path.name.lower()
    if path.is_dir():
        image = dicom.load(path, progress)
    elif name.endswith(NIFTI):
        image = nifti.load(path, bval, bvec)
    elif name.endswith(NRRD):
        image = nrrd.load(path)
    else:
        raise InputError(
            f"files of type {''.join(path.suffixes[-2:]) or '(none)'} are not read",
            "Give NIfTI, NRRD or a DICOM folder; convert MRtrix files with "
            "`mrconvert in.mif out.nii.gz -export_grad_fsl out.bvec out.bval`.",
            file=path,
        )
    scan = _assemble(image, b0_threshold, exclude, delta, Delta, TE)
    if mask is not None:
        data, affine = nifti.read_volume(mask)
        scan = scan.with_mask(onto_grid(data, affine, scan.shape, scan.affine, file=mask))
    return scan


def _assemble(
    image: Gradients,
    b0_threshold: float,
    exclude: Sequence[int],
    delta: float | None,
    Delta: float | None,
    TE: float | None,
) -> Scan:
    """Exclude volumes before anything is checked, so that a bad one can be left out."""
    count = image.signal.shape[3] if len(image.signal.shape) == 4 else len(image.bvals)
    if wrong := [v for v in exclude if not 0 <= v < count]:
        raise InputError(
            f"volume {wrong[0]} cannot be excluded: there are {count}", "Volumes count from 0."
        )
    keep = np.setdiff1d(np.arange(count), np.array(exclude, dtype=int))
    if not len(keep):
        raise InputError("all volumes are excluded", "Keep at least one b0 and six directions.")
    if len(image.bvals) == count:
        image = replace(image, keep=keep)
    acquisition, notes = image.acquisition(b0_threshold, delta=delta, Delta=Delta, TE=TE)
    whole = Scan(
        signal=image.signal if not len(exclude) else image.kept_signal(),
        affine=image.affine,
        acquisition=acquisition,
        name=image.name,
        source=image.source,
        notes=notes,
        lifted=image.lifted,
    )
    lowest = float(acquisition.bvals.min())
    if 0 < lowest <= b0_threshold:
        whole = whole.with_notes(
            f"the lowest b-value is {lowest:g} s/mm2: these volumes serve as b0, with their true b"
        )
    aimless = acquisition.is_b0 & (acquisition.bvals > 1) & ~acquisition.bvecs.any(axis=1)
    if aimless.any():
        whole = whole.with_notes(
            f"{int(aimless.sum())} volumes of b <= {acquisition.bvals[aimless].max():g} s/mm2 have "
            "no direction: taken as averaged over all directions"
        )
    return whole
