"""Scanners: what they make of a brain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..fitting.threads import one_thread_each
from ..scan import Scan
from . import artefacts
from .chain import Chain, draw_scan, play
from .grid import Grid, covering
from .relaxation import unweighted, water_snr
from .sampling import Sampled, sample
from .volume import StateVolume

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
    drawn = draw_scan(acquisition, scanner, generator)
    grid = grid_of(volume, scanner)
    bright = unweighted(volume, scanner.field, acquisition.TE or USUAL_TE, scanner.TR)
    sigma = artefacts.noise_profile(scanner.noise_profile, grid.shape, bright)
    sigma = sigma / water_snr(scanner.field, scanner.voxel, scanner.sensitivity)
    chain = Chain(scanner, grid, drawn, sigma, int(torch.randint(2**62, (1,), generator=generator)))
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
        play(sampled, fine, volumes, chain, signal)
    if scanner.level:
        signal = signal.mul_(scanner.level).round_()
    assert mask is not None
    level = scanner.level or 1.0
    return Observation(signal, mask, grid, acquisition, sigma * level, level)


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
