"""Cards of weights that learned from real scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..codebooks.network import Codebook
from ..codebooks.recalibrate import tell_slice
from ..codebooks.scale import Scale
from ..codebooks.slices import Loaded
from ..training.examples import Example
from ..training.mapped import load_mapped
from ..training.pool import METRICS
from ..training.recipe import calibrate
from ..version import __version__
from ..weights import Card

ABOUT = (
    "Estimates the metrics of {start} with standard deviations, made by learning from real scans "
    "for scans like the target that this card describes. With other acquisitions it may do worse "
    "than what it began with. For research, not for diagnosis."
)


def card_of(
    loaded: Loaded, network: Codebook, training: dict[str, Any], stem: str, fresh: bool
) -> Card:
    """Return the card, before its calibration.

    Parameters
    ----------
    loaded : Loaded
        What the training began with.
    network : Codebook
    training : dict
        What was done and what with, free of anybody's identity.
    stem : str
        Name and version.
    fresh : bool
        Whether only the shape of what was loaded was taken.
    """
    name, _, version = stem.rpartition("-")
    begun = {"weights": loaded.card.provenance(), "only its shape": fresh}
    told = {"software": f"DMRIMicro {__version__}", "begun with": begun} | training
    about = ABOUT.format(start=loaded.card.stem)
    data = dict(loaded.card.data)
    return Card(name, version, "codebook", network.arguments(), about, data, told)


def calibrated(
    card: Card, network: Codebook, files: Sequence[Path], examples: Sequence[Example]
) -> Card:
    """Return the card with the factors of standard deviations that held-out scans ask for.

    Those of metrics that no label of these scans tells stay. Labels of real scans have noise of
    their own, which counts as the network's: deviations are rather too large than too small.
    """
    data = card.data
    scale = Scale(tuple(data["metrics"]), tuple(data["centre"]), tuple(data["spread"]))
    factors, correlations = calibrate(network, scale, iter(examples), tell_slice)
    known = torch.stack([load_mapped(file).known.any(1) for file in files]).any(0)
    told = {name for k, name in enumerate(METRICS) if bool(known[k])}
    rows = zip(scale.metrics, factors, data["calibration"], strict=True)
    kept = [found if name in told else before for name, found, before in rows]
    correlations = {name: value for name, value in correlations.items() if name in told}
    metrics = {"correlation on what was held out": correlations}
    return replace(card, data=data | {"calibration": kept}, metrics=metrics)
