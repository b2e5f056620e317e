"""Examples for slice networks: mapped slices, each scanned anew by a random scanner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..acquisition import Acquisition
from ..brain.chain import measure
from ..brain.directions import spread
from ..brain.machines import ScannerConfig, draw_scanner
from ..brain.protocols import ProtocolConfig, draw_protocol
from ..brain.scanner import Scanner
from ..brain.simulate import generator_for
from ..codebooks.tokens import Tokens, state_noise, tokens, with_state
from ..signals.space import HIGHEST, Space
from .mapped import Mapped, load_mapped
from .pool import METRICS, SCANNER, Slice

WHITE_FA, SOFT = 0.25, 0.05
"""FA that parts white matter from grey, and how softly."""

COARSE = (4, 8, 16)
"""Random fields vary over so large a part of the slice."""

ASKED_B = (300.0, 3000.0)
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
    strange : float
        Share of examples whose tissue is not that of the simulation: every class of tissue is
        shifted and every place varies in the signal space. They have no labels. What a network
        expects of real tissue may be wrong by as much.
    shift, vary, turn : float
        Standard deviations of these shifts and variations, of the numbers of degree 0, and of the
        logarithm of what those of higher degree are multiplied by.
    contrast : float
        Standard deviation of the logarithm of how bright tissues are at b = 0.
    state : float
        Share of examples that come with a noisy guess of their numbers (`tokens.with_state`), as
        posterior sampling has it.
    level : (float, float)
        Range of its noise, log-uniform.
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
    strange: float = 0.5
    shift: float = 0.6
    vary: float = 0.3
    turn: float = 0.3
    contrast: float = 0.3
    state: float = 0.3
    level: tuple[float, float] = (0.05, 2.5)


@dataclass(frozen=True, eq=False)
class Example:
    """What a network is given, and what it should say of the n voxels of the mask.

    Attributes
    ----------
    tokens : Tokens
    labels : (n, 24) tensor
    known : (n, 24) bool tensor
    numbers : (n, c) tensor
        Noise-free signal in the signal space.
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
    numbers: Tensor
    asked: Acquisition
    signal: Tensor
    frame: Tensor
    acquisition: Acquisition


def draw_example(
    item: Mapped, space: Space, generator: torch.Generator, config: ExampleConfig
) -> Example:
    """Scan a slice by a random scanner and cut a square out of it."""
    acq = replace(_protocol(generator, config), TE=item.TE)
    fields = ((item.scanner.field, 1.0),)
    machine = draw_scanner(generator, replace(config.scanner, fields=fields), acq)
    strange = float(torch.rand(1, generator=generator)) < config.strange
    if strange:
        item = moved(item, space, generator, config)

    def images(played: Acquisition) -> Tensor:
        return _signal(item, space, played)

    shape = (*item.mask.shape, 1)
    signal, sigma = measure(images, shape, acq, as_labelled(machine, item), generator)
    if strange:
        item = replace(item, known=torch.zeros_like(item.known))
    return as_example(item, signal[..., 0], sigma[..., 0], acq, space, generator, config)


def as_example(
    item: Mapped,
    signal: Tensor,
    sigma: Tensor,
    acq: Acquisition,
    space: Space,
    generator: torch.Generator,
    config: ExampleConfig,
) -> Example:
    """Cut a square out of a slice that was scanned: signal (m, x, y), its noise (x, y)."""
    square = _square(item.mask, generator, config)
    mask = item.mask[square]
    inside = torch.zeros_like(item.mask)
    inside[square] = True
    chosen = inside[item.mask]
    told = _told(sigma, item.mask, generator, config)[square]
    seen = tokens(signal[:, *square], mask, acq, told, item.frame, space)
    own = item.numbers[:, chosen]
    if float(torch.rand(1, generator=generator)) < config.state:
        low, high = (math.log(v) for v in config.level)
        level = math.exp(low + (high - low) * float(torch.rand(1, generator=generator)))
        noise = torch.randn(own.shape, generator=generator) * state_noise(seen, level)
        seen = with_state(seen, space, own + noise, level)
    asked = _asked(generator, config, acq)
    design, offset, _ = space.design(asked, item.frame)
    clean = design.to(own) @ own + offset.to(own)[:, None]
    labels, known = item.labels[:, chosen].T, item.known[:, chosen].T
    return Example(seen, labels, known, own.T, asked, clean.T, item.frame, acq)


def _protocol(generator: torch.Generator, config: ExampleConfig) -> Acquisition:
    """Draw a protocol that says something of the space; what is above it is left out."""
    while True:
        few = float(torch.rand(1, generator=generator)) < config.sparse
        low, high = config.protocol.volumes
        volumes = (low, min(high, config.few)) if few else (low, high)
        acq = draw_protocol(generator, replace(config.protocol, volumes=volumes))
        kept = [v for v, b in enumerate(acq.bvals) if b <= 1e3 * HIGHEST]
        if kept and acq.subset(kept).shells and acq.subset(kept).is_b0.any():
            return acq.subset(kept)


def _signal(item: Mapped, space: Space, played: Acquisition) -> Tensor:
    """Noise-free images, nothing around the brain: (m, x, y, 1)."""
    b = played.bvals.clip(max=1e3 * HIGHEST)
    design, offset, _ = space.design(replace(played, bvals=b), item.frame)
    numbers = item.numbers
    relative = (design.to(numbers) @ numbers + offset.to(numbers)[:, None]).clamp(min=0)
    images = numbers.new_zeros(len(played), *item.mask.shape)
    images[:, item.mask] = relative * item.b0[item.mask]
    return images[..., None]


def moved(item: Mapped, space: Space, generator: torch.Generator, config: ExampleConfig) -> Mapped:
    """Move tissue within the signal space, and change how bright its classes are."""
    labels = {name: item.labels[METRICS.index(name)] for name in ("FA", "FWF")}
    water = labels["FWF"].clamp(0, 1)
    white = torch.sigmoid((labels["FA"] - WHITE_FA) / SOFT)
    classes = torch.stack([(1 - water) * white, (1 - water) * (1 - white), water])
    degrees = torch.as_tensor(space.degrees)
    zeroth = int((degrees == 0).sum())
    shift = config.shift * torch.randn(zeroth, 2, generator=generator)
    grid = COARSE[int(torch.randint(len(COARSE), (1,), generator=generator))]
    coarse = torch.randn(1, zeroth, grid, grid, generator=generator)
    field = F.interpolate(coarse, item.mask.shape, mode="bicubic")[0][:, item.mask]
    out = item.numbers.clone()
    out[:zeroth] += (shift @ classes[:2] + config.vary * field) * (1 - water)
    factor = torch.exp(config.turn * torch.randn(len(set(space.groups)), generator=generator))
    out[zeroth:] *= factor[torch.as_tensor(space.groups)[zeroth:]][:, None]
    bright = torch.exp(config.contrast * torch.randn(3, generator=generator)) @ classes
    b0 = item.b0.clone()
    b0[item.mask] *= bright
    return replace(item, numbers=out, b0=b0)


def as_labelled(machine: Scanner, item: Slice | Mapped) -> Scanner:
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


def examples(
    files: Sequence[Path],
    space: Space,
    seed: int,
    config: ExampleConfig | None = None,
    start: int = 0,
    step: int = 1,
) -> Iterator[Example]:
    """Yield examples without end: number k depends on (files, space, seed, config, k) only."""
    config, number = config or ExampleConfig(), start
    while True:
        generator = generator_for(seed, f"example {number}")
        which = int(torch.randint(len(files), (1,), generator=generator))
        yield draw_example(load_mapped(files[which]), space, generator, config)
        number += step


class Examples(IterableDataset):
    """The examples as a torch data set: workers share the numbers among them."""

    def __init__(
        self,
        files: Sequence[Path],
        space: Space,
        seed: int,
        config: ExampleConfig | None = None,
        start: int = 0,
    ) -> None:
        self.files, self.space, self.seed = list(files), space, seed
        self.config, self.start = config, start

    def __iter__(self) -> Iterator[Example]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return examples(self.files, self.space, self.seed, self.config, self.start + first, step)
