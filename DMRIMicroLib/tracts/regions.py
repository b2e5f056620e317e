"""Regions of interest: masks and labels in the world, and which streamlines pass or end in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..io.nifti import read_volume, stem

FINE = 0.5
"""Streamlines are looked at in steps of at most this share of a region's smallest voxel."""


@dataclass(frozen=True, eq=False)
class Region:
    """Voxels that are meant, on a grid of their own.

    Attributes
    ----------
    inside : (x, y, z) bool array
    affine : (4, 4) array
        Voxel indices to RAS millimetres.
    name : str
    """

    inside: NDArray[np.bool_]
    affine: NDArray[np.float64]
    name: str = "region"

    def __post_init__(self) -> None:
        """Refuse an empty region."""
        if self.inside.ndim != 3 or not self.inside.any():
            raise InputError(
                f"the region {self.name!r} is empty or not 3-D", "Give one with voxels in it."
            )

    def contains(self, points: NDArray) -> NDArray[np.bool_]:
        """Whether points lie in it: (..., 3) RAS mm -> (...) bool, by the nearest voxel."""
        return nearest(self.inside, self.affine, points)

    @property
    def box(self) -> NDArray[np.float64]:
        """Lowest and highest corner of a box in the world that holds it: (2, 3) RAS mm."""
        index = np.argwhere(self.inside)
        ends = np.stack([index.min(0) - 0.5, index.max(0) + 0.5])
        corners = np.array(np.meshgrid(*ends.T)).reshape(3, -1).T
        world = corners @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([world.min(0), world.max(0)])

    @property
    def step(self) -> float:
        """Largest distance between points that cannot jump over a voxel [mm]."""
        return FINE * float(np.linalg.norm(self.affine[:3, :3], axis=0).min())


def nearest(data: NDArray, affine: NDArray, points: NDArray) -> NDArray:
    """Value of the voxel that each point lies in, 0 beyond the grid: (..., 3) RAS mm -> (...)."""
    inverse = np.linalg.inv(affine)
    index = np.rint(np.asarray(points) @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    within = ((index >= 0) & (index < data.shape)).all(-1)
    out = np.zeros(index.shape[:-1], dtype=data.dtype)
    out[within] = data[tuple(index[within].T)]
    return out


def read_region(what: str | Path) -> Region:
    """Read a region from a file: ``mask.nii.gz``, or ``labels.nii.gz:3,7`` for two labels of it.

    Without labels, all voxels above 0 are meant.
    """
    file, labels = split_labels(what)
    data, affine = read_volume(file)
    data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
    named = stem(file) + (f":{','.join(map(str, labels))}" if labels else "")
    if data.ndim != 3:
        raise InputError(f"has {data.ndim} dimensions, expected 3", "Give a 3-D mask.", file=file)
    inside = np.isin(data, labels) if labels else np.nan_to_num(data) > 0
    if not inside.any():
        there = np.unique(np.rint(np.nan_to_num(data)).astype(int))
        raise InputError(
            f"no voxel has label {', '.join(map(str, labels))}" if labels else "it is empty",
            f"Its labels are {', '.join(map(str, there[:30]))}.",
            file=file,
        )
    return Region(inside, affine, named)


def split_labels(what: str | Path) -> tuple[Path, tuple[int, ...]]:
    """Take ``file:3,7`` apart."""
    text = str(what)
    head, colon, tail = text.rpartition(":")
    # a colon also stands after a drive's letter, or in a name
    if not colon or Path(text).exists() or "/" in tail or "\\" in tail:
        return Path(text), ()
    try:
        return Path(head), tuple(int(part) for part in tail.split(","))
    except ValueError:
        raise InputError(
            f"{tail!r} is no list of labels", "Write the file, then :3 or :3,7.", file=head
        ) from None


def touching(lines: Sequence[NDArray], region: Region) -> NDArray[np.bool_]:
    """Which streamlines pass through a region: lines of (n, 3) RAS mm -> (lines,) bool."""
    points, owner = dense(lines, region.step, region.box)
    out = np.zeros(len(lines), dtype=bool)
    out[owner[region.contains(points)]] = True
    return out


def ending(lines: Sequence[NDArray], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Which streamlines end as asked: (lines,) bool.

    One region: an end at least lies in it. Two: one end in each.
    """
    if len(regions) > 2:
        raise InputError(f"there are {len(regions)} end regions", "A line has two ends: give 1, 2.")
    ends = np.array([(line[0], line[-1]) for line in lines]).reshape(-1, 2, 3)
    found = [region.contains(ends) for region in regions]
    if len(found) == 1:
        return found[0].any(1)
    first, second = found
    return (first[:, 0] & second[:, 1]) | (first[:, 1] & second[:, 0])


def selected(
    lines: Sequence[NDArray],
    *,
    include: Iterable[Region] = (),
    exclude: Iterable[Region] = (),
    ends: Sequence[Region] = (),
) -> NDArray[np.bool_]:
    """Which streamlines pass all of `include`, none of `exclude`, and end in `ends`: (lines,)."""
    left = np.arange(len(lines))  # fewer and fewer are looked at

    def remaining() -> list[NDArray]:
        return [lines[int(k)] for k in left]

    if len(ends):
        left = left[ending(lines, ends)]
    for region in include:
        left = left[touching(remaining(), region)]
    for region in exclude:
        left = left[~touching(remaining(), region)]
    keep = np.zeros(len(lines), dtype=bool)
    keep[left] = True
    return keep


def dense(
    lines: Sequence[NDArray], step: float, box: NDArray | None = None
) -> tuple[NDArray, NDArray[np.intp]]:
    """Put points along lines, at most `step` apart: (points, 3), and the line of each: (points,).

    With a box, (2, 3), parts of lines that lie beyond one of its sides are left out.
    """
    if not len(lines):
        return np.empty((0, 3)), np.empty(0, dtype=np.intp)
    lengths = np.array([len(line) for line in lines])
    points = np.concatenate(list(lines)).astype(np.float64)
    owner = np.repeat(np.arange(len(lines)), lengths)
    onward = np.zeros_like(points)
    onward[:-1] = np.diff(points, axis=0)
    onward[np.cumsum(lengths) - 1] = 0  # the last point of a line leads nowhere
    if box is not None:
        low, high = np.minimum(points, points + onward), np.maximum(points, points + onward)
        near = ((high >= box[0]) & (low <= box[1])).all(1)
        points, owner, onward = points[near], owner[near], onward[near]
    pieces = np.maximum(1, np.ceil(np.linalg.norm(onward, axis=1) / step)).astype(int)
    first = np.repeat(np.arange(len(points)), pieces)
    part = np.arange(len(first)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return points[first] + onward[first] * (part / pieces[first])[:, None], owner[first]
