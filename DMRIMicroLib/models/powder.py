"""What every model of spherical means must say of the shells that it averages."""

from __future__ import annotations

import math

from ..acquisition import Acquisition

DIRECTIONS_PER_B = 6.0
"""Directions that a shell needs per ms/um2 of b, for a mean that depends on how a bundle of white
matter lies by a standard deviation of about 1 % (computed in the tests; K. G. Schilling et al.,
Magn. Reson. Imaging 94 (2022) 25-35, study the number needed)."""

LEAST_DIRECTIONS = 6
"""Directions below which the mean of a shell is none: it takes six to average even a tensor over
all directions."""


def few_directions(acq: Acquisition) -> tuple[str, ...]:
    """Say in one sentence that shells have too few directions for a spherical mean."""
    few = [
        (shell.directions / enough, shell, enough)
        for shell in acq.shells
        if shell.directions < (enough := math.ceil(DIRECTIONS_PER_B * shell.b / 1e3 - 0.5))
    ]
    if not few:
        return ()
    _, worst, enough = min(few, key=lambda one: one[0])
    others = f", the worst of {len(few)} such shells" if len(few) > 1 else ""
    return (
        f"few directions (b = {worst.b:.0f} has {worst.directions} directions and needs "
        f"{enough}{others}): spherical means, and so the maps, depend on how the fibres lie by "
        "more than about 1 %",
    )
