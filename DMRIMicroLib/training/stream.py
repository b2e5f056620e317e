"""Endless patches of simulated brains: nothing is read from or written to disk on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..brain.anatomy import Anatomy
from ..brain.machines import ScannerConfig, draw_scanner
from ..brain.phantom import SubjectConfig, draw_subject, render
from ..brain.protocols import ProtocolConfig, draw_protocol
from ..brain.simulate import FINER, generator_for
from ..errors import InputError
from ..fitting.threads import one_thread_each
from .patch import Batch, Frame, Render, batched, chosen, extent, look, place, rendered


@dataclass(frozen=True)
class StreamConfig:
    """What to draw.

    Attributes
    ----------
    patch : (int, int, int)
        Voxels of the scanner along each edge.
    batch : int
        Patches with one protocol and one scanner, each of another subject.
    brain : float
        Share of a patch that should be brain; where none of `patch.TRIES` places holds so much (the
        patch may be larger than the head), the best of them is taken.
    finer : int
        Pieces of tissue along each edge of a voxel.
    margin : int
        Voxels around a patch, in the plane of its slices, that are simulated and cut off: ringing
        and ghosts come from there. Of slices there are `patch.STEP_MARGIN`, and only if the head
        moves.
    subject, protocol, scanner
        What to draw of each.
    """

    patch: tuple[int, int, int] = (16, 16, 16)
    batch: int = 4
    brain: float = 0.4
    finer: int = FINER
    margin: int = 2
    subject: SubjectConfig = field(default_factory=SubjectConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    scanner: ScannerConfig = field(default_factory=ScannerConfig)


def stream(
    anatomies: Sequence[Anatomy],
    seed: int,
    config: StreamConfig | None = None,
    device: torch.device | str = "cpu",
    *,
    start: int = 0,
    step: int = 1,
    renderer: Render = render,
) -> Iterator[Batch]:
    """Yield batches without end: batch k is a function of (anatomies, seed, config, k) only.

    Parameters
    ----------
    anatomies : sequence of Anatomy
    seed : int
    config : StreamConfig, optional
    device : torch.device or str
        Where batches are made.
    start, step : int
        Numbers of the batches: workers take turns.
    renderer : callable
        In place of `brain.phantom.render`.
    """
    if not anatomies:
        raise InputError("there is no anatomy", "Give one at least.")
    config, number = config or StreamConfig(), start
    while True:
        yield draw_batch(
            anatomies,
            generator_for(seed, f"batch {number}"),
            config,
            torch.device(device),
            renderer,
        )
        number += step


class Patches(IterableDataset):
    """The stream as a torch data set: workers of a DataLoader share the numbers among them."""

    def __init__(
        self,
        anatomies: Sequence[Anatomy],
        seed: int,
        config: StreamConfig | None = None,
        device: torch.device | str = "cpu",
        renderer: Render = render,
    ) -> None:
        self.anatomies, self.seed, self.config = tuple(anatomies), seed, config
        self.device, self.renderer = device, renderer

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return stream(
            self.anatomies,
            self.seed,
            self.config,
            self.device,
            start=start,
            step=step,
            renderer=self.renderer,
        )


def draw_batch(
    anatomies: Sequence[Anatomy],
    generator: torch.Generator,
    config: StreamConfig,
    device: torch.device,
    renderer: Render = render,
) -> Batch:
    """Draw one batch."""
    acquisition = draw_protocol(generator, config.protocol)
    scanner = draw_scanner(generator, config.scanner, acquisition)
    made = []
    with one_thread_each():  # patches are too small to be shared by threads
        for _ in range(config.batch):
            anatomy = chosen(anatomies, generator)
            subject = draw_subject(generator, config.subject)
            centre = place(anatomy, generator, extent(config.patch, scanner), config.brain)
            frame = Frame(config.patch, config.margin, config.finer, centre)
            volume = rendered(anatomy, subject, frame, scanner, device, renderer)
            made.append(look(volume, frame, acquisition, scanner, generator))
    return batched(made, acquisition, scanner)
