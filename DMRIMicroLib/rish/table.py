"""Ways to say what the features of a better scanner would be, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..weights import available
from .linear import KIND as LINEAR
from .linear import load_linear
from .methods import KINDS, NETWORKS, load_method, trained
from .noise import Noise
from .units import Setting

AUTO = "auto"


class Features(Protocol):
    """What says features: (3, x, y, z) in network units to the same, any edges that 4 divides."""

    def __call__(self, low: Tensor, noise: Noise | None) -> Tensor:
        """Say them."""


class Finer(Protocol):
    """What brings features to a finer grid about the same middle (`grid.regridded`)."""

    def __call__(
        self, features: Tensor, factor: tuple[float, float, float], shape: tuple[int, int, int]
    ) -> Tensor:
        """Bring them there."""


@dataclass(frozen=True, eq=False)
class Method:
    """A way that is ready.

    Attributes
    ----------
    name : str
    features : Features or None
        None: those of the scan itself.
    finer : Finer or None
        For the factor of `setting` only; None: scale maps are interpolated.
    setting : Setting
        What it was trained on.
    random : bool
        Whether answers differ from one draw to the next.
    everywhere : bool
        Whether it works on the voxels of any scan, and not on those of `setting` alone.
    provenance : dict
    """

    name: str
    features: Features | None = None
    finer: Finer | None = None
    setting: Setting = field(default_factory=Setting)
    random: bool = False
    everywhere: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)


Open = Callable[[str | Path | None, torch.device], Method]


def interpolation(weights: str | Path | None, device: torch.device) -> Method:
    """Give the baseline, which changes no feature."""
    if weights is not None:
        raise InputError("interpolation has no weights", "Leave them out, or name another method.")
    return Method("interpolate", everywhere=True)


def linear(weights: str | Path | None, device: torch.device) -> Method:
    """Give linear harmonisation."""
    if weights is None and not available(LINEAR):
        raise InputError(
            "the method linear has no numbers here",
            f"Learn them (`dmrimicro train {LINEAR}`) and give the file (--weights).",
        )
    found = load_linear(weights)
    return Method(
        "linear",
        found.features,
        setting=found.setting,
        everywhere=True,
        provenance=found.provenance,
    )


def learned(name: str, weights: str | Path | None, device: torch.device) -> Method:
    """Give a trained network."""
    found = load_method(name, weights).to(device)
    return Method(
        name,
        found.features,
        found.finer,
        Setting.read(found.data),
        found.random,
        provenance=found.provenance,
    )


METHODS: dict[str, Open] = {
    **{name: partial(learned, name) for name in NETWORKS},
    "linear": linear,
    "interpolate": interpolation,
}
"""By name; "auto" takes the first of the learned ones that has weights."""


def open_method(name: str, weights: str | Path | None, device: torch.device) -> Method:
    """Return a method by name.

    Raises
    ------
    InputError
        If there is none of that name, or it has no weights: the message says what trains it.
    """
    if name == AUTO:
        name = _best(weights)
    if name not in METHODS:
        raise InputError(
            f"there is no method {name!r}", f"Choose from: {', '.join((AUTO, *METHODS))}."
        )
    return METHODS[name](weights, device)


def _best(weights: str | Path | None) -> str:
    """Name the method of the weights that were given, or the best that comes with the library."""
    if weights is not None:
        from ..weights import verify

        kind = verify(weights)[1].kind
        names = {kind: name for name, kind in KINDS.items()} | {LINEAR: "linear"}
        if kind not in names:
            raise InputError(f"is a {kind}", f"Give weights of: {', '.join(names)}.", file=weights)
        return names[kind]
    names = [*trained(), *(["linear"] if available(LINEAR) else [])]
    if not names:
        kinds = ", ".join((*KINDS.values(), LINEAR))
        raise InputError(
            "no method has trained weights here",
            f"Train one (`dmrimicro train`: {kinds}) and give the .safetensors file (--weights), "
            "or interpolate (--method interpolate).",
        )
    return names[0]
