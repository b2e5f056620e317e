"""Deterministic scale maps: a U-Net says the logarithm of lambda of each order.

The features of a 7 T scan are those of the 3 T scan times lambda_l^2 (H. Mirzaalian et al.,
NeuroImage 135 (2016) 311-323), so a network that says lambda has nothing to learn of the image
itself, and the answer of an untrained one is the scan as it is. Not of the paper of RISH latent
diffusion: our own, and a baseline that it must beat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import CHANNELS, UNet, cut, filled, masked_mean

LEAST, LARGEST = math.log(20.0), math.log(4.0)
"""Bounds of log lambda, below and above 0: lambda stays within 1/20 and 4. What a scan shows of the
fourth order of cortex and fluid is noise, of which next to nothing is to be left (chosen;
`scale.LIMITS` bounds what is applied)."""


class ResidualNet(nn.Module):
    """From 3 T features to 7 T features, by way of log lambda.

    Parameters
    ----------
    widths : sequence of int
        Channels of the U-Net's levels.
    blocks : int
        Residual blocks of each.
    zero : sequence of 3 floats
        What no energy is in network units, so that a factor can be applied.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 1,
        zero: Sequence[float] = (0.0,) * CHANNELS,
    ) -> None:
        super().__init__()
        self.widths, self.blocks, self.zero = tuple(widths), blocks, tuple(zero)
        self.network = UNet(CHANNELS, CHANNELS, self.widths, blocks)
        self.register_buffer("origin", torch.tensor(self.zero), persistent=False)

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return {"widths": self.widths, "blocks": self.blocks, "zero": self.zero}

    def log_lambda(self, features: Tensor) -> Tensor:
        """Say log lambda of each order: (b, 3, x, y, z), any edges."""
        said = cut(self.network(filled(features, self.network.multiple)), features)
        bound = torch.where(said < 0, LEAST, LARGEST)
        return bound * torch.tanh(said / bound)

    def forward(self, features: Tensor) -> Tensor:
        """Scale the features: roots of energies, less their centre, by lambda."""
        origin = self.origin.to(features)[:, None, None, None]
        return origin + (features - origin) * self.log_lambda(features).exp()


def residual_loss(
    network: nn.Module, low: Tensor, high: Tensor, mask: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of the features within the brain; (b, 3, x, y, z), mask (b, x, y, z)."""
    value = masked_mean((network(low) - high).square(), mask)
    return value, {"mse": float(value.detach())}
