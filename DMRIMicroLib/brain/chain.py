"""What happens to images on their way out of a scanner."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..fitting.threads import in_threads
from ..physics.noise import corrupt, draw
from . import artefacts, unsteady
from .directions import small_rotation
from .grid import Grid
from .relaxation import water_snr
from .sampling import Sampled

if TYPE_CHECKING:
    from .scanner import Scanner

BLOCK = 4
"""Volumes that are under way together: few, so that their memory is used again, not asked for."""

PRODUCT = 32
"""Volumes whose signals are one matrix product."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Everything random about a scan but its noise."""

    played: Acquisition
    motion: artefacts.Motion
    bias: artefacts.Bias
    ghost: artefacts.Ghost
    dropouts: artefacts.Dropouts
    eddy: unsteady.Eddy
    pulsation: unsteady.Pulsation


def draw_scan(acq: Acquisition, scanner: Scanner, generator: torch.Generator) -> Drawn:
    """Draw always the same amount of numbers, whatever the strengths."""
    noise = torch.randn(5, generator=generator, dtype=torch.float64)
    turn = small_rotation(scanner.turned * noise[:3])
    bvals = acq.bvals * max(0.0, 1 + scanner.scaled * float(noise[3]))
    played = replace(acq, bvals=bvals, bvecs=acq.bvecs @ turn.numpy().T)
    weighted = torch.as_tensor(~acq.is_b0).nonzero()[:, 0]
    return Drawn(
        played,
        artefacts.draw_motion(generator, len(acq), scanner.moves, scanner.degrees, scanner.mm),
        artefacts.draw_bias(generator, scanner.bias, scanner.receive),
        artefacts.draw_ghost(generator, scanner.ghost),
        artefacts.draw_dropouts(generator, weighted, scanner.dropouts),
        unsteady.draw_eddy(generator, acq.bvals, acq.bvecs, scanner.eddy),
        unsteady.draw_pulsation(generator, acq.bvals, scanner.pulsation),
    )


class Chain:
    """What happens to the images of a few volumes on their way out of a scanner."""

    def __init__(
        self,
        scanner: Scanner,
        grid: Grid,
        drawn: Drawn,
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


def play(sampled: Sampled, grid: Grid, volumes: Tensor, chain: Chain, signal: Tensor) -> None:
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
    drawn = draw_scan(acquisition, scanner, generator)
    clean = images(drawn.played)
    sigma = artefacts.noise_profile(scanner.noise_profile, shape, clean)
    sigma = sigma / water_snr(scanner.field, scanner.voxel, scanner.sensitivity)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    grid = Grid(torch.eye(4, dtype=torch.float64), shape)
    chain = Chain(scanner, grid, drawn, sigma, seed, sharp=False)
    parts = torch.arange(len(acquisition)).split(BLOCK)
    return torch.cat([chain(clean[part], part) for part in parts]), sigma
