"""Maps along a bundle, from one end to the other, with their uncertainty.

J. D. Yeatman et al., PLoS ONE 7 (2012) e49790: lines are resampled to the same number of points,
and at each of them weighted by how near they run to the core of the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..maps import MapSet
from .regions import Region
from .rules import SD, Layers
from .table import save_table
from .tractogram import Tractogram, values_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 100
"""Points of a profile (Yeatman et al. 2012)."""

FEWEST = 2
"""Lines of a profile."""

THINNEST = 0.5
"""Standard deviation [mm] added to a bundle's in every direction: a straight sheet has none across,
and distances would be infinite."""

ROUNDS = 5
"""Times that lines are turned towards their mean."""


@dataclass(frozen=True, eq=False)
class Profile:
    """One map along a bundle of lines.

    Attributes
    ----------
    metric, unit : str
    core : (points, 3) array
        The bundle's middle, RAS millimetres.
    mean, sd : (points,) array
        Weighted mean over the lines, and their standard deviation around it.
    map_sd : (points,) array
        Weighted mean of the map's own standard deviation; NaN where the map has none.
    lines : (points,) array of int
        Lines with an answer there.
    """

    metric: str
    unit: str
    core: NDArray[np.float64]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    map_sd: NDArray[np.float64]
    lines: NDArray[np.int_]

    @property
    def distance(self) -> NDArray[np.float64]:
        """Way along the core from its start [mm]: (points,)."""
        steps = np.linalg.norm(np.diff(self.core, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])


@dataclass(frozen=True)
class Profiles(Mapping[str, Profile]):
    """Profiles of one bundle by the name of the map."""

    profiles: dict[str, Profile]

    def __getitem__(self, name: str) -> Profile:
        return self.profiles[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.profiles)

    def __len__(self) -> int:
        return len(self.profiles)

    def save(
        self, file: str | Path, *, figure: str | Path | None = None, overwrite: bool = False
    ) -> Path:
        """Write a table (CSV), a row for every point of every map, and a figure (PNG)."""
        return save_table(self, file, figure, overwrite=overwrite)

    def rows(self) -> list[list]:
        """Return the rows of the table, the head first."""
        head = "metric unit point distance_mm x y z mean sd map_sd lines".split()
        table: list[list] = [head]
        for name, one in self.items():
            parts = (one.distance, *one.core.T, one.mean, one.sd, one.map_sd)
            numbers = np.stack(parts, 1)
            for k, (row, count) in enumerate(zip(numbers, one.lines, strict=True)):
                table.append([name, one.unit, k, *(f"{v:.6g}" for v in row), int(count)])
        return table

    def figure(self) -> Figure:
        """Draw the profiles: mean, spread of the lines, and the map's own uncertainty."""
        from matplotlib.figure import Figure

        drawn = Figure(figsize=(9, 2.8 * len(self)), layout="constrained", facecolor="white")
        panes = drawn.subplots(len(self), 1, squeeze=False)[:, 0]
        for axes, (name, one) in zip(panes, self.items(), strict=True):
            at, mean = one.distance, one.mean
            axes.fill_between(
                at, mean - one.sd, mean + one.sd, color="#9ecae1", label="spread of the lines (sd)"
            )
            if np.isfinite(one.map_sd).any():
                label = "uncertainty of the map (sd)"
                axes.plot(at, mean - one.map_sd, "--", color="#c62828", lw=1, label=label)
                axes.plot(at, mean + one.map_sd, "--", color="#c62828", lw=1)
            axes.plot(at, mean, color="#08519c", lw=2, label="mean")
            axes.set(
                xlabel="along the bundle [mm]", ylabel=f"{name} [{one.unit}]".replace(" []", "")
            )
            axes.spines[["top", "right"]].set_visible(False)
        panes[0].legend(frameon=False, fontsize=8)
        return drawn


def profile(
    lines: Tractogram,
    maps: MapSet,
    metrics: Sequence[str],
    *,
    files: Mapping[str, str | Path] | None = None,
    points: int = POINTS,
    start: Region | None = None,
) -> Profiles:
    """Follow maps along a bundle.

    Parameters
    ----------
    lines : Tractogram
        One bundle, its lines in any direction.
    maps : MapSet
    metrics : sequence of str
        Names of scalar maps.
    files : dict of str to path-like, optional
        Further images by name.
    points : int
        Of a profile.
    start : Region, optional
        Where profiles begin: the end of the bundle that is nearer to its middle. If left out, they
        run from left to right, posterior to anterior or inferior to superior, whichever way the
        ends of the bundle are farthest apart.

    Raises
    ------
    InputError
        If there are too few lines, or a map is not there.
    """
    if len(lines) < FEWEST:
        raise InputError(f"the bundle has {len(lines)} lines", f"Give {FEWEST} or more.")
    if points < 2:
        raise InputError(f"the profile has {points} points", "Give 2 or more.")
    if not len(metrics):
        raise InputError("no map is named", "Name one or more (--metrics FA,MD).")
    layers = Layers(maps, files or {})
    way = aligned(resampled(lines, points), start)
    weight = core_weight(way)
    found = {}
    for name in metrics:
        values = values_at(layers[name], maps, way)
        own = np.full_like(values, np.nan)
        if name in maps and maps[name].uncertainty is not None and name not in layers.files:
            own = values_at(layers[name + SD], maps, way)
        mean, sd = _weighted(values, weight)
        unit = maps[name].unit if name in maps else ""
        map_sd, count = _weighted(own, weight)[0], np.isfinite(values).sum(0)
        found[name] = Profile(name, unit, way.mean(0), mean, sd, map_sd, count)
    return Profiles(found)


def resampled(lines: Sequence[NDArray], points: int) -> NDArray[np.float64]:
    """Give every line the same number of points, evenly along it: (lines, points, 3)."""
    out = np.empty((len(lines), points, 3))
    for line, row in zip(lines, out, strict=True):
        steps = np.linalg.norm(np.diff(line.astype(np.float64), axis=0), axis=1)
        at = np.concatenate([[0.0], np.cumsum(steps)])
        even = np.linspace(0, at[-1], points)
        row[:] = np.stack([np.interp(even, at, line[:, a]) for a in range(3)], -1)
    return out


def aligned(way: NDArray, start: Region | None = None) -> NDArray[np.float64]:
    """Turn lines to run the same way: (lines, points, 3) -> the same, some of them reversed."""
    # the line in the middle of the bundle: its own middle is nearest to all others'
    middle = way[:, way.shape[1] // 2]
    core = way[np.linalg.norm(middle - np.median(middle, axis=0), axis=1).argmin()]
    for _ in range(ROUNDS):
        straight = np.linalg.norm(way - core, axis=-1).mean(1)
        turned = np.linalg.norm(way[:, ::-1] - core, axis=-1).mean(1)
        flip = turned < straight
        way = np.where(flip[:, None, None], way[:, ::-1], way)
        core = way.mean(0)
        if not flip.any():
            break
    ends = core[-1] - core[0]
    backwards = ends[np.abs(ends).argmax()] < 0
    if start is not None:
        where = np.argwhere(start.inside).mean(0) @ start.affine[:3, :3].T + start.affine[:3, 3]
        backwards = np.linalg.norm(core[-1] - where) < np.linalg.norm(core[0] - where)
    return way[:, ::-1] if backwards else way


def core_weight(way: NDArray) -> NDArray[np.float64]:
    """Weight of each line at each point, 1 at the core: (lines, points, 3) -> (lines, points).

    exp(-d^2 / 2), d the Mahalanobis distance from the core (Yeatman et al. 2012).
    """
    offset = way - way.mean(0)
    spread = np.einsum("npi,npj->pij", offset, offset) / max(len(way) - 1, 1)
    inverse = np.linalg.inv(spread + THINNEST**2 * np.eye(3))
    return np.exp(-0.5 * np.einsum("npi,pij,npj->np", offset, inverse, offset))


def _weighted(values: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Weighted mean and standard deviation over lines: (lines, points) -> (points,), twice."""
    known = np.isfinite(values)
    w = np.where(known, weight, 0)
    total = w.sum(0)
    some = np.where(total > 0, total, np.nan)
    mean = np.where(known, w * values, 0).sum(0) / some
    square = np.where(known, w * (values - mean) ** 2, 0).sum(0) / some
    return mean, np.sqrt(square)
