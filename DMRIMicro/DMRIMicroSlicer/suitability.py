"""What a scan means for a model: what it lacks, and what the user must know of the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suitability:
    """What a scan means for a model, or for a method of the network.

    Attributes
    ----------
    lacks : tuple of str
        What the scan lacks for the model to be determined.
    cautions : tuple of str
        What the user must know of its maps, although it can be.
    prior_driven : dict of metric name to sequence of str
        Metrics that can be had, although the scan by itself does not determine them, and what it
        lacks for that.
    """

    lacks: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    prior_driven: Mapping[str, Sequence[str]] = field(default_factory=dict)


def lacks(model, acquisition, options: Mapping) -> tuple[str, ...]:
    """Say what the scan, or one of the chosen options, keeps from a fit of the model."""
    from DMRIMicroLib.fitting.estimate import missing
    from DMRIMicroLib.fitting.options import Options

    fit_options = {k: v for k, v in options.items() if k in Options.__dataclass_fields__}
    return tuple(missing(model, acquisition, Options(**fit_options)))


def of_model(model, acquisition, options: Mapping) -> Suitability:
    """Say what a scan means for a model that is fitted with these options."""
    from DMRIMicroLib.fitting.estimate import select_volumes

    if wanting := lacks(model, acquisition, options):
        return Suitability(lacks=wanting)
    used = acquisition.subset(select_volumes(model, acquisition, options.get("b_max")))
    return Suitability(cautions=tuple(model.cautions(used)))
