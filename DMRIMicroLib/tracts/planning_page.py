"""The page of a plan: one HTML file, to be read or printed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..page import rendered
from ..version import __version__
from .planning import NOTICE, Picture, Plan, Tissue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).with_name("planning.html.j2")
DPI = 110

PLANES = (
    ("axial", 2, (0, 1), ("R", "L", "P", "A")),
    ("coronal", 1, (0, 2), ("R", "L", "I", "S")),
    ("sagittal", 0, (1, 2), ("P", "A", "I", "S")),
)
"""Name, axis across, axes drawn, and names of the left, right, lower and upper edge. The patient's
right is on the left, as in the report."""

OUTLINES = {"lesion": "#ff5252", "rim": "#ffb300", "contralateral": "#40c4ff"}

MARGIN = 4
"""Voxels around the head in the picture."""

NEAREST_DRAWN = 6
"""Bundles in the picture."""


def render(plan: Plan) -> str:
    """Return the page as HTML."""
    return rendered(
        TEMPLATE,
        plan=plan,
        notice=NOTICE,
        version=__version__,
        facts=list(_facts(plan)),
        notes=plan.notes,
        tissue=list(_rows(plan.tissue)),
        colours=bundle_colours(plan),
        outlines=OUTLINES,
        picture=_drawn(plan),
    )


def bundle_colours(plan: Plan) -> dict[str, str]:
    """Colour of each bundle that is drawn, the nearest ones."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = [bundle.name for bundle in plan.bundles[:NEAREST_DRAWN]]
    return {name: to_hex(colormaps["Set2"](k)) for k, name in enumerate(names)}


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Name and value of what is known of the lesion."""
    facts = plan.facts
    yield "Lesion", f"{facts['lesion']}, {facts['lesion_ml']:.1f} ml"
    yield "Centre (RAS)", ", ".join(f"{v:.1f}" for v in facts["centre_ras_mm"]) + " mm"
    if "side" in facts:
        yield "Side", f"{facts['side']}, {facts['from_midline_mm']:.0f} mm from the midline"
    yield "Rim", f"{facts['rim_mm']:g} mm wide, {facts['rim_ml']:.1f} ml"
    yield "At risk", f"within {facts['distance_mm']:g} mm of the lesion"


def _rows(tissue: list[Tissue]) -> Iterator[dict]:
    """Rows of the table: a map, and its values in the regions."""
    for metric in dict.fromkeys(t.metric for t in tissue):
        mine = {t.region: t for t in tissue if t.metric == metric}
        unit = next(iter(mine.values())).unit
        cells = {name: _said(mine[name]) if name in mine else "-" for name in OUTLINES}
        yield {"metric": metric, "unit": unit, "cells": cells, "change": _change(mine)}


def _said(found: Tissue) -> str:
    own = "" if found.map_sd is None else f" (map ±{found.map_sd:.2g})"
    return f"{found.mean:.3g} ± {found.sd:.2g}{own}"


def _change(mine: dict[str, Tissue]) -> str:
    """Say by how much the lesion differs from the opposite side."""
    if not {"lesion", "contralateral"} <= set(mine) or not mine["contralateral"].mean:
        return "-"
    here, there = mine["lesion"].mean, mine["contralateral"].mean
    return f"{100 * (here - there) / abs(there):+.0f} %"


def _drawn(plan: Plan) -> str:
    """Draw slices through the lesion as a base64 PNG."""
    from matplotlib.figure import Figure

    picture = plan.picture
    back, *masks = _canonical(picture, plan)
    regions = dict(zip(plan.regions, masks[: len(plan.regions)], strict=True))
    visits = dict(zip(picture.visits, masks[len(plan.regions) :], strict=True))
    regions["rim"] = regions["rim"] | regions["lesion"]  # its outer border alone is drawn
    at = np.rint(np.argwhere(regions["lesion"]).mean(0)).astype(int)
    spacing = np.linalg.norm(nib.as_closest_canonical(_image(back, picture)).affine[:3, :3], axis=0)
    figure = Figure(figsize=(10, 3.6), facecolor="black", layout="constrained")
    panes = figure.subplots(1, 3)
    top = np.percentile(back[back > 0], 99.5) if (back > 0).any() else 1.0
    for axes, (title, across, drawn, edges) in zip(panes, PLANES, strict=True):
        aspect = spacing[drawn[1]] / spacing[drawn[0]]
        turn = _Turn(across, int(at[across]), flip=across != 0)
        grey = {"cmap": "gray", "vmin": 0, "vmax": top, "interpolation": "nearest"}
        axes.imshow(turn(back), origin="lower", aspect=aspect, **grey)
        for name, colour in bundle_colours(plan).items():
            _fill(axes, turn(visits[name]), colour, aspect)
        for name, colour in reversed(OUTLINES.items()):
            if (part := turn(regions[name])).any():
                axes.contour(part.astype(float), [0.5], colors=colour, linewidths=1.4)
        axes.set_title(title, color="white", fontsize=9)
        places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.03), (0.5, 0.97))
        for (x, y), edge in zip(places, edges, strict=True):
            axes.text(
                x, y, edge, color="white", fontsize=9, ha="center", va="center",
                transform=axes.transAxes,
            )  # fmt: skip
        axes.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, facecolor="black")
    return base64.b64encode(out.getvalue()).decode("ascii")


class _Turn:
    """A slice of a volume in RAS order, as an image with rows from below."""

    def __init__(self, across: int, index: int, *, flip: bool) -> None:
        self.across, self.index, self.flip = across, index, flip

    def __call__(self, volume: NDArray) -> NDArray:
        plane = np.take(volume, self.index, axis=self.across)
        return (plane[::-1] if self.flip else plane).T


def _fill(axes: Axes, part: NDArray, colour: str, aspect: float) -> None:
    from matplotlib.colors import to_rgb

    layer = np.zeros((*part.shape, 4))
    layer[..., :3] = to_rgb(colour)
    layer[..., 3] = 0.55 * part
    axes.imshow(layer, origin="lower", aspect=aspect, interpolation="nearest")


def _image(data: NDArray, picture: Picture) -> nib.Nifti1Image:
    return nib.Nifti1Image(data.astype(np.float32), picture.affine)


def _canonical(picture: Picture, plan: Plan) -> list[NDArray]:
    """Turn map, regions and bundles to the nearest RAS order, and cut them to the head."""
    parts = [picture.back, *plan.regions.values(), *picture.visits.values()]
    turned = [np.asarray(nib.as_closest_canonical(_image(p, picture)).dataobj) for p in parts]
    filled = np.argwhere((turned[0] > 0) | (turned[1] > 0))
    low, high = filled.min(0) - MARGIN, filled.max(0) + MARGIN + 1
    cut = tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))
    return [turned[0][cut], *(part[cut] > 0 for part in turned[1:])]
