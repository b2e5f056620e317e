"""What is held out of the learning: whole subjects, or slices where there are few subjects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError

if TYPE_CHECKING:
    from .prepare import Prepared

HELD_OUT = 0.2
"""Share of subjects, or of slices where there are fewer than three subjects, held out."""

FEW = 3
"""Subjects below which slices are held out and not subjects."""

T = TypeVar("T")


def subjects_apart(subjects: Sequence[str], wanted: Sequence[str] = ()) -> set[str]:
    """Return the subjects that are held out; none if slices are.

    Parameters
    ----------
    subjects : sequence of str
        Labels, one of every scan.
    wanted : sequence of str
        Labels with or without ``sub-``, as folders are called; the last fifth if left out.
    """
    there = list(dict.fromkeys(subjects))
    plain = {label: _letters(label) for label in wanted}
    chosen = {n if n in there else plain[label] for label in wanted if (n := _bare(label))}
    if lacking := chosen - set(there):
        raise InputError(
            f"{len(lacking)} subjects to hold out are not among the {len(there)} scanned",
            "Name some of them (--held-out).",
        )
    if chosen or len(there) < FEW:
        return chosen
    return set(there[-max(1, round(HELD_OUT * len(there))) :])


def parted(slices: Sequence[T]) -> tuple[list[T], list[T]]:
    """Part the slices of a scan: those that are learned from, and those that are held out.

    Between them one is left out, where there are enough: neighbours are alike.
    """
    out = max(1, round(HELD_OUT * len(slices)))
    gap = 1 if len(slices) - out > FEW else 0
    return list(slices[: max(0, len(slices) - out - gap)]), list(slices[len(slices) - out :])


def split(
    made: Prepared, wanted: Sequence[str] = ()
) -> tuple[list[Path], list[Path], dict[str, Any]]:
    """Return the slices to learn from, those held out, and what the card says of it."""
    chosen = subjects_apart(made.subjects, wanted)
    known, apart = [], []
    for files, subject in zip(made.files, made.subjects, strict=True):
        if chosen:
            (apart if subject in chosen else known).extend(files)
        elif files:
            first, last = parted(files)
            known += first
            apart += last
    if not known or not apart:
        raise InputError(
            f"{len(known)} slices would be learned from, and {len(apart)} held out",
            "Give more subjects, or scans of more slices.",
        )
    what = {"subjects": len(chosen)} if chosen else {"slices of the same scans": len(apart)}
    return known, apart, {"held out": what, "held out for": "when to stop, deviations, correlation"}


def _bare(label: str) -> str:
    return label.removeprefix("sub-")


def _letters(label: str) -> str:
    """Label as BIDS allows it: the HCP's folders may be called otherwise."""
    return "".join(c for c in _bare(label) if c.isalnum())
