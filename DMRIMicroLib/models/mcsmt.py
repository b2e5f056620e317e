"""Multi-compartment spherical mean technique.

E. Kaden, N. D. Kelm, R. P. Carson, M. D. Does, D. C. Alexander, NeuroImage 139 (2016) 346-359.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..maps import Metric
from ..physics.compartments import stick_mean, zeppelin_mean
from ..physics.weighting import weighting
from .base import Parameter, PowderModel
from .slope import slope
from .smt import FREE
from .starts import best_of_grid, mesh

NEEDS = Needs(volumes=3, shells=2, directions=6)

GRID = ([0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.98], [0.5, 0.9, 1.3, 1.7, 2.1, 2.5, 2.9])
"""v and D of the search for a start."""


@dataclass(frozen=True)
class MCSMT(PowderModel):
    """Neurites as sticks in a zeppelin, of one intrinsic diffusivity, for any orientations.

    Mean over directions: S(b) = S0 [v stick(D) + (1 - v) zeppelin(D, D_perp)] with the
    first-order tortuosity D_perp = (1 - v) D.
    """

    name: ClassVar[str] = "mcsmt"
    title: ClassVar[str] = "Multi-compartment spherical mean technique"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("v_int", "Intra-neurite volume fraction", needs=NEEDS),
        Metric("D_int", "Intrinsic diffusivity", "um2/ms", 0, FREE, (0, 3), needs=NEEDS),
        Metric(
            "D_ext_perp",
            "Extra-neurite diffusivity across the fibres",
            "um2/ms",
            0,
            FREE,
            (0, 2),
            needs=NEEDS,
        ),
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("v", 0.0, 1.0, "", "intra-neurite volume fraction"),
        Parameter("D", 0.0, FREE, "um2/ms", "intrinsic diffusivity"),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the spherical means: (3, n) parameters -> (m, n)."""
        v, d, s0 = parameters
        b = weighting(acq, parameters).b[:, None]
        return s0 * (v * stick_mean(b, d) + (1 - v) * zeppelin_mean(b, d, (1 - v) * d))

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (3, n) -> (m, n) and (3, m, n)."""
        v, d, s0 = parameters
        b = weighting(acq, parameters).b[:, None]
        sticks, sticks_by_d = slope(lambda x: stick_mean(b, x), d)
        outside, outside_by_d = slope(lambda x: zeppelin_mean(b, x, (1 - v) * x), d)
        _, outside_by_v = slope(lambda x: zeppelin_mean(b, d, (1 - x) * d), v)
        by_v = sticks - outside + (1 - v) * outside_by_v
        by_d = v * sticks_by_d + (1 - v) * outside_by_d
        mean = v * sticks + (1 - v) * outside
        return s0 * mean, torch.stack([s0 * by_v, s0 * by_d, mean])

    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose the best of a grid: (m, n) spherical means -> (1, 3, n)."""
        return best_of_grid(self, acq, signal, mesh(*GRID, like=signal))[None]

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics: (3, n) parameters -> each (n,)."""
        v, d, _ = parameters
        return {"v_int": v, "D_int": d, "D_ext_perp": (1 - v) * d}
