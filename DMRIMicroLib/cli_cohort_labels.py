"""Which participants and sessions `dmrimicro cohort` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .errors import InputError


class Level(StrEnum):
    """Levels of a BIDS App."""

    participant = "participant"
    group = "group"


PARTICIPANTS = ("--participant-label", "--participant_label")
SESSIONS = ("--session", "--session-label", "--session_label")

HOW = "spaces (after the three arguments), commas, or repeat it. All if left out."

Participants = Annotated[
    list[str] | None,
    typer.Option(*PARTICIPANTS, help=f"Participants, with or without sub-; {HOW}"),
]
Sessions = Annotated[
    list[str] | None,
    typer.Option(*SESSIONS, help=f"Sessions, with or without ses-; {HOW}"),
]


class LabelsCommand(TyperCommand):
    """A command whose labels may stand apart, as BIDS Apps have them: --participant-label 01 02."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        return super().parse_args(ctx, repeated(args))


def repeated(words: Sequence[str]) -> list[str]:
    """Repeat an option of labels before each of the words that follow it, up to the next option.

    Only where the level was said, the last of the arguments: before, a word may be one of them.
    """
    told: list[str] = []
    option, taken, said = "", False, False
    for word in words:
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            option, taken = name if said and name in PARTICIPANTS + SESSIONS else "", bool(equals)
        elif option:
            told += [option] if taken else []
            taken = True
        said = said or word in set(Level)
        told.append(word)
    return told


def labels(given: Sequence[str] | None) -> list[str]:
    """Turn "01,02" and repeats into labels."""
    return [part.strip() for text in given or () for part in text.split(",") if part.strip()]


def chosen(given: Sequence[str] | None, what: str) -> list[str]:
    """Do as `labels`; an option that names nothing is refused, it would stand for all."""
    found = labels(given)
    if given and not found:
        raise InputError(f"the label of the {what} is empty", "Give one, or leave the option out.")
    return found
