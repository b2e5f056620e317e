"""Endless pairs of patches: one piece of one brain, seen by two scanners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..acquisition import Acquisition
from ..brain.anatomy import Anatomy
from ..brain.machines import SCANNERS
from ..brain.phantom import Subject, SubjectConfig, draw_subject, render
from ..brain.protocols import named
from ..brain.scanner import Scanner
from ..brain.simulate import FINER, generator_for
from ..errors import InputError
from ..fitting.threads import one_thread_each
from .patch import (
    Batch,
    Frame,
    Render,
    batched,
    chosen,
    extent,
    ill_place,
    look,
    place,
    rendered,
    steps,
)


def machine(scanner: str, protocol: str) -> tuple[Scanner, Acquisition]:
    """Return a scanner of `machines.SCANNERS` and a protocol of `protocols.DESIGNS` by name."""
    if scanner not in SCANNERS:
        raise InputError(f"there is no scanner {scanner!r}", f"Choose from: {', '.join(SCANNERS)}.")
    return SCANNERS[scanner], named(protocol)


@dataclass(frozen=True)
class PairConfig:
    """What pairs to draw; by default those of the Human Connectome Project's two scanners.

    Attributes
    ----------
    patch : (int, int, int)
        Voxels of the first scanner along each edge. The second's patch has as many whole voxels as
        come nearest to the same extent, about the same middle.
    batch : int
        Pairs in a batch, each of another subject.
    brain, finer, margin, subject
        See `stream.StreamConfig`.
    first, second : (Scanner, Acquisition)
        3 T, 1.25 mm, 90 directions at b = 1000, 2000 and 3000 s/mm2; 7 T, 1.05 mm, 64 directions at
        b = 1000 and 2000.
    """

    patch: tuple[int, int, int] = (24, 24, 24)
    batch: int = 1
    brain: float = 0.4
    finer: int = FINER
    margin: int = 2
    subject: SubjectConfig = field(default_factory=SubjectConfig)
    first: tuple[Scanner, Acquisition] = field(default_factory=lambda: machine("hcp3t", "hcp3t"))
    second: tuple[Scanner, Acquisition] = field(default_factory=lambda: machine("hcp7t", "hcp7t"))

    def patches(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Voxels of the two patches."""
        edges = extent(self.patch, self.first[0])
        second = (edges / steps(self.second[0])).round().clamp(min=1).long().tolist()
        return self.patch, tuple(second)


def stream_pairs(
    anatomies: Sequence[Anatomy],
    seed: int,
    config: PairConfig | None = None,
    device: torch.device | str = "cpu",
    *,
    start: int = 0,
    step: int = 1,
    renderer: Render = render,
) -> Iterator[tuple[Batch, Batch]]:
    """Yield pairs of batches without end; arguments and promises are those of `stream.stream`.

    Row k of both is the same subject about the same middle; `Batch.affine` tells where each voxel
    lies.
    """
    if not anatomies:
        raise InputError("there is no anatomy", "Give one at least.")
    config, number = config or PairConfig(), start
    while True:
        generator = generator_for(seed, f"pair {number}")
        yield draw_pair(anatomies, generator, config, torch.device(device), renderer)
        number += step


class Pairs(IterableDataset):
    """The stream as a torch data set: workers of a DataLoader share the numbers among them."""

    def __init__(
        self,
        anatomies: Sequence[Anatomy],
        seed: int,
        config: PairConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.anatomies, self.seed, self.config = tuple(anatomies), seed, config
        self.device = device

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return stream_pairs(
            self.anatomies, self.seed, self.config, self.device, start=start, step=step
        )


def draw_pair(
    anatomies: Sequence[Anatomy],
    generator: torch.Generator,
    config: PairConfig,
    device: torch.device,
    renderer: Render = render,
) -> tuple[Batch, Batch]:
    """Draw one pair of batches; the patches of ill subjects lie about a place in the lesion."""
    machines, patches = (config.first, config.second), config.patches()
    made: tuple[list, list] = ([], [])
    with one_thread_each():
        for _ in range(config.batch):
            anatomy = chosen(anatomies, generator)
            subject = draw_subject(generator, config.subject)
            centre = _centre(anatomy, subject, generator, config)
            for rows, (scanner, acquisition), patch in zip(made, machines, patches, strict=True):
                frame = Frame(patch, config.margin, config.finer, centre)
                volume = rendered(anatomy, subject, frame, scanner, device, renderer)
                rows.append(look(volume, frame, acquisition, scanner, generator))
    first, second = (
        batched(rows, acquisition, scanner)
        for rows, (scanner, acquisition) in zip(made, machines, strict=True)
    )
    return first, second


def _centre(
    anatomy: Anatomy, subject: Subject, generator: torch.Generator, config: PairConfig
) -> torch.Tensor:
    """Draw the middle of both patches: (3,) RAS [mm]."""
    ill = None if subject.lesion is None else ill_place(anatomy, subject, generator)
    if ill is not None:
        return ill
    return place(anatomy, generator, extent(config.patch, config.first[0]), config.brain)
