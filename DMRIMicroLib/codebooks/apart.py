"""A scan's habits, found where the noise of neighbours does not flatter a prior.

Noise of neighbouring voxels is alike where k-space was windowed, filled up or interpolated. A prior
that comes from neighbours then has some of a voxel's own noise in it, and seems better than it is.
Between volumes noise is independent: half of them tell what to expect of the other half. That
matters for directions, of which every volume is one. What volumes have in common (degree 0) is far
above the noise, and is asked of the prior as it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..fitting.threads import in_threads
from ..signals.evidence import weighted
from .network import RANKS, Codebook
from .recalibrate import Habits, Said, find_habits
from .stack import Stack

Volumes = NDArray[np.intp]

FEWEST = 8
"""Weighted volumes of a scan that can be halved: three directions say little of anisotropy."""

HALVINGS = 2
"""Each gives two answers: either half tells of the other."""

SLICES = 2
"""Of a scan, spread over it, that are asked."""


Asked = Callable[[Volumes, Volumes], "list[Said]"]
"""From volumes that are shown and volumes that are asked for to what is said of these."""


def habits_of(
    acquisition: Acquisition, said: Sequence[Said], asked: Asked, seed: int = 0
) -> Habits:
    """Find the habits of a prior that a scan tells of, from what was `said` of its slices."""
    habits = find_habits(said, seed)
    if int(weighted(acquisition).sum()) < FEWEST:
        return habits
    generator, found = np.random.default_rng(seed), []
    for _ in range(HALVINGS):
        one, other = halves(acquisition, generator)
        found += asked(one, other) + asked(other, one)
    apart = find_habits(found, seed)
    factor = torch.cat([habits.factor[: RANKS[0]], apart.factor[RANKS[0] :]])
    return Habits(habits.zeroth, apart.higher, factor)


def asked_of(network: Codebook, stack: Stack, device: torch.device) -> Asked:
    """Return what asks a network of some slices of a scan."""
    some = some_slices(stack)

    def asked(shown: Volumes, wanted: Volumes) -> list[Said]:
        seen, rest, found = some.of_volumes(shown), some.of_volumes(wanted), {}

        def one(k: int) -> int:
            with torch.inference_mode():
                prior = Said.of(network, seen.tokens(k).to(device)).prior
            found[k] = Said.beside(prior, rest.tokens(k))
            return k

        return [found[k] for k in in_threads(one, range(len(some)), device)]

    return asked


def some_slices(stack: Stack) -> Stack:
    """Return the slices of a scan that are asked."""
    count = min(SLICES, len(stack))
    chosen = np.unique(np.linspace(0, len(stack) - 1, count + 2)[1:-1].round().astype(int))
    box = np.zeros(stack.usable.shape, bool)
    box[:, :, stack.levels[chosen]] = True
    return stack.within(box)


def halves(acquisition: Acquisition, generator: np.random.Generator) -> tuple[Volumes, Volumes]:
    """Volumes of two halves of a scan: half of each shell, and all b0 volumes in both."""
    told, parts = weighted(acquisition), ([], [])
    for shell in acquisition.shells:
        volumes = generator.permutation([v for v in shell.indices if told[v]])
        larger = int(len(parts[0]) > len(parts[1]))  # so many shells of one volume are halved, too
        for k, v in enumerate(volumes):
            parts[(k + larger) % 2].append(v)
    b0 = np.flatnonzero(acquisition.is_b0)
    one, other = (np.sort(np.concatenate([b0, part])).astype(np.intp) for part in parts)
    return one, other
