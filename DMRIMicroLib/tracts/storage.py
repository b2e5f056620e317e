"""Files of streamlines: .trx, .trk, .tck and .vtk, each with a JSON sidecar of its provenance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.streamlines import ArraySequence
from nibabel.streamlines.tractogram_file import DataError, HeaderError
from numpy.typing import NDArray

from ..errors import InputError
from ..files import staged
from .polydata import read_polydata, write_polydata
from .tractogram import Tractogram

LONGEST_NAME, MOST_VALUES = 18, 10
""".trk: characters of a name, and values per point and per line."""

NO_GRID = (np.eye(4), (1, 1, 1))
"""Of lines from a file that does not tell the image that they were tracked in."""


def save(lines: Tractogram, file: str | Path, *, overwrite: bool = False) -> Path:
    """Write streamlines, in RAS millimetres, and ``NAME.json`` beside; return the path.

    Both are staged and renamed, so that a failure leaves an earlier file as it was. Values of whole
    lines go into .trx and .trk alone.

    Raises
    ------
    InputError
        If the format is unknown or cannot hold the values along the lines, the file is there
        already and `overwrite` is off, or it cannot be written.
    """
    file = Path(file)
    write = check_name(file, overwrite=overwrite)
    _check_fits(lines, file)
    told = {"format": "DMRIMicro streamlines", "streamlines": len(lines)}
    told |= {"space": "RAS world coordinates, mm", "values_per_point": list(lines.per_point)}
    told |= {"affine": np.asarray(lines.affine).tolist(), "shape": [int(n) for n in lines.shape]}
    told |= {"provenance": lines.provenance}
    with staged(file.parent, last=file.name) as stage:
        write(lines, stage / file.name)
        text = json.dumps(told, indent=2, ensure_ascii=False)
        (stage / sidecar(file).name).write_text(text + "\n", encoding="utf-8")
    return file


def check_name(file: Path, *, overwrite: bool = False) -> Callable:
    """Return what writes a file of this name, or refuse the name before the work."""
    write = _of_format(file, WRITERS)
    if file.exists() and not overwrite:
        raise InputError("is there already", "Name another, or overwrite it.", file=file)
    return write


def load(file: str | Path) -> Tractogram:
    """Read streamlines of any of the formats, and their provenance where a sidecar tells it."""
    file = Path(file)
    read = _of_format(file, READERS)
    if not file.exists():
        raise InputError("there is no such file", "Check the path.", file=file)
    try:
        lines = read(file)
    except InputError:
        raise
    except Exception as error:  # the readers of damaged files raise nearly everything
        raise InputError(
            f"cannot be read ({type(error).__name__}: {error})", "Make it again.", file=file
        ) from error
    told = _told(sidecar(file))
    if not told:
        return lines
    affine, shape = lines.affine, lines.shape
    if tuple(shape) == NO_GRID[1] and "affine" in told:
        affine, shape = np.array(told["affine"]), tuple(told["shape"])
    return Tractogram(
        lines.streamlines, affine, shape, lines.per_point, lines.per_line, told["provenance"]
    )


def sidecar(file: Path) -> Path:
    """Name of the file that tells how streamlines were made."""
    return file.with_suffix(".json")


def _of_format(file: Path, known: dict[str, Callable]) -> Callable:
    try:
        return known[file.suffix.lower()]
    except KeyError:
        raise InputError(
            f"files of type {file.suffix or '(none)'} hold no streamlines here",
            f"Let the name end in {', '.join(known)}.",
            file=file,
        ) from None


def _check_fits(lines: Tractogram, file: Path) -> None:
    """Refuse values that a format would drop."""
    kind, values = file.suffix.lower(), {**lines.per_point, **lines.per_line}
    if kind == ".tck" and lines.per_point:
        raise InputError(
            f".tck holds no values along lines ({', '.join(lines.per_point)})",
            "Write .trx, .trk or .vtk, or leave the values out.",
            file=file,
        )
    if kind == ".trk" and (long := [n for n in values if len(n) > LONGEST_NAME]):
        raise InputError(f"{long[0]} is too long a name for .trk", "Write .trx.", file=file)
    if kind == ".trk" and max(len(lines.per_point), len(lines.per_line)) > MOST_VALUES:
        raise InputError(f".trk holds {MOST_VALUES} values at most", "Write .trx.", file=file)


def _told(file: Path) -> dict[str, Any]:
    """Read a sidecar; nothing if there is none, or it is of another program."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return told if told["format"] == "DMRIMicro streamlines" else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _as_nibabel(lines: Tractogram, per_line: bool = True) -> nib.streamlines.Tractogram:
    return nib.streamlines.Tractogram(
        lines.streamlines,
        data_per_streamline=lines.per_line if per_line else None,
        data_per_point=lines.per_point,
        affine_to_rasmm=np.eye(4),
    )


def _write_trk(lines: Tractogram, file: Path) -> None:
    header = {
        "voxel_to_rasmm": np.asarray(lines.affine, dtype=np.float32),
        "voxel_sizes": np.linalg.norm(lines.affine[:3, :3], axis=0).astype(np.float32),
        "dimensions": np.array(lines.shape[:3], dtype=np.int16),
        "voxel_order": "".join(nib.aff2axcodes(lines.affine)),
    }
    nib.streamlines.TrkFile(_as_nibabel(lines), header).save(str(file))


def _write_tck(lines: Tractogram, file: Path) -> None:
    nib.streamlines.TckFile(_as_nibabel(lines, per_line=False)).save(str(file))


def _read_nibabel(file: Path) -> Tractogram:
    try:
        read = nib.streamlines.load(file)
    except (DataError, HeaderError, ValueError, OSError) as error:
        raise InputError(f"cannot be read ({error})", "Make it again.", file=file) from error
    affine, shape = NO_GRID
    if file.suffix.lower() == ".trk":
        affine = np.asarray(read.header["voxel_to_rasmm"], dtype=np.float64)
        shape = tuple(int(n) for n in read.header["dimensions"])
    made = read.tractogram
    return Tractogram(
        made.streamlines, affine, shape, dict(made.data_per_point), dict(made.data_per_streamline)
    )


def _trx() -> Any:
    """Return the module that reads and writes .trx."""
    try:
        from trx import trx_file_memmap
    except ImportError as error:
        raise InputError(
            f"trx-python is not installed ({error})", "pip install trx-python, or write .trk."
        ) from error
    return trx_file_memmap


def _write_trx(lines: Tractogram, file: Path) -> None:
    module = _trx()
    if not len(lines):
        raise InputError("there is no streamline, which .trx cannot hold", "Write .trk.")
    reference = nib.Nifti1Image(np.zeros(lines.shape[:3], dtype=np.uint8), lines.affine)
    made = module.TrxFile.from_tractogram(_as_nibabel(lines), reference)
    module.save(made, str(file))
    made.close()


def _read_trx(file: Path) -> Tractogram:
    read = _trx().load(str(file))
    affine = np.array(read.header["VOXEL_TO_RASMM"], dtype=np.float64).reshape(4, 4)
    shape = tuple(int(n) for n in read.header["DIMENSIONS"])
    made = read.to_tractogram()
    # copies, so that the file can be closed
    lines = Tractogram(
        _copied(made.streamlines),
        affine,
        shape,
        {k: _copied(v) for k, v in made.data_per_point.items()},
        {k: np.array(v).reshape(len(made.streamlines), -1) for k, v in _items(made)},
    )
    read.close()
    return lines


def _items(made: nib.streamlines.Tractogram) -> Any:
    return made.data_per_streamline.items()


def _copied(rows: Any) -> ArraySequence:
    return ArraySequence([np.array(row, dtype=np.float32).reshape(len(row), -1) for row in rows])


def _write_vtk(lines: Tractogram, file: Path) -> None:
    values = {name: _flat(v) for name, v in lines.per_point.items()}
    write_polydata(file, list(lines.streamlines), values)


def _read_vtk(file: Path) -> Tractogram:
    lines, values = read_polydata(file)
    cuts = np.cumsum([len(line) for line in lines])[:-1]
    per_point = {k: ArraySequence(np.split(v[:, None], cuts)) for k, v in values.items()}
    return Tractogram(ArraySequence(lines), *NO_GRID, per_point)


def _flat(values: ArraySequence) -> NDArray[np.float32]:
    return np.concatenate(list(values)).ravel() if len(values) else np.empty(0, np.float32)


WRITERS = {".trx": _write_trx, ".trk": _write_trk, ".tck": _write_tck, ".vtk": _write_vtk}
READERS = {".trx": _read_trx, ".trk": _read_nibabel, ".tck": _read_nibabel, ".vtk": _read_vtk}
