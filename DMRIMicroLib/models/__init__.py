"""The registry of models and metrics. To add a model, write its file and name it here."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from inspect import isabstract
from pathlib import Path

from ..acquisition import Acquisition
from ..errors import InputError, NotIdentifiable
from ..metric import Metric
from .ballstick import BallStick
from .base import LinearModel, Model, NonlinearModel, Parameter, PowderModel
from .dki import DKI
from .dti import DTI
from .framed import FramedModel
from .freewater import FreeWater
from .mapmri import MAPMRI
from .mcsmt import MCSMT
from .noddi import NODDI
from .sandi import SANDI
from .smt import SMT

__all__ = [
    "METRICS",
    "MODELS",
    "FramedModel",
    "LinearModel",
    "Model",
    "NonlinearModel",
    "Parameter",
    "PowderModel",
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

    A class counts that is a `Model` and has a `name` of its own; it must need no arguments. Models
    that came from the same file before are replaced. All are registered, or none.
    """
    file = Path(file)
    # files of one name in two folders are two modules
    place = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"dmrimicro_user_{file.stem}_{place}", file)
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
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Model)
        and value.__module__ == spec.name
        and "name" in vars(value)
        and not isabstract(value)
    ]
    if not kinds:
        raise InputError(
            "it defines no model",
            "Derive a class with a name from DMRIMicroLib.models.Model.",
            file=file,
        )
    try:
        made = [kind() for kind in kinds]
    except TypeError as error:
        raise InputError(
            f"its model cannot be made without arguments ({error})",
            "Give every field a default.",
            file=file,
        ) from error
    return _replace(spec.name, made)


def _replace(module: str, made: list[Model]) -> list[Model]:
    """Register models in place of those that a module gave before; all, or none."""
    before = dict(MODELS), dict(METRICS)
    for earlier in [model for model in MODELS.values() if type(model).__module__ == module]:
        del MODELS[earlier.name]
        for metric in earlier.metrics:
            del METRICS[metric.name]
    try:
        return [register(model) for model in made]
    except BaseException:
        for registry, kept in zip((MODELS, METRICS), before, strict=True):
            registry.clear()
            registry.update(kept)
        raise


def get(model: str | Model) -> Model:
    """Return the model of that name: exactly, or in lower case."""
    if isinstance(model, Model):
        return model
    for name in (model, model.lower()):
        if name in MODELS:
            return MODELS[name]
    raise InputError(f"there is no model {model!r}", f"Choose from: {', '.join(MODELS)}.")


def _distinct(models: Sequence[Model]) -> list[Model]:
    """Return the models, each once; their maps are told apart by the names of model and metric."""
    chosen: dict[str, Model] = {}
    metrics: dict[str, str] = {}
    for model in models:
        if chosen.setdefault(model.name, model) != model:
            raise InputError(
                f"two different models have the name {model.name!r}",
                "Fit them one after the other, into two folders.",
            )
        for metric in model.metrics:
            if (owner := metrics.setdefault(metric.name, model.name)) != model.name:
                raise InputError(
                    f"models {owner!r} and {model.name!r} both have a metric {metric.name!r}",
                    "Rename it in one of them, or fit them one after the other.",
                )
    return list(chosen.values())


def choose(
    models: str | Model | Sequence[str | Model],
    acquisition: Acquisition,
    missing: Callable[[Model, Acquisition], Sequence[str]] = lambda m, acq: m.missing(acq),
) -> tuple[list[Model], list[str]]:
    """Return the models named; of "all", those that can be fitted, and why not the others.

    Raises
    ------
    InputError
        If no model was named, or two that cannot be told apart.
    NotIdentifiable
        With what is lacking, if the acquisition cannot determine a model that is named.
    """
    if not (isinstance(models, str) and models.strip().lower() == "all"):
        named = [models] if isinstance(models, str | Model) else list(models)
        if not named:
            raise InputError("no model was named", "Name at least one.")
        chosen = _distinct([get(model) for model in named])
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
