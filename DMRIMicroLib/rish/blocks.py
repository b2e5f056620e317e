"""What the networks on patches of RISH features are built of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError

ORDERS = (0, 2, 4)
"""Orders of the spherical harmonics whose features the networks know, one a channel."""

CHANNELS = len(ORDERS)

EDGE_CELL = 4
"""Every network takes patches of edges that this divides."""


def monai(part: str) -> Any:
    """Import a module of MONAI, which takes seconds and not every method needs.

    M. J. Cardoso et al., "MONAI: An open-source framework for deep learning in healthcare",
    arXiv:2211.02701 (2022).
    """
    import importlib

    try:
        importlib.import_module("einops")  # of which MONAI's attention is made
        return importlib.import_module(f"monai.{part}")
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in ("einops", "monai"):
            raise
        raise InputError(
            f"latent diffusion needs the package {name}, which is not installed",
            'Run: pip install --no-deps "monai>=1.4,<2" einops; or choose another method.',
        ) from error


class Residual(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), 3 x 3 x 3; the identity at first.

    K. He et al., "Identity mappings in deep residual networks", ECCV 2016, Fig. 4e, without its
    normalisation: features come in units of order 1, and statistics of a patch would differ from
    tile to tile.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.second = quiet(nn.Conv3d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it: (b, width, x, y, z) to the same."""
        return x + self.second(functional.silu(self.first(functional.silu(x))))


class UNet(nn.Module):
    """Small U-Net: strided convolutions down, trilinear interpolation up, sums across.

    O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015, in three dimensions. Its last layer starts at
    zero.

    Parameters
    ----------
    channels, out : int
    widths : sequence of int
        Channels of each level; edges are halved between levels.
    blocks : int
        Residual blocks of each level, going down and going up.
    """

    def __init__(
        self, channels: int, out: int, widths: Sequence[int] = (16, 32, 64), blocks: int = 1
    ) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, widths[0], 3, padding=1)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in steps)
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in steps)
        self.going_down = nn.ModuleList(_row(width, blocks) for width in widths)
        self.going_up = nn.ModuleList(_row(width, blocks) for width in widths[:-1])
        self.last = quiet(nn.Conv3d(widths[0], out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it: (b, channels, x, y, z) to (b, out, x, y, z); edges as `multiple` says."""
        x = self.going_down[0](self.first(x))
        across = []
        for down, row in zip(self.down, self.going_down[1:], strict=True):
            across.append(x)
            x = row(down(x))
        for level in reversed(range(len(self.up))):
            x = functional.interpolate(
                self.up[level](x), scale_factor=2, mode="trilinear", align_corners=False
            )
            x = self.going_up[level](x + across[level])
        return self.last(functional.silu(x))

    @property
    def multiple(self) -> int:
        """What divides the edges."""
        return 2 ** len(self.up)


def quiet(layer: nn.Conv3d) -> nn.Conv3d:
    """Set a layer to zero, so that its branch has no say at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def filled(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last planes of a patch until `multiple` divides its edges: (b, c, x, y, z)."""
    more = [(-n) % multiple for n in x.shape[-3:]]
    if not any(more):
        return x
    return functional.pad(x, [0, more[2], 0, more[1], 0, more[0]], mode="replicate")


def cut(x: Tensor, like: Tensor) -> Tensor:
    """Undo `filled`: as many voxels as `like` has."""
    a, b, c = like.shape[-3:]
    return x[..., :a, :b, :c]


def masked_mean(error: Tensor, mask: Tensor, outside: float = 0.0) -> Tensor:
    """Mean over voxels of a mask, and over those outside of it with a smaller weight.

    Parameters
    ----------
    error : (b, c, x, y, z) tensor
    mask : (b, x, y, z) bool tensor
    outside : float
    """
    weight = torch.where(mask, 1.0, outside)[:, None].to(error)
    return (error * weight).sum() / (weight.sum() * error.shape[1]).clamp(min=1.0)


def count(network: nn.Module) -> int:
    """Count the numbers that a network learns."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _row(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width) for _ in range(blocks)))
