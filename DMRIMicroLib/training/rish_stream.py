"""Examples for networks on RISH features: some pairs at a time, turned and mirrored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..brain.simulate import generator_for
from ..errors import InputError
from ..files import staged
from ..rish.data import load_pair
from ..rish.units import Units

KEPT = 2000
"""Pairs that are kept in memory, 1.4 MB each at 48^3 voxels."""

TURNS = tuple(permutations((-3, -2, -1)))
"""Orders of the axes."""

Stream = Callable[..., Iterator["Patches"]]


class Patches(NamedTuple):
    """Pairs of features in network units, and what belongs to them.

    Attributes
    ----------
    given : (b, 3, x, y, z) tensor
        3 T features; for super-resolution, what a method says, on the fine grid.
    wanted : (b, 3, x, y, z) tensor
        7 T features on the same grid.
    mask : (b, x, y, z) bool tensor
    number : int
        Of the example.
    """

    given: Tensor
    wanted: Tensor
    mask: Tensor
    number: int

    def to(self, device: torch.device) -> Patches:
        """Bring the tensors to a device."""
        return Patches(*(v.to(device) for v in self[:3]), number=self.number)


Read = Callable[[Path], tuple[Tensor, Tensor, Tensor]]


def pairs_of(units: Units) -> Read:
    """Return what reads 3 T features, 7 T features on the same grid, and the mask."""

    @lru_cache(maxsize=KEPT)
    def read(file: Path) -> tuple[Tensor, Tensor, Tensor]:
        pair = load_pair(file)
        low, high, _ = pair.to_network(units)
        return low.half(), high.half(), pair.mask

    return read


def fine_of(units: Units) -> Read:
    """Return what reads 3 T features, 7 T features on the fine grid, and its mask."""

    def read(file: Path) -> tuple[Tensor, Tensor, Tensor]:
        pair = load_pair(file)
        low, _, fine = pair.to_network(units)
        return low.half(), fine.half(), pair.fine_mask

    return read


def said_of(said: Path, pairs: Read) -> Read:
    """Return what reads a network's answers, kept in a folder, in place of 3 T features."""

    @lru_cache(maxsize=KEPT)
    def read(file: Path) -> tuple[Tensor, Tensor, Tensor]:
        return kept(said / file.name), *pairs(file)[1:]

    return read


def keep(said: Tensor, file: Path) -> None:
    """Write what a network says of a pair; it appears whole or not at all."""
    with staged(file.parent) as stage:
        (stage / file.name).write_bytes(to_bytes({"said": said.half().contiguous()}))


def kept(file: Path) -> Tensor:
    """Read what `keep` wrote."""
    return load_file(file)["said"]


def stream_of(
    files: Sequence[Path], read: Read, seed: int, patches: int, crop: int | None = None
) -> Stream:
    """Return a stream for `loop.train`: example k is a function of its arguments and k only."""

    def stream(first: int, step: int = 1) -> Iterator[Patches]:
        number = first
        while True:
            yield draw(files, read, seed, number, patches, crop)
            number += step

    return stream


def draw(
    files: Sequence[Path],
    read: Read,
    seed: int,
    number: int,
    patches: int,
    crop: int | None = None,
) -> Patches:
    """Draw an example: cubes of `crop` voxels of files, each turned and mirrored at random.

    Without `crop`, all voxels of a file.
    """
    generator = generator_for(seed, f"RISH example {number}")
    chosen = torch.randint(len(files), (patches,), generator=generator).tolist()
    rows = []
    for k in chosen:
        turn = TURNS[int(torch.randint(len(TURNS), (1,), generator=generator))]
        mirrored = (torch.rand(3, generator=generator) < 0.5).tolist()
        tensors = read(files[k])
        box = (..., *_cube(tensors[0].shape[-3:], crop, generator))
        rows.append([turned(v[box], turn, mirrored) for v in tensors])
    given, wanted, mask = zip(*rows, strict=True)
    if len({v.shape[-3:] for v in (*given, *wanted)}) > 1:
        raise InputError(
            "pairs differ in their number of voxels, or are no cubes",
            "Make all of them with the same --patch.",
            file=files[chosen[0]].parent,
        )
    return Patches(
        torch.stack(given).float(), torch.stack(wanted).float(), torch.stack(mask), number
    )


def _cube(shape: Sequence[int], crop: int | None, generator: torch.Generator) -> tuple[slice, ...]:
    """Choose a cube of `crop` voxels, or take all along axes that have no more."""
    if crop is None:
        return (slice(None),) * len(shape)
    starts = (int(torch.randint(max(1, n - crop + 1), (1,), generator=generator)) for n in shape)
    return tuple(slice(start, start + crop) for start in starts)


def turned(values: Tensor, turn: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
    """Turn and mirror (..., x, y, z); features do not change, having no direction."""
    before = tuple(range(values.ndim - 3))
    moved = values.permute(*before, *(axis % values.ndim for axis in turn))
    return moved.flip([axis - 3 for axis, so in enumerate(mirrored) if so])
