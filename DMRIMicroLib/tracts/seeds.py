"""Seeds of streamlines, chosen by what the maps say."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..brain.register import world
from ..errors import InputError
from ..files import staged
from ..maps import MapSet
from .regions import Region, nearest
from .rules import Layers, Rule

COLUMNS = ("x", "y", "z")
"""Columns of a file of seeds: RAS millimetres."""


@dataclass(frozen=True, eq=False)
class Seeds:
    """Points to start from; ``np.asarray(seeds)`` gives them.

    Attributes
    ----------
    points : (n, 3) float64 array
        RAS millimetres.
    provenance : dict
        How they were chosen (JSON values only).
    """

    points: NDArray[np.float64]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.array(self.points, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.points)

    def save(self, file: str | Path, *, overwrite: bool = False) -> Path:
        """Write them as CSV, columns x, y, z in RAS millimetres; return the path."""
        file = Path(file)
        if file.exists() and not overwrite:
            raise InputError("is there already", "Name another, or overwrite.", file=file)
        with staged(file.parent) as stage:
            np.savetxt(
                stage / file.name,
                self.points,
                fmt="%.6f",
                delimiter=",",
                header=",".join(COLUMNS),
                comments="",
            )
        return file

    @classmethod
    def load(cls, file: str | Path) -> Seeds:
        """Read what `save` wrote, or any CSV with columns x, y, z in RAS millimetres."""
        file = Path(file)
        if not file.exists():
            raise InputError("there is no such file", "Check the path.", file=file)
        try:
            with file.open(encoding="utf-8", newline="") as text:
                rows = list(csv.DictReader(text))
            points = np.array([[float(row[c]) for c in COLUMNS] for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"is no list of seeds ({error})",
                "Give CSV with columns x,y,z in RAS millimetres.",
                file=file,
            ) from None
        if not len(points) or not np.isfinite(points).all():
            raise InputError("has no seeds, or some not finite", "Make it again.", file=file)
        return cls(points, {"file": file.name})


def seeds(
    maps: MapSet,
    rule: str,
    *,
    within: Region | None = None,
    files: Mapping[str, str | Path] | None = None,
    density: float | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Seeds:
    """Choose seeds in the voxels where a rule holds.

    Parameters
    ----------
    maps : MapSet
        Maps that the rule reads; outside their mask there are no seeds.
    rule : str
        E.g. ``"NDI > 0.4 and FWF < 0.2 and NDI_sd < 0.1"``, see `tracts.rules`.
    within : Region, optional
        Seeds lie in it: see `tracts.regions.read_region` for masks and labels of a segmentation.
    files : dict of str to path-like, optional
        Further images that the rule may name.
    density : float, optional
        Seeds in each voxel, 1 by default; a fraction gives a seed to so many of the voxels. At 1,
        or with fractional parts, each lies anywhere in its voxel.
    count : int, optional
        Seeds in all, spread evenly over the voxels, instead of `density`.
    seed : int
        Of the random numbers: the same gives the same points.

    Raises
    ------
    InputError
        If the rule is no rule, names a map that is not there, or holds nowhere.
    """
    if density is not None and count is not None:
        raise InputError("both a density and a count of seeds are given", "Give one of them.")
    given = count if density is None else density
    if given is not None and not (np.isfinite(given) and given > 0):
        raise InputError(f"the number of seeds is {given}", "Give a number above 0.")
    checked = Rule.parse(rule)
    chosen = checked.where(Layers(maps, files or {})) & maps.mask
    if not chosen.any():
        raise InputError(f"the rule {rule!r} holds in no voxel of the maps", _tell(checked, maps))
    if within is not None and not (chosen := chosen & _covered(within, maps)).any():
        raise InputError(
            f"the rule {rule!r} holds in no voxel of {within.name}",
            "Loosen the rule, or check that the region was drawn on this scan.",
        )
    points = _scattered(chosen, maps.affine, density, count, np.random.default_rng(seed))
    told = {"rule": checked.text, "voxels": int(chosen.sum()), "seeds": len(points), "seed": seed}
    return Seeds(points, told | {"within": within.name if within else None})


def _covered(region: Region, maps: MapSet) -> NDArray[np.bool_]:
    """Voxels of the maps whose centres lie in the region."""
    return nearest(region.inside, region.affine, world(maps.affine, maps.mask.shape))


def _scattered(
    chosen: NDArray[np.bool_],
    affine: NDArray,
    density: float | None,
    count: int | None,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw points in voxels, uniform within each: (n, 3) RAS mm."""
    index = np.argwhere(chosen)
    if count is None:
        whole, part = divmod(1.0 if density is None else float(density), 1)
        times = np.full(len(index), int(whole)) + (rng.random(len(index)) < part)
    else:
        whole, rest = divmod(count, len(index))
        times = np.full(len(index), whole)
        times[rng.choice(len(index), rest, replace=False)] += 1
    spots = np.repeat(index, times, axis=0)
    spots = spots + rng.uniform(-0.5, 0.5, spots.shape)
    if not len(spots):
        raise InputError(
            f"a density of {density:g} gives none of {len(index)} voxels a seed", "Raise it."
        )
    return spots @ affine[:3, :3].T + affine[:3, 3]


def _tell(rule: Rule, maps: MapSet) -> str:
    """Say which values the maps of a rule have."""
    layers, told = Layers(maps), []
    for name in sorted(rule.names & set(layers)):
        low, high = np.percentile(layers[name][maps.mask], (1, 99))
        told.append(f"{name} is {low:.3g} to {high:.3g} there")
    return f"Loosen it: {'; '.join(told)}." if told else "Loosen it."
