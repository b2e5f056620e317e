"""What a map shows, and what to think of its voxels."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from .acquisition import Needs


class Flag(IntEnum):
    """What to think of a voxel's metrics; of several, the highest is told."""

    EMPTY = 0
    """No answer."""
    GOOD = 1
    NOT_CONVERGED = 2
    """The solver was still moving when its steps ran out."""
    OUT_OF_RANGE = 3
    """A metric came out beyond its valid range and was set to the limit."""
    UNDETERMINED = 4
    """The signal tells too little of some metric (NDI where all is free water)."""


@dataclass(frozen=True)
class Metric:
    """What a map shows: declared once by its model, read by GUI, CLI, report and tests.

    Attributes
    ----------
    name : str
        Key of the map, unique over all models, e.g. ``"FA"``.
    title : str
        What it means, in a few words.
    unit : str
        ``""`` for a pure number.
    low, high : float
        Range of valid values.
    window : (float, float)
        Grey-level window to show it with.
    colormap : str
        Matplotlib name; the Slicer layer knows the colour node that goes with it.
    kind : {"scalar", "vector", "tensor"}
        Tensors hold (xx, yy, zz, xy, xz, yz), vectors (x, y, z), in RAS world coordinates.
    needs : Needs
        What an acquisition must have to identify it.
    """

    name: str
    title: str
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    colormap: str = "gray"
    kind: Literal["scalar", "vector", "tensor"] = "scalar"
    needs: Needs = field(default=Needs())

    @property
    def channels(self) -> int:
        """Number of values per voxel."""
        return {"scalar": 1, "vector": 3, "tensor": 6}[self.kind]

    @property
    def label(self) -> str:
        """The name as a BIDS label (letters and digits only)."""
        return "".join(c for c in self.name if c.isalnum())
