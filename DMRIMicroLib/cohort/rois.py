"""Statistics of every map in the regions of an atlas, one scan at a time."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io.nifti import read_volume, stem
from ..metric import Flag
from . import state
from .jobs import Outcome

ROIS = "rois"
"""Folder of the statistics, beside the marks."""

ROUNDING = 1e-4
"""Voxel coordinates this far below a half still round up: affines in files are float32."""

LEAST_VOXELS = 1
"""Good voxels that a region needs to have a mean."""

COLUMNS = {
    "scan": "Name of the scan",
    "method": "Model, codebook or pigment",
    "metric": "What the map shows",
    "roi": "Name of the region, of the atlas' table",
    "label": "Its number in the atlas",
    "voxels": "Good voxels of the region",
    "mean": "Mean over them",
    "sd": "Standard deviation over them",
    "median": "Median over them",
    "unit": "Of mean, sd and median",
}
"""Columns of the table, and what they mean."""


@dataclass(frozen=True)
class RoiTask:
    """A scan whose maps are looked at in the regions of an atlas.

    Attributes
    ----------
    key : str
    out : Path
        The data set of maps.
    marks : dict
        Its marks by method (`state.marks`).
    atlas : Path
        Image of labels in the scan's world coordinates.
    """

    key: str
    out: Path
    marks: Mapping[str, Mapping[str, Any]]
    atlas: Path

    @property
    def file(self) -> Path:
        """Where the statistics are kept."""
        return self.out / state.STATE / ROIS / f"{self.key}.json"

    def digest(self) -> str:
        """Hash of what the statistics depend on."""
        made = {method: mark["digest"] for method, mark in self.marks.items()}
        return state.digest({"atlas": state.file_digest(self.atlas), "marks": made})


def atlas_of(pattern: str, subject: str, session: str | None) -> Path:
    """Return the atlas of a scan: one image for all, or a path with {subject} and {session}."""
    return Path(pattern.replace("{subject}", subject).replace("{session}", session or ""))


def run_rois(task: RoiTask) -> Outcome:
    """Find the statistics of one scan and keep them; it never raises."""
    started = time.perf_counter()
    try:
        if not task.atlas.exists():
            raise InputError("there is no such atlas", "Check --atlas.", file=task.atlas)
        wanted = task.digest()
        if (state.read_mark(task.file) or {}).get("digest") == wanted:
            return Outcome(task.key, "present", time.perf_counter() - started)
        task.file.unlink(missing_ok=True)  # of other maps, or of another atlas
        rows = list(statistics(task))
        state.write_atomically(task.file, {"digest": wanted, "rows": rows})
    except Exception as error:
        return Outcome.failed(task.key, error, time.perf_counter() - started)
    return Outcome(task.key, "done", time.perf_counter() - started)


def statistics(task: RoiTask) -> Iterator[list[Any]]:
    """Yield the rows of a scan's table (`COLUMNS`)."""
    names, cached = names_of(task.atlas), None
    for method, mark in task.marks.items():
        files = [task.out / name for name in mark["files"]]
        flags_file = next((f for f in files if f.name.endswith("flags_dseg.nii.gz")), None)
        if flags_file is None:
            continue
        flags, affine = read_volume(flags_file)
        if cached is None:  # all maps of a scan lie on one grid
            cached = labels_onto(task.atlas, flags.shape, affine)
        inside = (flags == Flag.GOOD) & (cached > 0)
        labels = cached[inside]
        for metric, file in _maps(mark, files):
            values = np.asarray(nib.load(file).dataobj)[inside]  # type: ignore[attr-defined]
            unit = mark["metrics"][metric]["unit"]
            for number in np.unique(labels):
                mine = values[labels == number].astype(np.float64)
                if len(mine) >= LEAST_VOXELS:
                    name = names.get(int(number), f"label {int(number)}")
                    yield [
                        task.key,
                        method,
                        metric,
                        name,
                        int(number),
                        len(mine),
                        *(_short(v) for v in (mine.mean(), mine.std(), np.median(mine))),
                        unit,
                    ]


def labels_onto(atlas: Path, shape: tuple[int, ...], target: NDArray) -> NDArray[np.int64]:
    """Bring labels onto a grid by the affines, nearest neighbour: (x, y, z), 0 outside.

    Raises
    ------
    InputError
        If it is no image of labels, or does not overlap.
    """
    data, affine = read_volume(atlas)
    data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
    if data.ndim != 3:
        raise InputError(f"the atlas has {data.ndim} dimensions", "Give a 3-D one.", file=atlas)
    if not np.array_equal(data, np.round(data)):
        raise InputError("holds numbers that are no labels", "Give a segmentation.", file=atlas)
    to_atlas = np.linalg.inv(affine) @ target
    out = np.zeros(shape, np.int64)
    plane = np.indices(shape[1:]).reshape(2, -1)
    for i in range(shape[0]):  # a plane at a time bounds the memory
        index = to_atlas[:3, :3] @ np.vstack([np.full(plane.shape[1], i), plane])
        nearest = np.floor(index + to_atlas[:3, 3:] + 0.5 + ROUNDING).astype(int)
        within = ((nearest >= 0) & (nearest < np.array(data.shape)[:, None])).all(axis=0)
        out[i].ravel()[within] = data[tuple(nearest[:, within])]
    if not out.any():
        raise InputError(
            "no label overlaps the maps (grids compared by their affines)",
            "Give the atlas in the scan's space; {subject} and {session} may stand in its path.",
            file=atlas,
        )
    return out


def names_of(atlas: Path) -> dict[int, str]:
    """Read the names of labels: BIDS' table (index, name) beside the atlas, if there is one."""
    table = atlas.with_name(f"{stem(atlas)}.tsv")
    if not table.exists():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened, delimiter="\t"))
    try:
        return {int(row["index"]): row["name"] for row in rows}
    except (KeyError, ValueError) as error:
        raise InputError(
            f"is no table of labels ({error})", "Give the columns index and name.", file=table
        ) from error


def _maps(mark: Mapping[str, Any], files: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the scalar metrics of a method with their files."""
    for metric in mark["metrics"]:
        end = f"_param-{''.join(c for c in metric if c.isalnum())}_dwimap.nii.gz"
        yield metric, next(f for f in files if f.name.endswith(end))


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
