"""Noise that belongs to a place, so that tiles that share voxels draw the same there.

Answers with noise of their own would be averaged where tiles overlap, and the standard deviation
over samples would be too small there: by a factor of 0.71 in the middle between two tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from ..brain.simulate import generator_for
from .tiles import STEP, Corner

Noise = Callable[[Sequence[int]], Tensor]
"""From a shape (b, c, x, y, z) to unit normal numbers, on the CPU; new ones at each call."""


def from_generator(generator: torch.Generator) -> Noise:
    """Draw from one generator, whatever the place."""
    return lambda shape: torch.randn(tuple(shape), generator=generator)


class Field:
    """Noise of one draw in one tile of an image; a `Noise`.

    Blocks of `STEP` voxels along each edge have a generator each, of their place in the image. The
    k-th call of a tile draws the k-th numbers of its blocks, on voxels or on any lattice that has
    whole cells in a block.

    Parameters
    ----------
    seed, draw : int
    corner : (int, int, int)
        Where the tile begins: multiples of `STEP`.
    edges : sequence of 3 ints
        Of the tile, multiples of `STEP`.
    """

    def __init__(self, seed: int, draw: int, corner: Corner, edges: Sequence[int]) -> None:
        if any(n % STEP for n in (*corner, *edges)):
            raise ValueError(
                f"tile at {corner} of {tuple(edges)} voxels: {STEP} does not divide it"
            )
        self.seed, self.draw, self.corner = seed, draw, corner
        self.blocks = [n // STEP for n in edges]

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        first = [n // STEP for n in self.corner]
        places = product(*(range(a, a + n) for a, n in zip(first, self.blocks, strict=True)))
        return [generator_for(self.seed, f"draw {self.draw}, block {p}") for p in places]

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """Draw (b, c, x, y, z) numbers; x, y, z are multiples of the blocks of the tile."""
        cells = [n // k for n, k in zip(shape[-3:], self.blocks, strict=True)]
        if any(n * k != m for n, k, m in zip(cells, self.blocks, shape[-3:], strict=True)):
            raise ValueError(f"a lattice of {tuple(shape[-3:])} in {self.blocks} blocks")
        drawn = [torch.randn((*shape[:-3], *cells), generator=g) for g in self._generators]
        rows = torch.stack(drawn).view(*self.blocks, *shape[:-3], *cells)
        front = rows.ndim - 6  # dimensions before the lattice's
        order = [*range(3, 3 + front), 0, 3 + front, 1, 4 + front, 2, 5 + front]
        return rows.permute(order).reshape(tuple(shape))
