"""RISH latent diffusion: 3 T features into latents, up to noise, back as 7 T, and decoded.

X. Zhu, W. Zhang, Y. Li, L. J. O'Donnell, F. Zhang, "When diffusion MRI meets diffusion model: a
novel deep generative model for diffusion MRI generation", MICCAI 2024, Fig. 1.

Where the paper leaves a choice:

- Latents are encodings before quantisation ("the output x of the VQ-VAE's encoder", section 2.3),
  each channel of unit variance over scans of both fields; decoding quantises them.
- DDIM inversion asks for the noise at both ends of a step (`Sampling.refine`): there and back is
  then the identity but for what the field strength changes.
- Guidance and noise level are "different for RISH features of each order". A latent of 32 numbers
  holds all orders at once, and one autoencoder for each would not know that the orders of a voxel
  go together. So latents are joint, they are taken there and back once for each distinct pair of
  guidance and noise level, and each order is read off the answer of its own.
- Both numbers are chosen on scans held out of the training (`training.rish_latent`); the card has
  the curve.
- Codes cannot hold all of a patch. What they lose is given back by `detail.Detail`, which is not of
  the paper; without it (``detail=None``) the method is the paper's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from .blocks import CHANNELS, EDGE_CELL, cut, filled
from .detail import Detail
from .diffusion import HIGH, LOW, Denoiser, Path, invert, sample
from .noise import Noise
from .vqvae import Autoencoder


@dataclass(frozen=True)
class Sampling:
    """How 7 T features are sampled.

    Attributes
    ----------
    guidance, depth : (float, float, float)
        Of orders 0, 2, 4: w of eq. 10, and the noise level as a share of all times.
    steps : int
        Of DDIM, over all times: 5 up and 5 back for a quarter of them.
    eta : float
        Fresh noise on the way back, where samples are to differ.
    refine : int
        Of the inversion, see `diffusion.invert`; 0 is that of the paper.
    """

    guidance: tuple[float, ...] = (1.0,) * CHANNELS
    depth: tuple[float, ...] = (0.25,) * CHANNELS
    steps: int = 20
    eta: float = 1.0
    refine: int = 1

    @classmethod
    def read(cls, told: dict) -> Sampling:
        """Make it of a card's values."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in told.items()})

    def told(self) -> dict:
        """Return it as a card's values."""
        return asdict(self)

    def runs(self) -> dict[float, dict[float, list[int]]]:
        """Say which channels are read off each distinct depth, and guidance on the way back."""
        found: dict[float, dict[float, list[int]]] = {}
        for channel, (guidance, depth) in enumerate(zip(self.guidance, self.depth, strict=True)):
            found.setdefault(depth, {}).setdefault(guidance, []).append(channel)
        return found


class LatentDiffusion(nn.Module):
    """Two autoencoders, the denoiser between them, and what gives back what they lose.

    Parameters
    ----------
    autoencoder : dict
        Arguments of `Autoencoder`, alike for both fields.
    denoiser : dict
        Arguments of `Denoiser`.
    detail : dict, optional
        Arguments of `Detail`; without, the answer is what the 7 T autoencoder decodes.
    sampling : Sampling
    """

    def __init__(
        self,
        autoencoder: dict,
        denoiser: dict,
        detail: dict | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        self.low, self.high = Autoencoder(**autoencoder), Autoencoder(**autoencoder)
        self.denoiser = Denoiser(**denoiser)
        self.detail = None if detail is None else Detail(**detail)
        self.sampling = sampling or Sampling()

    def arguments(self) -> dict:
        """Return what builds the same network; how it samples is not part of it."""
        told = {"autoencoder": self.low.arguments(), "denoiser": self.denoiser.arguments()}
        return told | {"detail": None if self.detail is None else self.detail.arguments()}

    @torch.no_grad()
    def forward(self, features: Tensor, noise: Noise | None = None) -> Tensor:
        """Turn 3 T features into 7 T features.

        Parameters
        ----------
        features : (b, 3, x, y, z) tensor
            In network units, any edges.
        noise : Noise, optional
            Without, DDIM is deterministic; with it, the way back has fresh noise.

        Returns
        -------
        (b, 3, x, y, z) tensor
        """
        return self.finished(self.seen(features, noise))

    def finished(self, seen: Tensor) -> Tensor:
        """Turn what `seen` gave into 7 T features."""
        return seen[:, -CHANNELS:] if self.detail is None else self.detail(seen)

    @torch.no_grad()
    def seen(self, features: Tensor, noise: Noise | None = None) -> Tensor:
        """Return 3 T features, what their codes keep of them, decoded 7 T features: (b, 9, ...)."""
        whole = filled(features, EDGE_CELL)
        encoded = self.low.encode(whole)
        made = torch.empty_like(whole)
        for depth, ways in self.sampling.runs().items():
            up = self.up(encoded, depth)  # no guidance on the way up: once for all
            for guidance, channels in ways.items():
                latents = self.down(up, guidance, depth, noise)
                made[:, channels] = self.high.decode(latents)[:, channels]
        return cut(torch.cat([whole, self.low.decode(encoded), made], 1), features)

    def up(self, encoded: Tensor, depth: float, label: int = LOW) -> Tensor:
        """Take encodings up to noise as one field's, without guidance: in units of the denoiser."""
        latents = self.denoiser.to_units(encoded)
        return invert(self.denoiser.towards(label), latents, self._path(depth))

    def down(
        self,
        up: Tensor,
        guidance: float,
        depth: float,
        noise: Noise | None = None,
        label: int = HIGH,
    ) -> Tensor:
        """Bring what `up` gave back as one field's encodings."""
        path = self._path(depth, noise is not None)
        back = sample(self.denoiser.towards(label, guidance), up, path, noise)
        return self.denoiser.from_units(back)

    def _path(self, depth: float, random: bool = False) -> Path:
        own = self.sampling
        return Path(own.steps, depth, own.eta if random else 0.0, own.refine)
