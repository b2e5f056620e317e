"""What the report says about each model: notes, trust in its voxels, maps, distributions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..maps import Flag, Map, MapSet, Metric
from ..models import MODELS
from ..scan import Scan
from . import pictures
from .figures import to_png
from .flags import WORTH_A_PICTURE, answers, counts, good_voxels, unused_said, voxels_said
from .words import number, sampling, scale, share

METHODS = {
    "codebook": "Microstructure codebook (trained network)",
    "pigment": "PIGMENT-style fit (samples under a learned prior)",
}
"""Titles of methods that are no models."""


@dataclass(frozen=True)
class MapEntry:
    """One scalar map on the page.

    Attributes
    ----------
    metric : Metric
    label : str
        Name, and unit of the numbers on the page.
    picture : str
        Base64 PNG.
    deviation : str or None
        Base64 PNG of the standard deviation.
    caption : str
        Median and quartiles, in that unit.
    lacks : str
        What the acquisition lacks to determine it by itself; empty for most.
    """

    metric: Metric
    label: str
    picture: str
    deviation: str | None
    caption: str
    lacks: str = ""


@dataclass(frozen=True)
class Section:
    """One model on the page.

    Attributes
    ----------
    name, title : str
    notes : list of str
        What the user must know of its maps.
    how : list of str
        How its maps were made, where that says how far to trust them.
    voxels : list of str
        How many are good, and what is with the others.
    good : str
        Share of its answers without a flag.
    maps : list of MapEntry
    colour, flags, histograms : str or None
        Base64 PNG; the flags only where they are many.
    others : list of Metric
        Vectors and tensors, which are not drawn.
    provenance : str
        JSON.
    """

    name: str
    title: str
    notes: list[str]
    how: list[str]
    voxels: list[str]
    good: str
    maps: list[MapEntry]
    colour: str | None
    flags: str | None
    histograms: str | None
    others: list[Metric]
    provenance: str


def sections(maps: MapSet) -> list[Section]:
    """Describe every model."""
    return [_section(maps, model) for model in maps.provenance]


def general_notes(scan: Scan, maps: MapSet) -> list[str]:
    """Collect what is to be said of the fit but belongs to no model alone, nor to the scan."""
    told = [note for made in maps.provenance.values() for note in made.get("notes", ())]
    own = tuple(f"{model}: " for model in maps.provenance)
    notes = [n for n in dict.fromkeys(told) if n not in scan.notes and not n.startswith(own)]
    return notes + unused_said(maps)


def _section(maps: MapSet, model: str) -> Section:
    mine = [item for item in maps.values() if item.model == model]
    scalars = [item for item in mine if item.metric.kind == "scalar"]
    made = maps.provenance[model]
    start = f"{model}: "
    found = counts(maps, model)
    flagged = 1 - found[Flag.GOOD] / max(answers(found), 1)
    in_colour = {"FA", "V1"} <= set(maps) and maps["V1"].model == model
    return Section(
        name=model,
        title=MODELS[model].title if model in MODELS else METHODS.get(model, model),
        notes=[n.removeprefix(start) for n in made.get("notes", ()) if n.startswith(start)],
        how=sampling(made),
        voxels=voxels_said(maps, model),
        good=share(found[Flag.GOOD], answers(found)),
        maps=[_entry(item, maps, made.get("prior_driven", {})) for item in scalars],
        colour=to_png(pictures.colour_fa(maps)) if in_colour else None,
        flags=to_png(pictures.flag_mosaic(model, maps)) if flagged > WORTH_A_PICTURE else None,
        histograms=to_png(pictures.histograms(scalars, maps)) if scalars else None,
        others=[item.metric for item in mine if item.metric.kind != "scalar"],
        provenance=json.dumps(made, indent=2, ensure_ascii=False),
    )


def _entry(item: Map, maps: MapSet, leaning: Mapping[str, Sequence[str]]) -> MapEntry:
    good = good_voxels(maps, item.model)
    factor, label = scale(item.metric)
    low, middle, high = map(number, _quartiles(item.data[good] / factor))
    caption, deviation = f"Median {middle}, middle half {low} to {high}.", None
    if item.uncertainty is not None:
        typical = number(_quartiles(item.uncertainty[good] / factor)[1])
        caption += f" Right: its standard deviation, median {typical}."
        deviation = to_png(pictures.sd_mosaic(item, maps), pictures.SD_COLOURS)
    return MapEntry(
        metric=item.metric,
        label=label,
        picture=to_png(pictures.map_mosaic(item, maps), item.metric.colormap),
        deviation=deviation,
        caption=caption,
        lacks="; ".join(leaning.get(item.metric.name, ())),
    )


def _quartiles(values: np.ndarray) -> tuple[float, float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)
