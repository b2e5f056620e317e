"""Where a lesion lies in a head."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .deform import Push
from .fields import Image, grid_points
from .growth import grow
from .head import Head
from .lesions import KINDS, Lesion

GRID = 2.0
"""Voxel size of the grid on which lesions other than masks are laid out [mm]."""

EDGE = 0.8
"""Width of a lesion's border [mm]."""

ROUGHNESS = 2.5
"""Standard deviation of the departure of its border from a smooth one [mm]."""

PERIVENTRICULAR = 18.0
"""Plaques lie up to about so far from the ventricles [mm] (M. Filippi et al., Brain 142 (2019)
1858-1875, for where they lie and their shape)."""

VENTRICLES = 40.0
"""Cerebrospinal fluid up to so far from the middle of the head is counted as ventricle [mm]."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A lesion in the anatomy's space.

    Attributes
    ----------
    image : Image
        How much of a voxel is which of `kinds`.
    kinds : tuple of int
        Numbers in `lesions.KINDS`.
    push : Push or None
        Room that it makes for itself.
    """

    image: Image
    kinds: tuple[int, ...]
    push: Push | None = None

    def weight(self, points: Tensor) -> Tensor:
        """How much is which of `lesions.KINDS`: (n, 3) RAS of the anatomy [mm] -> (n, kinds)."""
        weight = points.new_zeros(len(points), len(KINDS))
        weight[:, self.kinds] = self.image(points)
        return weight


def place(lesion: Lesion, head: Head) -> Placed:
    """Put a lesion into a head."""
    if lesion.name == "tumour":
        return _tumour(lesion, head)
    kind = (KINDS.index(lesion.name),)
    if lesion.mask is not None:
        return Placed(_mask(lesion, head), kind)
    affine, shape = _grid(head)
    points = grid_points(affine, shape).to(head.device)
    rough = ROUGHNESS * lesion.ragged.dense(head.device)(points - head.centre)[:, 0]
    if lesion.name == "demyelination":
        depth = _plaques(lesion, head, points)
    else:
        depth = _vessel(lesion, head, points)
    weight = torch.sigmoid((depth + rough * (depth > -4 * ROUGHNESS)) / EDGE)
    return Placed(Image(weight.reshape(1, *shape), affine), kind)


def _grid(head: Head) -> tuple[Tensor, tuple[int, int, int]]:
    """Affine and shape of a grid over the brain."""
    brain = head.points[head.scalars.rows[:, :4].sum(1) > 0.1]
    low, high = brain.min(0).values.double().cpu(), brain.max(0).values.double().cpu()
    affine = torch.diag(torch.tensor([GRID, GRID, GRID, 1.0], dtype=torch.float64))
    affine[:3, 3] = low - GRID
    x, y, z = (int(n) for n in ((high - low) / GRID).ceil() + 3)
    return affine, (x, y, z)


def _mask(lesion: Lesion, head: Head) -> Image:
    """Read a mask; half of them are mirrored."""
    try:
        image = nib.load(lesion.mask)
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(
            f"it cannot be read ({error})", "Get the file anew, or remove it.", file=lesion.mask
        ) from error
    mirror = -1.0 if lesion.uniform[1] < 0.5 else 1.0
    affine = np.diag([mirror, 1, 1, 1]) @ image.affine
    inside = torch.from_numpy(values > 0).float().to(head.device)
    # the outermost voxels stand for all that is beyond the grid
    inside = torch.nn.functional.pad(inside, (1,) * 6)
    affine[:3, 3] -= affine[:3, :3].sum(1)
    return Image(inside[None], torch.from_numpy(affine))


def choose(score: Tensor, points: Tensor, uniform: Tensor) -> Tensor:
    """Choose points with a probability: (n,), (n, 3), (k,) -> (k, 3)."""
    total = score.double().cumsum(0)
    at = torch.searchsorted(total, uniform.to(total) * total[-1])
    return points[at.clamp(max=len(points) - 1)]


def _vessel(lesion: Lesion, head: Head, points: Tensor) -> Tensor:
    """Depth inside the territory of a cortical branch (a cone) or a lacune (a ball) [mm]."""
    tissue = head.scalars.rows[:, :4]
    u = lesion.uniform
    if u[2] < 0.35:  # about a third of strokes are small-vessel ones
        seed = choose(tissue[:, 0] + 2 * tissue[:, 2], head.points, u[3:4])[0]
        return 2.5 + 6.0 * float(u[4]) - (points - seed).norm(dim=-1)
    seed = choose(tissue[:, 1], head.points, u[3:4])[0]
    outward = seed - head.centre
    axis = outward / outward.norm().clamp_min(1.0)
    apex = head.centre + (0.3 + 0.4 * float(u[4])) * outward
    offset = points - apex
    depth = offset @ axis
    lateral = (offset - depth[:, None] * axis).norm(dim=-1)
    slope = 0.2 + 0.6 * float(u[5])  # tangent of half the opening: 11 to 39 degrees
    return torch.minimum(depth, 2.0 + slope * depth - lateral)


def _plaques(lesion: Lesion, head: Head, points: Tensor) -> Tensor:
    """Depth inside the deepest of 3 to 15 ovoids that point away from the ventricles [mm]."""
    tissue, place_of = head.scalars.rows[:, :4], head.points
    away = (place_of - head.centre).norm(dim=-1)
    ventricle = place_of[(tissue[:, 3] > 0.8) & (away < VENTRICLES)]
    white = (tissue[:, 0] > 0.6).nonzero()[:, 0]
    score = tissue[white, 0]
    if len(ventricle):
        thin = ventricle[:: max(len(ventricle) // 500, 1)]
        nearest = torch.cdist(place_of[white], thin).min(1).values
        score = score * (0.05 + torch.exp(-((nearest / (PERIVENTRICULAR / 2)) ** 2)))
    u = lesion.uniform
    count = 3 + int(13 * u[2])
    seeds = choose(score, place_of[white], u[16 : 16 + count])
    depth = torch.full_like(points[:, 0], -1e3)
    for i, seed in enumerate(seeds):
        radius = 2.0 + 4.0 * float(u[40 + i])
        longer = 1.2 + 1.6 * float(u[64 + i])
        axis = (seed - head.centre) * torch.tensor([1.0, 0.5, 0.5]).to(seed)
        axis = axis / axis.norm().clamp_min(1.0)
        offset = points - seed
        along = (offset @ axis)[:, None] * axis
        stretched = (along / longer + offset - along).norm(dim=-1)
        depth = torch.maximum(depth, radius - stretched)
    return depth


def _tumour(lesion: Lesion, head: Head) -> Placed:
    """Grow a tumour from a seed in the white matter."""
    tissue, u = head.scalars.rows[:, :4], lesion.uniform
    seed = choose(tissue[:, 0] * (tissue[:, 0] > 0.6), head.points, u[2:3])[0]
    grown = grow(head, seed, u[3:8])
    names = ("tumour_core", "tumour_necrosis", "tumour_infiltration", "oedema")
    push = Push(seed - head.centre, 1.3 * grown.radius, 0.1 + 0.2 * float(u[8]))
    return Placed(grown.image, tuple(KINDS.index(n) for n in names), push)
