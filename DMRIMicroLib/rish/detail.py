"""What autoencoders lose of a scan, given back to the 7 T features that were decoded.

Not of X. Zhu et al. (MICCAI 2024): codes of a small codebook cannot hold all of a patch, and what
they lose bounds their method. Here the scan itself fills the gap: of what the 3 T autoencoder loses
each order gets a share, and a small U-Net that sees the scan, what the codes keep of it and the
decoded 7 T features says the rest: at each place how far to trust the scan instead, and what to
add. It learns from pairs, and so takes part in the translation: the benchmark shows latent
diffusion with it and without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .blocks import CHANNELS, UNet, cut, filled, masked_mean

DOUBT = 2.0
"""An untrained network trusts the scan itself by 1 / (1 + exp(DOUBT)) (chosen)."""


class Detail(nn.Module):
    """From the scan, what its codes keep of it, and decoded 7 T features to 7 T features.

    Parameters
    ----------
    widths : sequence of int
        Channels of the U-Net's levels.
    blocks : int
        Residual blocks of each.
    """

    def __init__(self, widths: Sequence[int] = (16, 32), blocks: int = 1) -> None:
        super().__init__()
        self.widths, self.blocks = tuple(widths), blocks
        self.network = UNet(3 * CHANNELS, 2 * CHANNELS, self.widths, blocks)
        self.register_buffer("share", torch.zeros(CHANNELS))

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return {"widths": self.widths, "blocks": self.blocks}

    @torch.no_grad()
    def begin(self, examples: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Find the share of each order that brings decoded features nearest to those wanted.

        Parameters
        ----------
        examples : iterable of (seen, wanted, mask)
            Seen (b, 9, x, y, z) as of `forward`, wanted (b, 3, x, y, z), mask (b, x, y, z) bool.
        """
        along, square = torch.zeros(CHANNELS), torch.zeros(CHANNELS)
        for seen, wanted, mask in examples:
            given, again, made = seen.split(CHANNELS, 1)
            lost = (given - again) * mask[:, None]
            along += (lost * (wanted - made)).sum((0, 2, 3, 4)).cpu()
            square += lost.square().sum((0, 2, 3, 4)).cpu()
        self.share.copy_((along / square.clamp(min=1e-12)).clamp(0, 1))

    def forward(self, seen: Tensor) -> Tensor:
        """Give back what was lost, in network units.

        Parameters
        ----------
        seen : (b, 9, x, y, z) tensor
            3 T features, what is left of them after encoding and decoding, decoded 7 T features;
            any edges.

        Returns
        -------
        (b, 3, x, y, z) tensor
        """
        given, again, made = seen.split(CHANNELS, 1)
        found = made + self.share[:, None, None, None] * (given - again)
        said = cut(self.network(filled(seen, self.network.multiple)), given)
        more, trust = said.split(CHANNELS, 1)
        return found + torch.sigmoid(trust - DOUBT) * (given - found) + more


def detail_loss(
    network: nn.Module, seen: Tensor, wanted: Tensor, mask: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of the features within the brain, as the direct methods have it."""
    value = masked_mean((network(seen) - wanted).square(), mask)
    return value, {"mse": float(value.detach())}
