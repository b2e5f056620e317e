"""Learned methods by name: from 3 T features to 7 T features, on the same grid and on a finer one.

A file of weights holds the method's network (``method.``) and the super-resolution that was trained
on what it says (``finer.``). Its card has the arguments of both, the units of the features and, for
latent diffusion, how it samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..weights import available, load
from .cnn import PlainCNN
from .gan import GAN
from .ldm import LatentDiffusion, Sampling
from .noise import Noise
from .residual import ResidualNet
from .superres import SuperResolution, resample

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "residual": ResidualNet,
    "ldm": LatentDiffusion,
    "cnn": PlainCNN,
    "gan": GAN,
}
"""By the method's name; the first that has weights is what a user gets who names none."""

KINDS = {name: f"rish-{name}" for name in NETWORKS}
"""Names and kinds of their weights, and of the commands that train them."""


@dataclass(frozen=True, eq=False)
class Learned:
    """A trained method.

    Attributes
    ----------
    name : str
    network : nn.Module
    sharper : SuperResolution
    data : dict
        Of the card: the units of the features among others.
    provenance : dict
    """

    name: str
    network: nn.Module
    sharper: SuperResolution
    data: dict[str, Any]
    provenance: dict[str, Any]

    def to(self, device: torch.device | str) -> Learned:
        """Bring it to a device."""
        self.network.to(device)
        self.sharper.to(device)
        return self

    @property
    def random(self) -> bool:
        """Whether answers differ from one draw to the next."""
        return isinstance(self.network, LatentDiffusion) and self.network.sampling.eta > 0

    @torch.no_grad()
    def features(self, low: Tensor, noise: Noise | None = None) -> Tensor:
        """Turn 3 T features into 7 T features, in network units: (3, x, y, z) to the same.

        With noise, methods that can draw one of many answers do; without, all say what they think
        best.
        """
        if self.random:
            return self.network(low[None], noise)[0]
        return self.network(low[None])[0]

    @torch.no_grad()
    def finer(
        self,
        features: Tensor,
        factor: float | tuple[float, float, float],
        shape: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """Bring 7 T features, (3, x, y, z), to a finer grid about the same middle.

        Arguments are those of `superres.resample`.
        """
        return self.sharpen(resample(features[None], factor, shape)[0])

    @torch.no_grad()
    def sharpen(self, features: Tensor) -> Tensor:
        """Give 7 T features that were interpolated on a finer grid what they lack."""
        return self.sharper(features[None])[0]


def build(name: str, arguments: dict[str, Any], sampling: dict | None = None) -> nn.Module:
    """Build an untrained network of a method."""
    if name == "ldm" and sampling is not None:
        return LatentDiffusion(**arguments, sampling=Sampling.read(sampling))
    return NETWORKS[name](**arguments)


def load_method(name: str, weights: str | Path | None = None) -> Learned:
    """Load a trained method, on the CPU.

    Parameters
    ----------
    name : str
        One of `NETWORKS`.
    weights : str or path, optional
        Name of shipped weights or a file; the latest of the method if left out.

    Raises
    ------
    InputError
        If there is no such method, or there are no weights of it.
    """
    if name not in NETWORKS:
        raise InputError(
            f"there is no learned method {name!r}", f"Choose from: {', '.join(NETWORKS)}."
        )
    kind = KINDS[name]
    if weights is None and not available(kind):
        raise InputError(
            f"the method {name} has no trained weights here",
            f"Train them (`dmrimicro train {kind}`) and give the .safetensors file (--weights).",
        )
    tensors, card = load(weights or kind, kind)
    network = build(name, card.arguments["method"], card.data.get("sampling"))
    sharper = SuperResolution(**card.arguments["finer"])
    both = nn.ModuleDict({"method": network, "finer": sharper})
    both.load_state_dict({key: value.float() for key, value in tensors.items()})
    both.eval().requires_grad_(False)
    return Learned(name, network, sharper, card.data, card.provenance())


def trained() -> list[str]:
    """Name the methods whose weights come with the library, the best first."""
    return [name for name, kind in KINDS.items() if available(kind)]
