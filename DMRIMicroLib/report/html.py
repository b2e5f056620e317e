"""The report as one HTML file: pictures inline, no scripts, nothing from the network."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from ..files import staged
from ..maps import MapSet
from ..page import rendered
from ..scan import Scan
from ..version import __version__
from . import figures
from .advice import HIGH_FA, LOW_SNR, MANY_HIGH_FA, MANY_NEGATIVE
from .coherence import Coherence
from .quality import RESIDUAL_B, Quality, assess
from .sections import general_notes, sections

FILE = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.j2")

MOST_LISTED = 20
"""Slices named in the table."""


def write_report(scan: Scan, maps: MapSet, folder: str | Path) -> Path:
    """Write ``report.html`` about a scan and its maps; return its path.

    The file holds everything that it shows. It is staged and renamed, so an interrupted run
    leaves an earlier report as it was. The signal is read once, a bounded part at a time.

    Parameters
    ----------
    scan : Scan
        The scan that was fitted.
    maps : MapSet
        What the fit gave; with FA, V1 and tensor among them there is more to check.
    folder : path-like
        Where to write; made if need be.

    Raises
    ------
    InputError
        If the folder cannot be written or the image cannot be read.
    """
    with staged(folder) as stage:
        (stage / FILE).write_text(render(scan, maps), encoding="utf-8")
    return Path(folder) / FILE


def render(scan: Scan, maps: MapSet) -> str:
    """Return the report as HTML."""
    quality = assess(scan, maps)
    return rendered(
        TEMPLATE,
        scan=scan,
        version=__version__,
        made=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        facts=list(_facts(scan, maps)),
        quality=quality,
        checks=list(_checks(quality)),
        directions=figures.to_png(figures.directions(scan.acquisition)),
        signal=figures.to_png(figures.volume_signal(scan.acquisition, quality)),
        notes=general_notes(scan, maps),
        models=sections(maps),
    )


def _facts(scan: Scan, maps: MapSet) -> Iterator[tuple[str, str]]:
    """Name and value of what was acquired."""
    yield "Matrix", " x ".join(map(str, scan.shape))
    yield "Voxel size", " x ".join(f"{v:.2f}" for v in scan.voxel_size) + " mm"
    acquisition = scan.acquisition
    yield "Volumes", f"{len(acquisition)} ({acquisition.describe()})"
    timing = {"delta": "δ", "Delta": "Δ", "TE": "TE"}
    known = {sign: getattr(acquisition, name) for name, sign in timing.items()}
    said = [f"{sign} {value:g} ms" for sign, value in known.items() if value is not None]
    yield "Timing", ", ".join(said) or "not known"
    millilitres = abs(np.linalg.det(scan.affine[:3, :3])) / 1000 * int(maps.mask.sum())
    yield "Mask", f"{int(maps.mask.sum())} voxels, {millilitres:.0f} ml"
    if scan.source is not None:
        yield "File", scan.source.name


def _checks(quality: Quality) -> Iterator[tuple[str, str, bool]]:
    """Name, finding and whether it is fine, for every check that was made."""
    if quality.snr is not None:
        found = f"{quality.snr:.1f} (from {quality.noise_method})"
        yield "SNR of the b0 images", found, quality.snr >= LOW_SNR
    checked = len(quality.volume_signal) - quality.unchecked_volumes
    outliers = quality.outlier_volumes
    yield "Outlier volumes", f"{len(outliers)} of {checked} checked", not outliers
    dropped = [f"volume {v} slice {z}" for v, z in quality.outlier_slices]
    more = ["..."] if len(dropped) > MOST_LISTED else []
    listed = ", ".join(dropped[:MOST_LISTED] + more)
    yield "Slice drop-outs", f"{len(dropped)}" + (f": {listed}" if listed else ""), not dropped
    if (test := quality.coherence) is not None:
        yield "b-vectors against fibres", coherence_said(test), test.verdict != "inconsistent"
    if quality.high_fa is not None and quality.negative is not None:
        share = f"{quality.high_fa:.2%} of voxels"
        yield f"FA above {HIGH_FA}", share, quality.high_fa <= MANY_HIGH_FA
        share = f"{quality.negative:.2%} of voxels"
        yield "Negative eigenvalues", share, quality.negative <= MANY_NEGATIVE
    if quality.residual is not None:
        found = f"{quality.residual:.2%} of S0 (median, b up to {RESIDUAL_B:g})"
        yield "Tensor residual", found, True


def coherence_said(found: Coherence) -> str:
    """Put the verdict on the b-vectors into words."""
    if found.verdict == "not assessed":
        return f"not assessed: {found.reason}"
    rivals = [score for label, score in (found.scores or {}).items() if label]
    against = f"score {found.given:.2f}, best of 23 other tables {max(rivals):.2f}, 1 is chance"
    return f"{found.verdict} ({against})"
