"""Neurite orientation dispersion and density imaging (NODDI), with a Watson distribution.

H. Zhang, T. Schneider, C. A. Wheeler-Kingshott, D. C. Alexander, NeuroImage 61 (2012) 1000-1016.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..acquisition import Acquisition, Needs
from ..metric import Metric
from ..physics.compartments import axial_kernel, ball
from ..physics.legendre import legendre
from ..physics.linalg import eigh3
from ..physics.watson import kappa_from_odi, watson_moments, watson_slopes
from ..physics.weighting import weighting
from .base import UNIFORM, NonlinearModel, Parameter
from .starts import log_tensor, mesh

NEEDS = Needs(volumes=8, shells=2, directions=6)
"""With one shell, neurite density and free water cannot be told apart."""

LOW_B, LOW_ORDER, HIGH_ORDER = 3.0, 16, 24
"""Up to b = 3 ms/um2 Legendre series to degree 16 suffice: worst error 1e-3 at ODI = 0.02."""

GRID = {
    "ndi": [0.1, 0.25, 0.4, 0.55, 0.7, 0.85],
    "odi": [0.04, 0.1, 0.2, 0.35, 0.55, 0.8],
    "fwf": [0.0, 0.1, 0.3, 0.6, 0.9],
}
"""Values among which a fit looks for its start."""


@dataclass(frozen=True)
class NODDI(NonlinearModel):
    """S = S0 [(1 - fwf)(ndi A_ic + (1 - ndi) A_ec) + fwf A_iso] (eqs. 1 and 2).

    A_ic are sticks in a Watson distribution (eqs. 3 to 6), A_ec a tensor under the tortuosity
    constraint, averaged over the same distribution (eqs. 7 and 8), A_iso free water.
    """

    name: ClassVar[str] = "noddi"
    title: ClassVar[str] = "NODDI"
    d_par: float = 1.7
    """Diffusivity along neurites [um2/ms] (section "Model fitting")."""
    d_iso: float = 3.0
    """Diffusivity of free water [um2/ms] (the same section)."""
    unreliable: float = 0.9
    """Free water fraction above which a tenth of the signal is left to tell of neurites."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("NDI", "Neurite density index", needs=NEEDS),
        Metric("ODI", "Orientation dispersion index", needs=NEEDS),
        Metric("FWF", "Free water fraction (NODDI)", needs=NEEDS),
        Metric("mu", "Mean neurite direction", "", -1, 1, (-1, 1), kind="vector", needs=NEEDS),
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("ndi", 0.0, 1.0, "", "intra-neurite share of the tissue", prior=UNIFORM),
        Parameter("odi", 0.02, 1.0, "", "dispersion, 2/pi atan(1/kappa)", prior=UNIFORM),
        Parameter("fwf", 0.0, 1.0, "", "free water fraction"),
        Parameter("mu", -1.0, 1.0, "", "mean neurite direction", size=3),
        Parameter("S0", 0.0, 5.0, "", "signal at b = 0"),
    )

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the signal: (7, n) parameters -> (m, n)."""
        ndi, odi, fwf, mu, s0 = self._unpack(parameters)
        w = weighting(acq, parameters)
        b, order = w.b[:, None], _order(acq)
        cos = w.g @ (mu / mu.norm(dim=0))
        moments = watson_moments(kappa_from_odi(odi), order)  # (n, order / 2 + 1)
        kernel = axial_kernel(w.b, self.d_par, 0.0, order) * _degeneracy(order, w.b)
        intra = torch.einsum("ml,nl,mnl->mn", kernel, moments, legendre(cos, order))
        across, along = self._extra(ndi, moments[:, 1])
        extra = torch.exp(-b * (across + (along - across) * cos**2))
        tissue = ndi * intra + (1 - ndi) * extra
        return s0 * ((1 - fwf) * tissue + fwf * ball(b, self.d_iso))

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (7, n) -> (m, n) and (7, m, n).

        The Legendre series are summed as polynomials of x = 2 cos2 - 1 by Horner's rule; held to
        `signal` by a test.
        """
        ndi, odi, fwf, mu, s0 = self._unpack(parameters)
        w, order = weighting(acq, parameters), _order(acq)
        b, water = w.b[:, None], ball(w.b, self.d_iso)[:, None]
        moments = watson_moments(kappa_from_odi(odi), order + 2)
        by_kappa = math.pi / 2 / torch.sin(odi * math.pi / 2).square()  # -d kappa / d ODI
        slopes = watson_slopes(moments) * -by_kappa[:, None]
        moments = moments[:, :-1]
        second, second_by_odi = moments[:, 1], slopes[:, 1]
        cos = torch.mm(w.g, mu)
        square = cos * cos
        series = _series(acq, self.d_par, w.b.dtype, w.b.device)
        intra, by_x, by_odi = _horner(series, moments.T, slopes.T, 2 * square - 1)
        across, along = self._extra(ndi, second)
        extra = torch.addcmul(across, square, along - across).mul_(-b).exp_()

        jacobian = parameters.new_empty(7, *cos.shape)
        scale = s0 * (1 - fwf)
        inside, outside = scale * ndi, scale * (1 - ndi)
        torch.sub(intra, extra, out=jacobian[0])
        tissue = torch.addcmul(extra, jacobian[0], ndi)
        torch.sub(water, tissue, out=jacobian[2])
        torch.addcmul(tissue, jacobian[2], fwf, out=jacobian[6])  # signal / S0
        jacobian[2].mul_(s0)
        # the exponent of `extra` is -b d [1 - ndi (2 + second) / 3 + ndi second cos2]
        steep = extra.mul_(b * self.d_par).mul_(outside)
        shape = torch.addcmul((2 + second) / 3, square, second, value=-1)
        jacobian[0].mul_(scale).addcmul_(steep, shape)
        torch.mul(torch.sub(1 / 3, square, out=square), ndi * second_by_odi, out=jacobian[1])
        jacobian[1].mul_(steep).addcmul_(by_odi, inside)
        turn = by_x.mul_(4 * inside).addcmul_(steep, ndi * second, value=-2).mul_(cos)
        torch.mul(w.g.T[:, :, None], turn, out=jacobian[3:6])
        return jacobian[6] * s0, jacobian

    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose the tensor's direction and the best of a grid: (m, n) -> (1, 7, n).

        Grid points are compared by the mean of every shell and by its second Legendre
        coefficient about that direction.
        """
        _, mu = eigh3(log_tensor(acq, signal.clone())[:6])
        square = (weighting(acq, signal).g @ mu).square()
        shells = acq.shells
        weight = torch.tensor([len(s) for s in shells]).to(signal).sqrt()[:, None]
        features = []
        for shell in shells:
            rows = list(shell.indices)
            y = signal[rows]
            features += [y.mean(0), math.sqrt(5) * (y * (1.5 * square[rows] - 0.5)).mean(0)]
        measured = torch.stack(features) * weight.repeat_interleave(2, 0)
        grid = mesh(*GRID.values(), like=signal)
        expected = self._features(acq.powder(), grid) * weight.repeat_interleave(2, 0)
        # |a - b|^2 without |a|^2, which is the same for every grid point
        distance = torch.addmm(expected.square().sum(0)[:, None], expected.T, measured, alpha=-2)
        best = grid[:, distance.argmin(0)]
        return torch.cat([best, mu, torch.ones_like(best[:1])])[None]

    def _features(self, powder: Acquisition, grid: Tensor) -> Tensor:
        """Mean and second Legendre coefficient of every shell: (3, k) -> (2 shells, k)."""
        ndi, odi, fwf = grid
        b = weighting(powder, grid).b[1:, None]
        second = watson_moments(kappa_from_odi(odi), 2)[:, 1]
        across, along = self._extra(ndi, second)
        intra = axial_kernel(b, self.d_par, 0.0, 2) / (4 * math.pi)
        extra = axial_kernel(b, along, across, 2) / (4 * math.pi)
        mean = (1 - fwf) * (ndi * intra[..., 0] + (1 - ndi) * extra[..., 0])
        mean = mean + fwf * ball(b, self.d_iso)
        shape = (1 - fwf) * (ndi * intra[..., 1] * second + (1 - ndi) * extra[..., 1])
        return torch.stack([mean, math.sqrt(5) * shape], 1).flatten(0, 1)

    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Metrics: (7, n) parameters -> NDI, ODI, FWF (n,) and mu (3, n)."""
        ndi, odi, fwf, mu, _ = self._unpack(parameters)
        return {"NDI": ndi, "ODI": odi, "FWF": fwf, "mu": mu}

    def undetermined(self, metrics: dict[str, Tensor]) -> Tensor:
        """Mark voxels with too little tissue for neurites: (n,) bool."""
        return metrics["FWF"] > self.unreliable

    def _unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return parameters[0], parameters[1], parameters[2], parameters[3:6], parameters[6]

    def _extra(self, ndi: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Diffusivities across and along the mean direction outside neurites (eqs. 7 to 9).

        `second` is the mean of P_2 over the distribution; tau = <cos2> = (1 + 2 second) / 3.
        """
        d_perp = self.d_par * (1 - ndi)  # tortuosity, eq. 9
        gain = self.d_par - d_perp
        along = d_perp + gain * (1 + 2 * second) / 3
        across = d_perp + gain * (1 - second) / 3
        return across, along


def _order(acq: Acquisition) -> int:
    """Degree of the Legendre series that the highest b-value needs."""
    return LOW_ORDER if acq.bvals.max() <= 1e3 * LOW_B else HIGH_ORDER


def _degeneracy(order: int, like: Tensor) -> Tensor:
    """(2 l + 1) / (4 pi) for l = 0, 2 ... order."""
    return (2 * torch.arange(0, order + 1, 2).to(like) + 1) / (4 * math.pi)


@lru_cache(maxsize=16)
def _series(acq: Acquisition, d: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Map Watson moments to polynomial coefficients of the dispersed stick: (k, m, l).

    Coefficient k of x = 2 cos2 - 1, for each of m volumes, by moment l.
    """
    order = _order(acq)
    b = torch.tensor(acq.bvals / 1e3)
    kernel = axial_kernel(b, d, 0.0, order) * _degeneracy(order, b)  # (m, l)
    degree = order // 2
    x = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    values = legendre(torch.tensor(np.sqrt((x + 1) / 2)), order).numpy()  # (x, l)
    powers = np.stack(
        [np.polynomial.chebyshev.cheb2poly(c) for c in _chebyshev(x, values)], axis=1
    )  # (k, l)
    return (torch.tensor(powers)[:, None, :] * kernel).to(device, dtype)


def _chebyshev(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Chebyshev coefficients of the polynomials with these values at Chebyshev nodes: (l, k)."""
    degree = len(x) - 1
    basis = np.polynomial.chebyshev.chebvander(x, degree)
    weight = np.where(np.arange(degree + 1) == 0, 1, 2) / (degree + 1)
    return (values.T @ basis) * weight


def _horner(
    series: Tensor, moments: Tensor, slopes: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Polynomials of x (m, n) with coefficients `series` times moments (l, n), by Horner's rule.

    Returns the value, its derivative by x, and the value with `slopes` in place of `moments`.
    """
    value, by_slope = series[-1] @ moments, series[-1] @ slopes
    by_x = torch.zeros_like(value)
    for matrix in series[:-1].flip(0):
        by_x.mul_(x).add_(value)
        value.mul_(x).addmm_(matrix, moments)
        by_slope.mul_(x).addmm_(matrix, slopes)
    return value, by_x, by_slope
