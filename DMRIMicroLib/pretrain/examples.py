"""Examples for the training: slices of real scans, re-acquired as the target would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..brain.simulate import generator_for
from ..physics.noise import add_noise
from ..signals.space import Space
from ..training.examples import Example, ExampleConfig, as_example
from ..training.mapped import load_mapped
from .slices import load_signals
from .target import Target

FEWEST = 4
"""Volumes of a subset, b = 0 included (fewer if the scheme has fewer)."""


def draw_example(
    file: Path, space: Space, target: Target, generator: torch.Generator, config: ExampleConfig
) -> Example:
    """Scan a slice with the target's scheme and noise, and cut a square out of it.

    Of `config`, what is about tissue and protocols has no say: tissue is that of the scan.
    """
    item, relative = load_mapped(file), load_signals(file)
    volumes = _volumes(target, generator)
    low, high = (math.log(v) for v in target.snr)
    snr = math.exp(low + (high - low) * float(torch.rand(1, generator=generator)))
    clean = relative.new_zeros(len(volumes), *item.mask.shape)
    clean[:, item.mask] = relative[:, volumes].T * item.b0[item.mask]
    sigma = torch.full(item.mask.shape, 1 / snr)  # the median of b0 is 1
    signal = add_noise(clean, sigma, generator=generator)
    acq = target.acquisition.subset(volumes)
    return as_example(item, signal, sigma, acq, space, generator, config)


def _volumes(target: Target, generator: torch.Generator) -> list[int]:
    """Draw what is measured: everything, or some of it with b = 0 and without."""
    acq = target.acquisition
    count = len(acq)
    if not target.subsets or count <= FEWEST:
        return list(range(count))
    u = float(torch.rand(1, generator=generator))
    wanted = round(math.exp(math.log(FEWEST) + u * (math.log(count) - math.log(FEWEST))))
    parts = []
    for at in (np.flatnonzero(acq.is_b0), np.flatnonzero(~acq.is_b0)):
        order = at[torch.randperm(len(at), generator=generator).numpy()]
        parts.append(order[: max(1, round(wanted * len(at) / count))])
    return sorted(int(v) for part in parts for v in part)


class Reacquired(IterableDataset):
    """Endless examples: number k depends on (files, space, target, seed, config, k) only."""

    def __init__(
        self,
        files: Sequence[Path],
        space: Space,
        target: Target,
        seed: int,
        config: ExampleConfig,
        start: int = 0,
    ) -> None:
        self.files, self.space, self.target = list(files), space, target
        self.seed, self.config, self.start = seed, config, start

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            torch.set_num_threads(1)
        number = self.start + first
        while True:
            generator = generator_for(self.seed, f"example {number}")
            which = int(torch.randint(len(self.files), (1,), generator=generator))
            yield draw_example(self.files[which], self.space, self.target, generator, self.config)
            number += step


def example_stream(
    files: Sequence[Path],
    space: Space,
    target: Target,
    seed: int,
    config: ExampleConfig,
    workers: int = 0,
):
    """Return the function from the first wanted example to an iterator, for `loop.train`."""

    def stream(first: int) -> Iterator[Example]:
        data = Reacquired(files, space, target, seed, config, first)
        ahead = 4 if workers else None
        return iter(DataLoader(data, None, num_workers=workers, prefetch_factor=ahead))

    return stream
