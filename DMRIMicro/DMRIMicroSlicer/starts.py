"""What starts the jobs that the user has chosen, with the choices of now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from .networks import CODEBOOK, METHODS, PIGMENT


def starts(
    logic, ui, chosen: Sequence[str], fields, heard: Mapping[str, Callable]
) -> list[Callable]:
    """Return a call for each job: one fit of all models, then the network's methods.

    Parameters
    ----------
    logic : DMRIMicroLogic
    ui : object
        Has the selectors and switches of the panel.
    chosen : sequence of str
        Names of models and methods.
    fields : NetworkFields
    heard : mapping
        onProgress, onDone, onError, onNote.
    """
    node, found = ui.dwiSelector.currentNode(), []
    common = {
        "maskNode": ui.maskSelector.currentNode(),
        "uncertainty": ui.uncertaintyCheck.isChecked(),
        **heard,
    }
    if models := [name for name in chosen if name not in METHODS]:
        robust = ui.robustCheck.isChecked()
        found.append(partial(logic.start, node, models, robust=robust, **common))
    weights = {"weights": fields.weights_name}
    if CODEBOOK.name in chosen:
        extra = {"extra": fields.extra}
        found.append(partial(logic.startCodebook, node, **weights, **extra, **common))
    if PIGMENT.name in chosen:
        found.append(partial(logic.startPigment, node, **weights, **common))
    return found
