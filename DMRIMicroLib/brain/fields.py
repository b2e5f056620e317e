"""Images looked up at points, and smooth random fields over the head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EXTENT = 256.0
"""Edge of the cube, about the middle of the head, over which random fields are drawn [mm]: any
head fits into it, so a subject can be drawn before its anatomy is chosen."""


@dataclass(frozen=True, eq=False)
class Field:
    """Smooth random functions of position: cubic B-splines with random coefficients.

    Attributes
    ----------
    values : (c, k, k, k) tensor
        Coefficients on a grid that covers the cube of `EXTENT` and one point more on each side.
    """

    values: Tensor

    @property
    def spacing(self) -> float:
        """Distance of the control points [mm]."""
        return EXTENT / (self.values.shape[-1] - 3)

    def dense(self, device: torch.device | str = "cpu", finer: int = 2) -> Image:
        """Evaluate on a grid `finer` times as fine, about the origin."""
        values = self.values.to(device)
        intervals = values.shape[-1] - 3
        basis = _spline(intervals, finer).to(values)
        for _ in range(3):  # one axis after the other; the result has its axes back in order
            values = torch.movedim(values, 1, -1) @ basis.T
        step = EXTENT / (intervals * finer)
        affine = torch.diag(torch.tensor([step, step, step, 1.0], dtype=torch.float64))
        affine[:3, 3] = -EXTENT / 2
        return Image(values, affine)


def draw_field(generator: torch.Generator, channels: int, spacing: float) -> Field:
    """Draw fields of mean 0 and standard deviation 1.

    Parameters
    ----------
    generator : torch.Generator
    channels : int
        Number of independent fields.
    spacing : float
        Distance of the control points [mm]; the field is correlated over about twice that.
    """
    points = max(round(EXTENT / spacing), 1) + 3
    values = torch.randn((channels, points, points, points), generator=generator)
    # a spline averages its coefficients: the mean power of the basis, along each axis
    power = _spline(points - 3, 4).square().sum(1).mean()
    return Field(values / power.to(values) ** 1.5)


class Image:
    """Channels on a grid, looked up at points in space by trilinear interpolation.

    Parameters
    ----------
    values : (c, x, y, z) tensor
    affine : (4, 4) tensor
        Voxel indices to millimetres.
    """

    def __init__(self, values: Tensor, affine: Tensor) -> None:
        self.shape = tuple(values.shape[1:])
        # a row a voxel: a corner is then one contiguous read, whatever the number of channels
        self.rows = values.flatten(1).T.to(torch.float32).contiguous()
        self.inverse = torch.linalg.inv(affine.to(torch.float64)).to(values.device, torch.float32)

    def corners(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and weights of the eight voxels around each point: (n, 3) -> (n, 8), (n, 8).

        Beyond the grid the nearest voxel of its border counts.
        """
        at = (points @ self.inverse[:3, :3].T + self.inverse[:3, 3]).unbind(1)
        stride = (self.shape[1] * self.shape[2], self.shape[2], 1)
        row = torch.zeros(1, dtype=torch.long, device=points.device)
        weight = points.new_ones(1)
        for x, size, step in zip(at, self.shape, stride, strict=True):
            x = x.clamp(0, size - 1)
            low = x.floor().clamp_max(max(size - 2, 0))
            part = x - low
            start = low.long() * step
            row = row[..., None] + torch.stack([start, start + (step if size > 1 else 0)], 1).view(
                -1, *[1] * (row.dim() - 1), 2
            )
            pair = torch.stack([1 - part, part], 1)
            weight = weight[..., None] * pair.view(-1, *[1] * (weight.dim() - 1), 2)
        return row.reshape(len(points), 8), weight.reshape(len(points), 8)

    def __call__(self, points: Tensor) -> Tensor:
        """Values at points: (n, 3) [mm] -> (n, c)."""
        return self.at(*self.corners(points))

    def at(self, row: Tensor, weight: Tensor) -> Tensor:
        """Weighted sum of voxels: (n, 8), (n, 8) -> (n, c)."""
        return torch.nn.functional.embedding_bag(
            row, self.rows, per_sample_weights=weight, mode="sum"
        )


def _spline(intervals: int, finer: int) -> Tensor:
    """Uniform cubic B-splines on a finer grid: (finer * intervals + 1, intervals + 3) float64."""
    at = torch.arange(finer * intervals + 1, dtype=torch.float64) / finer
    away = (at[:, None] - torch.arange(-1, intervals + 2)).abs()
    near = 2 / 3 - away**2 + away**3 / 2
    far = (2 - away).clamp_min(0) ** 3 / 6
    return torch.where(away < 1, near, far)


def grid_points(affine: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Voxel centres of a grid in C order: -> (x y z, 3) float32, on the affine's device [mm]."""
    axes = [torch.arange(s, dtype=torch.float64, device=affine.device) for s in shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    affine = affine.to(torch.float64)
    return (index @ affine[:3, :3].T + affine[:3, 3]).to(torch.float32)
