"""Structures at risk: bundles near a lesion, and the tissue in it, around it and opposite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ..brain.register import world
from ..errors import InputError
from ..files import staged
from ..maps import MapSet
from ..version import __version__
from .midline import Midline, find_midline
from .regions import Region, nearest
from .risk import AtRisk, at_risk
from .rules import SD, Layers
from .tractogram import Tractogram

NOTICE = "Research use only. Not a medical device."

DISTANCE = 10.0
"""Bundles within this distance of a lesion are told of [mm]."""

RIM = 5.0
"""Width of the rim around a lesion [mm]."""

MIRRORS = ("FA", "MD", "b0")
"""Maps by whose symmetry the midline is found; the first that is there."""

LEAST_LIKENESS = 0.6
"""A plane about which the brain is less symmetric than this is told with a caution."""

OVERLAP = 0.25
"""A mirrored lesion that lies in the lesion by more than this share has no opposite side."""

JSON, HTML = "planning.json", "planning.html"


@dataclass(frozen=True)
class Tissue:
    """A map in a region.

    Attributes
    ----------
    region : str
        lesion, rim or contralateral.
    metric, unit : str
    voxels : int
    mean, sd : float
        Over the region's voxels.
    map_sd : float or None
        Mean of the map's own standard deviation.
    """

    region: str
    metric: str
    unit: str
    voxels: int
    mean: float
    sd: float
    map_sd: float | None


@dataclass(frozen=True, eq=False)
class Picture:
    """What the page draws: a map, its name, its affine, and the voxels of each bundle."""

    back: NDArray
    name: str
    affine: NDArray
    visits: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Plan:
    """What `planning` found; `save` writes it.

    Attributes
    ----------
    facts : dict
        Volume of the lesion, side, distances asked for.
    bundles : list of AtRisk
        The nearest first.
    tissue : list of Tissue
    notes : list of str
    regions : dict of str to (x, y, z) bool array
        lesion, rim, contralateral, on the grid of the maps.
    provenance : dict
    picture : Picture
    """

    facts: dict[str, Any]
    bundles: list[AtRisk]
    tissue: list[Tissue]
    notes: list[str]
    regions: dict[str, NDArray[np.bool_]]
    provenance: dict[str, Any]
    picture: Picture

    def as_json(self) -> dict[str, Any]:
        """Return all but the images, as JSON values."""
        return {
            "format": "DMRIMicro planning",
            "notice": NOTICE,
            "facts": self.facts,
            "bundles": [vars(b) | {"nearest": list(b.nearest)} for b in self.bundles],
            "tissue": [vars(t) for t in self.tissue],
            "notes": self.notes,
            "provenance": self.provenance,
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``planning.json`` and ``planning.html``, to be printed; return the latter."""
        from .planning_page import render

        folder = Path(folder)
        there = [name for name in (JSON, HTML) if (folder / name).exists()]
        if there and not overwrite:
            raise InputError(
                "is there already", "Name another folder, or overwrite.", file=folder / there[0]
            )
        text = json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n"
        page = render(self)
        with staged(folder, last=HTML) as stage:
            (stage / JSON).write_text(text, encoding="utf-8")
            (stage / HTML).write_text(page, encoding="utf-8")
        return folder / HTML


def planning(
    maps: MapSet,
    lesion: Region,
    tracts: Mapping[str, Tractogram],
    *,
    metrics: Sequence[str] | None = None,
    files: Mapping[str, str | Path] | None = None,
    distance: float = DISTANCE,
    rim: float = RIM,
) -> Plan:
    """Tell which bundles run near a lesion, and how the tissue in, around and opposite it is.

    Parameters
    ----------
    maps : MapSet
    lesion : Region
        A segmentation, see `tracts.regions.read_region`.
    tracts : dict of str to Tractogram
        Bundles by name.
    metrics : sequence of str, optional
        Scalar maps to tell of; all if left out.
    files : dict of str to path-like, optional
        Further images by name.
    distance : float
        Bundles within so many millimetres are at risk.
    rim : float
        Width of the rim around the lesion [mm].

    Notes
    -----
    The contralateral region is the lesion, mirrored at the plane about which the brain is most
    symmetric; voxels that lie in the lesion or its rim, or outside the mask, are left out of it. A
    bundle that was not found is no bundle that is not there.
    """
    if not (distance >= 0 and rim > 0):
        raise InputError(f"distance {distance:g} mm, rim {rim:g} mm", "Give positive numbers.")
    layers = Layers(maps, files or {})
    chosen = _chosen(layers, metrics)
    points = world(maps.affine, maps.mask.shape)
    inside = lesion.contains(points)
    if not (inside & maps.mask).any():
        raise InputError(
            "the lesion does not overlap the maps", "Give one that was drawn on this scan."
        )
    spacing = np.linalg.norm(maps.affine[:3, :3], axis=0)
    around = distance_transform_edt(~inside, sampling=spacing)
    regions = {"lesion": inside & maps.mask, "rim": (around > 0) & (around <= rim) & maps.mask}
    midline, opposite, notes = _opposite(maps, lesion, regions, points)
    regions["contralateral"] = opposite
    notes += [f"{n}: has no lines, nothing can be said of it" for n, t in tracts.items() if not t]
    notes += _leaning(maps, chosen)
    bundles = [at_risk(name, lines, lesion, distance) for name, lines in tracts.items() if lines]
    bundles.sort(key=lambda found: found.distance_mm)
    tissue = [
        found
        for metric in chosen
        for name, where in regions.items()
        if (found := _tissue(name, where, metric, layers)) is not None
    ]
    return Plan(
        _facts(maps, lesion, regions, midline, distance, rim),
        bundles,
        tissue,
        notes,
        regions,
        _provenance(maps, lesion, tracts),
        _picture(maps, layers, chosen, tracts),
    )


def _chosen(layers: Layers, metrics: Sequence[str] | None) -> list[str]:
    if metrics is None:
        return [name for name in layers if not name.endswith(SD)]
    for name in metrics:
        layers[name]  # says what there is, if it is not there
    return list(metrics)


def _opposite(
    maps: MapSet, lesion: Region, regions: Mapping[str, NDArray], points: NDArray
) -> tuple[Midline | None, NDArray[np.bool_], list[str]]:
    """Return the midline, the region opposite the lesion, and what to know of it."""
    nothing = np.zeros_like(maps.mask)
    by = next((name for name in MIRRORS if name in maps), None)
    if by is None:
        return None, nothing, [f"no contralateral region: there is none of {', '.join(MIRRORS)}"]
    affected = regions["lesion"] | regions["rim"]
    try:
        midline = find_midline(maps[by].data, maps.mask, maps.affine, affected)
    except InputError as error:
        return None, nothing, [f"no contralateral region: {error.what}"]
    mirrored = nearest(lesion.inside, lesion.affine, midline.mirrored(points)) & maps.mask
    overlap = (mirrored & regions["lesion"]).sum() / max(int(regions["lesion"].sum()), 1)
    if overlap > OVERLAP:
        told = f"no contralateral region: {overlap:.0%} of the lesion mirrors into itself"
        return midline, nothing, [told]
    free = mirrored & ~affected
    if not free.any():
        return midline, free, ["no contralateral region: it lies outside the mask"]
    if midline.likeness < LEAST_LIKENESS:
        alike = f"the two halves of the brain are alike by {midline.likeness:.2f} only"
        look = "look at the contralateral region in the picture before you trust it"
        return midline, free, [f"{alike} (1 is the same): {look}"]
    return midline, free, []


def _leaning(maps: MapSet, chosen: Sequence[str]) -> list[str]:
    """Say which maps show what tissue usually looks like rather than this patient's."""
    notes = []
    for model, made in maps.provenance.items():
        leaning = [name for name in made.get("prior_driven", {}) if name in chosen]
        if leaning:
            notes.append(
                f"{', '.join(leaning)} ({model}): this scan by itself does not determine them; "
                "they lean on what tissue usually looks like and may miss a lesion, or invent one"
            )
    return notes


def _tissue(name: str, where: NDArray, metric: str, layers: Layers) -> Tissue | None:
    """Average a map over a region; None where there is nothing to average."""
    data = layers[metric][where]
    known = np.isfinite(data)
    if not known.any():
        return None
    item = layers.maps.get(metric)
    own = None
    if item is not None and item.uncertainty is not None and metric not in layers.files:
        own = float(np.nanmean(item.uncertainty[where][known]))
    values = data[known].astype(np.float64)
    return Tissue(
        name,
        metric,
        "" if item is None else item.unit,
        int(known.sum()),
        float(values.mean()),
        float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        own,
    )


def _facts(
    maps: MapSet,
    lesion: Region,
    regions: Mapping[str, NDArray],
    midline: Midline | None,
    distance: float,
    rim: float,
) -> dict[str, Any]:
    own = abs(np.linalg.det(lesion.affine[:3, :3])) * lesion.inside.sum() / 1000
    voxel = abs(np.linalg.det(maps.affine[:3, :3])) / 1000
    middle = np.argwhere(lesion.inside).mean(0) @ lesion.affine[:3, :3].T + lesion.affine[:3, 3]
    facts = {
        "lesion": lesion.name,
        "lesion_ml": round(float(own), 3),
        "centre_ras_mm": [round(float(v), 1) for v in middle],
        "distance_mm": distance,
        "rim_mm": rim,
        "voxels": {name: int(where.sum()) for name, where in regions.items()},
        "rim_ml": round(float(regions["rim"].sum() * voxel), 3),
    }
    if midline is not None:
        side = float((middle - midline.point) @ midline.normal)
        facts |= {
            "side": "right" if side > 0 else "left",
            "from_midline_mm": round(abs(side), 1),
            "midline": {
                "normal": [round(float(v), 4) for v in midline.normal],
                "point": [round(float(v), 2) for v in midline.point],
                "likeness": round(midline.likeness, 3),
            },
        }
    return facts


def _provenance(maps: MapSet, lesion: Region, tracts: Mapping[str, Tractogram]) -> dict[str, Any]:
    return {
        "software": "DMRIMicro",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "lesion": lesion.name,
        "maps": {name: made.get("scan", {}) for name, made in maps.provenance.items()},
        "tracts": {name: lines.provenance for name, lines in tracts.items()},
    }


def _picture(
    maps: MapSet, layers: Layers, chosen: Sequence[str], tracts: Mapping[str, Tractogram]
) -> Picture:
    name = "FA" if "FA" in maps else next(iter(chosen), "mask")
    back = maps.mask.astype(np.float32) if name == "mask" else layers[name]
    visits = {k: t.visits(maps.mask.shape, maps.affine) > 0 for k, t in tracts.items()}
    return Picture(np.nan_to_num(back), name, maps.affine, visits)
