"""What a mark tells of a scan's quality and of its metrics, for the tables of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..maps import MapSet
from ..metric import Metric
from ..report.flags import good_voxels
from ..report.quality import assess
from ..scan import Scan

DIGITS = 6
"""Significant digits that are kept."""

QUALITY = {
    "voxels": "Voxels of the mask",
    "snr": "Median b0 signal in the mask over the standard deviation of the noise",
    "outlier_volumes": "Volumes whose mean signal does not fit their shell",
    "dropped_slices": "Slices with a drop-out of the signal",
    "unchecked_volumes": "Volumes of b-values with too few volumes to tell an outlier",
    "b_vectors": "Whether fibres run on along the b-vectors as given",
    "coherence": "Score of the b-vectors as given; 1 is chance",
    "high_fa": "Share of voxels with an FA that no brain tissue reaches",
    "negative": "Share of tensors with a negative eigenvalue",
    "residual": "Median |signal - tensor's prediction| over the b0 signal",
}
"""Columns of the quality table, and what they mean. Those of the tensor are of scans with dti."""


def quality_of(scan: Scan, made: Sequence[MapSet]) -> dict[str, Any]:
    """Look at a scan and, if they are among the maps, at those of its tensor."""
    tensor = next((maps for maps in made if "tensor" in maps), None)
    found = assess(scan, tensor)
    coherent = found.coherence
    told = {
        "voxels": None if scan.mask is None else int(scan.mask.sum()),
        "snr": found.snr,
        "outlier_volumes": len(found.outlier_volumes),
        "dropped_slices": len(found.outlier_slices),
        "unchecked_volumes": found.unchecked_volumes,
        "b_vectors": None if coherent is None else coherent.verdict,
        "coherence": None if coherent is None else coherent.given,
        "high_fa": found.high_fa,
        "negative": found.negative,
        "residual": found.residual,
    }
    return {name: _short(value) for name, value in told.items()}


def methods_summary(made: Sequence[MapSet]) -> dict[str, dict[str, dict[str, Any]]]:
    """Median of every scalar map over its good voxels, and how many of all these are.

    Returns
    -------
    dict
        By method, then by metric: median, good and at_limit (shares), unit.
    """
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for maps in made:
        for item in maps.values():
            if item.metric.kind != "scalar":
                continue
            good = good_voxels(maps, item.model)
            values = item.data[good]
            told.setdefault(item.model, {})[item.metric.name] = {
                "median": _short(float(np.median(values))) if len(values) else None,
                "good": _short(float(good.sum() / max(1, maps.mask.sum()))),
                "at_limit": _short(_at_limit(values, item.metric)),
                "unit": item.unit,
            }
    return told


def _at_limit(values: NDArray[np.float32], metric: Metric) -> float | None:
    """Share of values at an end of the valid range, where a network's answers are held."""
    if not len(values):
        return None
    ends = np.float32([metric.low, metric.high])
    return float(((values <= ends[0]) | (values >= ends[1])).mean())


def _short(value: Any) -> Any:
    """Round a number; NaN, which JSON has not, is None."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
