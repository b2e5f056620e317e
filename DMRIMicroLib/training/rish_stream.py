"""Examples for networks on RISH features: some pairs at a time, turned and mirrored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from ..rish.blocks import CHANNELS
from ..rish.data import load_pair
from ..rish.units import Units

KEPT = 2000
"""Pairs that are kept in memory, 1.4 MB each at 48^3 voxels."""

LEAST, LARGEST = 3.0, 12.0
"""Radii of spots [voxels]."""

SHARPEST = 3.0
"""Slope of the borders of the sharpest spots; of the softest it is 1 [1 / voxel]."""

FAINTEST, LOUDEST = 0.05, 0.45
"""Logarithm of what roots in spots are multiplied by, or divided: energies of strokes and abscesses
are half as high again as those of the tissue around, or twice."""

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


@dataclass(frozen=True)
class Spots:
    """Brighter or darker places in both scans of a pair, so that what a scan shows stays there.

    Tissue of a kind that no pair has, a lesion, is not to be taken for the noise of one that they
    have: within an ellipsoid the root of order 0 is multiplied by one number, at 3 T and at 7 T.

    Attributes
    ----------
    share : float
        Of the pairs.
    zero : float
        What no energy of order 0 is in network units.
    """

    share: float
    zero: float

    def __call__(self, row: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Change features (c, x, y, z) that were given and wanted, in half precision or not."""
        drawn = torch.rand(9, generator=generator)
        given, wanted, mask = row
        if float(drawn[0]) >= self.share:
            return [given, wanted, mask]
        shape = mask.shape
        at = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
        middle = drawn[1:4] * torch.tensor(shape)
        radii = LEAST * (LARGEST / LEAST) ** drawn[4:7]
        far = ((at - middle[:, None, None, None]) / radii[:, None, None, None]).norm(dim=0)
        inside = torch.sigmoid((1 - far) * radii.mean() * SHARPEST ** float(drawn[7]))
        change = FAINTEST + (LOUDEST - FAINTEST) * (2 * drawn[8] - 1).abs()
        factor = torch.exp(change * (2 * drawn[8] - 1).sign() * inside)
        out = []
        for features in (given, wanted):
            changed = features.clone()
            root = changed[::CHANNELS].float() - self.zero  # of order 0, of all images in a row
            changed[::CHANNELS] = (root * factor + self.zero).to(changed)
            out.append(changed)
        return [*out, mask]


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
    files: Sequence[Path],
    read: Read,
    seed: int,
    patches: int,
    crop: int | None = None,
    spots: Spots | None = None,
) -> Stream:
    """Return a stream for `loop.train`: example k is a function of its arguments and k only."""

    def stream(first: int, step: int = 1) -> Iterator[Patches]:
        number = first
        while True:
            yield draw(files, read, seed, number, patches, crop, spots)
            number += step

    return stream


def draw(
    files: Sequence[Path],
    read: Read,
    seed: int,
    number: int,
    patches: int,
    crop: int | None = None,
    spots: Spots | None = None,
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
        row = [turned(v[box], turn, mirrored) for v in tensors]
        rows.append(row if spots is None else spots(row, generator))
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
