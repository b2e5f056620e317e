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


def of_scan(maps, name: str):
    """Return the maps with the name of their scan: the worker knows its temporary file only."""
    provenance = {
        model: {**made, "scan": {**made.get("scan", {}), "name": name, "file": None}}
        for model, made in maps.provenance.items()
    }
    return replace(maps, provenance=provenance)


def fit_notes(maps) -> list[str]:
    """Say how the maps were made: the notes of all models, and how many voxels they hold."""
    from DMRIMicroLib.maps import said_once, voxel_remarks

    notes = [note for made in maps.provenance.values() for note in made.get("notes", ())]
    remarks: dict[str, list[str]] = {}
    for model, made in maps.provenance.items():
        voxels = made.get("voxels", {})
        fitted = [f"{model}: fitted in {voxels['fitted']} voxels"] if "fitted" in voxels else []
        remarks[model] = fitted + voxel_remarks(model, voxels)
    return list(dict.fromkeys([*notes, *said_once(remarks)]))


def tell(notes: Iterable[str], listener: Callable[[str], None] | None = None) -> None:
    """Hand each note to `listener`; without one, to Slicer's log."""
    for note in notes:
        if listener is None:
            logging.info("DMRIMicro: %s", note)
        else:
            listener(note)
