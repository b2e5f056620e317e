"""Growth of a tumour along the fibres of the white matter.

Reaction and diffusion of the density of cells u, du/dt = div(D grad u) + rho u (1 - u) (K. R.
Swanson, E. C. Alvord, J. D. Murray, Cell Prolif. 33 (2000) 317-329), with D along the fibres (S.
Jbabdi et al., Magn. Reson. Med. 54 (2005) 616-624).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .fields import Image, grid_points
from .head import Head

STEP = 3.0
"""Voxel size of the grid [mm]."""

SIZE = 32
"""Voxels along each edge of the grid: 96 mm."""

WHITE_TO_GREY = 5.0
"""Cells move that much faster in white matter (Swanson et al.)."""

REACH = 0.35
"""Share of the distance between neighbours that cells diffuse in one step, squared: the scheme
keeps u between 0 and 1 as long as conductances sum to less than 1."""

STEPS = 400
"""Most steps of growth."""

LEAK_STEPS = 200
"""Steps for which water leaks from the tumour into the white matter."""

BORDER = 0.5
"""Width of an oedema's border, as a share of the water that fills tissue (chosen)."""

NEIGHBOURS = [
    (i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if (i, j, k) > (0, 0, 0)
]
"""Half of the 26 neighbours of a voxel; the others are opposite to these."""


@dataclass(frozen=True, eq=False)
class Growth:
    """A grown tumour.

    Attributes
    ----------
    image : Image
        Shares that are core, necrosis, infiltration and oedema.
    radius : float
        Of the ball with the volume of core and necrosis [mm].
    """

    image: Image
    radius: float


def grow(head: Head, seed: Tensor, uniform: Tensor) -> Growth:
    """Grow a tumour.

    Parameters
    ----------
    head : Head
    seed : (3,) tensor
        Where it starts, RAS [mm].
    uniform : (5,) tensor
        Random numbers in [0, 1): final size, invasiveness, anisotropy, size of the necrosis,
        amount of oedema.
    """
    u = [float(v) for v in uniform]
    affine = torch.diag(torch.tensor([STEP, STEP, STEP, 1.0], dtype=torch.float64))
    affine[:3, 3] = seed.double().cpu() - STEP * (SIZE - 1) / 2
    points = grid_points(affine, (SIZE, SIZE, SIZE)).to(head.device)
    conductance = _conductance(head, points, 0.4 + 0.6 * u[2])
    density = torch.exp(-((points - seed) / STEP).square().sum(-1)).reshape(SIZE, SIZE, SIZE)
    rate = 0.06 + 0.14 * (1 - u[1])  # per step: slower growth at equal diffusion is more diffuse
    target = 7.0 + 13.0 * u[0]  # [mm]
    burden = torch.zeros_like(density)
    for step in range(STEPS):
        density = density + _spread(density, conductance) + rate * density * (1 - density)
        burden = burden + density
        if step % 10 == 9 and _radius(density) > target:
            break
    leak = _leak(density, conductance, head.tissue(points)[:, 0].reshape(density.shape))
    core = torch.sigmoid((density - 0.5) / 0.08)
    # oldest first: necrosis is where the tumour has been dense for longest
    dead = core * torch.sigmoid((burden / burden.max() - 0.4 - 0.5 * u[3]) / 0.05)
    rim = (1 - core) * torch.sigmoid((density - 0.2) / 0.04)
    water = (1 - core - rim) * _full(leak * (0.3 + 2.7 * u[4]))
    shares = torch.stack([core - dead, dead, rim, water])
    inside = torch.zeros_like(density)
    inside[1:-1, 1:-1, 1:-1] = 1  # the border stands for all that is beyond the grid
    return Growth(Image(shares * inside, affine), _radius(density))


def _conductance(head: Head, points: Tensor, anisotropy: float) -> list[Tensor]:
    """Share that passes to each of `NEIGHBOURS` and back in one step."""
    spots = head.at(points)
    tissue, axis = spots.tissue, spots.directions[:, 0]
    white = tissue[:, 0]
    mobility = white + tissue[:, 1:3].sum(1) / WHITE_TO_GREY
    out = []
    for offset in NEIGHBOURS:
        vector = axis.new_tensor(offset)
        length2 = float(vector.square().sum())
        along = (axis @ vector).square() / length2
        # for axes of any direction 5 cos^4 has the mean 1, as no preference has
        prefer = 1 + anisotropy * white * (5 * along.square() - 1)
        share = REACH / len(NEIGHBOURS) * mobility * prefer / length2
        share = share.reshape(SIZE, SIZE, SIZE)
        here, there = _pair(offset)
        # the harmonic mean is zero where one of the two lets nothing through
        out.append(2 * share[here] * share[there] / (share[here] + share[there]).clamp_min(1e-9))
    return out


def _spread(density: Tensor, conductance: list[Tensor]) -> Tensor:
    """Change of the density by diffusion in one step."""
    change = torch.zeros_like(density)
    for offset, share in zip(NEIGHBOURS, conductance, strict=True):
        here, there = _pair(offset)
        flow = share * (density[there] - density[here])
        change[here] += flow
        change[there] -= flow
    return change


def _leak(density: Tensor, conductance: list[Tensor], white: Tensor) -> Tensor:
    """Water that has come from the tumour into the white matter, 0 to 1."""
    source = (density > 0.15).to(density)
    water = source
    for _ in range(LEAK_STEPS):
        water = torch.maximum(water + _spread(water, conductance), source)
    return water * white


def _full(amount: Tensor) -> Tensor:
    """Share of tissue that is oedema where this much water came: none, a border, all.

    Oedema is as bright near its border as near the tumour. What is more than half stays so.
    """
    part = ((amount - 0.5) / BORDER + 0.5).clamp(0, 1)
    return part * part * (3 - 2 * part)


def _pair(offset: tuple[int, int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of voxels and of their neighbours at an offset."""
    here = tuple(slice(max(-o, 0), SIZE - max(o, 0)) for o in offset)
    there = tuple(slice(max(o, 0), SIZE - max(-o, 0)) for o in offset)
    return here, there


def _radius(density: Tensor) -> float:
    """Radius of the ball with the volume of what is denser than half [mm]."""
    volume = float((density > 0.5).sum()) * STEP**3
    return (3 * volume / (4 * torch.pi)) ** (1 / 3)
