"""What a fit thinks of its voxels, in numbers and in words. Needs neither torch nor matplotlib."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..maps import MapSet, said_once, voxel_remarks
from ..metric import Flag
from .words import share

MEANING = {
    Flag.EMPTY: "no answer",
    Flag.GOOD: "good",
    Flag.NOT_CONVERGED: "the solver was still moving when its steps ran out",
    Flag.OUT_OF_RANGE: "a metric came out beyond its valid range and was set to the limit",
    Flag.UNDETERMINED: "the signal tells too little of some metric for it to mean anything",
}
"""Each flag in a few words."""

COLOURS = {
    Flag.EMPTY: "#000000",
    Flag.GOOD: "#555555",
    Flag.NOT_CONVERGED: "#E69F00",
    Flag.OUT_OF_RANGE: "#D55E00",
    Flag.UNDETERMINED: "#56B4E9",
}
"""Orange, vermilion and sky blue, which also the colour-blind tell apart (M. Okabe, K. Ito, "Color
Universal Design", 2008)."""

WORTH_A_PICTURE = 0.01
"""Share of flagged voxels above which it matters where they are."""

UNUSED = ("left_out", "unusable_samples", "with_unusable_samples")
"""What `MapSet.provenance` counts besides the flags."""


def flags_of(maps: MapSet, model: str) -> NDArray[np.uint8]:
    """Return (x, y, z) flags of a model; good wherever there is an answer if it has none."""
    return maps.flags.get(model, maps.mask.astype(np.uint8))


def good_voxels(maps: MapSet, model: str) -> NDArray[np.bool_]:
    """(x, y, z) voxels whose metrics can be trusted, as far as the fit can tell."""
    return flags_of(maps, model) == Flag.GOOD


def counts(maps: MapSet, model: str) -> dict[Flag, int]:
    """Count the voxels of each flag; empty ones inside the mask of all models together."""
    found = np.bincount(flags_of(maps, model)[maps.mask], minlength=len(Flag))
    return {flag: int(found[flag]) for flag in Flag}


def answers(found: dict[Flag, int]) -> int:
    """Voxels that hold an answer, good or not."""
    return sum(count for flag, count in found.items() if flag > Flag.EMPTY)


def voxels_said(maps: MapSet, model: str) -> list[str]:
    """Say how many voxels are good, and what is with the others."""
    found = counts(maps, model)
    good, every = found[Flag.GOOD], answers(found)
    said = [f"{good} of {every} voxels ({share(good, every)}) are good"]
    said += [
        f"{found[flag]} ({share(found[flag], every)}): {MEANING[flag]}"
        for flag in Flag
        if flag > Flag.GOOD and found[flag]
    ]
    return said


def unused_said(maps: MapSet) -> list[str]:
    """Say which voxels and samples no fit could use."""
    return said_once(
        {
            model: voxel_remarks(
                model, {k: n for k, n in made.get("voxels", {}).items() if k in UNUSED}
            )
            for model, made in maps.provenance.items()
        }
    )
