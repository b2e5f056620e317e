"""Spherical mean technique: the microscopic diffusion tensor.

E. Kaden, F. Kruggel, D. C. Alexander, Magn. Reson. Med. 75 (2016) 1752-1763.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..metric import Metric
from ..physics.compartments import ball, zeppelin_mean
from ..physics.weighting import weighting
from .base import UNIFORM, Parameter, PowderModel
from .dti import fractional_anisotropy
from .powder import LEAST_DIRECTIONS, few_directions
from .slope import mean_and_slope
from .starts import best_of_grid, evenly, mesh

NEEDS = Needs(volumes=3, shells=2, directions=6, directions_per_shell=LEAST_DIRECTIONS)

FREE = 3.05
"""Upper bound of the diffusivities [um2/ms]: free water at body temperature (Kaden et al.)."""

AT_BOUND = 0.999 * FREE
"""Diffusivity from which a fit has come to rest on the bound [um2/ms]: no tissue is so fast, so
the model does not hold there, or noise or fluid decides."""

GRID = (evenly(0.2, 3.0, 12), evenly(0.0, 0.95, 12))
"""D_par and D_perp / D_par of the search for a start: fine enough for one start to do."""


@dataclass(frozen=True)
class SMT(PowderModel):
    """The spherical mean of the signal is that of one axially symmetric microscopic tensor.

    Mean over directions:
    S(b) = S0 exp(-b D_perp) sqrt(pi) erf(sqrt(b (D_par - D_perp))) / (2 sqrt(b (D_par - D_perp))),
    whatever the fibre orientations. Fitted are D_par and D_perp / D_par, so that
    0 <= D_perp <= D_par <= 3.05 um2/ms needs bounds only.
    """

    name: ClassVar[str] = "smt"
    title: ClassVar[str] = "Spherical mean technique"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "SMT_D_par",
            "Microscopic diffusivity along the fibres",
            "um2/ms",
            0,
            FREE,
            (0, 3),
            needs=NEEDS,
        ),
        Metric(
            "SMT_D_perp",
            "Microscopic diffusivity across the fibres",
            "um2/ms",
            0,
            FREE,
            (0, 1),
            needs=NEEDS,
        ),
        Metric("uFA", "Microscopic fractional anisotropy", needs=NEEDS),
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("D_par", 0.0, FREE, "um2/ms", "diffusivity along the fibres"),
        Parameter("ratio", 0.0, 1.0, "", "D_perp / D_par", prior=UNIFORM),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    def cautions(self, acq: Acquisition) -> tuple[str, ...]:
        """Say which shells have too few directions."""
        return few_directions(acq)

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the spherical means: (3, n) parameters -> (m, n)."""
        d_par, ratio, s0 = parameters
        b = weighting(acq, parameters).b[:, None]
        return s0 * zeppelin_mean(b, d_par, ratio * d_par)

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (3, n) -> (m, n) and (3, m, n)."""
        d_par, ratio, s0 = parameters
        b = weighting(acq, parameters).b[:, None]
        mean, slope = mean_and_slope(b * ((1 - ratio) * d_par))
        across = ball(b, ratio * d_par)
        shape = mean * across
        turn = slope * across
        # the exponents are -b ratio d_par of `across`, and b (1 - ratio) d_par of `mean`
        by_par = b * s0 * ((1 - ratio) * turn - ratio * shape)
        by_ratio = -b * (s0 * d_par) * (turn + shape)
        return s0 * shape, torch.stack([by_par, by_ratio, shape])

    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose the best of a grid: (m, n) spherical means -> (1, 3, n)."""
        return best_of_grid(self, acq, signal, mesh(*GRID, like=signal))[None]

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics: (3, n) parameters -> each (n,); uFA is the FA of the microscopic tensor."""
        d_par, ratio, _ = parameters
        d_perp = ratio * d_par
        return {
            "SMT_D_par": d_par,
            "SMT_D_perp": d_perp,
            "uFA": fractional_anisotropy(torch.stack([d_par, d_perp, d_perp])),
        }

    def undetermined(self, metrics: dict[str, Tensor]) -> Tensor:
        """Mark voxels without a shape of diffusion: (n,) bool.

        Where nothing diffuses, and where D_par rests on its upper bound: the data ask for more than
        free water has, and the other metrics make up for it.
        """
        d_par = metrics["SMT_D_par"]
        return (d_par <= 0) | (d_par >= AT_BOUND)
