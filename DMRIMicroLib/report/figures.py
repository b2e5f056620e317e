"""Figures of the acquisition and its signal; pyplot and its global state stay untouched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..acquisition import Acquisition
from .quality import Quality

WIDTH = 9.0
"""Width of every figure [inch]."""

DPI = 110
"""Pixels an inch: 990 across the page, sharp there and small in a file."""

GREYS = 32
"""Colours of a palette that are left to text on black."""

SHELLS = "viridis"
"""Colour map that tells shells apart; also without colour vision, and in print."""

ALERT = "#c62828"
"""Colour of outliers."""

VIEWS = (
    ("from the feet, as the slices", (0, 1), (0, 0, -1), "R", "A"),
    ("from the front", (0, 2), (0, 1, 0), "R", "S"),
)
"""Name, axes drawn, direction to the viewer [RAS], names of the left and the upper end."""


def to_png(figure: Figure, colours: str | None = None) -> str:
    """Draw a figure into a base64 PNG, for a data URI.

    With the name of a Matplotlib colour map, the figure is held in its colours and greys alone: a
    third of the bytes, and nothing to be seen of it in a picture of one map.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    if colours is not None:
        image = Image.open(drawn).convert("RGB")
        drawn = io.BytesIO()
        image = image.quantize(palette=_palette(colours), dither=Image.Dither.NONE)
        image.save(drawn, format="png", optimize=True)
    return base64.b64encode(drawn.getvalue()).decode("ascii")


@cache
def _palette(colours: str) -> Image.Image:
    """Return an image whose palette is `GREYS` greys and a colour map."""
    greys = matplotlib.colormaps["gray"](np.linspace(0, 1, GREYS))
    scale = matplotlib.colormaps[colours](np.linspace(0, 1, 256 - GREYS))
    image = Image.new("P", (1, 1))
    image.putpalette(np.round(255 * np.vstack([greys, scale])[:, :3]).astype(np.uint8).tobytes())
    return image


def directions(acquisition: Acquisition) -> Figure:
    """Gradient directions of every shell on the sphere, from above and from the front.

    Each direction stands with its opposite, which measures the same: filled where the scanner
    played it, a ring for the opposite.
    """
    figure = Figure(figsize=(WIDTH, 4.3), facecolor="white", layout="constrained")
    colours = _shell_colours(acquisition)
    for axes, (title, drawn, viewer, right, up) in zip(figure.subplots(1, 2), VIEWS, strict=True):
        _sphere(axes, title, right, up)
        for shell, colour in zip(acquisition.shells, colours, strict=True):
            g = acquisition.bvecs[list(shell.indices)]
            for sign in (1, -1):
                near = sign * g[sign * (g @ viewer) >= 0]
                axes.scatter(
                    -near[:, drawn[0]],  # radiological: the patient's right is on the left
                    near[:, drawn[1]],
                    s=22,
                    facecolors=colour if sign > 0 else "none",
                    edgecolors=colour,
                    linewidths=1.2,
                    label=f"b = {shell.b:.0f} s/mm²" if sign > 0 else None,
                )
    if acquisition.shells:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def volume_signal(acquisition: Acquisition, quality: Quality) -> Figure:
    """Mean signal in the mask of every volume, with outliers marked."""
    figure = Figure(figsize=(WIDTH, 3.2), facecolor="white", layout="constrained")
    axes = figure.subplots()
    signal = np.array(quality.volume_signal)
    groups = [("b0", np.flatnonzero(acquisition.is_b0), "#777777")]
    for shell, colour in zip(acquisition.shells, _shell_colours(acquisition), strict=True):
        groups.append((f"b = {shell.b:.0f}", np.array(shell.indices), colour))
    for label, members, colour in groups:
        axes.plot(members, signal[members], "o", ms=4, color=colour, label=label)
    _mark(axes, signal, quality.outlier_volumes, "o", "volume outlier")
    _mark(axes, signal, sorted({v for v, _ in quality.outlier_slices}), "v", "slice drop-out")
    axes.set(xlabel="volume, counted from 0", ylabel="mean signal in mask", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    return figure


def _mark(axes: Axes, signal: NDArray, volumes: Sequence[int], shape: str, label: str) -> None:
    if len(volumes):
        ring = {"ms": 11, "mfc": "none", "mec": ALERT, "mew": 1.5}
        axes.plot(volumes, signal[list(volumes)], shape, label=label, **ring)


def _shell_colours(acquisition: Acquisition) -> NDArray:
    count = len(acquisition.shells)
    # the bright end of the colour map does not show on white
    return matplotlib.colormaps[SHELLS](np.linspace(0.1, 0.8, count) if count > 1 else [0.3])


def _sphere(axes: Axes, title: str, right: str, up: str) -> None:
    """Draw the outline of the sphere and name its ends."""
    turn = np.linspace(0, 2 * np.pi, 181)
    axes.plot(np.cos(turn), np.sin(turn), color="#999999", lw=1)
    opposite = {"R": "L", "A": "P", "S": "I"}
    ends = ((-1.1, 0, right), (1.1, 0, opposite[right]), (0, 1.1, up), (0, -1.1, opposite[up]))
    for x, y, name in ends:
        axes.text(x, y, name, ha="center", va="center", color="#555555")
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", title=title)
    axes.set_axis_off()
