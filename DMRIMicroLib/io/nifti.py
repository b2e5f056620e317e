"""NIfTI images with FSL b-value and b-vector files."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from ..errors import InputError
from ..files import staged
from ..scan import Scan
from .gradients import Gradients, fsl_to_ras, ras_to_fsl, read_bval, read_bvec

BVAL_NAMES = (".bval", ".bvals")
BVEC_NAMES = (".bvec", ".bvecs")


def load(path: Path, bval: str | Path | None = None, bvec: str | Path | None = None) -> Gradients:
    """Open a 4-D NIfTI file lazily, with its gradient table."""
    image = open_image(path)
    bval_file = Path(bval) if bval else _beside(path, BVAL_NAMES, "--bval")
    bvec_file = Path(bvec) if bvec else _beside(path, BVEC_NAMES, "--bvec")
    for file in (bval_file, bvec_file):
        if not file.exists():
            raise InputError("there is no such file", "Check the path.", file=file)
    bvals = read_bval(bval_file)
    affine = np.asarray(image.affine, dtype=np.float64)
    return Gradients(
        signal=image.dataobj,
        affine=affine,
        bvals=bvals,
        bvecs=fsl_to_ras(read_bvec(bvec_file, len(bvals)), affine),
        name=stem(path),
        source=path,
        bval_file=bval_file,
        bvec_file=bvec_file,
    )


def save(scan: Scan, path: str | Path) -> Path:
    """Write a scan as float32 NIfTI with ``.bval`` and ``.bvec`` (and ``_mask.nii.gz``) beside it.

    Files are staged and renamed. Returns the path of the image.
    """
    path = Path(path)
    base = stem(path)
    acq = scan.acquisition
    with staged(path.parent, last=path.name) as stage:
        data = scan.volumes(np.arange(len(acq)))
        nib.save(nib.Nifti1Image(data, scan.affine), stage / path.name)
        np.savetxt(stage / f"{base}.bval", acq.bvals[None], fmt="%.10g")
        np.savetxt(stage / f"{base}.bvec", ras_to_fsl(acq.bvecs, scan.affine).T, fmt="%.17g")
        if scan.mask is not None:
            nib.save(
                nib.Nifti1Image(scan.mask.astype(np.uint8), scan.affine),
                stage / f"{base}_mask.nii.gz",
            )
    return path


def read_volume(path: str | Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Read a 3-D image, a mask say: its array and affine. NIfTI, or NRRD by SimpleITK."""
    path = Path(path)
    if not path.exists():
        raise InputError("there is no such file", "Check the path.", file=path)
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        from .nrrd import read_volume as read_nrrd

        return read_nrrd(path)
    image = open_image(path)
    try:
        return np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"cannot be read ({error})", "Copy or make the file again.", file=path
        ) from error


def open_image(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file without reading its data."""
    try:
        # one open handle: volumes of a .gz are then decompressed in sequence, each once
        image = nib.load(path, keep_file_open=True)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        reason = str(error).replace(str(path), path.name).strip(" .")
        raise InputError(
            f"not a readable NIfTI image ({reason})",
            "Check the file, or convert it again.",
            file=path,
        ) from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise InputError(f"is {type(image).__name__}, not NIfTI", "Convert it to NIfTI.", file=path)
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise InputError(
            "its affine is singular or not finite", "Repair the header (sform/qform).", file=path
        )
    return image


def stem(path: Path) -> str:
    """File name without .nii, .nii.gz, .nrrd or .nhdr."""
    name = path.name
    for ending in (".nii.gz", ".nii", ".nrrd", ".nhdr"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _beside(path: Path, endings: tuple[str, ...], option: str) -> Path:
    """Find the table that belongs to an image: same stem, else the only one in the folder."""
    for ending in endings:
        if (file := path.with_name(stem(path) + ending)).exists():
            return file
    only = [f for f in path.parent.iterdir() if f.name.lower().endswith(endings)]
    if len(only) == 1:
        return only[0]
    found = "there are several in the folder" if only else "there is none in the folder"
    raise InputError(
        f"no {stem(path)}{endings[0]} lies beside it ({found})",
        f"Name the file with {option}.",
        file=path,
    )
