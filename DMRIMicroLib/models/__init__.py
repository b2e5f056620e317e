"""The registry of models and metrics. To add a model, write its file and name it here."""

from __future__ import annotations

from ..acquisition import Acquisition
from ..errors import InputError, NotIdentifiable
from ..maps import Metric
from .ballstick import BallStick
from .base import LinearModel, Model
from .dti import DTI
from .freewater import FreeWater
from .mcsmt import MCSMT
from .sandi import SANDI
from .smt import SMT

__all__ = ["DTI", "METRICS", "MODELS", "LinearModel", "Model", "get", "require"]

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        DTI(),
        FreeWater(),
        SMT(),
        MCSMT(),
        SANDI(),
        BallStick(),
    )
}
"""Every model by name."""

METRICS: dict[str, Metric] = {
    metric.name: metric for model in MODELS.values() for metric in model.metrics
}
"""Every metric by name."""


def get(model: str | Model) -> Model:
    """Return the model of that name."""
    if isinstance(model, Model):
        return model
    try:
        return MODELS[model.lower()]
    except KeyError:
        raise InputError(
            f"there is no model {model!r}", f"Choose from: {', '.join(MODELS)}."
        ) from None


def require(model: Model, acq: Acquisition) -> None:
    """Raise NotIdentifiable, with what is lacking, if `acq` cannot determine `model`."""
    if lacks := model.missing(acq):
        raise NotIdentifiable(
            f"{model.title} ({model.name}) cannot be fitted: it needs {'; '.join(lacks)}",
            f"This scan has {acq.describe()}.",
        )
