"""Free water elimination: a tensor for the tissue beside free water.

O. Pasternak, N. Sochen, Y. Gur, N. Intrator, Y. Assaf, Magn. Reson. Med. 62 (2009) 717-730; for
several shells, without a spatial constraint, A. R. Hoy, C. G. Koay, S. R. Kecskemeti,
A. L. Alexander, NeuroImage 103 (2014) 323-333.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..metric import Metric
from ..physics.compartments import ball
from ..physics.linalg import eigh3
from ..physics.weighting import weighting
from .base import NonlinearModel, Parameter
from .dti import DTI, fractional_anisotropy
from .starts import log_tensor

NEEDS = Needs(volumes=8, shells=2, directions=6)
"""With one shell, free water and a faster tensor are the same (Hoy et al.)."""

TISSUE_D, TISSUE_SD = 0.6, 1.0
"""Prior of the tissue tensor [um2/ms]: isotropic, where Pasternak et al. start, and too wide to
move what the data determine. Without it cerebrospinal fluid is free water as well as a "tissue" as
fast as free water, and noise decides between FW = 1 and FW = 0."""

GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Free water fractions of the search for a start."""

HIGH = (0.85, 0.95, 1.0)
"""More of them, with the prior's tensor: they leave too little signal for one to be fitted."""

LEAST_NOISE = 0.005
"""Noise over S0 that the search takes for granted: no scan has less."""

DIAGONAL = {"prior": (TISSUE_D, TISSUE_SD)}
OFF_DIAGONAL = {"prior": (0.0, TISSUE_SD / 2**0.5)}
"""An off-diagonal element stands for two of the matrix: this prior knows no direction."""


@dataclass(frozen=True)
class FreeWater(NonlinearModel):
    """S(b, g) = S0 [(1 - f) exp(-b g'Dg) + f exp(-b d_water)]: tissue and free water."""

    name: ClassVar[str] = "freewater"
    title: ClassVar[str] = "Free water"
    d_water: float = 3.0
    """Diffusivity of free water at body temperature [um2/ms] (Pasternak et al.)."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("FW", "Free water fraction", needs=NEEDS),
        Metric("FA_t", "Fractional anisotropy of the tissue", needs=NEEDS),
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("Dxx", 0.0, 3.0, "um2/ms", "tissue tensor", **DIAGONAL),
        Parameter("Dyy", 0.0, 3.0, "um2/ms", "tissue tensor", **DIAGONAL),
        Parameter("Dzz", 0.0, 3.0, "um2/ms", "tissue tensor", **DIAGONAL),
        Parameter("Dxy", -1.5, 1.5, "um2/ms", "tissue tensor", **OFF_DIAGONAL),
        Parameter("Dxz", -1.5, 1.5, "um2/ms", "tissue tensor", **OFF_DIAGONAL),
        Parameter("Dyz", -1.5, 1.5, "um2/ms", "tissue tensor", **OFF_DIAGONAL),
        Parameter("f", 0.0, 1.0, "", "free water fraction"),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    unreliable: float = 0.9
    """Free water fraction above which FA_t means nothing: at SNR 20 to 40 its standard deviation
    is 0.12 to 0.2 there, and beyond it the noise of so little tissue looks anisotropic."""

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

        The most probable one wins, by the prior and by residuals of noise that is not known.
        """
        mean, precision = _prior(signal.dtype, signal.device)
        least_noise = len(signal) * LEAST_NOISE**2
        best = signal.new_zeros(8, signal.shape[1])
        least = torch.full_like(best[0], torch.inf)
        for trial in self._trials(acq, signal):
            residual = (self.signal(acq, trial) - signal).square_().sum(0)
            away = precision @ (trial[:6] - mean).square_()
            cost = torch.add(away, residual.add_(least_noise).log_(), alpha=len(signal))
            better = cost < least
            best = torch.where(better, trial, best)
            least = torch.where(better, cost, least)
        return best[None]

    def _trials(self, acq: Acquisition, signal: Tensor) -> Iterator[Tensor]:
        """Yield what each fraction asks for: (m, n) signal -> (8, n) parameters.

        As Hoy et al. do: a tensor is fitted to what the free water leaves of the signal.
        """
        _, water = self._design(acq, signal)
        for f in GRID:
            x = log_tensor(acq, (signal - f * water) / (1 - f))
            yield torch.cat([x[:6], torch.full_like(x[:1], f), x[6:]])
        mean, _ = _prior(signal.dtype, signal.device)
        for f in HIGH:
            x = torch.cat([mean, mean.new_tensor([[f], [1.0]])])
            shape = self.signal(acq, x)
            x = x.repeat(1, signal.shape[1])
            x[7] = (shape * signal).sum(0) / shape.square().sum()
            yield x

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


@lru_cache(maxsize=16)
def _prior(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (6, 1) and precision (6,) of the tissue tensor."""
    told = torch.tensor([p.prior for p in FreeWater.parameters[:6]], dtype=dtype, device=device)
    return told[:, :1], told[:, 1] ** -2
