"""What a user must be told about a scan or a fit, in words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace


def with_notes(maps, notes: Iterable[str]):
    """Return the maps with notes in front of every model's own, each said once."""
    provenance = {
        model: {**made, "notes": list(dict.fromkeys([*notes, *made.get("notes", ())]))}
        for model, made in maps.provenance.items()
    }
    return replace(maps, provenance=provenance)


def fit_notes(maps) -> list[str]:
    """Say how the maps were made: the notes of all models, and how many voxels they hold."""
    notes = [note for made in maps.provenance.values() for note in made.get("notes", ())]
    for model, made in maps.provenance.items():
        notes += _counts(model, made.get("voxels", {}))
    return list(dict.fromkeys(notes))


def tell(notes: Iterable[str], listener: Callable[[str], None] | None = None) -> None:
    """Hand each note to `listener`; without one, to Slicer's log."""
    for note in notes:
        if listener is None:
            logging.info("DMRIMicro: %s", note)
        else:
            listener(note)


def _counts(model: str, voxels: dict) -> list[str]:
    told = []
    if "fitted" in voxels:
        told.append(f"{model}: fitted in {voxels['fitted']} voxels")
    if voxels.get("left_out"):
        told.append(
            f"{model}: {voxels['left_out']} voxels of the mask have no usable signal and stay empty"
        )
    if voxels.get("unusable_samples"):
        told.append(
            f"{model}: {voxels['unusable_samples']} samples in {voxels['with_unusable_samples']} "
            "voxels are zero, negative or not finite and were given no weight"
        )
    return told
