"""Streamlines with values along them: the result of tracking, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.streamlines import ArraySequence
from numpy.typing import NDArray

from ..brain.register import Image, sample
from ..errors import InputError
from ..maps import MapSet
from .regions import Region, dense, selected
from .rules import SD, Layers

if TYPE_CHECKING:
    from pathlib import Path

HALF = 0.5
"""Share of the interpolation's weight that voxels with an answer must have."""


@dataclass(frozen=True, eq=False)
class Tractogram(Sequence[NDArray[np.float32]]):
    """Streamlines in RAS millimetres: ``lines[0]`` is a (points, 3) array.

    Attributes
    ----------
    streamlines : nibabel ArraySequence
    affine : (4, 4) array
        Of the image that they were tracked in, voxel indices to RAS millimetres.
    shape : (int, int, int)
        Its voxels.
    per_point : dict of str to ArraySequence
        Values along the lines, (points, 1) each.
    per_line : dict of str to (lines, k) array
        Values of whole lines.
    provenance : dict
        How they were made (JSON values only).
    """

    streamlines: ArraySequence
    affine: NDArray[np.float64]
    shape: tuple[int, ...]
    per_point: dict[str, ArraySequence] = field(default_factory=dict)
    per_line: dict[str, NDArray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that do not belong to the lines."""
        points = [len(line) for line in self.streamlines]
        for name, values in self.per_point.items():
            if [len(v) for v in values] != points:
                raise InputError(f"{name} has other numbers of points than the lines", "Sample it.")
        for name, values in self.per_line.items():
            if len(values) != len(points):
                raise InputError(f"{name} has {len(values)} values for {len(points)} lines", "")

    def __len__(self) -> int:
        return len(self.streamlines)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            return self.streamlines[int(index)]
        return self.only(np.arange(len(self))[index])

    @property
    def points(self) -> NDArray[np.float64]:
        """Points of all lines in turn: (n, 3)."""
        some = [np.empty((0, 3)), *self.streamlines]
        return np.concatenate(some).astype(np.float64)

    @cached_property
    def lengths(self) -> NDArray[np.float64]:
        """Length of each line [mm]."""
        steps = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in self.streamlines]
        return np.array(steps, dtype=np.float64)

    def only(self, which: NDArray) -> Tractogram:
        """Return some of the lines: numbers, or (lines,) bool."""
        which = np.flatnonzero(which) if np.asarray(which).dtype == bool else np.asarray(which)
        which = which.astype(int)
        return replace(
            self,
            streamlines=_picked(self.streamlines, which),
            per_point={k: _picked(v, which) for k, v in self.per_point.items()},
            per_line={k: v[which] for k, v in self.per_line.items()},
        )

    def through(
        self,
        *,
        include: Sequence[Region] = (),
        exclude: Sequence[Region] = (),
        ends: Sequence[Region] = (),
    ) -> Tractogram:
        """Return the lines that pass all of `include`, none of `exclude`, and end in `ends`."""
        return self.only(selected(self, include=include, exclude=exclude, ends=ends))

    def along(
        self,
        maps: MapSet,
        names: Sequence[str],
        *,
        files: Mapping[str, str | Path] | None = None,
        uncertainty: bool = True,
    ) -> Tractogram:
        """Return the lines with the values of maps at their points, see `values_at`.

        With `uncertainty`, the standard deviation of each map that has one comes along as
        ``NAME_sd``. Where the maps have no answer, the values are 0, as in the maps.
        """
        layers = Layers(maps, files or {})
        wanted = list(names)
        if uncertainty:
            wanted += [n + SD for n in names if n + SD in set(layers)]
        points = self.points
        cuts = np.cumsum([len(line) for line in self.streamlines])[:-1]

        def sequence(name: str) -> ArraySequence:
            values = np.nan_to_num(values_at(layers[name], maps, points)).astype(np.float32)
            return ArraySequence(np.split(values[:, None], cuts) if len(self) else [])

        return replace(self, per_point=self.per_point | {name: sequence(name) for name in wanted})

    def visits(
        self, shape: tuple[int, ...] | None = None, affine: NDArray | None = None
    ) -> NDArray[np.int32]:
        """How many lines pass each voxel of a grid, that of the lines' own image by default."""
        shape = self.shape if shape is None else tuple(shape)
        affine = self.affine if affine is None else affine
        points, owner = dense(self, 0.25 * float(np.linalg.norm(affine[:3, :3], axis=0).min()))
        inverse = np.linalg.inv(affine)
        index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        inside = ((index >= 0) & (index < shape)).all(1)
        flat = np.ravel_multi_index(tuple(index[inside].T), shape)
        once = np.unique(owner[inside] * np.int64(np.prod(shape)) + flat)
        counts = np.bincount(once % int(np.prod(shape)), minlength=int(np.prod(shape)))
        return counts.reshape(shape).astype(np.int32)

    def save(self, file: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``.trx``, ``.trk``, ``.tck`` or ``.vtk``, see `tracts.storage.save`."""
        from .storage import save

        return save(self, file, overwrite=overwrite)

    @classmethod
    def load(cls, file: str | Path) -> Tractogram:
        """Read a file of streamlines, see `tracts.storage.load`."""
        from .storage import load

        return load(file)


def values_at(data: NDArray, maps: MapSet, points: NDArray) -> NDArray[np.float64]:
    """Interpolate a map linearly among the voxels that have an answer.

    Parameters
    ----------
    data : (x, y, z) array
        On the grid of `maps`.
    maps : MapSet
        Gives the mask and the affine.
    points : (..., 3) array
        RAS millimetres.

    Returns
    -------
    (...) array
        NaN where less than half of the weight lies on voxels with an answer.
    """
    known = maps.mask & np.isfinite(data)
    both = np.stack([np.where(known, data, 0), known])
    total, weight = sample(Image(both, maps.affine), points).astype(np.float64)
    return np.where(weight >= HALF, total / np.maximum(weight, HALF), np.nan)


def _picked(lines: ArraySequence, which: NDArray) -> ArraySequence:
    """Lines of these numbers, copied out of what they were part of."""
    return lines[which].copy() if len(which) else ArraySequence([])
