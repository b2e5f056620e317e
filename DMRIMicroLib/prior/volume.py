"""All voxels of a scan, and what a network that knows slices expects of them in three planes.

A voxel has neighbours above and below, too. The network sees them in slices along the other axes:
the mean of what it expects in each plane is nearer to the truth than any, by how much, the scan
tells (`codebooks.recalibrate`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..codebooks.apart import HALVINGS, Volumes, habits_of
from ..codebooks.network import Codebook, Prior
from ..codebooks.recalibrate import Habits, Said
from ..codebooks.stack import Stack
from ..codebooks.tokens import with_state
from ..fitting.threads import in_threads
from ..scan import Scan

FEWEST_SLICES = 8
"""Of a scan that is looked at in planes across them."""

LONGEST = 1.6
"""Edges of a voxel may differ by this factor: planes across thick slices show little of tissue."""

SLAB = 12
"""Slices in the middle of a scan whose volumes are halved, to find its habits."""

Progress = Callable[[float], None]
Work = Callable[[Said, Tensor], Tensor]
"""From what is said of a slice and the rows of its voxels to new numbers of these: (n, c)."""


def planes_of(scan: Scan, usable: NDArray[np.bool_]) -> tuple[int, ...]:
    """Axes along which slices are worth looking at; the third is always one."""
    edges = np.linalg.norm(scan.affine[:3, :3], axis=0)
    deep = np.count_nonzero(usable.any((0, 1))) >= FEWEST_SLICES
    return (2, 1, 0) if deep and edges.max() <= LONGEST * edges.min() else (2,)


class Volume:
    """The usable voxels of a scan, in C order.

    Attributes
    ----------
    stacks : tuple of Stack
        The same voxels in slices along each axis.
    rows : list of tensors
        Voxels of each slice of the first stack.
    noise : (n,) tensor
        Relative to b0.
    typical : () tensor
        Its median.
    """

    def __init__(self, stack: Stack, planes: Sequence[int], device: torch.device) -> None:
        self.stacks = tuple(stack.along(axis) for axis in planes)
        self.device = device
        first = self.stacks[0]
        self.rows = [torch.from_numpy(first.rows(k)) for k in range(len(first))]
        self.data = self._data()
        self.noise = torch.ones(len(first.signal))
        for rows, (_, _, noise) in zip(self.rows, self.data, strict=True):
            self.noise[rows] = noise
        self.typical = self.noise.median()

    def __len__(self) -> int:
        return len(self.noise)

    def _data(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Matrix, vector and noise of each slice; a matrix is that of its slice's mean signals."""
        first, found = self.stacks[0], {}

        def one(k: int) -> int:
            seen = first.tokens(k)
            found[k] = seen.matrix, seen.vector.T.contiguous(), seen.noise
            return k

        for _ in in_threads(one, range(len(first)), torch.device("cpu")):
            pass
        return [found[k] for k in range(len(first))]

    def prior(
        self, network: Codebook, progress: Progress = lambda share: None, features: bool = True
    ) -> Prior:
        """Mean of what is expected in all planes; without `features` those have no columns."""
        count, sums = len(self), []
        for number, stack in enumerate(self.stacks):
            for k, rows, said in self._each(stack, lambda k, s=stack: self._ask(network, s, k)):
                parts = [said.mean, said.variance.log(), said.factors]
                parts.append(said.features if features else said.features[:, :0])
                sums = sums or [p.new_zeros(count, *p.shape[1:]) for p in parts]
                for total, part in zip(sums, parts, strict=True):
                    total[rows] += part / len(self.stacks)
                progress((number + (k + 1) / len(stack)) / len(self.stacks))
        mean, log, factors, told = sums
        return Prior(mean, log.exp(), factors, told)

    def given(self, prior: Prior) -> list[Said]:
        """Put a prior beside the data: what is said of each slice of the first stack."""
        return [
            Said(Prior(*(v[rows] for v in prior)), *data, self.stacks[0].space.coupling)
            for rows, data in zip(self.rows, self.data, strict=True)
        ]

    def gathered(self, parts: Sequence[Tensor]) -> Tensor:
        """Put what belongs to each slice of the first stack in the order of the voxels."""
        out = parts[0].new_empty(len(self), *parts[0].shape[1:])
        for rows, part in zip(self.rows, parts, strict=True):
            out[rows] = part
        return out

    def beside(
        self,
        network: Codebook,
        habits: Habits,
        state: Tensor,
        level: float,
        plane: int,
        work: Work,
        progress: Progress = lambda share: None,
    ) -> Tensor:
        """Ask again beside a noisy state (n, c), in one plane: what `work` makes of each slice."""
        stack, out = self.stacks[plane % len(self.stacks)], torch.empty_like(state)

        def one(k: int) -> Tensor:
            rows = torch.from_numpy(stack.rows(k))
            seen = stack.tokens(k).to(self.device)
            guess = state[rows].T.to(seen.vector)
            joined = with_state(seen, stack.space, guess, level, self.typical)
            return work(Said.of(network, joined).corrected(habits), rows)

        for k, rows, made in self._each(stack, one):
            out[rows] = made
            progress((k + 1) / len(stack))
        return out

    def _each(self, stack: Stack, ask: Callable):
        """Ask of every slice, side by side on the CPU's threads."""
        found: dict = {}

        def one(k: int) -> int:
            with torch.inference_mode():
                found[k] = ask(k)
            return k

        for k in in_threads(one, range(len(stack)), self.device):
            yield k, stack.rows(k), found.pop(k)

    def _ask(self, network: Codebook, stack: Stack, k: int) -> Prior:
        return Prior(*(v.cpu() for v in network.prior(stack.tokens(k).to(self.device))))

    def habits(
        self,
        network: Codebook,
        prior: Prior,
        seed: int = 0,
        progress: Progress = lambda share: None,
    ) -> Habits:
        """Find by how much real tissue differs from what is expected; see `codebooks.apart`."""
        slab, calls = self.slab(), itertools.count()

        def asked(shown: Volumes, wanted: Volumes) -> list[Said]:
            began = next(calls)
            expected = slab.of_volumes(shown).prior(
                network, lambda share: progress((began + share) / (2 * HALVINGS)), features=False
            )
            return slab.of_volumes(wanted).given(expected)

        return habits_of(self.stacks[0].acquisition, self.given(prior), asked, seed)

    def slab(self) -> Volume:
        """Return some slices in the middle."""
        first = self.stacks[0]
        middle = np.sort(first.levels)[max(0, (len(first) - SLAB) // 2) :][:SLAB]
        box = np.zeros(first.usable.shape, bool)
        box[:, :, middle] = True
        return Volume(first.within(box), [s.axis for s in self.stacks], self.device)

    def of_volumes(self, volumes: NDArray[np.intp]) -> Volume:
        """Return the same of some volumes of the scan."""
        stack = self.stacks[0].of_volumes(volumes)
        return Volume(stack, [s.axis for s in self.stacks], self.device)
