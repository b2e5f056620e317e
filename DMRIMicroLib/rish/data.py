"""Paired features: one piece of one head at 3 T and at 7 T, simulated or of a user's own scans.

A pair is of one shell. Features of both scans lie on the 3 T grid, on which the networks work;
those of the 7 T scan on its own finer grid, too, for super-resolution. They are those of harmonics
that were resampled, as a scanner with such voxels would mix them, and not features resampled.

Of the pairs of a folder those of the last tenth of the subjects are held out of a training
(`split`). Tests and benchmarks take pairs of other seeds: `TEST` added to the training's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..acquisition import Acquisition
from ..errors import InputError
from ..files import staged
from .directions import LeftOver, calmed
from .features import ORDER, Harmonics, harmonics, shell_for
from .grid import edges_of, resampled
from .units import Units

SUFFIX = ".safetensors"

HELD_OUT = 0.1
"""Share of the subjects whose pairs no training step sees."""

TEST = 5_000_000
"""Added to the seed of a training: pairs of tests and benchmarks."""

SUBJECT = "sub-{}.json"
"""File beside the pairs of each subject whose pairs are all there."""

ORIGIN = "pairs.json"
"""File that tells what the pairs of a folder are of."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Features of one piece of one head; energies, relative to b = 0, and 0 outside the brain.

    Attributes
    ----------
    low, high : (3, e, e, e) tensor
        Of the 3 T scan, and of the 7 T scan on the 3 T grid.
    fine : (3, f, f, f) tensor
        Of the 7 T scan on its own grid, or one with its voxels, about the same middle.
    mask, fine_mask : (e, e, e) and (f, f, f) bool tensor
        Where both scans show brain.
    edges : (float, float)
        Of the voxels of both grids [mm].
    b : float
        Of the shell [s/mm2].
    quiet : bool
        Whether `low` is of harmonics with less noise (`Setting.quiet`).
    """

    low: Tensor
    high: Tensor
    fine: Tensor
    mask: Tensor
    fine_mask: Tensor
    edges: tuple[float, float]
    b: float = 1000.0
    quiet: bool = False

    def to_network(self, units: Units) -> tuple[Tensor, Tensor, Tensor]:
        """Return low, high and fine in network units."""
        low, high, fine = (units.to_network(v) for v in (self.low, self.high, self.fine))
        return low, high, fine


def save_pair(pair: Pair, file: Path) -> None:
    """Write a pair, roots of energies in half precision; it appears whole or not at all."""
    tensors = {k: getattr(pair, k).sqrt().half() for k in ("low", "high", "fine")}
    tensors |= {"mask": pair.mask, "fine_mask": pair.fine_mask}
    told = {key: json.dumps(getattr(pair, key)) for key in ("edges", "b", "quiet")}
    with staged(file.parent) as stage:
        content = to_bytes({k: v.contiguous() for k, v in tensors.items()}, told)
        (stage / file.name).write_bytes(content)


def load_pair(file: Path) -> Pair:
    """Read a pair."""
    try:
        with safe_open(file, "pt") as opened:
            low, high, fine = (
                opened.get_tensor(k).float().square() for k in ("low", "high", "fine")
            )
            masks = (opened.get_tensor(k) for k in ("mask", "fine_mask"))
            told = {"b": "1000.0", "quiet": "false", **opened.metadata()}
            edges, b, quiet = (json.loads(told[k]) for k in ("edges", "b", "quiet"))
            return Pair(low, high, fine, *masks, edges=tuple(edges), b=b, quiet=quiet)
    except Exception as error:  # safetensors has an error of its own
        raise InputError(
            f"is no pair of patches ({error})", "Delete it; it is made again.", file=file
        ) from error


def shells_in(files: Iterable[Path]) -> tuple[float, float]:
    """Return the least and the largest b-value of some pairs [s/mm2]."""
    found = []
    for file in files:
        with safe_open(file, "pt") as opened:
            found.append(json.loads(opened.metadata().get("b", "1000.0")))
    return min(found), max(found)


def pairs_in(folder: Path) -> list[Path]:
    """List the pairs of a folder, or say that there are none."""
    files = sorted(folder.glob(f"pair-*{SUFFIX}"))
    if not files:
        raise InputError("there are no pairs", "Make them first.", file=folder)
    return files


def split(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return pairs to learn from, and those of the last tenth of the subjects, held out."""
    of: dict[str, list[Path]] = {}
    for file in files:
        of.setdefault(_whose(file), []).append(file)
    if len(files) < 2:
        raise InputError(f"there are {len(files)} pairs", "Two are the least; make more.")
    if len(of) < 2:
        raise InputError(
            "all pairs are of one subject",
            "Two are the least: one is held out, to tell how well the others' teach.",
            file=files[0].parent,
        )
    known = len(of) - math.ceil(HELD_OUT * len(of))
    parts = list(of.values())
    return [f for part in parts[:known] for f in part], [f for part in parts[known:] for f in part]


def _whose(file: Path) -> str:
    """Tell which pairs are of the same subject."""
    label = file.stem.removeprefix("pair-").rpartition("-")[0]
    return label if (file.parent / SUBJECT.format(label)).exists() else file.name


def remember(folder: Path, origin: Mapping[str, Any]) -> None:
    """Write down what the pairs of a folder are of, or refuse to put others beside them.

    Parameters
    ----------
    folder : path
    origin : mapping
        JSON values: source, voxels along an edge ("patch") and what else tells pairs apart.
    """
    file, told = folder / ORIGIN, json.loads(json.dumps(dict(origin)))
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
    else:  # made before folders told of it
        before = dict(told)
        for there in sorted(folder.glob(f"pair-*{SUFFIX}"))[:1]:
            first = load_pair(there)
            before |= {"patch": first.low.shape[-1], "quiet": first.quiet}
    if names := [k for k in {**before, **told} if before.get(k) != told.get(k)]:
        both = (f"{k} is {_short(before.get(k))}, not {_short(told.get(k))}" for k in names)
        raise InputError(
            f"the folder has other pairs: {'; '.join(both)}",
            "Name another folder for the pairs (--pairs), or ask for those that are there.",
            file=folder,
        )
    if not file.exists():
        with staged(folder) as stage:
            (stage / ORIGIN).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True, eq=False)
class Look:
    """What one scanner sees: harmonics of its shell, and brain, on its grid.

    Attributes
    ----------
    harmonics : Harmonics
    mask : (x, y, z) bool tensor
    affine : (4, 4) float64 array
    b : float
        Of the shell [s/mm2].
    quiet : bool
        Whether less noise than the scan's was asked for: where it cannot be told, harmonics stay.
    """

    harmonics: Harmonics
    mask: Tensor
    affine: np.ndarray
    b: float = 1000.0
    quiet: bool = False

    @classmethod
    def of(
        cls,
        signal: Tensor,
        acquisition: Acquisition,
        mask: Tensor,
        affine: np.ndarray,
        b: float,
        quiet: bool,
    ) -> Look:
        """Fit harmonics to a shell, with its noise or, if asked and if it can be told, with less.

        Parameters
        ----------
        signal : (m, x, y, z) tensor
        acquisition : Acquisition
            Of the b0 volumes and the shell.
        mask, affine, b
            As above.
        quiet : bool
        """
        made = harmonics(signal, acquisition, b, ORDER)
        if quiet:
            noise = LeftOver(acquisition, [shell_for(acquisition, b, ORDER)], ORDER)
            if noise.told:
                noise.add(signal, slice(None))
                (made,) = calmed([made], noise, mask)
        return cls(made, mask, affine, b, quiet)

    def on(self, affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Return features and brain on a grid: (3, x, y, z) and (x, y, z)."""
        own = self.harmonics
        if shape == tuple(self.mask.shape) and np.allclose(affine, self.affine, atol=1e-4):
            return own.rish(), self.mask
        parts = own.weighted, own.b0[None], self.mask[None].float()
        weighted, b0, brain = (resampled(v, self.affine, affine, shape) for v in parts)
        return Harmonics(weighted, b0[0], own.order, own.dark).rish(), brain[0] >= 0.5


def paired(
    first: Look,
    second: Look,
    grid: tuple[np.ndarray, tuple[int, int, int]],
    fine: tuple[np.ndarray, tuple[int, int, int]],
) -> Pair:
    """Bring two looks at one head to a coarse and a fine grid, each affine and shape."""
    low, mask = first.on(*grid)
    high, other = second.on(*grid)
    best, fine_mask = second.on(*fine)
    fine_mask = fine_mask & (resampled(mask[None].float(), grid[0], *fine)[0] >= 0.5)
    mask = mask & other
    edges = (edges_of(grid[0])[0], edges_of(fine[0])[0])
    features = low * mask, high * mask, best * fine_mask
    return Pair(*features, mask, fine_mask, edges, first.b, first.quiet)
