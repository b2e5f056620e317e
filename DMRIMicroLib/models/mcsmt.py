"""Multi-compartment spherical mean technique.

E. Kaden, N. D. Kelm, R. P. Carson, M. D. Does, D. C. Alexander, NeuroImage 139 (2016) 346-359.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..metric import Metric
from ..physics.compartments import ball, stick_mean, zeppelin_mean
from ..physics.weighting import weighting
from .base import UNIFORM, Parameter, PowderModel
from .powder import LEAST_DIRECTIONS, few_directions
from .slope import mean_and_slope
from .smt import AT_BOUND, FREE
from .starts import best_of_grid, evenly, mesh

NEEDS = Needs(volumes=3, shells=2, directions=6, directions_per_shell=LEAST_DIRECTIONS)

GRID = (evenly(0.03, 0.95, 20), evenly(0.15, 3.0, 20))
"""v and D of the search for a start: fine enough for one start to do (with an 8 x 7 grid 3 % of the
fits end at v = 1, a local minimum)."""


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
        Parameter("v", 0.0, 1.0, "", "intra-neurite volume fraction", prior=UNIFORM),
        Parameter("D", 0.0, FREE, "um2/ms", "intrinsic diffusivity"),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    def cautions(self, acq: Acquisition) -> tuple[str, ...]:
        """Say which shells have too few directions."""
        return few_directions(acq)

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the spherical means: (3, n) parameters -> (m, n)."""
        v, d, s0 = parameters
        b = weighting(acq, parameters).b[:, None]
        return s0 * (v * stick_mean(b, d) + (1 - v) * zeppelin_mean(b, d, (1 - v) * d))

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (3, n) -> (m, n) and (3, m, n)."""
        v, d, s0 = parameters
        b = weighting(acq, parameters).b[:, None]
        sticks, stick_slope = mean_and_slope(b * d)
        mean, slope = mean_and_slope(b * (v * d))
        across = ball(b, (1 - v) * d)
        outside, turn = mean * across, slope * across
        # the exponents are -b (1 - v) d of `across`, and b v d of `mean`
        by_v = sticks - outside + (1 - v) * b * d * (turn + outside)
        by_d = b * (v * stick_slope + (1 - v) * (v * turn - (1 - v) * outside))
        total = v * sticks + (1 - v) * outside
        return s0 * total, torch.stack([s0 * by_v, s0 * by_d, total])

    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose the best of a grid: (m, n) spherical means -> (1, 3, n)."""
        return best_of_grid(self, acq, signal, mesh(*GRID, like=signal))[None]

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics: (3, n) parameters -> each (n,)."""
        v, d, _ = parameters
        return {"v_int": v, "D_int": d, "D_ext_perp": (1 - v) * d}

    def undetermined(self, metrics: dict[str, Tensor]) -> Tensor:
        """Mark voxels whose intrinsic diffusivity rests on its upper bound: (n,) bool.

        The data ask for more than free water has, and v_int makes up for it.
        """
        return metrics["D_int"] >= AT_BOUND
