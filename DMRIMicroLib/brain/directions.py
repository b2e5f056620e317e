"""Sets of gradient directions, good ones and the bad ones that scanners play."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = 60
"""Steps of repulsion: the energy of a spiral is then within 0.3 % of where it comes to rest."""

CONE = 35.0
"""Half-angle [degrees] of the cone in which a clustered set lies (range chosen)."""

FEW = 6
"""Directions that are repeated in a set of few."""


def spread(count: int, generator: torch.Generator) -> Tensor:
    """Directions that repel each other and their opposites, turned at random: (count, 3).

    Electrostatic repulsion of D. K. Jones, M. A. Horsfield, A. Simmons, Magn. Reson. Med. 42
    (1999) 515-525, from a spiral on the half sphere.
    """
    k = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - k / count
    angle = math.pi * (1 + 5**0.5) * k
    ring = (1 - z * z).sqrt()
    g = torch.stack([ring * angle.cos(), ring * angle.sin(), z], 1) @ rotation(generator)
    if count < 2:
        return g
    step = 0.3 / count**0.5  # of the order of the distance between neighbours
    for n in range(STEPS):
        both = torch.cat([g, -g])
        apart = g[:, None] - both[None]
        distance = apart.norm(dim=-1).clamp(min=1e-6)
        force = (apart / distance[..., None] ** 3).sum(1)  # a point adds nothing to itself
        force = force - (force * g).sum(1, keepdim=True) * g
        moved = g + step * (1 - n / STEPS) * force / force.norm(dim=1).max().clamp(min=1e-12)
        g = moved / moved.norm(dim=1, keepdim=True)
    return g


def scattered(count: int, generator: torch.Generator) -> Tensor:
    """Independent directions, uniform on the sphere: (count, 3)."""
    g = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return g / g.norm(dim=1, keepdim=True)


def half_sphere(count: int, generator: torch.Generator) -> Tensor:
    """Spread over one half of the sphere only, up to opposites: (count, 3)."""
    g = spread(count, generator)
    pole = rotation(generator)[0]
    return g * torch.where(g @ pole < 0, -1.0, 1.0)[:, None].to(g)


def clustered(count: int, generator: torch.Generator) -> Tensor:
    """All within a cone of `CONE`: (count, 3)."""
    height = 1 - torch.rand(count, generator=generator, dtype=torch.float64) * (
        1 - math.cos(math.radians(CONE))
    )
    angle = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    ring = (1 - height**2).sqrt()
    return torch.stack([ring * angle.cos(), ring * angle.sin(), height], 1) @ rotation(generator)


def few(count: int, generator: torch.Generator) -> Tensor:
    """`FEW` directions, played over and over: (count, 3)."""
    return spread(min(count, FEW), generator).repeat(-(-count // FEW), 1)[:count]


def rotation(generator: torch.Generator) -> Tensor:
    """Rotation matrix, uniform: (3, 3), from a random unit quaternion (K. Shoemake (1992))."""
    q = torch.randn(4, generator=generator, dtype=torch.float64)
    return from_quaternion(q / q.norm())


def from_quaternion(q: Tensor) -> Tensor:
    """Rotation matrix of a unit quaternion (w, x, y, z): (4,) -> (3, 3)."""
    w, x, y, z = q.tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def small_rotation(degrees: Tensor) -> Tensor:
    """Rotation by small angles about x, y and z, as one turn about their axis: (3,) -> (3, 3)."""
    vector = torch.deg2rad(degrees.double())
    angle = float(vector.norm())
    if angle == 0:
        return torch.eye(3, dtype=torch.float64)
    half = math.sin(angle / 2) / angle * vector
    return from_quaternion(torch.cat([torch.tensor([math.cos(angle / 2)]).double(), half]))


STYLES = {
    "spread": spread,
    "half sphere": half_sphere,
    "scattered": scattered,
    "clustered": clustered,
    "few": few,
}
"""Every way to choose directions."""
