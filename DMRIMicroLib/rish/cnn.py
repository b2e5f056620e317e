"""Baseline: a plain 3-D convolutional network from 3 T to 7 T features.

S. Cetin Karayumak, M. Kubicki, Y. Rathi, "Harmonizing diffusion MRI data across magnetic field
strengths", MICCAI 2018, is the CNN in the tables of Zhu et al. (2024). Their layers are not in what
we have of it; this is a network of that kind, with no part of the input passed by.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from .blocks import CHANNELS


class PlainCNN(nn.Module):
    """A row of 3 x 3 x 3 convolutions.

    Parameters
    ----------
    width, layers : int
        Channels between layers, and layers in all.
    """

    def __init__(self, width: int = 32, layers: int = 6) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        widths = [CHANNELS, *[width] * (layers - 1), CHANNELS]
        parts: list[nn.Module] = []
        for before, after in pairwise(widths):
            parts += [nn.Conv3d(before, after, 3, padding=1), nn.ReLU()]
        self.network = nn.Sequential(*parts[:-1])

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return {"width": self.width, "layers": self.layers}

    def forward(self, features: Tensor) -> Tensor:
        """Say 7 T features: (b, 3, x, y, z) to the same, any edges."""
        return self.network(features)
