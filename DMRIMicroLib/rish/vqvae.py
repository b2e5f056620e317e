"""VQ-VAE: patches of RISH features as small lattices of 256 codes.

X. Zhu et al., "When diffusion MRI meets diffusion model", MICCAI 2024, section 2.3, after A. van
den Oord, O. Vinyals, K. Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017.
Network and codebook are MONAI's. One autoencoder is trained on 3 T features; that of 7 T starts
from its weights, which helps in two ways: few 7 T scans suffice, and codes of both fields stay in
one space, so that a diffusion model can lead from one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..brain.simulate import generator_for
from .blocks import CHANNELS, EDGE_CELL, cut, filled, masked_mean, monai

CODES, DIMENSION = 256, 32
"""Codes and their length (Zhu et al. 2024, section 3)."""

COMMITMENT = 0.25
"""Weight of the distance of encodings to their codes (van den Oord et al. 2017, eq. 3)."""

DECAY = 0.99
"""Of the moving averages that are the codes (van den Oord et al. 2017, appendix A.1)."""

OUTSIDE = 0.1
"""Weight of voxels outside of the head, which patches have and decoders need."""

HALVED = (2, 4, 1, 1)
"""Stride, kernel, dilation and padding of a convolution that halves edges, in MONAI's order."""

REVIVED = 50
"""Steps between looks for codes that nothing is near to."""

DEAD = 0.02
"""Encodings that a code had, in its moving average of a step, below which it is given another
place; 256 codes share the hundreds of encodings of a step."""


class Autoencoder(nn.Module):
    """Encoder, codes and decoder: edges are divided by 4.

    Parameters
    ----------
    channels : sequence of int
        Of the encoder's two levels, and backwards of the decoder's.
    layers : int
        Residual layers of each level.
    codes, dimension : int
    """

    def __init__(
        self,
        channels: Sequence[int] = (24, 48),
        layers: int = 1,
        codes: int = CODES,
        dimension: int = DIMENSION,
    ) -> None:
        super().__init__()
        self.channels, self.layers = tuple(channels), layers
        self.codes, self.dimension = codes, dimension
        self.network = monai("networks.nets.vqvae").VQVAE(
            spatial_dims=3,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            channels=self.channels,
            num_res_layers=layers,
            num_res_channels=self.channels,
            downsample_parameters=(HALVED,) * len(self.channels),
            upsample_parameters=((*HALVED, 0),) * len(self.channels),
            num_embeddings=codes,
            embedding_dim=dimension,
            commitment_cost=COMMITMENT,
            decay=DECAY,
        )

    def arguments(self) -> dict:
        """Return what builds the same network."""
        told = {"channels": self.channels, "layers": self.layers}
        return told | {"codes": self.codes, "dimension": self.dimension}

    def encode(self, features: Tensor) -> Tensor:
        """Encode (b, 3, x, y, z), edges divisible by 4, before quantisation: (b, 32, x/4, ...)."""
        return self.network.encode(features)

    def decode(self, latents: Tensor) -> Tensor:
        """Put latents onto the nearest codes and decode them."""
        return self.network.decode_stage_2_outputs(latents)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Encode, quantise and decode; return also the quantisation loss.

        While the network is in training, its codes move (moving averages of what they stood for).
        """
        return self.network(features)

    def again(self, features: Tensor) -> Tensor:
        """Return what is left of features of any size after encoding and decoding."""
        return cut(self.decode(self.encode(filled(features, EDGE_CELL))), features)

    @torch.no_grad()
    def begin(self, features: Tensor, seed: int) -> None:
        """Put the codes where encodings are; from random places most would stay unused."""
        found = _flat(self.encode(features))
        chosen = torch.randint(
            len(found), (self.codes,), generator=generator_for(seed, "codes")
        ).to(found.device)
        self._place(torch.arange(self.codes, device=found.device), found[chosen])

    @torch.no_grad()
    def revive(self, latents: Tensor, seed: int, step: int) -> int:
        """Give codes that nothing is near to the place of a random encoding; return how many.

        W. Williams et al., "Hierarchical quantized autoencoders", NeurIPS 2020, section 3.
        """
        quantizer = self.network.quantizer.quantizer
        dead = (quantizer.ema_cluster_size < DEAD).nonzero()[:, 0]
        found = _flat(latents)
        generator = generator_for(seed, f"revived {step}")
        chosen = torch.randint(len(found), (len(dead),), generator=generator).to(found.device)
        self._place(dead, found[chosen])
        return len(dead)

    def used(self) -> float:
        """Share of the codes that are in use."""
        return float((self.network.quantizer.quantizer.ema_cluster_size >= DEAD).float().mean())

    def _place(self, which: Tensor, codes: Tensor) -> None:
        """Set codes, and their moving averages as if each had stood for one encoding."""
        quantizer = self.network.quantizer.quantizer
        quantizer.embedding.weight.data[which] = codes.to(quantizer.embedding.weight)
        quantizer.ema_w[which] = codes.to(quantizer.ema_w)
        quantizer.ema_cluster_size[which] = 1.0


def autoencoder_loss(
    network: Autoencoder, features: Tensor, mask: Tensor, seed: int, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Mean absolute error and quantisation loss (Zhu et al. 2024, section 2.3).

    Parameters
    ----------
    network : Autoencoder
        Maybe as a Lightning module around it.
    features : (b, 3, x, y, z) tensor
        In network units.
    mask : (b, x, y, z) bool tensor
    seed, step : int
        Of the training.
    """
    decoded, quantisation = network(features)
    absolute = masked_mean((decoded - features).abs(), mask, OUTSIDE)
    own: Autoencoder = getattr(network, "module", network)
    if step % REVIVED == REVIVED - 1:
        with torch.no_grad():
            own.revive(own.encode(features), seed, step)
    told = {"mae": float(absolute.detach()), "quantisation": float(quantisation.detach())}
    return absolute + quantisation, told | {"codes used": own.used()}


def _flat(latents: Tensor) -> Tensor:
    """Lay out encodings: (b, c, x, y, z) to (b x y z, c)."""
    return latents.movedim(1, -1).reshape(-1, latents.shape[1])
