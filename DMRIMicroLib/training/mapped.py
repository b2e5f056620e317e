"""Labelled slices as maps of the signal space: what examples are drawn from in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..acquisition import Acquisition
from ..brain.directions import spread
from ..brain.scanner import Scanner, observe
from ..files import staged
from ..physics.sh import fit_matrix
from ..signals.space import NODES, ORDER, Space
from .pool import SCANNER, Slice, load_slice

DIRECTIONS = 30
"""At every node: the 15 coefficients are determined twice over."""

BRIGHTEST = 1.5
"""Signals relative to b = 0 that ringing makes larger are cut off."""

VOXELS = 600
"""Of a slice, that tell the space."""

SLICES = 150
"""That tell the space."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """One slice; n voxels in its mask, in C order.

    Attributes
    ----------
    numbers : (c, n) tensor
        Noise-free signal, as the slice's scanner shows it, in the signal space.
    mask : (x, y) bool tensor
    b0 : (x, y) tensor
        Noise-free signal at b = 0, relative to that of water.
    labels, known : (24, n) tensor
        See `pool.Slice`.
    frame : (3, 3) tensor
    scanner : Scanner
    TE : float
        [ms]
    """

    numbers: Tensor
    mask: Tensor
    b0: Tensor
    labels: Tensor
    known: Tensor
    frame: Tensor
    scanner: Scanner
    TE: float


def coefficients(item: Slice) -> tuple[Tensor, Tensor]:
    """Scan a slice without noise: SH coefficients at `NODES` (n, k, 15), and b0 (x, y)."""
    g = spread(DIRECTIONS, torch.Generator().manual_seed(0)).double()
    bvals = np.repeat([0.0, *(1e3 * b for b in NODES)], [1] + [DIRECTIONS] * len(NODES))
    own = np.concatenate([np.zeros((1, 3)), *[g.numpy()] * len(NODES)])
    acq = Acquisition(bvals, own @ item.frame.double().numpy(), TE=item.TE)
    signal = observe(item.volume, acq, item.scanner, torch.Generator()).signal[..., 0]
    b0 = signal[0].clone()
    seen = (signal[1:, item.mask] / b0[item.mask].clamp(min=1e-6)).clamp(0, BRIGHTEST)
    matrix = fit_matrix(g, ORDER, 0.0).to(seen)
    return torch.einsum("cg,kgn->nkc", matrix, seen.unflatten(0, (len(NODES), -1))), b0


def find_space(files: Sequence[Path]) -> Space:
    """Find the space of a pool."""
    chosen = files[:: -(-len(files) // SLICES)]
    seen = []
    for number, file in enumerate(chosen):
        found = coefficients(load_slice(file))[0]
        generator = torch.Generator().manual_seed(number)
        seen.append(found[torch.randperm(len(found), generator=generator)[:VOXELS]])
    return Space.of(torch.cat(seen))


def some_numbers(files: Sequence[Path]) -> Tensor:
    """Numbers of some voxels of mapped slices: (n, c)."""
    found = []
    for number, file in enumerate(files[:: -(-len(files) // SLICES)]):
        numbers = load_file(file)["numbers"].T
        generator = torch.Generator().manual_seed(number)
        found.append(numbers[torch.randperm(len(numbers), generator=generator)[:VOXELS]])
    return torch.cat(found)


def map_slices(
    files: Sequence[Path],
    folder: Path,
    space: Space,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> list[Path]:
    """Write what is missing of the maps of some slices; return their files."""
    out = []
    for k, file in enumerate(files):
        out.append(folder / file.name)
        if not out[-1].exists():
            _save(load_slice(file), space, out[-1])
        progress((k + 1) / len(files), f"Signals of slice {k + 1} of {len(files)}")
    return out


def _save(item: Slice, space: Space, file: Path) -> None:
    found, b0 = coefficients(item)
    told = {name: getattr(item.scanner, name) for name in SCANNER} | {"TE": item.TE}
    tensors = {
        "numbers": space.encode(found).T.contiguous(),
        "mask": item.mask,
        "b0": b0.contiguous(),
        "labels": item.labels[:, item.mask].contiguous(),
        "known": item.known[:, item.mask].contiguous(),
        "frame": item.frame,
    }
    with staged(file.parent) as stage:
        save_file(tensors, stage / file.name, {"slice": json.dumps(told)})


def load_mapped(file: Path) -> Mapped:
    """Read what `map_slices` wrote."""
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["slice"])
        names = ("numbers", "mask", "b0", "labels", "known", "frame")
        tensors = {name: opened.get_tensor(name) for name in names}
    own = {name: told[name] for name in SCANNER} | {"voxel": tuple(told["voxel"])}
    return Mapped(**tensors, scanner=Scanner("perfect", **own), TE=told["TE"])
