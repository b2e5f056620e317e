"""A network over an image of any size: overlapping tiles, blended without seams."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from ..errors import InputError

Corner = tuple[int, int, int]

STEP = 8
"""Tiles begin and end at multiples of it: networks with strides of 2, 4 or 8 then see the same
patches whatever the tiling."""

LARGE = 96
"""Voxels along an edge of a tile where its size does not matter (chosen)."""


def tile_of(patch: int) -> int:
    """Edge of the tiles of a network that learned from patches: theirs, as far as `STEP` allows.

    Means over a tile (attention, normalisation) are then over as many voxels as in training.
    """
    return max(STEP, patch // STEP * STEP)


def overlap_of(tile: int) -> int:
    """Voxels that neighbours share: half a tile, so that answers of eight tiles are blended."""
    return tile // 2 // STEP * STEP


def over_tiles(
    network: Callable[[Tensor, Corner], Tensor],
    image: Tensor,
    tile: int,
    overlap: int,
    tell: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """Apply a network tile by tile.

    Of the overlap of two tiles the outer quarters, where a tile lacks context, do not count; over
    its middle half the answers are blended linearly. So the tiling changes nothing for a network
    that looks no further than a quarter of the overlap, and leaves no seam for any other.

    Parameters
    ----------
    network : callable
        From a patch (c, x, y, z), its edges multiples of `STEP`, and the voxel of the image where
        it begins to the same shape.
    image : (c, x, y, z) tensor
        Its values beyond its own edges are taken as those of the edge.
    tile, overlap : int
        Voxels along each edge, multiples of `STEP`; an image that is smaller is one tile.
    tell : callable
        Gets the share that is done.

    Returns
    -------
    (c, x, y, z) tensor
    """
    if tile % STEP or overlap % STEP or not 0 <= overlap < tile:
        raise InputError(
            f"tiles of {tile} voxels, overlapping by {overlap}",
            f"Give multiples of {STEP}, the overlap smaller than the tile.",
        )
    whole = padded(image)
    axes = [_starts(n, tile, overlap) for n in whole.shape[1:]]
    out, total = torch.zeros_like(whole), torch.zeros_like(whole[0])
    places, size = list(product(*axes)), whole.shape[1:]
    for number, corner in enumerate(places):
        edges = [min(tile, n) for n in size]
        box = tuple(slice(s, s + e) for s, e in zip(corner, edges, strict=True))
        spans = zip(corner, edges, size, strict=True)
        x, y, z = (_ramp(*span, overlap).to(whole) for span in spans)
        weight = x[:, None, None] * y[:, None] * z
        out[(slice(None), *box)] += weight * network(whole[(slice(None), *box)], corner)
        total[box] += weight
        tell((number + 1) / len(places))
    out /= total
    return out[(slice(None), *(slice(n) for n in image.shape[1:]))]


def padded(image: Tensor) -> Tensor:
    """Repeat an image's last values until `STEP` divides its edges: (c, x, y, z)."""
    for axis in (1, 2, 3):
        lacks = -image.shape[axis] % STEP
        if lacks:
            last = image.narrow(axis, image.shape[axis] - 1, 1)
            image = torch.cat([image, last.repeat_interleave(lacks, axis)], axis)
    return image


def _starts(count: int, tile: int, overlap: int) -> list[int]:
    """First voxels of the tiles along an axis; the last tile ends where the image does."""
    if count <= tile:
        return [0]
    starts = list(range(0, count - tile, tile - overlap))
    return [*starts, count - tile]


def _ramp(start: int, size: int, count: int, overlap: int) -> Tensor:
    """Weight of a tile's voxels along an axis: 1 at the image's own edges, else a trapezoid."""
    quarter = overlap / 4
    place = torch.arange(size) + 0.5
    weight = torch.ones(size)
    for inner, distance in ((start > 0, place), (start + size < count, size - place)):
        if inner and overlap:
            weight = torch.minimum(weight, ((distance - quarter) / (2 * quarter)).clamp(0, 1))
    return weight.clamp(min=0)
