"""Gyri and sulci of a subject's own, and the fluid around the brain.

A probability atlas is the mean of many folded brains: its cortex is a cloud. One brain is drawn
back out of the cloud by giving every point a rank between 0 and 1, the same for all classes: fluid
takes the lowest ranks, then cortex, deep nuclei and white matter, each as many as its probability.
So every class keeps about its probability at every place, and wherever the rank rises from 0 there
is fluid, then cortex, then white matter, in layers as thick as the probabilities ask for. Ranks are
0 on sheets, the zeros of a random function with a narrow band of wavelengths: sulci. The pattern is
stretched along the radius, so that sheets stand upright under the skull.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from .anatomy import CLASSES
from .fields import Field, draw_field

INWARD = tuple(CLASSES.index(name) for name in ("csf", "cortex", "deep", "white"))
"""Classes from a sulcus inwards."""

TINY = 1e-12
"""Keeps a quotient finite where there is nothing."""

WINDOW = 5
"""Control points of the local mean that is taken off a field: longer waves than that are gone, and
sulci are about evenly apart."""

UPRIGHT = 0.6
"""Power by which the pattern is stretched along the radius: 0 not at all, 1 no change along it."""

RADIUS = 70.0
"""Distance from the middle of the head at which the pattern is not stretched across [mm]."""

NEAREST = 10.0
"""Within that distance of the middle the pattern does not get finer [mm]."""

BRIDGED = 7.0
"""Gaps in the brain's outline up to twice that wide are bridged by the hull [mm]."""

EVEN = 2.0
"""Smoothing of the hull: standard deviation of a Gaussian [mm]."""

RIM = 2.0
"""Distance over which the fluid around the brain ends: dura, and the blur of atlases [mm]."""


def draw_pattern(generator: torch.Generator, spacing: float) -> Field:
    """Draw a random function with a narrow band of wavelengths, of variance about 1.

    Parameters
    ----------
    generator : torch.Generator
    spacing : float
        Distance of the control points [mm]; zeros are about 2.5 times that apart.
    """
    values = draw_field(generator, 1, spacing).values[None]
    pad = (WINDOW // 2,) * 6
    around = torch.nn.functional.pad(values, pad, mode="replicate")
    values = (values - torch.nn.functional.avg_pool3d(around, WINDOW, 1))[0]
    return Field(values / Field(values).dense(finer=1).rows.std())


FISSURE = 2.5
"""Distance from the plane between the hemispheres over which the pattern fades to 0 [mm]: the
fissure between them is a sulcus like others."""


FOLDED = 0.15
"""Probability of cortex from which on tissue is folded."""


def stretched(from_middle: Tensor) -> Tensor:
    """Where the pattern is looked up for points (n, 3) [mm]."""
    radius = from_middle.norm(dim=1, keepdim=True).clamp_min(NEAREST)
    return from_middle * (radius / RADIUS) ** -UPRIGHT


def ranks(pattern: Tensor, across: Tensor, cortex: Tensor) -> Tensor:
    """Ranks, 0 to 1: the share of a normal distribution that lies nearer to 0 than the pattern.

    Where there is no cortex it is 1/2: ventricles end where fluid is as probable as tissue.

    Parameters
    ----------
    pattern, across, cortex : (n,) tensors
        Values of the pattern; distances from the plane between the hemispheres [mm]; probability
        of cortex.
    """
    rank = torch.erf(pattern.abs() / math.sqrt(2)) * torch.tanh(across.abs() / FISSURE)
    return torch.lerp(torch.full_like(rank, 0.5), rank, (cortex / FOLDED).clamp_max(1))


def opened(tissue: Tensor, width: float) -> Tensor:
    """Give every sulcus fluid: at least `width` of its cortex' probability, (n, 4) -> (n, 4)."""
    csf, cortex = CLASSES.index("csf"), CLASSES.index("cortex")
    out = tissue.clone()
    out[:, csf] = torch.maximum(tissue[:, csf], width * tissue[:, cortex])
    return out / out.sum(1, keepdim=True).clamp_min(TINY)


def layered(tissue: Tensor, rank: Tensor, folding: float) -> Tensor:
    """Take the classes of an atlas apart: probabilities (n, 4), ranks (n,) -> fractions (n, 4).

    Parameters
    ----------
    tissue : (n, 4) tensor
        Probabilities of `anatomy.CLASSES`, summing to 1.
    rank : (n,) tensor
    folding : float
        0 leaves the probabilities; 1 leaves one class everywhere. Both keep each class' mean over
        the ranks; between them the first and the last class lose up to (1 - folding) / 2 of it.
    """
    width = max(1 - folding, torch.finfo(tissue.dtype).eps)
    low = (rank * (1 - width))[:, None]
    ends = tissue[:, INWARD].cumsum(1)
    reached = ((ends - low) / width).clamp(0, 1)
    parts = torch.diff(reached, dim=1, prepend=torch.zeros_like(low))
    return parts[:, [INWARD.index(k) for k in range(len(INWARD))]]


def outside(brain: NDArray, size: NDArray) -> NDArray[np.float32]:
    """Distance from the hull of a brain, negative within: (x, y, z) fractions -> [mm].

    Parameters
    ----------
    brain : (x, y, z) array
        Share that is brain.
    size : (3,) array
        Voxel edges [mm].
    """
    pad = int(np.ceil(2 * BRIDGED / min(size)))
    inside = np.pad(brain > 0.5, pad)
    wide = distance_transform_edt(~inside, sampling=size) <= BRIDGED
    closed = distance_transform_edt(wide, sampling=size) > BRIDGED
    closed |= inside
    signed = distance_transform_edt(~closed, sampling=size) - distance_transform_edt(
        closed, sampling=size
    )
    smooth = gaussian_filter(signed, EVEN / np.asarray(size))
    return smooth[(slice(pad, -pad),) * 3].astype(np.float32)


def fluid_around(tissue: Tensor, distance: Tensor, rim: float) -> Tensor:
    """Add fluid within `rim` [mm] of the hull: tissue (n, 4), distance (n,) [mm] -> (n, 4)."""
    fill = (0.5 + (rim - distance) / RIM).clamp(0, 1)
    more = (fill - tissue.sum(1)).clamp_min(0)
    csf = torch.eye(len(CLASSES)).to(tissue)[CLASSES.index("csf")]
    return tissue + more[:, None] * csf
