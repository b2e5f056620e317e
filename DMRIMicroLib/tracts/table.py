"""A table in a file, and its figure beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError
from ..files import staged

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tabular(Protocol):
    """What can be written as a table and drawn."""

    def rows(self) -> Iterable[Sequence[Any]]:
        """Return the rows of the table, the head first."""
        ...

    def figure(self) -> Figure:
        """Draw it."""
        ...


def save_table(
    told: Tabular, file: str | Path, figure: str | Path | None, *, overwrite: bool
) -> Path:
    """Write the rows as CSV, and a PNG of the figure if asked; return the table's path."""
    file = Path(file)
    for one in filter(None, (file, figure)):
        if Path(one).exists() and not overwrite:
            raise InputError("is there already", "Name another, or overwrite it.", file=one)
    with staged(file.parent) as stage:
        with (stage / file.name).open("w", encoding="utf-8", newline="") as text:
            csv.writer(text).writerows(told.rows())
    if figure is not None:
        with staged(Path(figure).parent) as stage:
            told.figure().savefig(stage / Path(figure).name, dpi=110)
    return file
