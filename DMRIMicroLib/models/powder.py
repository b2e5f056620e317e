"""What every model of spherical means must say of the shells that it averages."""

from __future__ import annotations

import math

from ..acquisition import Acquisition

DIRECTIONS_PER_B = 6.0
"""Directions that a shell needs per ms/um2 of b, for a mean that depends on how a bundle of white
matter lies by a standard deviation of about 1 % (computed in the tests; K. G. Schilling et al.,
Magn. Reson. Imaging 94 (2022) 25-35, study the number needed)."""


def few_directions(acq: Acquisition) -> tuple[str, ...]:
    """Say which shells have too few directions for a spherical mean."""
    few = [
        f"b = {shell.b:.0f} has {shell.directions} directions and needs {enough}"
        for shell in acq.shells
        if shell.directions < (enough := math.ceil(DIRECTIONS_PER_B * shell.b / 1e3 - 0.5))
    ]
    if not few:
        return ()
    return (
        f"some shells have few directions ({'; '.join(few)}): their spherical means, and so the "
        "maps, depend on how the fibres lie by more than about 1 %",
    )
