"""The codebook among the models: whether it can run, what its maps lean on, how they are shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

from DMRIMicroLib.errors import InputError

from .results import show_maps
from .suitability import Suitability

NAME = "codebook"
"""Of its maps' model, of its weights, and in the list of models."""

TITLE = "Codebook (all 24 metrics, any protocol)"

RESIDUAL = "codebook_residual"
"""Its quality map; the node is called ``"<scan> codebook residual"``."""


@dataclass(frozen=True)
class Offer:
    """The codebook as the list of models shows it.

    Attributes
    ----------
    metrics : tuple of Metric
        Empty if there are no weights.
    problem : str
        Why it cannot run on any scan and what to do; empty if it can.
    name, title : str
    """

    metrics: tuple = ()
    problem: str = ""
    name: str = NAME
    title: str = TITLE


def offer(weights: str = "") -> Offer:
    """Look for the weights, those that come with the library by default, and verify them."""
    try:
        from DMRIMicroLib.codebooks.estimate import metric_of
        from DMRIMicroLib.weights import verify
    except ImportError:
        return Offer()  # Apply installs what is missing
    try:
        _, card = verify(weights or NAME, NAME)
    except InputError as error:
        return Offer(problem=str(error))
    return Offer(tuple(map(metric_of, card.data.get("metrics", ()))))


def suitability(offered: Offer, acquisition=None) -> Suitability:
    """Say what a scan means for the codebook, or what can be said without a scan."""
    if offered.problem:
        return Suitability(lacks=(offered.problem,))
    if acquisition is None or not offered.metrics:
        return Suitability()
    needs = {"a b0 volume": acquisition.is_b0.any(), "a weighted volume": acquisition.shells}
    if lacks := tuple(need for need, there in needs.items() if not there):
        return Suitability(lacks=lacks)
    from DMRIMicroLib.codebooks.estimate import prior_driven

    leaning = prior_driven([metric.name for metric in offered.metrics], acquisition)
    caution = (
        "metrics that this acquisition by itself does not determine lean on what tissue usually "
        f"looks like (prior-driven): {', '.join(leaning)}"
    )
    return Suitability(cautions=(caution,) if leaning else (), prior_driven=leaning)


def show(maps, scan_name: str, *, uncertainty: bool) -> list:
    """Add the codebook's maps to the scene, named apart from a fit's: ``"<scan> codebook FA"``."""
    shown = {}
    for name, item in maps.items():
        label = "residual" if name == RESIDUAL else name
        shown[label] = item if uncertainty else replace(item, uncertainty=None)
    return show_maps(replace(maps, maps=shown), f"{scan_name} {NAME}")
