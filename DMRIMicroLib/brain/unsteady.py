"""What differs from volume to volume of a scan: eddy currents and the pulse.

Conventions are those of `artefacts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .artefacts import coordinates


@dataclass(frozen=True, eq=False)
class Eddy:
    """What is left of the distortion by eddy currents: (m, 4) for m volumes.

    Shift along the phase direction at the middle of the field of view, and what is added to it at
    its end along the read, the phase and the slice direction: shear, scale and a shift that depends
    on the slice [voxels].
    """

    terms: Tensor


def draw_eddy(generator: torch.Generator, bvals: NDArray, bvecs: NDArray, strength: float) -> Eddy:
    """Draw residual eddy distortion, linear in the gradient of each volume.

    The field of a decaying current is that of the gradient that made it, plus one that does not
    depend on the place: both are linear in the gradient's direction and strength (P. Jezzard, A. S.
    Barnett, C. Pierpaoli, Magn. Reson. Med. 39 (1998) 801-812), so that each of the four terms is
    a scalar product with a vector that belongs to the scanner.

    Parameters
    ----------
    generator : torch.Generator
    bvals, bvecs : (m,), (m, 3) arrays
    strength : float
        Standard deviation of each term at the strongest weighting [voxels].
    """
    couplings = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    amplitude = torch.as_tensor(np.sqrt(bvals / max(bvals.max(), 1e-9)))[:, None]
    return Eddy(strength * amplitude * (torch.tensor(bvecs, dtype=torch.float64) @ couplings))


def distort(images: Tensor, eddy: Eddy, numbers: Tensor, phase: int, finer: float = 1.0) -> Tensor:
    """Shift, shear and scale images along the phase direction: (k, x, y, z) -> (k, x, y, z).

    Signal is kept: what is drawn out is dimmer. `finer` is how many samples of the images make a
    voxel of the scanner.
    """
    terms = finer * eddy.terms.to(images)[numbers.to(eddy.terms.device)][:, :, None, None, None]
    here = coordinates(images.shape[1:], images)
    read, along, slices = here[1 - phase], here[phase], here[2]
    shift = terms[:, 0] + terms[:, 1] * read + terms[:, 2] * along + terms[:, 3] * slices
    count = images.shape[1 + phase]
    index = torch.arange(count).to(images).view(-1, *[1] * (2 - phase))
    at = (index + shift).clamp(0, count - 1)
    low = at.floor().clamp_max(count - 2)
    part = at - low
    before = images.gather(1 + phase, low.long())
    after = images.gather(1 + phase, low.long() + 1)
    return torch.lerp(before, after, part) * (1 + 2 * terms[:, 2] / (count - 1))


@dataclass(frozen=True, eq=False)
class Pulsation:
    """Signal lost to the pulse, about the middle of the brain: (m,) strength of each volume."""

    strength: Tensor


def draw_pulsation(generator: torch.Generator, bvals: NDArray, strength: float) -> Pulsation:
    """Draw how much each volume loses to the pulse: on average `strength` at the largest b.

    Brain stem and the middle of the brain move with the heart beat, by an amount that depends on
    when in it a volume was measured (S. Skare, J. L. Andersson, Magn. Reson. Imaging 19 (2001)
    1125-1128).
    """
    wave = torch.rand(len(bvals), generator=generator, dtype=torch.float64)
    share = torch.as_tensor(bvals / max(bvals.max(), 1e-9))
    return Pulsation(3 * strength * share * wave**2)  # the mean of wave^2 is 1/3


def pulsate(images: Tensor, pulsation: Pulsation, numbers: Tensor) -> Tensor:
    """Dim the middle of the head: (k, x, y, z) of volumes (k,) -> (k, x, y, z)."""
    x, y, z = coordinates(images.shape[1:], images)
    near = torch.exp(-4 * (x * x + y * y) - (z + 1) ** 2 / 2)
    loss = pulsation.strength[numbers.cpu()].to(images)
    return images * torch.exp(-loss[:, None, None, None] * near)
