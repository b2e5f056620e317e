"""Diffusion-weighted NRRD, as 3D Slicer and ITK write it.

https://www.na-mic.org/wiki/NAMIC_Wiki:DTI:Nrrd_format: ``DWMRI_b-value`` is the b of the longest
gradient; the b of every other one is that times the square of its relative length; the
measurement frame turns gradients into the space of the header.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .gradients import Gradients

TO_RAS = {
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "ras": (1, 1, 1),
    "las": (-1, 1, 1),
    "lps": (-1, -1, 1),
}
"""Signs that turn each NRRD space into RAS."""


def load(path: Path) -> Gradients:
    """Read a DWI NRRD file, raw or gzipped, attached or detached header."""
    data, header = _read(path)
    affine, signs, axis = _geometry(header, data.ndim, path)
    if axis is None:
        raise InputError(
            f"the image has {data.ndim} dimensions, none of them the gradients",
            "Give the whole diffusion series.",
            file=path,
        )
    directions, bvals = _gradients(header, path)
    frame = np.asarray(header.get("measurement frame", np.eye(3)))
    if frame.shape != (3, 3) or frame.dtype.kind not in "iuf" or not np.isfinite(frame).all():
        raise InputError(
            "the measurement frame is not a 3x3 matrix of numbers",
            "Correct it; without it the gradients have no meaning.",
            file=path,
        )
    # pynrrd gives the frame's columns as rows: a gradient is sum_i g_i * column_i
    world = directions @ frame * signs
    length = np.linalg.norm(world, axis=1, keepdims=True)
    unit = np.divide(world, length, out=np.zeros_like(world), where=length > 0)
    return Gradients(
        signal=np.moveaxis(data, axis, -1),
        affine=affine,
        bvals=bvals,
        bvecs=unit,
        name=path.stem,
        source=path,
        bval_file=path,
        bvec_file=path,
    )


def read_volume(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Read a 3-D NRRD image: its array and affine (RAS)."""
    data, header = _read(path)
    affine, _, axis = _geometry(header, data.ndim, path)
    return (data if axis is None else np.moveaxis(data, axis, -1)), affine


def _read(path: Path) -> tuple[NDArray, dict[str, Any]]:
    try:
        data, header = nrrd.read(str(path), index_order="F")
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        StopIteration,
        zlib.error,
        nrrd.NRRDError,
    ) as error:
        raise InputError(
            f"not a readable NRRD image ({error})", "Copy or convert it again.", file=path
        ) from error
    return data, dict(header)


def _geometry(
    header: dict[str, Any], dimensions: int, path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64], int | None]:
    """Affine to RAS, the signs that lead there, and which axis holds the gradients."""
    space = str(header.get("space", "")).lower()
    vectors = header.get("space directions")
    if space not in TO_RAS or vectors is None:
        raise InputError(
            f"its space is {space or 'not given'!r}, without an orientation that is known",
            "Save it again from 3D Slicer.",
            file=path,
        )
    signs = np.array(TO_RAS[space], dtype=np.float64)
    rows = [
        None if v is None or np.isnan(v).any() else np.asarray(v, dtype=np.float64) for v in vectors
    ]
    empty = [k for k, row in enumerate(rows) if row is None]
    columns = [row for row in rows if row is not None]
    if len(columns) != 3 or len(empty) != dimensions - 3:
        raise InputError(
            f"has {len(columns)} spatial axes, expected 3",
            "Save it again from 3D Slicer.",
            file=path,
        )
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T * signs[:, None]
    affine[:3, 3] = np.array(header.get("space origin", np.zeros(3)), dtype=np.float64) * signs
    return affine, signs, empty[0] if empty else None


def _gradients(
    header: dict[str, Any], path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gradients as written (m, 3) and the b-value of each (m,) [s/mm2]."""
    if "DWMRI_b-value" not in header:
        raise InputError(
            "the field DWMRI_b-value is missing",
            "This is not a diffusion NRRD; if the scan has bval and bvec files, give it as NIfTI.",
            file=path,
        )
    try:
        highest = float(header["DWMRI_b-value"])
    except ValueError as error:
        raise InputError(
            f"the field DWMRI_b-value is {header['DWMRI_b-value']!r}",
            "Give a number of s/mm2.",
            file=path,
        ) from error
    keys = sorted(k for k in header if re.fullmatch(r"DWMRI_gradient_\d+", k))
    if not keys:
        raise InputError(
            "the fields DWMRI_gradient_0000 ... are missing", "Save it again as DWI.", file=path
        )
    table = []
    for key in keys:
        try:
            value = [float(x) for x in str(header[key]).split()]
        except ValueError:
            value = []
        if len(value) != 3 or not np.isfinite(value).all():
            raise InputError(
                f"the field {key} is {header[key]!r}", "Give three numbers.", file=path
            )
        if int(key[-4:]) != len(table):
            raise InputError(
                f"the field DWMRI_gradient_{len(table):04d} is missing", "Save it again.", file=path
            )
        repeat = str(header.get(key.replace("gradient", "NEX"), 1))
        if not repeat.strip().isdigit() or int(repeat) < 1:
            raise InputError(f"the field for NEX is {repeat!r}", "Give a number.", file=path)
        table += [value] * int(repeat)
    directions = np.array(table)
    length = np.linalg.norm(directions, axis=1)
    if not length.max() > 0:
        raise InputError("all gradients are zero", "This is not a diffusion scan.", file=path)
    return directions, highest * (length / length.max()) ** 2
