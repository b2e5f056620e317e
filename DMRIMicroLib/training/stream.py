"""Endless patches of simulated brains: nothing is read from or written to disk on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..acquisition import Acquisition
from ..brain.anatomy import Anatomy
from ..brain.grid import Grid, overlap
from ..brain.machines import ScannerConfig, draw_scanner
from ..brain.phantom import SubjectConfig, draw_subject, render
from ..brain.protocols import ProtocolConfig, draw_protocol
from ..brain.relaxation import unweighted
from ..brain.sampling import sample
from ..brain.scanner import USUAL_TE, Observation, Scanner, observe
from ..brain.simulate import FINER, generator_for
from ..brain.volume import StateVolume
from ..errors import InputError

TRIES = 50
"""Places to look for a patch with enough brain before giving up."""

PARAMETERS = (
    "neurite",
    "extra",
    "soma",
    "free",
    "dot",
    "d_neurite",
    "d_extra_par",
    "d_extra_perp",
    "radius",
)
"""Channels of a batch's state; those of the fibre orientations are apart."""

Render = Callable[[Anatomy, object, Tensor, tuple[int, int, int], torch.device], StateVolume]


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
        Least share of a patch that is brain.
    finer : int
        Pieces of tissue along each edge of a voxel.
    margin : int
        Voxels around a patch that are simulated and cut off: a head that moves brings their
        tissue in, and ringing and ghosts come from there.
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


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of n subjects, seen by one scanner with one protocol.

    Attributes
    ----------
    signal : (n, m, x, y, z) tensor
        Measured magnitude.
    clean : (n, m, x, y, z) tensor
        The same voxels without noise and artefacts, on the same scale.
    sigma : (n, x, y, z) tensor
        Standard deviation of the noise.
    state : (n, 9, x, y, z) tensor
        Means of `PARAMETERS` over the voxels.
    odf : (n, c, x, y, z) tensor
    mask : (n, x, y, z) bool tensor
    acquisition : Acquisition
        What the scanner tells.
    scanner : Scanner
    """

    signal: Tensor
    clean: Tensor
    sigma: Tensor
    state: Tensor
    odf: Tensor
    mask: Tensor
    acquisition: Acquisition
    scanner: Scanner


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
    made = [
        _patch(anatomies, generator, config, acquisition, scanner, device, renderer)
        for _ in range(config.batch)
    ]
    stacked = [torch.stack(parts) for parts in zip(*made, strict=True)]
    return Batch(*stacked, acquisition=acquisition, scanner=scanner)


def _patch(
    anatomies: Sequence[Anatomy],
    generator: torch.Generator,
    config: StreamConfig,
    acquisition: Acquisition,
    scanner: Scanner,
    device: torch.device,
    renderer: Render,
) -> tuple[Tensor, ...]:
    """One subject's patch, in the order of `Batch`'s tensors."""
    anatomy = anatomies[int(torch.randint(len(anatomies), (1,), generator=generator))]
    subject = draw_subject(generator, config.subject)
    fine = _place(anatomy, generator, config, scanner)
    volume = renderer(anatomy, subject, fine.affine, fine.shape, device)
    seen = observe(volume, acquisition, scanner, generator)
    clean, state, odf = _known(volume, acquisition, scanner, seen)
    cut = (..., *(slice(config.margin, config.margin + n) for n in config.patch))
    return tuple(v[cut] for v in (seen.signal, clean, seen.sigma, state, odf, seen.mask))


def _place(
    anatomy: Anatomy, generator: torch.Generator, config: StreamConfig, scanner: Scanner
) -> Grid:
    """Draw where the patch lies: the fine grid of its tissue."""
    step = torch.tensor([*scanner.voxel[:2], scanner.voxel[2] + scanner.gap], dtype=torch.float64)
    patch = torch.tensor(config.patch, dtype=torch.float64)
    brain = anatomy.tissue.sum(0) > 0.5
    inside = brain.nonzero()
    edge = anatomy.affine[:3, :3].norm(dim=0)
    half = (patch * step / edge.cpu() / 2).ceil().long()
    for _ in range(TRIES):
        middle = inside[int(torch.randint(len(inside), (1,), generator=generator))].cpu()
        low, high = (middle - half).clamp(min=0), middle + half + 1
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        share = float(brain[box].sum()) / float((2 * half + 1).prod())
        if share >= config.brain:
            break
    else:
        raise InputError(
            f"no patch holds {config.brain:.0%} brain", "Ask for less, or for smaller patches."
        )
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.diag(step)
    world = anatomy.affine.double().cpu() @ torch.cat([middle.double(), torch.ones(1).double()])
    shape = tuple(n + 2 * config.margin for n in config.patch)
    affine[:3, 3] = world[:3] - affine[:3, :3] @ ((torch.tensor(shape).double() - 1) / 2)
    return Grid(affine, shape).refined((config.finer,) * 3)


def _known(
    volume: StateVolume, acquisition: Acquisition, scanner: Scanner, seen: Observation
) -> tuple[Tensor, Tensor, Tensor]:
    """Return clean signal (m, x, y, z), state (9, x, y, z) and fibre orientations (c, x, y, z)."""
    grid = seen.grid
    bright = unweighted(volume, scanner.field, acquisition.TE or USUAL_TE, scanner.TR)
    pure = sample(volume, bright, grid, acquisition)
    part = overlap(volume.mask, volume.affine, grid, volume.fill.dtype)
    weight = bright * volume.fill
    total = part.mean(weight)
    odf = volume.state.odf
    values = [getattr(volume.state, name) for name in PARAMETERS]
    values += [odf[:, k] for k in range(odf.shape[1])]
    means = torch.stack([part.mean(weight * v) / total for v in values])
    known = torch.cat([seen.level * pure.signal(), means])
    dense = known.new_zeros(len(known), seen.mask.numel())
    dense[:, pure.voxels] = known
    m, p = len(acquisition), len(PARAMETERS)
    clean, state, fibres = dense.reshape(-1, *grid.shape).split([m, p, odf.shape[1]])
    return clean, state, fibres
