"""Metrics of the user's own: linear heads on what a frozen codebook makes of a voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..metric import Metric
from ..weights import Card, load
from .network import Prediction

KIND = "codebook-metric"
"""Of the cards."""

TOLD = ("name", "title", "unit", "low", "high", "window", "colormap")
"""What a card keeps of a metric."""


@dataclass(frozen=True, eq=False)
class Head:
    """One metric that a codebook was taught by `adapt`.

    Attributes
    ----------
    metric : Metric
    mean, log_sd : (f + 1,) tensor
        Slopes for the columns of `features`, then the constant: of the metric in its own unit, and
        of the logarithm of its standard deviation.
    sd_range : (float, float)
        Standard deviations are held within [unit of the metric].
    card : Card
        ``data["base"]`` has the name and the sha256 of the network that it belongs to.
    """

    metric: Metric
    mean: Tensor
    log_sd: Tensor
    sd_range: tuple[float, float]
    card: Card

    def __call__(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Tell the metric and its standard deviation of n voxels: (n, f) -> (n,), (n,)."""
        mean, log_sd = (columns @ v[:-1] + v[-1] for v in (self.mean, self.log_sd))
        return mean, log_sd.exp().clamp(*self.sd_range)

    def to(self, device: torch.device | str) -> Head:
        """Return it on another device."""
        own = (self.mean.to(device), self.log_sd.to(device))
        return Head(self.metric, *own, self.sd_range, self.card)

    def describe(self) -> dict[str, Any]:
        """Return what its card keeps beside the tensors."""
        told = asdict(self.metric)
        return {"metric": {key: told[key] for key in TOLD}, "sd_range": list(self.sd_range)}


def features(found: Prediction) -> Tensor:
    """Put together what heads see of n voxels: (n, f), all parts of like size.

    What the network's own linear head sees, and the metrics that it told.
    """
    book = found.weights * found.weights.shape[1] ** 0.5
    return torch.cat([found.features, book, found.mean], 1)


def open_head(file: str | Path) -> Head:
    """Read a metric that `adapt` wrote; see `weights.load`."""
    tensors, card = load(file, KIND)
    try:
        told = dict(card.data["metric"])
        metric = Metric(**{**told, "window": tuple(told["window"])})
        low, high = card.data["sd_range"]
        return Head(metric, tensors["mean"], tensors["log_sd"], (low, high), card)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"its card is incomplete ({error})", "Make it again with adapt.", file=file
        ) from error


def open_heads(files: Sequence[str | Path], base: Card, taken: Sequence[str]) -> tuple[Head, ...]:
    """Read metrics for a network, those of other networks and names that are taken refused.

    Parameters
    ----------
    files : sequence of path-like
    base : Card
        Of the network.
    taken : sequence of str
        Names that its maps have already.
    """
    heads = []
    used = {label(name): name for name in taken}
    for file in files:
        head = open_head(file)
        own, name = head.card.data.get("base", {}), head.metric.name
        if own.get("sha256") != base.sha256:
            raise InputError(
                f"{name} was learned on the codebook {own.get('name', '(unknown)')} "
                f"({str(own.get('sha256'))[:12]}...), not on {base.stem} ({base.sha256[:12]}...)",
                "Use that codebook (--weights), or learn the metric again with adapt.",
                file=file,
            )
        if label(name) in used:
            raise InputError(
                f"its metric {name} has the name of another, {used[label(name)]}",
                "Give each a name of its own (letters and digits count).",
                file=file,
            )
        used[label(name)] = name
        heads.append(head)
    return tuple(heads)


def label(name: str) -> str:
    """Return what of a metric's name tells files apart, on any file system."""
    return Metric(name, name).label.lower()
