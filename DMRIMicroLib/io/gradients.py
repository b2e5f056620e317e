"""Gradient tables: reading, checking, and turning FSL's convention into RAS directions and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..errors import InputError
from ..scan import read, series_shape
from ..table import check_bvals, check_bvecs, to_s_per_mm2


@dataclass(frozen=True, eq=False)
class Gradients:
    """What a file says, before it is checked.

    Attributes
    ----------
    signal : (x, y, z, m) array-like
    affine : (4, 4) array
    bvals : (m,) array
        As written in the file.
    bvecs : (m, 3) array
        In RAS.
    name, source
        Of the scan.
    bval_file, bvec_file : object
        Named in errors.
    keep : (k,) int array, optional
        Volumes to use.
    notes : tuple of str
    lifted : bool
        See `Scan`.
    """

    signal: Any
    affine: NDArray[np.float64]
    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    name: str
    source: Path
    bval_file: object
    bvec_file: object
    keep: NDArray[np.intp] | None = None
    notes: tuple[str, ...] = field(default=())
    lifted: bool = True

    def acquisition(
        self, b0_threshold: float, **timing: float | None
    ) -> tuple[Acquisition, tuple[str, ...]]:
        """Check the table and say what had to be interpreted."""
        shape = series_shape(self.signal, self.source)
        for name, option, table, file in (
            ("b-values", "--bval", self.bvals, self.bval_file),
            ("b-vectors", "--bvec", self.bvecs, self.bvec_file),
        ):
            if len(table) != shape[3]:
                raise InputError(
                    f"there are {len(table)} {name}, and {shape[3]} volumes in {self.source.name}",
                    f"Check that the files belong together; name the right one with {option}.",
                    file=file,
                )
        keep = slice(None) if self.keep is None else self.keep
        bvals = check_bvals(self.bvals[keep], file=self.bval_file)
        bvals, note = to_s_per_mm2(bvals, file=self.bval_file)
        bvecs = check_bvecs(self.bvecs[keep], bvals, b0_threshold=b0_threshold, file=self.bvec_file)
        notes = self.notes + ((note,) if note else ())
        if self.keep is not None and len(self.keep) < shape[3]:
            notes += (
                f"{shape[3] - len(self.keep)} of {shape[3]} volumes were excluded on request",
            )
        return Acquisition(bvals, bvecs, b0_threshold=b0_threshold, **timing), notes

    def kept_signal(self) -> NDArray:
        """Read the volumes to keep into memory."""
        assert self.keep is not None
        parts = [part for _, part in read(self.signal, self.keep, self.source)]
        return np.concatenate(parts, axis=-1)


def read_numbers(file: Path) -> NDArray[np.float64]:
    """Read a small text table of numbers, separated by blanks or commas: (rows, columns)."""
    try:
        lines = file.read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read ({error})", "Check the file and its permissions.", file=file
        ) from error
    rows = [line.split() for line in lines if line.strip()]
    if not rows:
        raise InputError(
            "the file is empty", "Give the table that was made with this image.", file=file
        )
    try:
        table = [[float(x) for x in row] for row in rows]
    except ValueError as error:
        raise InputError(
            f"not a table of numbers ({error})", "Give plain text numbers.", file=file
        ) from error
    if len({len(row) for row in table}) != 1:
        raise InputError(
            f"its lines have different lengths ({', '.join(str(len(r)) for r in table[:6])})",
            "Every line needs as many numbers: a value is missing or broken off.",
            file=file,
        )
    return np.array(table)


def read_bval(file: Path) -> NDArray[np.float64]:
    """Read b-values written as a row or a column: (m,)."""
    table = read_numbers(file)
    if 1 not in table.shape:
        raise InputError(
            f"has {table.shape[0]} lines of {table.shape[1]} numbers, "
            "expected one row or one column of b-values",
            "Perhaps this is the b-vector file.",
            file=file,
        )
    return table.ravel()


def read_bvec(file: Path, count: int) -> NDArray[np.float64]:
    """Read b-vectors written as three rows (FSL) or three columns: (m, 3)."""
    table = read_numbers(file)
    if 3 not in table.shape:
        raise InputError(
            f"has {table.shape[0]} lines of {table.shape[1]} numbers, expected 3 rows or 3 columns",
            "Give one x, y, z triple a volume.",
            file=file,
        )
    # three volumes are ambiguous: FSL's layout, three rows, is the convention
    rows_first = table.shape[0] == 3 and (table.shape[1] == count or table.shape[1] != 3)
    return table.T if rows_first else table


def fsl_to_ras(bvecs: NDArray, affine: NDArray) -> NDArray[np.float64]:
    """Turn FSL b-vectors into RAS directions: (m, 3), (4, 4) -> (m, 3).

    FSL's vectors refer to the voxel axes, with x reversed where the affine has a positive
    determinant (FSL's "radiological" storage rule). Lengths are kept.
    """
    return (bvecs * _fsl_sign(affine)) @ _axes(affine).T


def ras_to_fsl(directions: NDArray, affine: NDArray) -> NDArray[np.float64]:
    """Inverse of `fsl_to_ras`."""
    return directions @ _axes(affine) * _fsl_sign(affine)


def _axes(affine: NDArray) -> NDArray[np.float64]:
    """Directions of the voxel axes: the orthogonal matrix nearest to them (headers may shear)."""
    u, _, v = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return u @ v


def _fsl_sign(affine: NDArray) -> NDArray[np.float64]:
    return np.array([-1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0, 1.0, 1.0])
