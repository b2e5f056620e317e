"""How numbers, units and shares are written for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..maps import Metric

DIGITS = 3
"""Significant digits of numbers in tables."""

PLAIN = (0.01, 1e4)
"""Windows up to here or there are shown without a power of ten."""

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """Write a number with `DIGITS` significant digits."""
    return f"{value:.{DIGITS}g}" if np.isfinite(value) else "-"


def power_of_ten(value: float) -> tuple[float, str]:
    """Return what to divide a number by so that it reads well, 1 for most: 1e-3 and '10⁻³'."""
    if value == 0 or PLAIN[0] <= abs(value) < PLAIN[1]:
        return 1.0, ""
    power = 3 * round(np.log10(abs(value)) / 3)
    return 10.0**power, f"10{str(power).translate(SUPERSCRIPT)}"


def unit(text: str) -> str:
    """Write 'mm2/s' as 'mm²/s', '1/um3' as '1/µm³'."""
    raised = re.sub(r"(?<=m)\d", lambda found: found[0].translate(SUPERSCRIPT), text)
    return re.sub(r"\bum", "µm", raised)


def scale(metric: Metric) -> tuple[float, str]:
    """Return what to divide a metric's values by, and its name with the unit that they have then.

    MD with a window up to 2e-3 mm2/s gives 1e-3 and 'MD [10⁻³ mm²/s]'.
    """
    factor, times = power_of_ten(metric.window[1])
    said = " ".join(filter(None, (times, unit(metric.unit))))
    return factor, f"{metric.name} [{said}]" if said else metric.name


def share(part: int, whole: int) -> str:
    """Write '2.5 %'; what is neither none nor all never reads as 0 % or 100 %."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def sampling(made: Mapping[str, Any]) -> list[str]:
    """Say of maps from samples of a posterior how many there were, and what the prior did.

    Parameters
    ----------
    made : mapping
        Provenance of a method; those without samples say nothing.
    """
    if "samples" not in made:
        return []
    count = made["samples"]
    said = [
        f"Means over {count} samples of what the tissue may be."
        if count > 1
        else "One sample of what the tissue may be: its standard deviations are the network's own."
    ]
    said.append(_adaptation(made.get("adapted", {})))
    said += _left_out(made.get("left_out", {}))
    if "prior_share" in made:
        said.append(
            "Share of the prior in the answer, mean over voxels: "
            f"{100 * made['prior_share']:.0f} % (0 %: this scan alone tells it; 100 %: it is what "
            "tissue usually looks like)."
        )
    return said


def _left_out(told: Mapping[str, Any]) -> list[str]:
    """Say how well volumes are predicted from the others, and how well a tensor does."""
    if not told:
        return []
    said = (
        f"Half of the volumes predict the others ({told['volumes']} volumes, the median voxel): "
        f"off by {number(told['error'])} times the noise"
    )
    if told.get("tensor") is not None:
        said += f", a tensor fitted to that half by {number(told['tensor'])} times"
    return [f"{said}."]


def _adaptation(adapted: Mapping[str, Any]) -> str:
    """Say whether a prior learned from the scan, and by how much that helped."""
    course = adapted.get("unlikeliness") or []
    if not adapted.get("steps"):
        return "The prior was not adapted to this scan."
    if not course:
        return "The scan has too few volumes to adapt the prior to it."
    gain = course[0] - min(course)
    if not gain > 0:
        return (
            "Learning from this scan made volumes that were left out no more likely: the prior "
            "stayed as it was."
        )
    return (
        "The prior was adapted to this scan: the log-likelihood of volumes that were left out rose "
        f"by {number(gain)} a voxel."
    )
