"""Soma and neurite density imaging.

M. Palombo, A. Ianus, M. Guerreri, D. Nunes, D. C. Alexander, N. Shemesh, H. Zhang, NeuroImage 215
(2020) 116835.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..errors import InputError
from ..metric import Metric
from ..physics.compartments import ball, sphere, sphere_diffusivity, stick_mean
from ..physics.weighting import Weighting, weighting
from .base import Parameter, PowderModel
from .powder import LEAST_DIRECTIONS, few_directions
from .slope import mean_and_slope
from .starts import best_of_grid, mesh

NEEDS = Needs(volumes=3, shells=2, directions=6, timing=True, directions_per_shell=LEAST_DIRECTIONS)

ENOUGH_SHELLS, ENOUGH_B = 5, 4000.0
"""From this number of shells and highest b [s/mm2] on the data alone determine the model (S.
Schiavi et al., Hum. Brain Mapp. 44 (2023) 4792-4811: five shells, two above b = 3000)."""

FRACTIONS = ([0.05, 0.2, 0.35, 0.5, 0.7, 0.9], [0.05, 0.25, 0.5, 0.75, 0.95])
DIFFUSIVITIES = ([1.5, 2.5], [0.7, 1.2, 2.2])
RADII = ([2.5, 4.0], [6.0, 8.0], [10.0, 12.0])
"""f_ec and f_is, D_in and D_ec [um2/ms], and R [um] of the search for starts: one start from each
set of radii (in simulations one start misses the optimum in 5 % of voxels, three in 0.5 %)."""


R_LOW, R_HIGH = 1.0, 12.0
"""Bounds of the soma radius [um] (Palombo et al.)."""

DEGREE = 36
"""Of the polynomial in R that stands for the apparent diffusivity of somas in a fit: within 1e-10
um2/ms for delta from 1 to 40 ms, at a hundredth of the cost of the sum over modes."""


@dataclass(frozen=True)
class SANDI(PowderModel):
    """Sticks, spheres and a ball, for any orientations.

    Mean over directions: S(b) = S0 {(1 - f_ec) [f_in A_in + f_is A_is] + f_ec A_ec} with
    f_in + f_is = 1; A_in a stick, A_is a sphere by the Gaussian phase distribution, A_ec a ball.
    The maps show the shares of the whole: f_neurite = (1 - f_ec) f_in, f_soma = (1 - f_ec) f_is.

    Few scans determine all five unknowns; the parameters' priors decide what the data do not
    (`cautions` says so). They are wide: D_in around the 2.25 um2/ms of B. Dhital, M. Reisert,
    E. Kellner, V. G. Kiselev, NeuroImage 189 (2019) 543-550, in white matter, and less in grey
    matter; D_ec around the diffusivity of grey matter; the others about the middle of the ranges
    in which Palombo et al. search.
    """

    name: ClassVar[str] = "sandi"
    title: ClassVar[str] = "Soma and neurite density imaging"
    d_soma: float = 3.0
    """Diffusivity inside somas [um2/ms], fixed as in Palombo et al."""

    unreliable: float = 0.05
    """Soma signal fraction below which R_soma means nothing: so little of the signal comes from
    somas that noise and the prior decide their radius."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("f_neurite", "Neurite signal fraction", window=(0, 0.6), needs=NEEDS),
        Metric("f_soma", "Soma signal fraction", window=(0, 0.6), needs=NEEDS),
        Metric(
            "R_soma",
            "Apparent soma radius",
            "um",
            R_LOW,
            R_HIGH,
            (R_LOW, R_HIGH),
            needs=NEEDS,
        ),
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("f_ec", 0.0, 1.0, "", "extra-cellular signal fraction", prior=(0.4, 0.25)),
        Parameter("f_is", 0.0, 1.0, "", "soma share of the cells' signal", prior=(0.4, 0.25)),
        Parameter("D_in", 0.5, 3.0, "um2/ms", "diffusivity along neurites", prior=(2.0, 0.5)),
        Parameter("R", R_LOW, R_HIGH, "um", "soma radius", prior=(8.0, 3.0)),
        Parameter("D_ec", 0.5, 3.0, "um2/ms", "extra-cellular diffusivity", prior=(1.0, 0.5)),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    def cautions(self, acq: Acquisition) -> tuple[str, ...]:
        """Say when the priors decide part of the answer, and where directions are few."""
        shells = acq.shells
        if len(shells) >= ENOUGH_SHELLS and shells[-1].b >= ENOUGH_B:
            return few_directions(acq)
        priors = ", ".join(
            f"{p.name} {p.prior[0]:g} +- {p.prior[1]:g}{' ' + p.unit if p.unit else ''}"
            for p in self.parameters
            if p.prior
        )
        return (
            f"SANDI has 5 unknowns and this scan {len(shells)} shells up to b = "
            f"{shells[-1].b:.0f} s/mm2: these do not determine them alone, and typical values "
            f"({priors}) decide the rest. Do not read R_soma, nor small differences of f_soma, as "
            f"measured; that takes {ENOUGH_SHELLS} shells or more, up to b >= {ENOUGH_B:g}",
            *few_directions(acq),
        )

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the spherical means: (6, n) parameters -> (m, n)."""
        f_ec, f_is, d_in, radius, d_ec, s0 = parameters
        w = weighting(acq, parameters)
        b = w.b[:, None]
        soma = sphere(b, radius, self.d_soma, *self._timed(w))
        cells = (1 - f_is) * stick_mean(b, d_in) + f_is * soma
        return s0 * ((1 - f_ec) * cells + f_ec * ball(b, d_ec))

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (6, n) -> (m, n) and (6, m, n); held to `signal` by a test."""
        f_ec, f_is, d_in, radius, d_ec, s0 = parameters
        w = weighting(acq, parameters)
        b = w.b[:, None]
        neurite, along = mean_and_slope(b * d_in)
        d_is, steepness = _soma_diffusivity(_soma_series(self._timed(w), self.d_soma), radius)
        soma, extra = ball(b, d_is), ball(b, d_ec)
        cells = torch.lerp(neurite, soma, f_is)
        mean = torch.lerp(cells, extra, f_ec)
        inside = (1 - f_ec) * s0
        jacobian = [
            s0 * (extra - cells),
            inside * (soma - neurite),
            inside * (1 - f_is) * along * b,
            inside * f_is * soma * -b * steepness,
            -b * s0 * f_ec * extra,
            mean,
        ]
        return s0 * mean, torch.stack(jacobian)

    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose the best with small, medium and large somas: (m, n) -> (3, 6, n)."""
        (extra, soma), (d_in, d_ec) = FRACTIONS, DIFFUSIVITIES
        grids = [mesh(extra, soma, d_in, radii, d_ec, like=signal) for radii in RADII]
        return torch.stack([best_of_grid(self, acq, signal, grid) for grid in grids])

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics: (6, n) parameters -> each (n,)."""
        f_ec, f_is, _, radius, _, _ = parameters
        return {
            "f_neurite": (1 - f_ec) * (1 - f_is),
            "f_soma": (1 - f_ec) * f_is,
            "R_soma": radius,
        }

    def undetermined(self, metrics: dict[str, Tensor]) -> Tensor:
        """Mark voxels with too few somas for a radius: (n,) bool."""
        return metrics["f_soma"] < self.unreliable

    def _timed(self, w: Weighting) -> tuple[float, float]:
        """Return delta and Delta, or say that they are needed."""
        if w.delta is None or w.Delta is None:
            raise InputError(
                "the gradient timing is unknown, and the signal of a soma depends on it",
                "Give delta and Delta [ms].",
            )
        return w.delta, w.Delta


def _soma_diffusivity(series: tuple[float, ...], radius: Tensor) -> tuple[Tensor, Tensor]:
    """Apparent diffusivity inside somas and its derivative, by Clenshaw's recurrence.

    Chebyshev coefficients, and (n,) radii in [`R_LOW`, `R_HIGH`] -> (n,) and (n,).
    """
    per_um = 2 / (R_HIGH - R_LOW)
    t = (radius - R_LOW) * per_um - 1
    now, before, slope, slope_before = torch.zeros(4, *t.shape, dtype=t.dtype, device=t.device)
    for coefficient in reversed(series[1:]):
        slope, slope_before = 2 * (now + t * slope) - slope_before, slope
        now, before = 2 * t * now - before + coefficient, now
    return t * now - before + series[0], (now + t * slope - slope_before) * per_um


@lru_cache(maxsize=16)
def _soma_series(timing: tuple[float, float], d: float) -> tuple[float, ...]:
    """Chebyshev coefficients of the apparent diffusivity over the radius."""

    def diffusivity(t: NDArray) -> NDArray:
        radius = R_LOW + (R_HIGH - R_LOW) * (torch.tensor(t) + 1) / 2
        return sphere_diffusivity(radius, d, *timing).numpy()

    return tuple(np.polynomial.chebyshev.chebinterpolate(diffusivity, DEGREE).tolist())
