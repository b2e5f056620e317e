"""Baseline: an autoencoder with attention, trained against a discriminator of patches.

The GAN in the tables of X. Zhu et al. (MICCAI 2024): "an autoencoder with an attention mechanism
trained by an adversarial framework", no more is said of it. Ours: two halvings, self-attention at
the bottom, least-squares adversarial loss (X. Mao et al., "Least squares generative adversarial
networks", ICCV 2017) on patches (P. Isola et al., "Image-to-image translation with conditional
adversarial networks", CVPR 2017) beside the absolute error.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from .blocks import CHANNELS, EDGE_CELL, Residual, cut, filled, masked_mean

ABSOLUTE = 10.0
"""Weight of the absolute error beside the adversarial loss. Isola et al. (2017) have 100 on images
of [-1, 1]; features of order 1 in a brain of few grey values need less."""

HEADS = 4
"""Of the attention."""


class Attention(nn.Module):
    """Self-attention over all places of a small lattice, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it: (b, width, x, y, z) to the same."""
        places = x.flatten(2).mT
        normed = self.norm(places)
        seen = self.attention(normed, normed, normed, need_weights=False)[0]
        return x + seen.mT.reshape(x.shape)


class Generator(nn.Module):
    """Autoencoder from 3 T to 7 T features, nothing passed by its bottom."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        wide = 2 * width
        self.encoder = nn.Sequential(
            nn.Conv3d(CHANNELS, width, 4, stride=2, padding=1),
            Residual(width),
            nn.Conv3d(width, wide, 4, stride=2, padding=1),
            Residual(wide),
        )
        self.attention = Attention(wide)
        self.decoder = nn.Sequential(
            Residual(wide),
            nn.ConvTranspose3d(wide, width, 4, stride=2, padding=1),
            Residual(width),
            nn.SiLU(),
            nn.ConvTranspose3d(width, CHANNELS, 4, stride=2, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Say 7 T features: (b, 3, x, y, z) to the same, any edges."""
        whole = filled(features, EDGE_CELL)
        return cut(self.decoder(self.attention(self.encoder(whole))), features)


class Discriminator(nn.Module):
    """Tell for each piece of a patch whether it is of a 7 T scan, given the 3 T features."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv3d(2 * CHANNELS, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(2 * width, 1, 3, padding=1),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Near 1 where it believes `high`, near 0 where not: (b, 1, x/4, y/4, z/4)."""
        return self.network(torch.cat([low, high], dim=1))


class GAN(nn.Module):
    """Both networks; used like the other methods, it is the generator.

    Parameters
    ----------
    width, judge : int
        Channels of the first layer of generator and discriminator.
    """

    def __init__(self, width: int = 24, judge: int = 16) -> None:
        super().__init__()
        self.width, self.judge = width, judge
        self.generator, self.discriminator = Generator(width), Discriminator(judge)

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return {"width": self.width, "judge": self.judge}

    def forward(self, features: Tensor) -> Tensor:
        """Say 7 T features: (b, 3, x, y, z) to the same, any edges."""
        return self.generator(features)


def gan_loss(
    network: nn.Module, low: Tensor, high: Tensor, mask: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Losses of both networks in one sum, of which each gets the gradient of its own only.

    The generator is judged by a discriminator whose weights are constants there, and the
    discriminator sees the generator's answer as a constant. Edges must be divisible by 4.
    """
    own: GAN = getattr(network, "module", network)
    made = network(low)
    absolute = masked_mean((made - high).abs(), mask)
    fixed = {name: value.detach() for name, value in own.discriminator.named_parameters()}
    judged = functional_call(own.discriminator, fixed, (low, made))
    fooling = functional.mse_loss(judged, torch.ones_like(judged))
    true, false = own.discriminator(low, high), own.discriminator(low, made.detach())
    telling = (
        functional.mse_loss(true, torch.ones_like(true))
        + functional.mse_loss(false, torch.zeros_like(false))
    ) / 2
    told = {"mae": absolute, "fooling": fooling, "telling": telling}
    said = {name: float(value.detach()) for name, value in told.items()}
    return ABSOLUTE * absolute + fooling + telling, said
