"""How voxels know their neighbours: convolutions and selective scans at three resolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from .mamba import Mamba2d

if TYPE_CHECKING:
    from .network import Shape


class Residual(nn.Module):
    """Depthwise 5x5 convolution and a pointwise network, added to what came in: (1, x, y, c)."""

    def __init__(self, channels: int, cnn: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 2 * channels)
        self.back = nn.Linear(2 * channels, channels)
        self.cnn = cnn
        nn.init.zeros_(self.back.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the neighbourhood says: (1, x, y, c) -> the same."""
        seen = _convolved(self.depthwise, x) if self.cnn else x
        return x + self.back(F.silu(self.wide(self.norm(seen))))


class MambaCNN(nn.Module):
    """Convolutions for what is near, selective scans along rows and columns for what is far."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        self.near = Residual(channels, shape.cnn)
        self.norm = nn.LayerNorm(channels)
        self.far = (
            Mamba2d(channels, lines=True, shared=True, d_state=shape.state, expand=1)
            if shape.mamba
            else None
        )
        self.after = Residual(channels, shape.cnn)

    def forward(self, x: Tensor) -> Tensor:
        """Add what is near and what is far: (1, x, y, c) -> the same."""
        x = self.near(x)
        if self.far is not None:
            x = x + self.far(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.after(x)


class Trunk(nn.Module):
    """Let voxels know their neighbours: Mamba-CNN at half and quarter resolution."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        full, half, quarter = shape.widths
        self.at_full = nn.ModuleList([Residual(full, shape.cnn), Residual(full, shape.cnn)])
        self.down = nn.ModuleList([nn.Conv2d(full, half, 2, 2), nn.Conv2d(half, quarter, 2, 2)])
        self.at_half = nn.ModuleList([MambaCNN(half, shape), MambaCNN(half, shape)])
        self.at_quarter = nn.ModuleList([MambaCNN(quarter, shape), MambaCNN(quarter, shape)])
        self.up = nn.ModuleList([nn.Linear(quarter, half), nn.Linear(half, full)])
        self.last = Residual(full, shape.cnn)

    def forward(self, x: Tensor) -> Tensor:
        """(1, x, y, full) -> the same."""
        rows, columns = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -columns % 4, 0, -rows % 4))
        for block in self.at_full:
            x = block(x)
        half = _convolved(self.down[0], x)
        half = self.at_half[0](half)
        quarter = _convolved(self.down[1], half)
        for block in self.at_quarter:
            quarter = block(quarter)
        half = half + _twice(self.up[0](quarter))
        half = self.at_half[1](half)
        x = x + _twice(self.up[1](half))
        return self.last(x)[:, :rows, :columns]


def _convolved(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve an image whose channels come last: (1, x, y, c) -> (1, x', y', c')."""
    return convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _twice(x: Tensor) -> Tensor:
    """Interpolate to twice the resolution: (1, x, y, c) -> (1, 2 x, 2 y, c)."""
    image = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    return image.permute(0, 2, 3, 1)
