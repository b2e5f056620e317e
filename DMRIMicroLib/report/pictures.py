"""The maps of the report, as matplotlib figures; pyplot and its global state stay untouched."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..maps import Flag, Map, MapSet
from .figures import WIDTH
from .flags import COLOURS, flags_of, good_voxels
from .slices import axial_tiles, mosaic
from .words import scale

HALF = WIDTH / 2
"""Width of a map's figure [inch]: two stand in a row."""

TILES = 6
"""Slices of a map."""

IMAGE_SHARE = 0.84
"""Part of a map's figure that the slices take; the scale stands beside them."""

TALLEST = 1.2
"""A map's figure is not higher than this times its width."""

INK = "#dddddd"
"""Text on the black of the images."""

SD_COLOURS = "magma"
"""Colour map of standard deviations: unlike those of the maps themselves."""

SD_TOP = 95
"""Percentile of the good voxels' standard deviations at the upper end of their scale."""

FLAG_NAMES = {
    Flag.GOOD: "good",
    Flag.NOT_CONVERGED: "not\nconverged",
    Flag.OUT_OF_RANGE: "out of\nrange",
    Flag.UNDETERMINED: "undeter-\nmined",
}
"""As short as the room beside the slices."""

DIRECTION_COLOURS = {"left-right": "red", "front-\nback": "lime", "up-down": "blue"}
"""Colours of directions; lime is Matplotlib's full green."""

PANELS = 2
"""Histograms in a row."""

BINS = 60
"""Bins of a histogram: some three pixels wide."""


def map_mosaic(item: Map, maps: MapSet) -> Figure:
    """Axial slices of a scalar map in its own window, with a scale."""
    return _scaled(item.data, item, maps, item.metric.colormap, item.metric.window)


def sd_mosaic(item: Map, maps: MapSet) -> Figure:
    """Axial slices of a map's standard deviation, from 0 to what few good voxels exceed."""
    assert item.uncertainty is not None
    values = _finite(item.uncertainty[good_voxels(maps, item.model)])
    top = float(np.percentile(values, SD_TOP)) if len(values) else 0.0
    window = (0.0, top or 1.0)
    return _scaled(item.uncertainty, item, maps, SD_COLOURS, window, "SD of ")


def flag_mosaic(model: str, maps: MapSet) -> Figure:
    """Axial slices of a model's flags, with a key of those that occur."""
    flags = flags_of(maps, model)
    tiles, aspect = _spaced_tiles(flags, maps.mask, maps.affine)
    figure, axes = _half_sheet(tiles, aspect)
    colours = ListedColormap([COLOURS[flag] for flag in Flag])
    axes.imshow(
        _laid_out(tiles),
        cmap=colours,
        vmin=-0.5,
        vmax=len(Flag) - 0.5,
        aspect=aspect,
        interpolation="nearest",  # there is nothing between two flags
    )
    shown = [flag for flag in FLAG_NAMES if flag == Flag.GOOD or (flags == flag).any()]
    _key(figure, {FLAG_NAMES[flag]: COLOURS[flag] for flag in shown})
    return figure


def colour_fa(maps: MapSet) -> Figure:
    """Principal direction times FA: red left-right, green front-back, blue up-down."""
    colour = np.abs(maps["V1"].data) * np.clip(maps["FA"].data, 0, 1)[..., None]
    tiles, aspect = _spaced_tiles(colour, maps.mask, maps.affine)
    figure, axes = _half_sheet(tiles, aspect)
    axes.imshow(np.clip(np.nan_to_num(_laid_out(tiles)), 0, 1), aspect=aspect)
    _key(figure, DIRECTION_COLOURS)
    return figure


def histograms(items: Sequence[Map], maps: MapSet) -> Figure:
    """Distribution of scalar maps over their good voxels."""
    rows = -(-len(items) // PANELS)
    figure = Figure(figsize=(HALF, 1.4 * rows), facecolor="white", layout="constrained")
    panels = figure.subplots(rows, PANELS, squeeze=False).ravel()
    for axes, item in zip(panels, items, strict=False):
        factor, label = scale(item.metric)
        values = _finite(item.data[good_voxels(maps, item.model)]) / factor
        low, high = (limit / factor for limit in item.metric.window)
        axes.hist(values, bins=BINS, range=(low, high), color="#4a6fa5")
        if len(values):
            axes.axvline(float(np.median(values)), color="black", lw=1)
        axes.set_xlabel(label, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[len(items) :]:
        axes.set_axis_off()
    return figure


def _scaled(
    data: NDArray,
    item: Map,
    maps: MapSet,
    colours: str,
    window: tuple[float, float],
    what: str = "",
) -> Figure:
    """Draw slices where the map's model has an answer, and the scale beside them."""
    factor, label = scale(item.metric)
    answers = np.where(flags_of(maps, item.model) > Flag.EMPTY, data / factor, np.nan)
    tiles, aspect = _spaced_tiles(answers, maps.mask, maps.affine)
    figure, axes = _half_sheet(tiles, aspect)  # black, and NaN is not drawn
    low, high = (limit / factor for limit in window)
    image = axes.imshow(
        _laid_out(tiles), cmap=matplotlib.colormaps[colours], vmin=low, vmax=high, aspect=aspect
    )
    beside = figure.add_axes((IMAGE_SHARE + 0.02, 0.08, 0.02, 0.84))
    bar = figure.colorbar(image, cax=beside, extend="both")
    bar.ax.tick_params(colors=INK, labelsize=7, pad=1.5)
    bar.outline.set_edgecolor(INK)  # type: ignore[operator]
    bar.set_label(what + label, color=INK, fontsize=8)
    return figure


def _half_sheet(tiles: NDArray, aspect: float) -> tuple[Figure, Axes]:
    """Return a black figure of the mosaic's proportions, its sides labelled R and L."""
    columns = _columns(len(tiles))
    rows = -(-len(tiles) // columns)
    tall = HALF * IMAGE_SHARE * rows * tiles.shape[1] * aspect / (columns * tiles.shape[2])
    figure = Figure(figsize=(HALF, float(np.clip(tall, HALF / 3, TALLEST * HALF))))
    figure.set_facecolor("black")
    axes = figure.add_axes((0, 0, IMAGE_SHARE, 1))
    axes.set_axis_off()
    for x, ha, side in ((0.01, "left", "R"), (0.99, "right", "L")):
        axes.text(x, 0.99, side, transform=axes.transAxes, color=INK, fontsize=10, ha=ha, va="top")
    return figure, axes


def _key(figure: Figure, colours: dict[str, str]) -> None:
    """Name colours, beside the slices."""
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        loc="center left",
        bbox_to_anchor=(IMAGE_SHARE, 0.5),
        frameon=False,
        labelcolor=INK,
        fontsize=6.5,
        handlelength=0.8,
        handletextpad=0.4,
        borderpad=0,
    )


def _columns(count: int) -> int:
    """Tiles in a row: 2 x 2 for four, else up to three."""
    return 2 if count in (2, 4) else min(count, 3)


def _laid_out(tiles: NDArray) -> NDArray:
    return mosaic(tiles, _columns(len(tiles)))


def _spaced_tiles(data: NDArray, mask: NDArray, affine: NDArray) -> tuple[NDArray, float]:
    """Cut the tiles with a black edge, so that masks that fill the image do not touch."""
    tiles, aspect = axial_tiles(data, mask, affine, TILES)
    edge = [(0, 0), (1, 1), (1, 1), (0, 0)][: tiles.ndim]
    return np.pad(tiles, edge, constant_values=np.nan), aspect


def _finite(values: NDArray) -> NDArray:
    return values[np.isfinite(values)]
