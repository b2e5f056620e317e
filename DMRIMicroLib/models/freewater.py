"""Free water elimination: a tensor for the tissue beside free water.

O. Pasternak, N. Sochen, Y. Gur, N. Intrator, Y. Assaf, Magn. Reson. Med. 62 (2009) 717-730; for
several shells, without a spatial constraint, A. R. Hoy, C. G. Koay, S. R. Kecskemeti,
A. L. Alexander, NeuroImage 103 (2014) 323-333.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..maps import Metric
from ..physics.compartments import ball
from ..physics.linalg import eigh3
from ..physics.weighting import weighting
from .base import NonlinearModel, Parameter
from .dti import DTI, fractional_anisotropy
from .starts import log_tensor

NEEDS = Needs(volumes=8, shells=2, directions=6)
"""With one shell, free water and a faster tensor are the same (Hoy et al.)."""

GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Free water fractions of the search for a start."""


@dataclass(frozen=True)
class FreeWater(NonlinearModel):
    """S(b, g) = S0 [(1 - f) exp(-b g'Dg) + f exp(-b d_water)].

    Pasternak et al., eq. 4; Hoy et al., eq. 1.
    """

    name: ClassVar[str] = "freewater"
    title: ClassVar[str] = "Free water"
    d_water: float = 3.0
    """Diffusivity of free water at body temperature [um2/ms] (Pasternak et al.)."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("FW", "Free water fraction", needs=NEEDS),
        Metric("FA_t", "Fractional anisotropy of the tissue", needs=NEEDS),
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *(Parameter(f"D{a}{a}", 0.0, 3.0, "um2/ms", "tissue tensor") for a in "xyz"),
        *(Parameter(f"D{a}", -1.5, 1.5, "um2/ms", "tissue tensor") for a in ("xy", "xz", "yz")),
        Parameter("f", 0.0, 1.0, "", "free water fraction"),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    unreliable: float = 0.9
    """Free water fraction above which a tenth of the signal is left for the tissue's tensor."""

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the signal: (8, n) parameters -> (m, n)."""
        tensor, f, s0 = parameters[:6], parameters[6], parameters[7]
        exponent, water = self._design(acq, parameters)
        return s0 * ((1 - f) * torch.exp(exponent @ tensor) + f * water)

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (8, n) -> (m, n) and (8, m, n)."""
        tensor, f, s0 = parameters[:6], parameters[6], parameters[7]
        exponent, water = self._design(acq, parameters)
        tissue = torch.mm(exponent, tensor).exp_()
        jacobian = parameters.new_empty(8, *tissue.shape)
        torch.sub(water, tissue, out=jacobian[6])
        torch.addcmul(tissue, jacobian[6], f, out=jacobian[7])  # signal / S0
        jacobian[6].mul_(s0)
        torch.mul(exponent.T[:, :, None], tissue.mul_((1 - f) * s0), out=jacobian[:6])
        return jacobian[7] * s0, jacobian

    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose the best of some fractions, each with its tensor: (m, n) -> (1, 8, n).

        Hoy et al., section 2.2: what a free water fraction leaves of the signal is fitted by a
        tensor; the fraction with the least residual wins.
        """
        _, water = self._design(acq, signal)
        best = signal.new_zeros(8, signal.shape[1])
        least = torch.full_like(signal[0], torch.inf)
        for f in GRID:
            x = log_tensor(acq, (signal - f * water) / (1 - f))
            trial = torch.cat([x[:6], torch.full_like(x[:1], f), x[6:]])
            residual = (self.signal(acq, trial) - signal).square_().sum(0)
            better = residual < least
            best = torch.where(better, trial, best)
            least = torch.where(better, residual, least)
        return best[None]

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics: (8, n) parameters -> FW and FA_t, each (n,)."""
        values = eigh3(parameters[:6])[0].clamp(min=0)
        return {"FW": parameters[6], "FA_t": fractional_anisotropy(values)}

    def undetermined(self, metrics: dict[str, Tensor]) -> Tensor:
        """Mark voxels with too little tissue for a tensor: (n,) bool."""
        return metrics["FW"] > self.unreliable

    def _design(self, acq: Acquisition, like: Tensor) -> tuple[Tensor, Tensor]:
        """Exponent of the tissue per tensor element (m, 6), and signal of free water (m, 1)."""
        return _tensor_design(acq, like.dtype, like.device), ball(
            weighting(acq, like).b, self.d_water
        )[:, None]


@lru_cache(maxsize=16)
def _tensor_design(acq: Acquisition, dtype: torch.dtype, device: torch.device) -> Tensor:
    return DTI().design(acq)[:, :6].to(device, dtype)
