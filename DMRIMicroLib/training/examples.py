"""Examples for slice networks: slices of a pool, each scanned anew by a random scanner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..acquisition import Acquisition
from ..brain.directions import spread
from ..brain.machines import ScannerConfig, draw_scanner
from ..brain.protocols import ProtocolConfig, draw_protocol
from ..brain.scanner import Scanner, observe
from ..brain.simulate import generator_for
from ..codebooks.tokens import Tokens, tokens
from .pool import SCANNER, Slice, load_slice

ASKED_B = (300.0, 3200.0)
"""Range of the b-values at which the noise-free signal is asked for [s/mm2]."""


@dataclass(frozen=True)
class ExampleConfig:
    """How slices are scanned.

    Attributes
    ----------
    protocol : ProtocolConfig
    sparse : float
        Share of protocols with few volumes: at most `few`.
    few : int
    scanner : ScannerConfig
    edge : int
        Of the square that is cut out [voxels].
    brain : float
        Least share of it that is brain.
    doubt : float
        Standard deviation of the logarithm of the noise that the network is told.
    asked : (int, int)
        b-values and directions at which the noise-free signal is asked for.
    """

    protocol: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(volumes=(4, 120), shells=(1, 4), b=(300.0, 4000.0))
    )
    sparse: float = 0.5
    few: int = 32
    scanner: ScannerConfig = field(
        default_factory=lambda: ScannerConfig(spread=0.7, boxes=0.6, still=1.0, dropouts=0.02)
    )
    edge: int = 64
    brain: float = 0.35
    doubt: float = 0.15
    asked: tuple[int, int] = (3, 10)


@dataclass(frozen=True, eq=False)
class Example:
    """What a network is given, and what it should say of the n voxels of the mask.

    Attributes
    ----------
    tokens : Tokens
    labels : (n, 24) tensor
    known : (n, 24) bool tensor
    asked : Acquisition
        m volumes.
    signal : (n, m) tensor
        Noise-free, relative to b = 0.
    frame : (3, 3) tensor
    acquisition : Acquisition
    """

    tokens: Tokens
    labels: Tensor
    known: Tensor
    asked: Acquisition
    signal: Tensor
    frame: Tensor
    acquisition: Acquisition


def draw_example(item: Slice, generator: torch.Generator, config: ExampleConfig) -> Example:
    """Scan a slice by a random scanner and cut a square out of it."""
    few = float(torch.rand(1, generator=generator)) < config.sparse
    low, high = config.protocol.volumes
    volumes = (low, min(high, config.few)) if few else (low, high)
    acq = draw_protocol(generator, replace(config.protocol, volumes=volumes))
    acq = replace(acq, TE=item.TE)
    machine = draw_scanner(
        generator, replace(config.scanner, fields=((item.scanner.field, 1.0),)), acq
    )
    seen = observe(item.volume, acq, as_labelled(machine, item), generator)
    square = _square(item.mask, generator, config)
    mask = item.mask[square]
    signal = seen.signal[..., 0][:, *square]
    sigma = _told(seen.sigma[..., 0], item.mask, generator, config)[square]
    asked = _asked(generator, config, acq)
    clean = _clean(item, asked)[square][mask]
    return Example(
        tokens(signal, mask, acq, sigma, item.frame),
        item.labels[:, *square][:, mask].T,
        item.known[:, *square][:, mask].T,
        asked,
        clean,
        item.frame,
        acq,
    )


def as_labelled(machine: Scanner, item: Slice) -> Scanner:
    """Return a scanner that sees a slice as large, bright and sharp as its labels do."""
    return replace(machine, **{name: getattr(item.scanner, name) for name in SCANNER})


def _square(mask: Tensor, generator: torch.Generator, config: ExampleConfig) -> tuple[slice, slice]:
    """Draw a square with enough brain, or the best of ten."""
    best, found = -1.0, None
    for _ in range(10):
        corner = [
            int(torch.randint(max(1, n - config.edge + 1), (1,), generator=generator))
            for n in mask.shape
        ]
        square = tuple(slice(c, c + config.edge) for c in corner)
        share = float(mask[square].float().mean())
        if share > best:
            best, found = share, square
        if share >= config.brain:
            break
    assert found is not None
    return found  # type: ignore[return-value]


def _told(sigma: Tensor, mask: Tensor, generator: torch.Generator, config: ExampleConfig) -> Tensor:
    """Noise as the network is told it: mostly one number, and not quite the right one."""
    u = torch.rand(1, generator=generator)
    wrong = math.exp(config.doubt * float(torch.randn(1, generator=generator)))
    flat = float(u) < 0.7
    return (torch.full_like(sigma, float(sigma[mask].median())) if flat else sigma) * wrong


def _asked(generator: torch.Generator, config: ExampleConfig, acq: Acquisition) -> Acquisition:
    """Draw where in q-space the noise-free signal is asked for."""
    shells, directions = config.asked
    u = torch.rand(shells, generator=generator, dtype=torch.float64)
    b = (ASKED_B[0] + (ASKED_B[1] - ASKED_B[0]) * u).round()
    g = torch.cat([spread(directions, generator) for _ in range(shells)])
    bvals = b.repeat_interleave(directions).numpy()
    return Acquisition(bvals, g.numpy(), delta=acq.delta, Delta=acq.Delta, TE=acq.TE)


def _clean(item: Slice, asked: Acquisition) -> Tensor:
    """Noise-free signal relative to b = 0: (x, y, m)."""
    bvals, bvecs = np.append(0.0, asked.bvals), np.vstack([np.zeros((1, 3)), asked.bvecs])
    played = replace(asked, bvals=bvals, bvecs=bvecs)
    seen = observe(item.volume, played, item.scanner, torch.Generator())
    b0, *signals = seen.signal[..., 0]
    return torch.stack(signals, -1) / b0.clamp(min=1e-6)[..., None]


def examples(
    files: Sequence[Path],
    seed: int,
    config: ExampleConfig | None = None,
    start: int = 0,
    step: int = 1,
) -> Iterator[Example]:
    """Yield examples without end: number k depends on (files, seed, config, k) only."""
    config, number = config or ExampleConfig(), start
    while True:
        generator = generator_for(seed, f"example {number}")
        which = int(torch.randint(len(files), (1,), generator=generator))
        yield draw_example(load_slice(files[which]), generator, config)
        number += step


class Examples(IterableDataset):
    """The examples as a torch data set: workers share the numbers among them."""

    def __init__(
        self,
        files: Sequence[Path],
        seed: int,
        config: ExampleConfig | None = None,
        start: int = 0,
    ) -> None:
        self.files, self.seed, self.config, self.start = list(files), seed, config, start

    def __iter__(self) -> Iterator[Example]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return examples(self.files, self.seed, self.config, self.start + first, step)
