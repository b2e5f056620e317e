"""Which regions of a parcellation lines connect, and with what along the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ..errors import InputError
from ..io.nifti import read_volume
from ..maps import MapSet
from .regions import nearest
from .rules import Layers
from .table import save_table
from .tractogram import Tractogram, values_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNT, LENGTH = "count", "length"
"""Weights of an edge that are no map: number of lines, and their mean length [mm]."""

REACH = 4.0
"""An end belongs to the nearest region within this distance [mm]: lines end at the border of white
matter (R. E. Smith et al., NeuroImage 104 (2015) 253-265)."""

MOST_NAMED = 60
"""Regions whose names still fit into the figure."""


@dataclass(frozen=True, eq=False)
class Connectome:
    """Edges between regions.

    Attributes
    ----------
    matrix : (r, r) array
        Weights, symmetric; on the diagonal, lines with both ends in one region. NaN where a mean
        has no lines; 0 where a count has none.
    count : (r, r) array of int
        Lines of every edge.
    labels : tuple of int
    names : tuple of str
    weight : str
        What the matrix holds.
    unit : str
    unassigned : int
        Lines with an end near no region.
    """

    matrix: NDArray[np.float64]
    count: NDArray[np.int_]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    weight: str
    unit: str
    unassigned: int

    def save(
        self, file: str | Path, *, figure: str | Path | None = None, overwrite: bool = False
    ) -> Path:
        """Write the matrix (CSV, names of the regions on top and at the left), and a PNG of it."""
        return save_table(self, file, figure, overwrite=overwrite)

    def rows(self) -> list[list[str]]:
        """Return the rows of the table, the head first."""
        named = zip(self.names, self.matrix, strict=True)
        body = [[name, *(f"{v:.6g}" for v in row)] for name, row in named]
        return [[self.weight, *self.names], *body]

    def figure(self) -> Figure:
        """Draw the matrix; counts on a logarithmic scale."""
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

        drawn = Figure(figsize=(8.5, 7.5), layout="constrained", facecolor="white")
        axes = drawn.subplots()
        shown = np.where(self.count > 0, self.matrix, np.nan)
        counted = self.weight == COUNT and np.nanmax(self.count, initial=0) > 0
        scale = {"norm": LogNorm(vmin=1, vmax=max(2, int(self.count.max())))} if counted else {}
        image = axes.imshow(shown, cmap="viridis", interpolation="nearest", **scale)
        drawn.colorbar(image, ax=axes, label=f"{self.weight} [{self.unit}]".replace(" []", ""))
        if len(self.names) <= MOST_NAMED:
            axes.set_xticks(range(len(self.names)), self.names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(self.names)), self.names, fontsize=7)
        return drawn


def connectome(
    lines: Tractogram,
    parcellation: str | Path | tuple[NDArray, NDArray],
    *,
    weight: str = COUNT,
    maps: MapSet | None = None,
    files: Mapping[str, str | Path] | None = None,
    names: Mapping[int, str] | None = None,
    reach: float = REACH,
) -> Connectome:
    """Count the lines between regions, or average over them.

    Parameters
    ----------
    lines : Tractogram
    parcellation : path-like, or ((x, y, z) array of int, (4, 4) affine)
        Labels; 0 is none.
    weight : str
        ``"count"``, ``"length"`` (mean, mm), or the name of a map: the mean over an edge's lines
        of the mean along each.
    maps : MapSet, optional
        With the map that `weight` names.
    files : dict of str to path-like, optional
        Further images that `weight` may name, on the grid of `maps` or any other.
    names : dict of int to str, optional
        Of the labels, see `read_names`.
    reach : float
        An end belongs to the nearest region within so many millimetres.
    """
    data, affine = _labels(parcellation)
    labels = tuple(int(v) for v in np.unique(data) if v)
    if not labels:
        raise InputError("the parcellation has no region", "Give one with labels above 0.")
    rank = np.zeros(data.max() + 1, dtype=int)
    rank[list(labels)] = np.arange(1, len(labels) + 1)
    ends = np.array([(line[0], line[-1]) for line in lines], dtype=np.float64).reshape(-1, 2, 3)
    pair = np.sort(rank[_nearest_label(data, affine, ends, reach)], axis=1)
    both = (pair > 0).all(1)
    a, b = pair[both].T - 1
    size = (len(labels), len(labels))
    count = np.zeros(size, dtype=int)
    np.add.at(count, (a, b), 1)
    matrix, unit = count.astype(float), ""
    if weight != COUNT:
        values, unit = _values(lines, weight, maps, files)
        matrix = _mean(values[both], a, b, size)
    turned = np.triu(count, 1).T
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    called = tuple((names or {}).get(label, str(label)) for label in labels)
    return Connectome(matrix, count + turned, labels, called, weight, unit, int((~both).sum()))


def read_names(file: str | Path) -> dict[int, str]:
    """Read names of labels: lines of a number and a name, as in colour tables of FreeSurfer."""
    file = Path(file)
    if not file.exists():
        raise InputError("there is no such file", "Check the path.", file=file)
    names: dict[int, str] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.replace(",", " ").replace("\t", " ").split()
        if len(words) >= 2 and words[0].isdigit():
            names[int(words[0])] = words[1].strip('"')
    if not names:
        raise InputError("has no line of a number and a name", "Write: 17 Left-Hippo", file=file)
    return names


def _labels(parcellation: str | Path | tuple[NDArray, NDArray]) -> tuple[NDArray, NDArray]:
    """Return whole, non-negative labels and their affine."""
    file = None
    if isinstance(parcellation, str | Path):
        file = Path(parcellation)
        data, affine = read_volume(file)
    else:
        data, affine = parcellation
    data = np.nan_to_num(np.asarray(data))
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    whole = np.rint(data).astype(int)
    if data.ndim != 3 or (np.abs(whole - data) > 1e-3).any() or (whole < 0).any():
        raise InputError(
            "the parcellation is not a 3-D image of whole labels", "Give labels.", file=file
        )
    return whole, affine


def _nearest_label(data: NDArray, affine: NDArray, points: NDArray, reach: float) -> NDArray:
    """Label of the nearest region of each point within `reach` mm: (..., 3) -> (...), 0 if none."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # room around, for ends just beyond the parcellation
    pad = int(np.ceil(reach / spacing.min())) + 1
    wide = np.pad(data, pad)
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ np.full(3, pad)
    far, index = distance_transform_edt(wide == 0, sampling=spacing, return_indices=True)
    spread = np.where(far <= reach, wide[tuple(index)], 0)
    return nearest(spread, moved, points)


def _values(
    lines: Tractogram,
    weight: str,
    maps: MapSet | None,
    files: Mapping[str, str | Path] | None,
) -> tuple[NDArray[np.float64], str]:
    """Value of each line: its length, or the mean of a map along it."""
    if weight == LENGTH:
        return lines.lengths, "mm"
    if maps is None:
        raise InputError(
            f"the weight {weight!r} is neither {COUNT} nor {LENGTH}, and there are no maps",
            "Give the folder of maps (--maps).",
        )
    values = values_at(Layers(maps, files or {})[weight], maps, lines.points)
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    known = np.isfinite(values)
    total = np.bincount(owner[known], values[known], minlength=len(lines))
    points = np.bincount(owner[known], minlength=len(lines))
    unit = maps[weight].unit if weight in maps else ""
    return np.where(points > 0, total / np.maximum(points, 1), np.nan), unit


def _mean(values: NDArray, a: NDArray, b: NDArray, size: tuple[int, int]) -> NDArray[np.float64]:
    """Mean of the values of each edge, NaN where there is none."""
    total, count = np.zeros(size), np.zeros(size)
    known = np.isfinite(values)
    np.add.at(total, (a[known], b[known]), values[known])
    np.add.at(count, (a[known], b[known]), 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
