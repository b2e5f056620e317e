"""Real scans as labelled slices of the signal space, ready to be scanned anew as a target would.

The training of the codebook wants noise-free numbers of the signal space. Those of real tissue are
not known; a scan of many volumes, averaged over larger voxels, tells them nearly without noise
(`qspace.numbers_of`). What the target's scanner would have measured comes from the same scan, moved
to its scheme in q-space (`qspace.Interpolator`), so that it holds what the space leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..acquisition import Acquisition
from ..brain.scanner import USUAL_TE, Scanner
from ..codebooks.stack import Stack, with_usable
from ..codebooks.tokens import DIM
from ..errors import InputError
from ..files import staged
from ..fitting import fit
from ..fitting.estimate import missing
from ..fitting.options import Options
from ..models import MODELS
from ..physics.noise import underlying
from ..scan import Scan
from ..signals.space import Space
from ..training.mapped import BRIGHTEST, Mapped
from ..training.pool import METRICS, SCANNER, gives, told
from .down import has_floor
from .qspace import Interpolator, numbers_of

LEAST_VOXELS = 50
"""Slices with fewer usable voxels are left out."""

BRIGHT = 2.0
"""Signals above so many times that at b = 0 are cut off, as `tokens` does."""

Labels = Mapping[str, NDArray[np.float32]]
"""Maps by the name of the metric: (x, y, z), NaN where not known."""


@dataclass(frozen=True, eq=False)
class Source:
    """A scan that slices are made of.

    Attributes
    ----------
    stack : Stack
    noise : float
        Standard deviation, relative to the median signal at b = 0.
    scan : Scan
    usable : (x, y, z) bool array
    """

    stack: Stack
    noise: float
    scan: Scan
    usable: NDArray[np.bool_]

    @classmethod
    def of(cls, scan: Scan, space: Space) -> Source:
        """Read a scan, with a mask or without."""
        scan, usable = with_usable(scan)
        stack = Stack(scan, usable, space)
        middle = float(np.median(scan.b0[usable]))
        sigma = float(np.median(stack.sigma[usable]))
        return cls(stack, sigma / middle, scan, stack.usable)

    def ratio(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Signals of a slice relative to b = 0 (n, m), their noise (n,), and b = 0 itself (n,)."""
        at = self.stack.level_of == level
        signal = torch.from_numpy(self.stack.signal[at])
        b0 = signal[:, torch.from_numpy(self.stack.acquisition.is_b0.copy())].mean(1)
        s0 = torch.maximum(b0, DIM * b0.median()).clamp(min=1e-12)
        sigma = torch.from_numpy(self.stack.sigma[:, :, level][self.usable[:, :, level]].copy())
        return (signal / s0[:, None]).clamp(0, BRIGHT), sigma / s0, b0

    @property
    def slices(self) -> list[int]:
        """Levels of the slices with enough voxels."""
        count = self.usable.sum((0, 1))
        return [int(level) for level in self.stack.levels if count[level] >= LEAST_VOXELS]

    def sample(self, count: int, generator: torch.Generator, levels: Sequence[int]) -> Tensor:
        """Signals of some voxels of some slices relative to b = 0, all slices alike: (n, m)."""
        if not levels:
            raise InputError(
                f"no slice has {LEAST_VOXELS} voxels of brain",
                "Check the mask.",
                file=self.scan.source,
            )
        parts = []
        each = -(-count // len(levels))
        for level in levels:
            signal = self.ratio(level)[0]
            parts.append(signal[torch.randperm(len(signal), generator=generator)[:each]])
        return torch.cat(parts)


def fitted(scan: Scan, device: str = "cpu") -> dict[str, NDArray[np.float32]]:
    """Labels by the library's own fits, as far as the scan allows them: NaN where not known."""
    names = [name for name, model in MODELS.items() if gives(model)]
    names = [name for name in names if not missing(MODELS[name], scan.acquisition, Options())]
    if not names:
        raise InputError(
            f"no model can be fitted to {scan.acquisition.describe()}",
            "Give scans with 6 directions at least.",
            file=scan.source,
        )
    maps = fit(scan, names, device=device)
    out = {}
    for name in METRICS:
        if name in maps:
            data = np.array(maps[name].data, np.float32)
            data[~told(maps, name)] = np.nan
            out[name] = data
    return out


def make_slices(
    source: Source,
    labels: Labels,
    target: Acquisition,
    way: Interpolator,
    folder: Path,
    stem: str,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Path]:
    """Write the slices of a scan.

    Parameters
    ----------
    source : Source
    labels : mapping of metric to (x, y, z) array
    target : Acquisition
        That signals are wanted of.
    way : Interpolator
        From the scan's scheme to the target's.
    folder : path
    stem : str
        Of the files' names; it is to say nothing about whose scan it is.
    progress : callable
        Gets the share that is done.

    Returns
    -------
    list of path
        What `training.mapped.load_mapped` and `load_signals` read.
    """
    out = []
    levels = source.slices
    for number, level in enumerate(levels):
        item, signal = _slice(source, level, labels, target, way)
        out.append(folder / f"{stem}-{level:03d}.safetensors")
        _save(item, signal, out[-1])
        progress((number + 1) / len(levels))
    return out


def _slice(
    source: Source, level: int, labels: Labels, target: Acquisition, way: Interpolator
) -> tuple[Mapped, Tensor]:
    """Return a slice, and its noise-free signals at the target's volumes: (n, k)."""
    ratio, noise, b0 = source.ratio(level)
    stack, mask = source.stack, torch.from_numpy(source.usable[:, :, level].copy())
    numbers = numbers_of(stack.space, ratio, noise, stack.acquisition, stack.frame)
    # what is asked of other volumes is Gaussian; `numbers_of` takes the floor out by itself
    clean = underlying(ratio, noise[:, None]) if has_floor(source.scan) else ratio
    signal = way.predict(clean, stack.acquisition, target).clamp(0, BRIGHTEST)
    image = torch.zeros(mask.shape)
    image[mask] = (b0 / b0.median()).float()
    values = torch.full((len(METRICS), len(ratio)), torch.nan)
    for k, name in enumerate(METRICS):
        if name in labels:
            own = np.asarray(labels[name])[:, :, level][source.usable[:, :, level]]
            values[k] = torch.from_numpy(own.astype(np.float32))
    known = torch.isfinite(values)
    item = Mapped(
        numbers=numbers.T.float(),
        mask=mask,
        b0=image,
        labels=values.nan_to_num(),
        known=known,
        frame=stack.frame.float(),
        scanner=Scanner("real", voxel=source.scan.voxel_size),
        TE=stack.acquisition.TE or USUAL_TE,
    )
    return item, signal


def _save(item: Mapped, signal: Tensor, file: Path) -> None:
    told = {name: getattr(item.scanner, name) for name in SCANNER} | {"TE": item.TE}
    names = ("numbers", "mask", "b0", "labels", "known", "frame")
    tensors = {name: getattr(item, name).contiguous() for name in names}
    tensors["signals"] = signal.half().contiguous()
    with staged(file.parent) as stage:
        save_file(tensors, stage / file.name, {"slice": json.dumps(told)})


def load_signals(file: Path) -> Tensor:
    """Read noise-free signals at the target's volumes, relative to b = 0: (n, k)."""
    with safe_open(file, "pt") as opened:
        return opened.get_tensor("signals").float()
