"""The pictures of the report, as matplotlib figures; pyplot and its global state stay untouched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..maps import Map, MapSet
from .quality import Quality
from .slices import axial_tiles, mosaic

WIDTH = 9.0
"""Width of every figure [inch]."""

DPI = 110
"""Pixels an inch: 990 pixels wide, sharp on a page and small in a file."""

INK = "#dddddd"
"""Text on the black of the images."""

COLUMNS = 6
"""Tiles in a row of a mosaic."""

SHELLS = "viridis"
"""Colour map that tells shells apart; also without colour vision, and in print."""

ALERT = "#c62828"
"""Colour of outliers."""

VIEWS = (
    ("from the feet, as the slices", (0, 1), (0, 0, -1), "R", "A"),
    ("from the front", (0, 2), (0, 1, 0), "R", "S"),
)
"""Name, axes drawn, direction to the viewer [RAS], names of the left and the upper end."""


def to_png(figure: Figure) -> str:
    """Draw a figure into a base64 PNG, for a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    return base64.b64encode(buffer.getvalue()).decode("ascii")


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


def map_mosaic(item: Map, mask: NDArray, affine: NDArray) -> Figure:
    """Axial slices of a scalar map in its own window, with a colour bar."""
    tiles, aspect = _spaced_tiles(item.data, mask, affine)
    colours = matplotlib.colormaps[item.metric.colormap]
    low, high = item.metric.window
    figure, axes = _sheet(tiles, aspect)  # black, and NaN is not drawn
    image = axes.imshow(_laid_out(tiles), cmap=colours, vmin=low, vmax=high, aspect=aspect)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01, extend="both")
    bar.formatter.set_powerlimits((-2, 4))
    bar.formatter.set_useMathText(True)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.ax.yaxis.get_offset_text().set_color(INK)
    bar.outline.set_edgecolor(INK)  # type: ignore[operator]
    bar.set_label(with_unit(item), color=INK)
    return figure


def colour_fa(maps: MapSet) -> Figure:
    """Principal direction times FA: red left-right, green front-back, blue up-down."""
    colour = np.abs(maps["V1"].data) * np.clip(maps["FA"].data, 0, 1)[..., None]
    tiles, aspect = _spaced_tiles(colour, maps.mask, maps.affine)
    figure, axes = _sheet(tiles, aspect)
    axes.imshow(np.clip(np.nan_to_num(_laid_out(tiles)), 0, 1), aspect=aspect)
    return figure


def histograms(items: Sequence[Map], mask: NDArray) -> Figure:
    """Distribution of every scalar map in the mask."""
    rows = -(-len(items) // 3)
    figure = Figure(figsize=(WIDTH, 2.1 * rows), facecolor="white", layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes, item in zip(panels, items, strict=False):
        values = item.data[mask]
        values = values[np.isfinite(values)]
        axes.hist(values, bins=80, range=item.metric.window, color="#4a6fa5")
        if len(values):
            axes.axvline(float(np.median(values)), color="black", lw=1)
        axes.set_xlabel(with_unit(item), fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
        axes.ticklabel_format(axis="x", scilimits=(-2, 4), useMathText=True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[len(items) :]:
        axes.set_axis_off()
    return figure


def with_unit(item: Map) -> str:
    """Write 'MD [mm²/s]'."""
    unit = item.unit.replace("mm2", "mm²").replace("um2", "µm²").replace("um", "µm")
    return f"{item.metric.name} [{unit}]" if unit else item.metric.name


def _spaced_tiles(data: NDArray, mask: NDArray, affine: NDArray) -> tuple[NDArray, float]:
    """Cut the tiles with a black edge, so that masks that fill the image do not touch."""
    tiles, aspect = axial_tiles(data, mask, affine)
    edge = [(0, 0), (1, 1), (1, 1), (0, 0)][: tiles.ndim]
    return np.pad(tiles, edge, constant_values=np.nan), aspect


def _sheet(tiles: NDArray, aspect: float) -> tuple[Figure, Axes]:
    """Return a black figure of the mosaic's proportions, its sides labelled R and L."""
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = tiles.shape[1:3]
    tall = WIDTH * 0.9 * (rows * height * aspect) / (columns * width)
    size = (WIDTH, min(tall, WIDTH) + 0.2)
    figure = Figure(figsize=size, facecolor="black", layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    for x, ha, side in ((0.005, "left", "R"), (0.995, "right", "L")):
        axes.text(x, 0.99, side, transform=axes.transAxes, color=INK, fontsize=12, ha=ha, va="top")
    return figure, axes


def _laid_out(tiles: NDArray) -> NDArray:
    return mosaic(tiles, min(COLUMNS, len(tiles)))


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
