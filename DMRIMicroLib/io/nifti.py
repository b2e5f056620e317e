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

PER_MM = {"meter": 1e3, "micron": 1e-3}
"""Millimetres in NIfTI's other units of length."""

UNLIFTED = b"DMRIMicro: no noise floor"
"""Description in the header of a scan whose signals noise does not lift (`Scan.lifted`)."""

BVAL_NAMES = (".bval", ".bvals")
BVEC_NAMES = (".bvec", ".bvecs")


def load(path: Path, bval: str | Path | None = None, bvec: str | Path | None = None) -> Gradients:
    """Open a 4-D NIfTI file lazily, with its gradient table."""
    image = open_image(path)
    bval_file, bval_note = (Path(bval), None) if bval else _beside(path, BVAL_NAMES, "--bval")
    bvec_file, bvec_note = (Path(bvec), None) if bvec else _beside(path, BVEC_NAMES, "--bvec")
    for file in (bval_file, bvec_file):
        if not file.exists():
            raise InputError("there is no such file", "Check the path.", file=file)
    bvals = read_bval(bval_file)
    affine, header_notes = _world(image)
    signal = image.dataobj
    if signal.ndim == 5 and signal.shape[3] == 1:  # (x, y, z, 1, m), as ITK writes vectors
        signal = signal.reshape((*signal.shape[:3], signal.shape[4]))
    return Gradients(
        signal=signal,
        affine=affine,
        bvals=bvals,
        bvecs=fsl_to_ras(read_bvec(bvec_file, len(bvals)), affine),
        name=stem(path),
        source=path,
        bval_file=bval_file,
        bvec_file=bvec_file,
        notes=tuple(filter(None, (*header_notes, bval_note, bvec_note))),
        lifted=image.header["descrip"].item() != UNLIFTED,
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
        image = nib.Nifti1Image(data, scan.affine)
        if not scan.lifted:
            image.header["descrip"] = UNLIFTED
        nib.save(image, stage / path.name)
        np.savetxt(stage / f"{base}.bval", acq.bvals[None], fmt="%.10g")
        np.savetxt(stage / f"{base}.bvec", ras_to_fsl(acq.bvecs, scan.affine).T, fmt="%.17g")
        if scan.mask is not None:
            nib.save(
                nib.Nifti1Image(scan.mask.astype(np.uint8), scan.affine),
                stage / f"{base}_mask.nii.gz",
            )
    return path


def read_volume(path: str | Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Read a 3-D image, a mask say: its array and affine. NIfTI or NRRD."""
    path = Path(path)
    if not path.exists():
        raise InputError("there is no such file", "Check the path.", file=path)
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        from .nrrd import read_volume as read_nrrd

        return read_nrrd(path)
    image = open_image(path)
    try:
        return np.asarray(image.dataobj), _world(image)[0]
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
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0).clip(min=1e-30)
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(axes)) < 1e-3:
        raise InputError(
            "its affine is singular or not finite", "Repair the header (sform/qform).", file=path
        )
    if (kind := image.get_data_dtype()).kind not in "iuf":
        raise InputError(
            f"holds values of type {kind}, expected real numbers",
            "Give the magnitude image.",
            file=path,
        )
    return image


def _world(image: nib.Nifti1Image) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Affine to RAS in mm, and what had to be assumed."""
    affine, notes = np.array(image.affine, dtype=np.float64), []
    unit = image.header.get_xyzt_units()[0]
    if unit in PER_MM:
        affine[:3] *= PER_MM[unit]
        notes.append(f"the header gives positions in {unit}: converted to mm")
    if not image.header["sform_code"] and not image.header["qform_code"]:
        notes.append(
            "the header says no orientation (sform and qform are 0): left and right are a guess"
        )
    return affine, tuple(notes)


def stem(path: Path) -> str:
    """File name without .nii, .nii.gz, .nrrd or .nhdr."""
    name = path.name
    for ending in (".nii.gz", ".nii", ".nrrd", ".nhdr"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _beside(path: Path, endings: tuple[str, ...], option: str) -> tuple[Path, str | None]:
    """Find the table that belongs to an image, and say so where its name does not tell.

    Same stem first, then a plain ``bvals`` or ``bvecs``; any other only if it and the image are
    the only ones in the folder.
    """
    plain = [e.lstrip(".") for e in endings]
    names = [stem(path) + e for e in endings] + plain + [f"{p}.txt" for p in plain]
    for name in names:
        if (file := path.with_name(name)).exists():
            return file, None
    files = [f for f in path.parent.iterdir() if not f.name.startswith(".")]
    tables = [f for f in files if f.name.lower().endswith(endings)]
    images = [
        f for f in files if f.name.lower().endswith((".nii", ".nii.gz")) and "mask" not in f.name
    ]
    if len(tables) == 1 and images == [path]:
        return tables[0], f"{tables[0].name} was taken as the table of {path.name}"
    found = f"there is {tables[0].name}" if len(tables) == 1 else f"there are {len(tables)} others"
    raise InputError(
        f"no {stem(path)}{endings[0]} lies beside it ({found if tables else 'nor any other'})",
        f"Name the file with {option}.",
        file=path,
    )
