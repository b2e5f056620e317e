"""All scans of a cohort together: tables of quality, metrics, outliers, failures and regions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import staged
from . import state
from .rois import COLUMNS as ROI_COLUMNS
from .rois import ROIS, RoiTask, atlas_of
from .summary import QUALITY

GROUP = "group"
"""Folder of the tables."""

OUTLIER_Z = 3.5
"""Robust z beyond which a value is an outlier (B. Iglewicz, D. Hoaglin, "How to Detect and Handle
Outliers", ASQC Quality Press 1993, p. 12)."""

MAD_TO_SD, MEAN_TO_SD = 1.4826, 1.2533
"""Median and mean absolute deviation to standard deviation, for a normal distribution. The mean's
serves where the median's is 0, as of counts that are mostly 0 (ibid.)."""

LEAST_ALIKE = 8
"""Scans of one acquisition that are needed to say that one of them is unlike the others."""

MISSING = "n/a"
"""BIDS' word for no value."""

SCAN_COLUMNS = {
    "scan": "Name of the scan",
    "participant_id": "Participant",
    "session_id": "Session",
    "acquisition": "Shells; outliers are sought among scans of the same",
    "state": "done, or what of it failed when it was last tried",
}
METRIC_COLUMNS = {
    "scan": "Name of the scan",
    "method": "Model, codebook or pigment",
    "metric": "What the map shows",
    "median": "Median over the good voxels",
    "good": "Share of the mask's voxels that are good",
    "at_limit": "Share of these at an end of the metric's range, or set to it",
    "unit": "Of the median",
}
OUTLIER_COLUMNS = {
    "scan": "Name of the scan",
    "what": "Column of the quality table, or method and metric (median over the good voxels)",
    "value": "Of this scan",
    "usual": "Median of the scans of the same acquisition",
    "z": f"Robust z; beyond {OUTLIER_Z} it is told (n/a: no number)",
}
FAILED_COLUMNS = {
    "scan": "Name of the scan",
    "method": "What failed; n/a: all of the scan",
    "error": "What went wrong",
    "fix": "What to do",
    "file": "The file that it is about",
    "attempts": "How often it was tried",
}
LEFT_OUT_COLUMNS = {
    "scan": "Name of the scan",
    "method": "Model that was left out",
    "why": "What the scan lacks for it",
}


@dataclass(frozen=True)
class Row:
    """One scan of the cohort, of all its marks together.

    Attributes
    ----------
    scan, subject : str
    session : str or None
    acquisition : str
    quality : dict
        See `summary.QUALITY`.
    metrics : dict
        By method, then metric: see `summary.methods_summary`.
    left_out : dict of str to str
        Methods that the scan does not allow, and why.
    """

    scan: str
    subject: str
    session: str | None
    acquisition: str
    quality: dict[str, Any]
    metrics: dict[str, dict[str, dict[str, Any]]]
    left_out: dict[str, str] = field(default_factory=dict)

    def numbers(self) -> Iterator[tuple[str, float]]:
        """Yield everything that can be compared between scans, by name."""
        for name, value in self.quality.items():
            if isinstance(value, int | float):
                yield name, float(value)
        for method, metrics in self.metrics.items():
            for name, told in metrics.items():
                if told["median"] is not None:
                    yield f"{method} {name}", told["median"]


@dataclass(frozen=True)
class Outlier:
    """A value unlike those of the other scans."""

    scan: str
    what: str
    value: Any
    usual: Any
    z: float | None


def rows_of(out: Path) -> list[Row]:
    """Read what is done of a cohort: one row a scan, in natural order.

    Raises
    ------
    InputError
        If nothing is.
    """
    rows = [_row(key, marks) for key, marks in state.marks(out) if marks]
    if not rows:
        raise InputError("no scan is done there", "Run the participant level first.", file=out)
    return rows


def _row(key: str, marks: Mapping[str, Mapping[str, Any]]) -> Row:
    any_mark = next(iter(marks.values()))
    quality: dict[str, Any] = dict.fromkeys(QUALITY)
    for mark in marks.values():  # those of the tensor are of the run that had it
        quality |= {k: v for k, v in mark["quality"].items() if v is not None}
    return Row(
        key,
        any_mark["subject"],
        any_mark["session"],
        any_mark["acquisition"],
        quality,
        {method: mark["metrics"] for method, mark in marks.items() if mark["metrics"]},
        {method: mark["left_out"] for method, mark in marks.items() if mark["left_out"]},
    )


def outliers(rows: Sequence[Row]) -> list[Outlier]:
    """Find values unlike those of the other scans of the same acquisition, worst first.

    b-vectors that do not fit the image are told wherever they are: they need no others to be wrong.
    """
    found = [
        Outlier(row.scan, "b_vectors", "inconsistent", "consistent", None)
        for row in rows
        if row.quality.get("b_vectors") == "inconsistent"
    ]
    alike: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in rows:
        for what, value in row.numbers():
            alike.setdefault((row.acquisition, what), []).append((row.scan, value))
    unlike = []
    for (_, what), values in alike.items():
        if len(values) < LEAST_ALIKE:
            continue
        z, usual = robust_z([value for _, value in values])
        unlike += [
            Outlier(scan, what, value, usual, round(float(score), 2))
            for (scan, value), score in zip(values, z, strict=True)
            if abs(score) > OUTLIER_Z
        ]
    return found + sorted(unlike, key=lambda o: -abs(o.z or 0.0))


def robust_z(values: Sequence[float]) -> tuple[np.ndarray, float]:
    """Distance of each value from the median, in robust standard deviations, and the median."""
    data = np.asarray(values, dtype=np.float64)
    usual = float(np.median(data))
    away = np.abs(data - usual)
    spread = MAD_TO_SD * float(np.median(away)) or MEAN_TO_SD * float(away.mean())
    return ((data - usual) / spread if spread else np.zeros_like(data)), usual


def roi_tasks(out: Path, atlas: str) -> Iterator[RoiTask]:
    """Yield what is to be done for the table of regions."""
    for key, marks in state.marks(out):
        made = {method: mark for method, mark in marks.items() if mark["metrics"]}
        if made:
            first = next(iter(made.values()))
            yield RoiTask(key, out, made, atlas_of(atlas, first["subject"], first["session"]))


def roi_rows(out: Path) -> list[list[Any]]:
    """Read the statistics of all scans, as far as they are there and of the marks that are."""
    rows: list[list[Any]] = []
    for key, _ in state.marks(out):
        kept = state.read_mark(out / state.STATE / ROIS / f"{key}.json")
        rows += [] if kept is None else kept["rows"]
    return rows


def write_group(out: Path, rois: bool = False) -> Path:
    """Write the tables of a cohort and the page about them; return the page.

    Parameters
    ----------
    out : Path
        The data set of maps.
    rois : bool
        Whether the statistics of regions belong to it (`roi_tasks` were run).
    """
    from .overview import render

    rows, failed = rows_of(out), list(state.failures(out))
    states, unlike = states_of(failed), outliers(rows)
    regions = roi_rows(out) if rois else []
    tables = {
        "quality": (
            SCAN_COLUMNS | QUALITY,
            (_quality_row(row, states.get(row.scan, "done")) for row in rows),
        ),
        "metrics": (METRIC_COLUMNS, _metric_rows(rows)),
        "outliers": (
            OUTLIER_COLUMNS,
            ([o.scan, o.what, o.value, o.usual, o.z] for o in unlike),
        ),
        "failed": (FAILED_COLUMNS, (_failed_row(told) for told in failed)),
        "left_out": (
            LEFT_OUT_COLUMNS,
            ([row.scan, method, why] for row in rows for method, why in row.left_out.items()),
        ),
    }
    if rois:
        tables["rois"] = (ROI_COLUMNS, regions)
    with staged(out / GROUP, last="index.html") as stage:
        for name, (columns, content) in tables.items():
            text = tsv(list(columns), content)
            (stage / f"{name}.tsv").write_text(text, encoding="utf-8", newline="")
            said = {column: {"Description": what} for column, what in columns.items()}
            (stage / f"{name}.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        page = render(rows, unlike, failed, regions)
        (stage / "index.html").write_text(page, encoding="utf-8")
    return out / GROUP / "index.html"


def tsv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table as BIDS wants it."""
    told = io.StringIO(newline="")
    writer = csv.writer(told, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([MISSING if value in (None, "") else _plain(value) for value in row])
    return told.getvalue()


def _plain(value: Any) -> Any:
    """Put text on one line: a table has one a row."""
    return " ".join(value.split()) if isinstance(value, str) else value


def states_of(failed: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Say of every scan that failed what did: some of its methods, or all of it."""
    what: dict[str, list[str]] = {}
    for told in failed:
        what.setdefault(told["key"], []).append(told.get("method", ""))
    return {
        key: f"in part: {', '.join(methods)} failed" if all(methods) else "failed"
        for key, methods in what.items()
    }


def _quality_row(row: Row, said: str) -> list[Any]:
    session = None if row.session is None else f"ses-{row.session}"
    told = [row.scan, f"sub-{row.subject}", session, row.acquisition, said]
    return told + [row.quality.get(name) for name in QUALITY]


def _metric_rows(rows: Sequence[Row]) -> Iterator[list[Any]]:
    for row in rows:
        for method, metrics in row.metrics.items():
            for name, told in metrics.items():
                own = (told.get(key) for key in ("median", "good", "at_limit", "unit"))
                yield [row.scan, method, name, *own]


def _failed_row(told: Mapping[str, Any]) -> list[Any]:
    return [told.get(name) for name in ("key", "method", "error", "fix", "file", "attempts")]
