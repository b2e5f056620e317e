"""The page about a cohort: one HTML file without scripts, pictures as inline SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..page import pages
from ..version import __version__

if TYPE_CHECKING:
    from .group import Outlier, Row

TEMPLATE = "overview.html.j2"

BINS = 30
"""Bars of a histogram."""

MOST = 200
"""Rows of a table on the page: the tables in the folder have all."""

WIDTH, HEIGHT = 220.0, 60.0
"""Of a histogram [pixels]."""


@dataclass(frozen=True)
class Histogram:
    """Distribution of a number over the scans.

    Attributes
    ----------
    title : str
    low, middle, high : str
        Ends and median.
    bars : list of (x, height) in pixels
    step : float
        Width of a bar.
    marks : list of float
        Where the outliers are.
    count : int
    """

    title: str
    low: str
    middle: str
    high: str
    bars: list[tuple[float, float]]
    step: float
    marks: list[float]
    count: int


def render(
    rows: Sequence[Row],
    unlike: Sequence[Outlier],
    failed: Sequence[Mapping[str, Any]],
    regions: Sequence[Sequence[Any]],
) -> str:
    """Return the page."""
    environment = pages(Path(__file__).parent)
    environment.filters["short"] = short
    kinds = Counter(row.acquisition for row in rows)
    lacking = Counter(f"{m}: {why}" for row in rows for m, why in row.left_out.items())
    scans, broken = {row.scan for row in rows}, {told["key"] for told in failed}
    partial = (broken & scans) - {told["key"] for told in failed if "method" not in told}
    return environment.get_template(TEMPLATE).render(
        version=__version__,
        scans=len(scans - broken),
        partial=len(partial),
        subjects=len({row.subject for row in rows}),
        kinds=kinds.most_common(),
        lacking=lacking.most_common(),
        failed=failed[:MOST],
        failures=len(broken - partial),
        unlike=unlike[:MOST],
        outliers=len(unlike),
        unlike_scans=len({o.scan for o in unlike}),
        histograms=histograms(rows, unlike),
        regions=region_means(regions)[:MOST],
        most=MOST,
    )


def histograms(rows: Sequence[Row], unlike: Sequence[Outlier]) -> list[Histogram]:
    """Draw the distribution of every number over the scans."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for what, value in row.numbers():
            values.setdefault(what, []).append(value)
    far: dict[str, list[float]] = {}
    for outlier in unlike:
        if outlier.z is not None:
            far.setdefault(outlier.what, []).append(float(outlier.value))
    return [_histogram(what, told, far.get(what, [])) for what, told in values.items()]


def _histogram(title: str, values: Sequence[float], far: Sequence[float]) -> Histogram:
    data = np.asarray(values)
    low, high = float(data.min()), float(data.max())
    counts, _ = np.histogram(data, BINS, (low, high) if high > low else (low - 0.5, low + 0.5))
    step = WIDTH / BINS
    bars = [
        (round(k * step, 1), round(HEIGHT * float(n) / counts.max(), 1))
        for k, n in enumerate(counts)
    ]
    # the same outlier need not be drawn a thousand times
    marks = sorted({round(WIDTH * (v - low) / (high - low), 1) for v in far if high > low})
    middle = float(np.median(data))
    said = [short(v) for v in (low, middle, high)]
    return Histogram(title, *said, bars, round(step - 1, 1), marks, len(data))


def short(value: Any) -> str:
    """Write a number of four digits, or what is no number as it is."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def region_means(rows: Sequence[Sequence[Any]]) -> list[tuple[str, str, str, int, str, str, str]]:
    """Average the scans: method, metric, region, scans, mean, standard deviation, unit."""
    told: dict[tuple[str, str, str, str], list[float]] = {}
    for _, method, metric, roi, _, _, mean, _, _, unit in rows:
        if mean is not None:
            told.setdefault((method, metric, roi, unit), []).append(mean)
    return [
        (
            method,
            metric,
            roi,
            len(means),
            f"{np.mean(means):.4g}",
            f"{np.std(means, ddof=1):.3g}" if len(means) > 1 else "",
            unit,
        )
        for (method, metric, roi, unit), means in told.items()
    ]
