"""What networks see of RISH features: roots of energies, in units in which tissue is of order 1.

Roots and not logarithms: a root is amplitude, in which noise is alike in all tissues, and it is 0
where there is no brain. Roots and not energies: those of white matter, cortex and fluid would lie
two orders of magnitude apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ..errors import InputError

PATCH = 32
"""Voxels along an edge of the patches of a training whose card does not tell: of all recipes."""

NEAR = 0.25
"""Share of a b-value up to which another shell is taken for it, as `Acquisition.shell` has it."""


@dataclass(frozen=True)
class Units:
    """Centre and spread of the root of each order's energy.

    Attributes
    ----------
    centre, spread : (float, float, float)
        By default for brain at b = 1000 s/mm2, relative to b = 0. Rounded, of simulated pairs:
        roots of white matter and cortex are 1.5 to 1.9, 0.08 to 0.34 and, with noise, 0.05 to 0.14;
        those of order 4 without, 0.003 to 0.03, lie at the lower end.
    """

    centre: tuple[float, ...] = (1.5, 0.2, 0.07)
    spread: tuple[float, ...] = (0.4, 0.1, 0.04)

    def to_network(self, rish: Tensor) -> Tensor:
        """Turn energies into network units: (..., 3, x, y, z) to the same."""
        return (rish.clamp(min=0).sqrt() - self._column(self.centre, rish)) / self._column(
            self.spread, rish
        )

    def from_network(self, values: Tensor) -> Tensor:
        """Turn network units into energies; no root is below 0: (..., 3, x, y, z) to the same."""
        root = values * self._column(self.spread, values) + self._column(self.centre, values)
        return root.clamp(min=0).square()

    @property
    def zero(self) -> tuple[float, ...]:
        """What no energy is in network units."""
        return tuple(-c / s for c, s in zip(self.centre, self.spread, strict=True))

    @staticmethod
    def _column(numbers: tuple[float, ...], like: Tensor) -> Tensor:
        return like.new_tensor(numbers)[:, None, None, None]


@dataclass(frozen=True)
class Setting:
    """What a network was trained on, which its card keeps: `data` holds `told()`.

    Attributes
    ----------
    units : Units
    b : float
        Of the shell that it knows best [s/mm2].
    shells : (float, float)
        Least and largest b-value of all shells that it learned from [s/mm2].
    edges : (float, float)
        Of the voxels of low and high features [mm]; by default the HCP's at 3 T and 7 T.
    patch : int
        Voxels along an edge of what it saw of a pair at a time.
    clean : bool
        Whether high features were those of scans without noise.
    quiet : bool
        Whether low features beyond order 0 were those of harmonics with less noise
        (`directions.calmed`).
    """

    units: Units = field(default_factory=Units)
    b: float = 1000.0
    shells: tuple[float, float] = (1000.0, 1000.0)
    edges: tuple[float, float] = (1.25, 1.05)
    patch: int = PATCH
    clean: bool = False
    quiet: bool = False

    @property
    def factor(self) -> float:
        """How much finer the high features are."""
        return self.edges[0] / self.edges[1]

    def knows(self, b: float) -> bool:
        """Whether a shell is among those that it learned from, or within a quarter of one."""
        return (1 - NEAR) * self.shells[0] <= b <= (1 + NEAR) * self.shells[1]

    def told(self) -> dict[str, Any]:
        """Return it as JSON values, for a card's `data`."""
        return asdict(self)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Setting:
        """Make it of a card's `data`."""
        try:
            units = Units(tuple(data["units"]["centre"]), tuple(data["units"]["spread"]))
            low, high = data["edges"]
            patch, b = int(data.get("patch", PATCH)), float(data["b"])
            least, most = data.get("shells", (b, b))
            shells, edges = (float(least), float(most)), (float(low), float(high))
            clean, quiet = (bool(data.get(key, False)) for key in ("clean", "quiet"))
            return cls(units, b, shells, edges, patch, clean, quiet)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the card does not tell units, b and edges of its features ({error})",
                "Give weights that `dmrimicro train` made.",
            ) from error
