"""Linear harmonisation: every order is scaled by one number, that of the training pairs.

S. Cetin Karayumak et al., NeuroImage 184 (2019) 180-200, scale by sqrt(E[RISH of the target] /
E[RISH of the reference]), with means over subjects in every voxel of a template; here they are
means over all voxels, too, so that no registration is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..version import __version__
from ..weights import Card, load, save
from .data import Pair
from .noise import Noise
from .units import Setting, Units

KIND = "rish-linear"

ABOUT = (
    "Three numbers that scale the orders 0, 2 and 4 of a 3 T scan at b = {b:.0f} s/mm2{quiet} to "
    "those of a 7 T scan, alike in every voxel. A baseline for networks. Learned from {source}. "
    "For research, not for diagnosis."
)


@dataclass(frozen=True, eq=False)
class Linear:
    """One lambda an order.

    Attributes
    ----------
    scale : (3,) tensor
    setting : Setting
    provenance : dict
    """

    scale: Tensor
    setting: Setting
    provenance: dict

    def features(self, low: Tensor, noise: Noise | None = None) -> Tensor:
        """Scale features in network units: (3, x, y, z) to the same."""
        units: Units = self.setting.units
        energies = units.from_network(low) * self.scale.to(low).square()[:, None, None, None]
        return units.to_network(energies)


def learn_linear(pairs: Iterable[Pair]) -> Tensor:
    """Find lambda of each order: (3,)."""
    sums = torch.zeros(2, 3, dtype=torch.float64)
    for pair in pairs:
        for row, features in zip(sums, (pair.low, pair.high), strict=True):
            row += features[:, pair.mask].double().sum(1)
    if not bool((sums > 0).all()):
        raise InputError("the pairs hold no brain", "Make more of them.")
    return (sums[1] / sums[0]).sqrt().float()


def save_linear(
    scale: Tensor,
    setting: Setting,
    folder: Path,
    version: str = "1.0.0",
    source: str = "pairs whose origin was not told",
    metrics: dict | None = None,
    **training: object,
) -> Path:
    """Write the numbers as weights with a card; return the card's path.

    `source` tells what they were learned from, `metrics` and `training` what else belongs into the
    card.
    """
    told = {"software": f"DMRIMicro {__version__}", "learned from": source, **training}
    quiet = ", after a local PCA," if setting.quiet else ""
    about = ABOUT.format(b=setting.b, source=source, quiet=quiet)
    data = setting.told()
    card = Card(
        KIND, version, KIND, {}, about=about, data=data, training=told, metrics=metrics or {}
    )
    return save({"scale": scale}, card, folder)


def load_linear(weights: str | Path | None = None) -> Linear:
    """Load the numbers by name or file; see `weights.load`."""
    tensors, card = load(weights or KIND, KIND)
    return Linear(tensors["scale"], Setting.read(card.data), card.provenance())
