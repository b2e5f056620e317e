"""Paired features: one piece of one head at 3 T and at 7 T, simulated or of a user's own scans.

Features of both scans lie on the 3 T grid, on which the networks work; those of the 7 T scan on its
own finer grid, too, for super-resolution. They are those of harmonics that were resampled, as a
scanner with such voxels would mix them, and not features resampled.

Of the pairs of a folder the last tenth is held out of a training (`split`). Tests and benchmarks
take pairs of other seeds: `TEST` added to the training's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..errors import Cancelled, InputError
from ..files import staged
from ..io.bids import ScanFiles, scans_of, subjects
from ..masking import brain_mask, onto_grid
from ..scan import Scan
from .features import ORDER, Harmonics, harmonics
from .grid import edges_of, regridded, resampled
from .units import Setting, Units

SUFFIX = ".safetensors"

HELD_OUT = 0.1
"""Share of the pairs that no training step sees."""

TEST = 5_000_000
"""Added to the seed of a training: pairs of tests and benchmarks."""

SESSIONS = ("3T", "7T")
"""Labels of the sessions in a data set of pairs."""

BRAIN = 0.4
"""Least share of brain in a patch."""

OVERLAP = 0.7
"""Dice coefficient of two brain masks below which the scans were not registered (chosen)."""


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
    """

    low: Tensor
    high: Tensor
    fine: Tensor
    mask: Tensor
    fine_mask: Tensor
    edges: tuple[float, float]

    def to_network(self, units: Units) -> tuple[Tensor, Tensor, Tensor]:
        """Return low, high and fine in network units."""
        low, high, fine = (units.to_network(v) for v in (self.low, self.high, self.fine))
        return low, high, fine


def save_pair(pair: Pair, file: Path) -> None:
    """Write a pair, roots of energies in half precision; it appears whole or not at all."""
    tensors = {k: getattr(pair, k).sqrt().half() for k in ("low", "high", "fine")}
    tensors |= {"mask": pair.mask, "fine_mask": pair.fine_mask}
    told = {"edges": json.dumps(pair.edges)}
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
            edges = json.loads(opened.metadata()["edges"])
            return Pair(low, high, fine, *masks, edges=tuple(edges))
    except Exception as error:  # safetensors has an error of its own
        raise InputError(
            f"is no pair of patches ({error})", "Delete it; it is made again.", file=file
        ) from error


def pairs_in(folder: Path) -> list[Path]:
    """List the pairs of a folder, or say that there are none."""
    files = sorted(folder.glob(f"pair-*{SUFFIX}"))
    if not files:
        raise InputError("there are no pairs", "Make them first.", file=folder)
    return files


def split(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return pairs to learn from, and the last tenth, held out."""
    out = math.ceil(HELD_OUT * len(files))
    if len(files) < 2:
        raise InputError(f"there are {len(files)} pairs", "Two are the least; make more.")
    return list(files[:-out]), list(files[-out:])


@dataclass(frozen=True, eq=False)
class Look:
    """What one scanner sees: harmonics of its shell, and brain, on its grid.

    Attributes
    ----------
    harmonics : Harmonics
    mask : (x, y, z) bool tensor
    affine : (4, 4) float64 array
    """

    harmonics: Harmonics
    mask: Tensor
    affine: np.ndarray

    def on(self, affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Return features and brain on a grid: (3, x, y, z) and (x, y, z)."""
        own = self.harmonics
        if shape == tuple(self.mask.shape) and np.allclose(affine, self.affine, atol=1e-4):
            return own.rish(), self.mask
        weighted, b0 = resampled(
            torch.cat([own.weighted, own.b0[None]]), self.affine, affine, shape
        ).split([len(own.weighted), 1])
        brain = resampled(self.mask[None].float(), self.affine, affine, shape)[0] >= 0.5
        return Harmonics(weighted, b0[0], own.order, own.dark).rish(), brain


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
    return Pair(low * mask, high * mask, best * fine_mask, mask, fine_mask, edges)


def look_at(scan: Scan, setting: Setting | None = None) -> Look:
    """Fit harmonics to the shell of a scan that networks look at."""
    setting = setting or Setting()
    scan = brain_mask(scan)
    shell = scan.acquisition.shell(setting.b)
    volumes = np.sort(np.r_[np.flatnonzero(scan.acquisition.is_b0), shell.indices])
    signal = torch.from_numpy(np.nan_to_num(np.moveaxis(scan.volumes(volumes), -1, 0)))
    made = harmonics(signal, scan.acquisition.subset(volumes), setting.b, ORDER)
    return Look(made, torch.from_numpy(np.array(scan.mask)), scan.affine)


def patches(first: Look, second: Look, patch: int) -> Iterator[Pair]:
    """Cut two looks at one head, in one space, into pairs of patches that do not overlap."""
    seen = onto_grid(second.mask.numpy(), second.affine, tuple(first.mask.shape), first.affine)
    own = first.mask.numpy()
    dice = 2 * float((seen & own).sum()) / float(seen.sum() + own.sum())
    if dice < OVERLAP:
        raise InputError(
            f"the brains of the two scans overlap by {dice:.2f} only (Dice)",
            "Register the 7 T scan to the 3 T scan first.",
        )
    edge = float(np.prod(edges_of(second.affine))) ** (1 / 3)
    corners = np.argwhere(own).min(0)
    for start in np.ndindex(*(-(-(np.argwhere(own).max(0) + 1 - corners) // patch))):
        corner = corners + patch * np.array(start)
        box = tuple(slice(int(c), int(c) + patch) for c in corner)
        if float(own[box].sum()) < BRAIN * patch**3:
            continue
        affine = first.affine.copy()
        affine[:3, 3] += first.affine[:3, :3] @ corner
        shape = (patch,) * 3
        fine_affine, fine_shape, _ = regridded(affine, shape, edge)
        yield paired(first, second, (affine, shape), (fine_affine, fine_shape))


def from_bids(
    source: Path,
    folder: Path,
    patch: int = 32,
    setting: Setting | None = None,
    progress: Callable[[float, str], None] = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Make patches of one's own paired scans, what is there already left as it is.

    Parameters
    ----------
    source : path
        BIDS data set with ``sub-*/ses-3T/dwi`` and ``sub-*/ses-7T/dwi``, preprocessed, both in one
        space: the 7 T scan registered to the 3 T scan.
    folder : path
        For the patches.
    patch : int
        Voxels of the 3 T scan along each edge.
    setting : Setting, optional
        Which shell is taken.
    progress, cancelled
        As of `fitting.fit`; patches that are whole stay.

    Returns
    -------
    list of path
        Subject by subject, so that those held out (`split`) are of the last ones.
    """
    labels = [s for s in subjects(source, "bids") if _sessions(source, s)]
    if not labels:
        raise InputError(
            f"no subject has the sessions {' and '.join(f'ses-{s}' for s in SESSIONS)}",
            "Name them so; each with a dwi folder.",
            file=source,
        )
    for number, label in enumerate(labels):
        progress(number / len(labels), f"sub-{label}")
        if cancelled():
            raise Cancelled("Stopped; the pairs that are there stay.")
        done = folder / f"sub-{label}.json"
        if done.exists():
            continue
        first, second = (look_at(f.load(), setting) for f in _sessions(source, label))
        count = 0
        for pair in patches(first, second, patch):
            save_pair(pair, folder / f"pair-{label}-{count:05d}{SUFFIX}")
            count += 1
        with staged(folder) as stage:
            (stage / done.name).write_text(json.dumps({"patches": count}) + "\n")
    progress(1.0, "Done")
    return pairs_in(folder)


def _sessions(source: Path, label: str) -> tuple[ScanFiles, ...]:
    """Return a subject's scans of both sessions, or none."""
    found: dict[str | None, ScanFiles] = {}
    for files in scans_of(source, "bids", label):
        if isinstance(files, InputError):
            raise files
        if files.session in SESSIONS:
            if files.session in found:
                raise InputError(
                    f"sub-{label} has two scans of ses-{files.session}",
                    "Put them together, or take one away.",
                    file=files.image,
                )
            found[files.session] = files
    return tuple(found[s] for s in SESSIONS) if len(found) == len(SESSIONS) else ()
