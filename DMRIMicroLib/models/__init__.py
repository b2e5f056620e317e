"""The registry of models and metrics. To add a model, write its file and name it here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from inspect import isabstract
from pathlib import Path

from ..acquisition import Acquisition
from ..errors import InputError, NotIdentifiable
from ..metric import Metric
from .ballstick import BallStick
from .base import LinearModel, Model, NonlinearModel, Parameter
from .dki import DKI
from .dti import DTI
from .freewater import FreeWater
from .mapmri import MAPMRI
from .mcsmt import MCSMT
from .noddi import NODDI
from .sandi import SANDI
from .smt import SMT

__all__ = [
    "METRICS",
    "MODELS",
    "LinearModel",
    "Model",
    "NonlinearModel",
    "Parameter",
    "choose",
    "get",
    "load_models",
    "register",
]

MODELS: dict[str, Model] = {}
"""Every model by name."""

METRICS: dict[str, Metric] = {}
"""Every metric by name."""


def register(model: Model) -> Model:
    """Add a model of the user's own; `fit`, the command line and the report then know it.

    Raises
    ------
    InputError
        If a model of that name, or one of its metrics, exists already.
    """
    if model.name in MODELS:
        raise InputError(f"there is a model {model.name!r} already", "Give it another name.")
    if taken := [m.name for m in model.metrics if m.name in METRICS]:
        raise InputError(
            f"there is a metric {taken[0]!r} already", f"Rename it in model {model.name!r}."
        )
    MODELS[model.name] = model
    METRICS.update({metric.name: metric for metric in model.metrics})
    return model


def load_models(file: str | Path) -> list[Model]:
    """Run a Python file of the user's and register every model class that it defines.

    A class counts that is a `Model`, has a `name` of its own and needs no arguments.
    """
    file = Path(file)
    spec = importlib.util.spec_from_file_location(f"dmrimicro_user_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise InputError("no such Python file", "Give a .py file with a model in it.", file=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"it cannot be run ({type(error).__name__}: {error})", "Mend the file.", file=file
        ) from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Model)
        and value.__module__ == spec.name
        and not isabstract(value)
    ]
    if not found:
        raise InputError(
            "it defines no model", "Derive a class from DMRIMicroLib.models.Model.", file=file
        )
    return [register(kind()) for kind in found]


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


def choose(
    models: str | Model | Sequence[str | Model],
    acquisition: Acquisition,
    missing: Callable[[Model, Acquisition], Sequence[str]] = lambda m, acq: m.missing(acq),
) -> tuple[list[Model], list[str]]:
    """Return the models named; of "all", those that can be fitted, and why not the others.

    Raises
    ------
    NotIdentifiable
        With what is lacking, if the acquisition cannot determine a model that is named.
    """
    if not (isinstance(models, str) and models.strip().lower() == "all"):
        named = [models] if isinstance(models, str | Model) else list(models)
        if not named:
            raise InputError("no model was named", "Name at least one.")
        chosen = list({model.name: model for model in map(get, named)}.values())
        for model in chosen:
            if lacks := missing(model, acquisition):
                raise NotIdentifiable(
                    f"{model.title} ({model.name}) cannot be fitted: it needs {'; '.join(lacks)}",
                    f"This scan has {acquisition.describe()}.",
                )
        return chosen, []
    chosen, notes = [], []
    for model in MODELS.values():
        if lacks := missing(model, acquisition):
            notes.append(f"{model.name} is left out: it needs {'; '.join(lacks)}")
        else:
            chosen.append(model)
    if not chosen:
        raise InputError(
            f"no model can be identified from this scan: {'; '.join(notes)}",
            f"It has {acquisition.describe()}.",
        )
    return chosen, notes


for _model in (
    DTI(),
    DKI(),
    FreeWater(),
    NODDI(),
    SMT(),
    MCSMT(),
    SANDI(),
    MAPMRI(),
    BallStick(),
):
    register(_model)
