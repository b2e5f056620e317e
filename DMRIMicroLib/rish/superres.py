"""Super-resolution of features: from the 3 T grid to the finer one of the 7 T scan.

X. Zhu et al. (MICCAI 2024), section 2.3: "two convolution layers and middle residual layers",
trained with the squared error on what the method before it says, "similar to SRCNN" (C. Dong et
al., "Image super-resolution using deep convolutional networks", IEEE TPAMI 38 (2016) 295-307):
features are interpolated first, and the network adds what interpolation leaves out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import CHANNELS, Residual, masked_mean, quiet
from .grid import finer_shape


class SuperResolution(nn.Module):
    """What interpolated features lack.

    Parameters
    ----------
    width, blocks : int
        Channels and residual blocks between the two convolutions.
    """

    def __init__(self, width: int = 24, blocks: int = 2) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks
        self.first = nn.Conv3d(CHANNELS, width, 3, padding=1)
        self.middle = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.last = quiet(nn.Conv3d(width, CHANNELS, 3, padding=1))

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return {"width": self.width, "blocks": self.blocks}

    def forward(self, features: Tensor) -> Tensor:
        """Sharpen features that lie on the fine grid: (b, 3, x, y, z) to the same, any edges."""
        return features + self.last(functional.silu(self.middle(self.first(features))))


def resample(
    features: Tensor,
    factor: float | tuple[float, float, float],
    shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """Interpolate features trilinearly on a finer grid about the same middle.

    Parameters
    ----------
    features : (b, 3, x, y, z) tensor
    factor : float or 3 floats
        Edge of a voxel over that of a finer one, e.g. 1.25 / 1.05.
    shape : (int, int, int), optional
        Of the finer grid; `grid.finer_shape` if left out.

    Returns
    -------
    (b, 3, *shape) tensor
        Beyond the middle of the outermost voxels, their values.
    """
    shape = shape or finer_shape(features.shape[-3:], _three(factor))
    axes = []
    for n, fine, f in zip(features.shape[-3:], shape, _three(factor), strict=True):
        place = torch.arange(fine, device=features.device, dtype=features.dtype)
        # voxel j of the finer grid lies (j - (fine - 1) / 2) / f voxels from the middle; in units
        # of half the extent, as grid_sample counts (align_corners=False)
        axes.append((place - (fine - 1) / 2) / f * 2 / n)
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flip(-1)
    places = places.expand(len(features), *places.shape)
    return functional.grid_sample(
        features, places, mode="bilinear", padding_mode="border", align_corners=False
    )


def finer_loss(
    network: nn.Module, made: Tensor, fine: Tensor, mask: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error within the head, on the fine grid: (b, 3, x, y, z), mask (b, x, y, z)."""
    value = masked_mean((network(made) - fine).square(), mask)
    return value, {"mse": float(value.detach())}


def _three(factor: float | tuple[float, float, float]) -> tuple[float, float, float]:
    return factor if isinstance(factor, tuple) else (factor,) * 3
