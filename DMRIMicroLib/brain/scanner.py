"""Scanners: what they make of a brain."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..fitting.threads import in_threads, one_thread_each
from ..physics.noise import corrupt, draw
from ..scan import Scan
from . import artefacts, unsteady
from .directions import small_rotation
from .grid import Grid, covering
from .relaxation import unweighted, water_snr
from .sampling import Sampled, sample
from .volume import StateVolume

BLOCK = 4
"""Volumes that are under way together: few, so that their memory is used again, not asked for."""

PRODUCT = 32
"""Volumes whose signals are one matrix product."""

USUAL_TE = 80.0
"""Echo time [ms] of an acquisition that does not tell its own."""

BRAIN_SHARE = 0.5
"""A voxel belongs to the brain if at least so much of it does."""


GEOMETRY = ("field", "voxel", "gap", "TR")
K_SPACE = ("ringing", "kept", "partial", "window", "phase")
"""Fields of a scanner: how large voxels are and how bright; how sharply they are seen."""


@dataclass(frozen=True)
class Scanner:
    """A scanner and what is wrong with it; all zeros and ones are a perfect one.

    Attributes
    ----------
    name : str
    field : float
        [T]
    voxel : (float, float, float)
        Edges [mm], the last one the thickness of a slice.
    gap : float
        Between slices [mm].
    TR : float
        [s]
    sensitivity : float
        SNR relative to a usual scanner of this field; `math.inf` for no noise.
    coils : int
        1 for Rician noise, more for the root sum of squares of that many.
    noise_profile : float
        See `artefacts.noise_profile`.
    ringing : bool
        Whether images come from a finite k-space; else voxels are boxes.
    kept, partial, window : float
        See `artefacts.line_response`.
    phase : {0, 1}
        In-plane axis of phase encoding.
    bias, receive, transmit, ghost, dropouts, eddy, pulsation : float
        Strengths, see `artefacts` and `unsteady`.
    moves : int
        How often the head moves during the scan.
    degrees, mm : float
        Standard deviation of each move.
    turned, scaled : float
        Standard deviations of what the gradients do differently from what the tables say: rotation
        of the directions [degrees], relative error of the b-values.
    level : float
        Value of a voxel of pure, relaxed water; values are integers. 0: the signal as it is.
    """

    name: str
    field: float = 3.0
    voxel: tuple[float, float, float] = (2.0, 2.0, 2.0)
    gap: float = 0.0
    TR: float = 7.0
    sensitivity: float = 1.0
    coils: int = 1
    noise_profile: float = 0.0
    ringing: bool = False
    kept: float = 1.0
    partial: float = 1.0
    window: float = 0.0
    phase: int = 1
    bias: float = 0.0
    receive: float = 0.0
    transmit: float = 0.0
    ghost: float = 0.0
    dropouts: float = 0.0
    eddy: float = 0.0
    pulsation: float = 0.0
    moves: int = 0
    degrees: float = 0.0
    mm: float = 0.0
    turned: float = 0.0
    scaled: float = 0.0
    level: float = 0.0

    def perfect(self, k_space: bool = False) -> Scanner:
        """Return this scanner without noise and artefacts, or with those of its k-space only."""
        kept = {name: getattr(self, name) for name in (*GEOMETRY, *(K_SPACE if k_space else ()))}
        return Scanner(f"{self.name}, perfect", sensitivity=math.inf, **kept)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Observation:
    """What came out of a scanner, as tensors.

    Attributes
    ----------
    signal : (m, x, y, z) tensor
    mask : (x, y, z) bool tensor
    grid : Grid
    acquisition : Acquisition
        What the scanner says it did.
    sigma : (x, y, z) tensor
        Standard deviation of the noise, in the signal's unit.
    level : float
        Value of a voxel of pure, relaxed water.
    """

    signal: Tensor
    mask: Tensor
    grid: Grid
    acquisition: Acquisition
    sigma: Tensor
    level: float


def grid_of(volume: StateVolume, scanner: Scanner) -> Grid:
    """Return the voxels in which a scanner sees a volume."""
    return covering(volume.affine, tuple(volume.mask.shape), scanner.voxel, scanner.gap)


def scan(
    volume: StateVolume, acquisition: Acquisition, scanner: Scanner, generator: torch.Generator
) -> Scan:
    """Scan a brain; arguments as for `observe`.

    Returns
    -------
    Scan
        With the acquisition that the scanner tells, not the one that it played.
    """
    seen = observe(volume, acquisition, scanner, generator)
    signal = np.moveaxis(seen.signal.cpu().numpy(), 0, -1)
    affine, mask = seen.grid.affine.cpu().numpy(), seen.mask.cpu().numpy()
    notes = (f"simulated: {scanner.name}, {scanner.field:g} T",)
    return Scan(signal, affine, acquisition, mask, name="simulated", notes=notes)


def pair(
    volume: StateVolume,
    first: tuple[Scanner, Acquisition],
    second: tuple[Scanner, Acquisition],
    generator: torch.Generator,
) -> tuple[Scan, Scan]:
    """Scan one brain with two scanners."""
    a, b = ((acq, scanner) for scanner, acq in (first, second))
    return scan(volume, *a, generator), scan(volume, *b, generator)


def observe(
    volume: StateVolume, acquisition: Acquisition, scanner: Scanner, generator: torch.Generator
) -> Observation:
    """Put a brain into a scanner.

    Parameters
    ----------
    volume : StateVolume
        On a grid at least as fine as the scanner's; twice as fine where there is `ringing`.
    acquisition : Acquisition
        What the scanner is told to play.
    scanner : Scanner
    generator : torch.Generator
        On the CPU. On another device the noise comes from a generator there, seeded by this one.

    Returns
    -------
    Observation
        The same bits whatever number of threads torch may use: sums that threads share differ in
        their last digit.
    """
    with one_thread_each():
        return _observe(volume, acquisition, scanner, generator)


def _observe(
    volume: StateVolume, acquisition: Acquisition, scanner: Scanner, generator: torch.Generator
) -> Observation:
    drawn = _draw(acquisition, scanner, generator)
    grid = grid_of(volume, scanner)
    bright = unweighted(volume, scanner.field, acquisition.TE or USUAL_TE, scanner.TR)
    sigma = artefacts.noise_profile(scanner.noise_profile, grid.shape, bright)
    sigma = sigma / water_snr(scanner.field, scanner.voxel, scanner.sensitivity)
    chain = _Chain(
        scanner, grid, drawn, sigma, int(torch.randint(2**62, (1,), generator=generator))
    )
    fine = _fine(grid, volume) if scanner.ringing else grid
    signal = bright.new_zeros(len(acquisition), *grid.shape)
    mask = None
    for pose, turn in enumerate(drawn.motion.turn):
        volumes = (drawn.motion.pose == pose).nonzero()[:, 0]
        if not len(volumes):  # the head moved twice between two volumes
            continue
        head = replace(volume, affine=drawn.motion.moved(volume.affine, volume.mask.shape, pose))
        sampled = sample(head, bright, fine, _turned(drawn.played.subset(volumes.numpy()), turn))
        mask = _mask(sampled, fine, grid) if mask is None else mask
        _play(sampled, fine, volumes, chain, signal)
    if scanner.level:
        signal = signal.mul_(scanner.level).round_()
    assert mask is not None
    level = scanner.level or 1.0
    return Observation(signal, mask, grid, acquisition, sigma * level, level)


def measure(
    images: Callable[[Acquisition], Tensor],
    shape: tuple[int, int, int],
    acquisition: Acquisition,
    scanner: Scanner,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Put images, noise-free and as sharp as this scanner sees them, through the rest of it.

    Parameters
    ----------
    images : callable
        From what the gradients really do to (m, x, y, z) signals, relative to relaxed water.
    shape : (int, int, int)
    acquisition, scanner, generator
        As of `observe`; heads do not move.

    Returns
    -------
    (m, x, y, z) and (x, y, z) tensor
        Signal and standard deviation of its noise.
    """
    drawn = _draw(acquisition, scanner, generator)
    clean = images(drawn.played)
    sigma = artefacts.noise_profile(scanner.noise_profile, shape, clean)
    sigma = sigma / water_snr(scanner.field, scanner.voxel, scanner.sensitivity)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    grid = Grid(torch.eye(4, dtype=torch.float64), shape)
    chain = _Chain(scanner, grid, drawn, sigma, seed, sharp=False)
    parts = torch.arange(len(acquisition)).split(BLOCK)
    return torch.cat([chain(clean[part], part) for part in parts]), sigma


class _Chain:
    """What happens to the images of a few volumes on their way out of a scanner."""

    def __init__(
        self,
        scanner: Scanner,
        grid: Grid,
        drawn: _Drawn,
        sigma: Tensor,
        seed: int,
        sharp: bool = True,
    ) -> None:
        self.scanner, self.grid, self.drawn = scanner, grid, drawn
        self.blur = sharp and scanner.ringing
        self.sigma, self.seed = sigma, seed
        transmit = artefacts.transmit_field(scanner.transmit, grid.shape, sigma)
        self.factor = transmit * artefacts.bias_field(drawn.bias, grid.shape, sigma)
        self.colour = _colour(scanner, grid, sigma)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Noise-free images (k, x, y, z) of volumes (k,) -> as measured, on the scanner's grid."""
        scanner, drawn = self.scanner, self.drawn
        if scanner.eddy:
            finer = images.shape[1 + scanner.phase] / self.grid.shape[scanner.phase]
            images = unsteady.distort(images, drawn.eddy, numbers, scanner.phase, finer)
        if self.blur:
            images = artefacts.through_k_space(
                images,
                self.grid.shape[:2],
                scanner.kept,
                scanner.partial,
                scanner.phase,
                scanner.window,
            )
        images = images * self.factor
        if scanner.pulsation:
            images = unsteady.pulsate(images, drawn.pulsation, numbers)
        if scanner.ghost:
            images = artefacts.add_ghost(images, drawn.ghost, scanner.phase)
        images = artefacts.drop_slices(images, numbers, drawn.dropouts)
        if math.isinf(scanner.sensitivity):
            return images
        # each block its own noise: it does not matter which is played first
        noise = torch.Generator(images.device).manual_seed((self.seed + int(numbers[0])) % 2**63)
        white = draw(images.shape, images, scanner.coils, noise, self.colour)
        return corrupt(images, self.sigma, white)


def _colour(scanner: Scanner, grid: Grid, like: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return what becomes of white noise in a scanner's k-space; None if nothing does."""
    kept = scanner.kept, scanner.partial, scanner.phase, scanner.window
    colour = artefacts.noise_colour(grid.shape[:2], *kept, like) if scanner.ringing else None
    return None if colour is None else partial(artefacts.coloured, colour=colour)


def _play(sampled: Sampled, grid: Grid, volumes: Tensor, chain: _Chain, signal: Tensor) -> None:
    """Send the images of some volumes, on a grid, down the chain and into `signal`."""
    volumes, own = volumes.to(signal.device), threading.local()
    for rows, values in sampled.parts(PRODUCT):
        blocks = list(zip(volumes[rows].split(BLOCK), values.split(BLOCK), strict=True))

        def work(k: int, blocks: list = blocks) -> int:
            numbers, few = blocks[k]
            if not hasattr(own, "images"):
                own.images = signal.new_zeros(BLOCK, math.prod(grid.shape))
            own.images[: len(few), sampled.voxels] = few  # the rest stays 0
            signal[numbers] = chain(own.images[: len(few)].view(-1, *grid.shape), numbers)
            return k

        for _ in in_threads(work, range(len(blocks)), signal.device):
            pass


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Everything random about a scan but its noise."""

    played: Acquisition
    motion: artefacts.Motion
    bias: artefacts.Bias
    ghost: artefacts.Ghost
    dropouts: artefacts.Dropouts
    eddy: unsteady.Eddy
    pulsation: unsteady.Pulsation


def _draw(acq: Acquisition, scanner: Scanner, generator: torch.Generator) -> _Drawn:
    """Draw always the same amount of numbers, whatever the strengths."""
    noise = torch.randn(5, generator=generator, dtype=torch.float64)
    turn = small_rotation(scanner.turned * noise[:3])
    bvals = acq.bvals * max(0.0, 1 + scanner.scaled * float(noise[3]))
    played = replace(acq, bvals=bvals, bvecs=acq.bvecs @ turn.numpy().T)
    weighted = torch.as_tensor(~acq.is_b0).nonzero()[:, 0]
    return _Drawn(
        played,
        artefacts.draw_motion(generator, len(acq), scanner.moves, scanner.degrees, scanner.mm),
        artefacts.draw_bias(generator, scanner.bias, scanner.receive),
        artefacts.draw_ghost(generator, scanner.ghost),
        artefacts.draw_dropouts(generator, weighted, scanner.dropouts),
        unsteady.draw_eddy(generator, acq.bvals, acq.bvecs, scanner.eddy),
        unsteady.draw_pulsation(generator, acq.bvals, scanner.pulsation),
    )


def _turned(acq: Acquisition, turn: Tensor) -> Acquisition:
    """Return the directions as a head sees them that is turned by `turn`: R' g."""
    if torch.equal(turn, torch.eye(3, dtype=turn.dtype)):
        return acq
    return replace(acq, bvecs=acq.bvecs @ turn.numpy())


def _fine(grid: Grid, volume: StateVolume) -> Grid:
    """Cut voxels in the plane, where the tissue is known finely enough."""
    known = volume.affine[:3, :3].norm(dim=0).tolist()
    halves = [
        2 if size >= 2 * k * (1 - 1e-3) else 1 for size, k in zip(grid.voxel, known, strict=True)
    ]
    return grid.refined((halves[0], halves[1], 1))


def _mask(sampled: Sampled, fine: Grid, grid: Grid) -> Tensor:
    """Voxels that are brain: (x, y, z) bool."""
    fill = _image(sampled.fill[None], sampled, fine)[0]
    for axis in (0, 1):
        parts = fine.shape[axis] // grid.shape[axis]
        fill = fill.unflatten(axis, (-1, parts)).mean(axis + 1)
    return fill >= BRAIN_SHARE


def _image(values: Tensor, sampled: Sampled, grid: Grid) -> Tensor:
    """Put values of the voxels with tissue on their grid: (k, n) -> (k, x, y, z)."""
    images = values.new_zeros(len(values), math.prod(grid.shape))
    images[:, sampled.voxels] = values
    return images.reshape(-1, *grid.shape)
