"""How voxels know their neighbours and not themselves: convolutions and selective scans.

A prior must not have seen the data that it is then multiplied with. The first layer looks at the
neighbours only, no further than `BLIND` - 1 voxels away; from there on, voxels talk only to voxels
that are a multiple of `BLIND` away along both axes, and none of those saw them (compare X. Wu et
al., Unpaired learning of deep image denoising, ECCV 2020). So an image is nine images of every
third row and column, each with the same network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mamba import Mamba2d

if TYPE_CHECKING:
    from .network import Shape

BLIND = 3
"""Voxels between those that talk to each other; neighbours are nearer than this."""

WIDTHS = (0.9, 1.8)
"""Of the Gaussians that two filters start from [voxels]; four more start towards one side."""

FILTERS = len(WIDTHS) + 4


class Residual(nn.Module):
    """Depthwise 5x5 convolution and a pointwise network, added to what came in: (k, x, y, c)."""

    def __init__(self, channels: int, cnn: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 2 * channels)
        self.back = nn.Linear(2 * channels, channels)
        self.cnn = cnn
        nn.init.zeros_(self.back.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the neighbourhood says: (k, x, y, c) -> the same."""
        seen = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.cnn else x
        return x + self.back(F.silu(self.wide(self.norm(seen))))


class MambaCNN(nn.Module):
    """Convolutions for what is near, selective scans for what is far, at half the resolution."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        self.near = Residual(channels, shape.cnn)
        self.norm = nn.LayerNorm(channels)
        self.far = (
            Mamba2d(channels, lines=True, shared=True, d_state=shape.state, expand=1)
            if shape.mamba
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add what is near and what is far: (k, x, y, c) -> the same."""
        x = self.near(x)
        if self.far is None:
            return x
        image = self.norm(x).permute(0, 3, 1, 2)
        coarse = self.far(F.avg_pool2d(image, 2, ceil_mode=True))
        seen = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        return x + seen[..., : x.shape[1], : x.shape[2]].permute(0, 2, 3, 1)


class Filters(nn.Module):
    """Smooth the data of neighbours inside the mask, with learnable positive filters."""

    def __init__(self) -> None:
        super().__init__()
        reach = 2 * BLIND - 1
        at = torch.arange(reach) - reach // 2
        squared = at[:, None] ** 2 + at**2
        logits = torch.stack([-squared / (2 * width**2) for width in WIDTHS])
        halves = [at.expand(reach, reach), -at.expand(reach, reach)]
        halves += [half.T for half in halves]
        logits = torch.cat([logits, logits[0] + torch.stack(halves).clamp(-1, 1)])
        self.logits = nn.Parameter(logits)
        middle = torch.zeros(reach, reach)
        middle[reach // 2, reach // 2] = -torch.inf
        self.register_buffer("middle", middle, persistent=False)

    def weights(self) -> Tensor:
        """Of the neighbours, with the sum 1 in each filter: (filters, 1, reach, reach)."""
        reach = self.logits.shape[-1]
        return (self.logits + self.middle).flatten(1).softmax(1).view(-1, 1, reach, reach)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """(c, x, y), (x, y) -> (c, filters, n)."""
        weights, inside = self.weights(), mask.to(images)
        both = torch.cat([inside[None], images * inside])[:, None]
        smooth = F.conv2d(both, weights, padding=BLIND - 1)[..., mask]
        return smooth[1:] / smooth[0].clamp(min=1e-3)


class Ring(nn.Module):
    """What the neighbours say, each by itself: depthwise, without the voxel in the middle."""

    def __init__(self, channels: int, kinds: int) -> None:
        super().__init__()
        reach = 2 * BLIND - 1
        self.weight = nn.Parameter(torch.randn(channels * kinds, 1, reach, reach) / reach)
        ring = torch.ones(reach, reach)
        ring[BLIND - 1, BLIND - 1] = 0
        self.register_buffer("ring", ring, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(x, y, c) -> (x, y, c kinds)."""
        image = x.permute(2, 0, 1)[None]
        seen = F.conv2d(image, self.weight * self.ring, padding=BLIND - 1, groups=image.shape[1])
        return seen[0].permute(1, 2, 0)


class Trunk(nn.Module):
    """Let every voxel know what is around its neighbours: (x, y, c) -> the same."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([MambaCNN(shape.width, shape) for _ in range(shape.blocks)])
        self.last = Residual(shape.width, shape.cnn)

    def forward(self, x: Tensor) -> Tensor:
        """Send the nine images through the blocks: (x, y, c) -> the same."""
        rows, columns, channels = x.shape
        x = F.pad(x, (0, 0, 0, -columns % BLIND, 0, -rows % BLIND))
        x = x.unflatten(1, (-1, BLIND)).unflatten(0, (-1, BLIND))  # (x', 3, y', 3, c)
        x = x.permute(1, 3, 0, 2, 4).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        x = self.last(x).unflatten(0, (BLIND, BLIND)).permute(2, 0, 3, 1, 4)
        return x.reshape(-1, x.shape[2] * BLIND, channels)[:rows, :columns]
