r"""The Watson distribution of fibre orientations.

Its density on the sphere is :math:`\exp(\kappa t^2) / (4 \pi \int_0^1 \exp(\kappa s^2) ds)`, with
t the cosine to its axis (H. Zhang, T. Schneider, C. A. Wheeler-Kingshott, D. C. Alexander,
NeuroImage 61 (2012) 1000-1016; K. V. Mardia, P. E. Jupp, Directional Statistics (2000), section
9.4.2).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .legendre import check_order
from .sh import sh_basis, sh_degrees

NODES = 48
"""Quadrature nodes of the moments; see `watson_moments` for the error."""

GRADING = 4
"""Nodes are t = 1 - y**GRADING with y even over (0, 1): they crowd where the density peaks."""

KAPPA_MAX = 1e6
"""Concentration beyond which a density counts as this one: its width is 0.04 degrees."""


def kappa_from_odi(odi: Tensor) -> Tensor:
    """Concentration from the orientation dispersion index in (0, 1]: (...) -> (...).

    `odi_from_kappa` of Zhang et al. (2012), inverted.
    """
    # each form is exact at one end: 1 / tan loses kappa = 0 to rounding, tan(1 - odi) large kappa
    sharp = 1 / torch.tan(math.pi / 2 * odi)
    blunt = torch.tan(math.pi / 2 * (1 - odi))
    return torch.where(odi < 0.5, sharp, blunt)


def odi_from_kappa(kappa: Tensor) -> Tensor:
    """Orientation dispersion index, 0 aligned to 1 isotropic: (...) -> (...).

    Zhang et al. (2012): ODI = 2 / pi * arctan(1 / kappa).
    """
    return 2 / math.pi * torch.atan2(torch.ones_like(kappa), kappa)


def watson_moments(kappa: Tensor, order: int) -> Tensor:
    """Means of the Legendre polynomials of the cosine to the axis, under the Watson density.

    They are the SH coefficients of the density about its own axis, up to Y_l0(0) (see
    `watson_sh`).

    Parameters
    ----------
    kappa : (...) tensor
        Concentration, >= 0.
    order : int
        Highest degree, even.

    Returns
    -------
    (..., order / 2 + 1) tensor
        <P_0> = 1, <P_2>, ..., <P_order>.

    Notes
    -----
    Against adaptive quadrature, order <= 24: below 1e-12 for kappa <= 64, 1e-9 for kappa <= 1000,
    1e-5 up to `KAPPA_MAX`.
    """
    depth, projection = _quadrature(order)
    exponent = kappa.clamp(max=KAPPA_MAX)[..., None] * kappa.new_tensor(depth)
    integrals = torch.exp(-exponent) @ kappa.new_tensor(projection)
    return integrals / integrals[..., :1]


def watson_sh(kappa: Tensor, mu: Tensor, order: int) -> Tensor:
    """SH coefficients of the Watson density: <P_l> Y_lm(mu), by the Funk-Hecke theorem.

    Parameters
    ----------
    kappa : (...) tensor
        Concentration, >= 0.
    mu : (..., 3) tensor
        Axis, a unit vector.
    order : int
        Highest degree, even.

    Returns
    -------
    (..., (order + 1) (order + 2) / 2) tensor
        The first is 1 / sqrt(4 pi).
    """
    of_degree = sh_degrees(order)[0].to(mu.device) // 2
    return watson_moments(kappa, order)[..., of_degree] * sh_basis(mu, order)


# numpy arrays are cached, not tensors: a tensor born in inference mode cannot be used in training
@lru_cache(maxsize=64)
def _quadrature(order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(nodes,) 1 - t^2 and (nodes, order / 2 + 1) weighted polynomials."""
    check_order(order)
    y, weights = np.polynomial.legendre.leggauss(NODES)
    y, weights = (y + 1) / 2, weights / 2
    below = y**GRADING  # 1 - t
    slope = GRADING * y ** (GRADING - 1)
    polynomials = np.polynomial.legendre.legvander(1 - below, order)[:, ::2]
    return below * (2 - below), (weights * slope)[:, None] * polynomials


def watson_slopes(moments: Tensor) -> Tensor:
    """Differentiate Legendre moments by the concentration: (..., k + 1) -> (..., k).

    With p ~ exp(kappa t^2), d<P_l> / d kappa = <t^2 P_l> - <t^2> <P_l>, and t^2 P_l is a sum of
    P_{l-2}, P_l and P_{l+2} (Abramowitz and Stegun, eq. 8.5.3, twice); that is why the moment of
    the highest degree is needed but gets no derivative.
    """
    k = moments.shape[-1] - 1
    l = 2 * torch.arange(k).to(moments)  # noqa: E741
    up = (l + 1) * (l + 2) / ((2 * l + 1) * (2 * l + 3))
    same = (l + 1) ** 2 / ((2 * l + 1) * (2 * l + 3)) + l**2 / ((2 * l + 1) * (2 * l - 1))
    down = l * (l - 1) / ((2 * l + 1) * (2 * l - 1))
    here = moments[..., :k]
    second_moment = (1 + 2 * moments[..., 1:2]) / 3
    before = torch.cat([torch.zeros_like(here[..., :1]), here[..., :-1]], -1)
    return up * moments[..., 1:] + (same - second_moment) * here + down * before
