"""Real spherical harmonics of even degree.

The basis of M. Descoteaux, E. Angelino, S. Fitzgibbons, R. Deriche, Magn. Reson. Med. 58 (2007)
497-510, with the signs of dipy's ``descoteaux07`` and ``legacy=False``: cosines for m < 0 and
sines for m > 0, the latter times the Condon-Shortley phase (-1)^m. Coefficients are ordered by
degree l, then m from -l to l.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .legendre import check_order


def sh_degrees(order: int) -> tuple[Tensor, Tensor]:
    """Degree and phase factor of each coefficient: (c,) and (c,) int64 tensors l and m."""
    check_order(order)
    pairs = [(degree, m) for degree in range(0, order + 1, 2) for m in range(-degree, degree + 1)]
    return torch.tensor([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])


def sh_order(coefficients: int) -> int:
    """Order of a series with that many coefficients, (order + 1) (order + 2) / 2."""
    order = (math.isqrt(8 * coefficients + 1) - 3) // 2
    if order < 0 or order % 2 or (order + 1) * (order + 2) != 2 * coefficients:
        raise InputError(
            f"{coefficients} spherical harmonic coefficients", "Give 1, 6, 15, 28, 45, ... of them."
        )
    return order


def sh_basis(directions: Tensor, order: int) -> Tensor:
    """Values of the real, even spherical harmonics.

    As polynomials in the direction's components, without angles: smooth at the poles too.

    Parameters
    ----------
    directions : (..., 3) tensor
        Unit vectors.
    order : int
        Highest degree, even.

    Returns
    -------
    (..., (order + 1) (order + 2) / 2) tensor
    """
    check_order(order)
    x, y, z = directions.unbind(-1)
    values: dict[tuple[int, int], Tensor] = {}
    cosine, sine = torch.ones_like(x), torch.zeros_like(x)  # of m phi, times sin(theta)^m
    for m in range(order + 1):
        for degree, polar in _polar(z, m, order):
            if degree % 2 == 0:
                values[degree, -m] = polar * cosine
                if m:
                    values[degree, m] = (-1) ** m * polar * sine
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine
    degrees, phases = sh_degrees(order)
    keys = zip(degrees.tolist(), phases.tolist(), strict=True)
    return torch.stack([values[key] for key in keys], dim=-1)


def products(one: int, other: int, wanted: int) -> Tensor:
    """Integrals over the sphere of products of three harmonics, of degrees l, l' and k.

    Exact, by Gauss-Legendre quadrature along z and equal steps around it. Coefficients of the part
    of degree k of a product of two functions are the sum over i and j of
    ``products(l, l', k)[i, j] * first[i] * second[j]``.

    Returns
    -------
    (2 l + 1, 2 l' + 1, 2 k + 1) tensor, double precision
    """
    total = one + other + wanted
    nodes, weights = np.polynomial.legendre.leggauss(total // 2 + 1)
    steps = total + 1
    phi = 2 * math.pi * torch.arange(steps, dtype=torch.float64) / steps
    z = torch.as_tensor(nodes)[:, None].expand(-1, steps)
    x, y = ((1 - z * z).sqrt() * f(phi) for f in (torch.cos, torch.sin))
    values = sh_basis(torch.stack([x, y, z], -1).reshape(-1, 3), max(one, other, wanted))
    degrees = sh_degrees(max(one, other, wanted))[0]
    weight = torch.as_tensor(weights)[:, None].expand(-1, steps).reshape(-1) * (2 * math.pi / steps)
    parts = (values[:, degrees == degree] for degree in (one, other, wanted))
    return torch.einsum("g,ga,gb,gc->abc", weight, *parts)


def rish(coefficients: Tensor, order: int) -> Tensor:
    """Rotation invariant SH features, the power of each degree: (..., c) -> (..., order / 2 + 1).

    H. Mirzaalian et al., NeuroImage 135 (2016) 311-323: the sum over m of C_lm^2.
    """
    parts = coefficients.square().split([2 * n + 1 for n in range(0, order + 1, 2)], dim=-1)
    return torch.stack([part.sum(-1) for part in parts], dim=-1)


def fit_matrix(directions: Tensor, order: int, smooth: float = 0.006) -> Tensor:
    """Matrix that takes samples to SH coefficients, with Laplace-Beltrami regularisation.

    Descoteaux et al. (2007): (B'B + smooth L)^-1 B' with L = diag(l^2 (l + 1)^2).

    Parameters
    ----------
    directions : (m, 3) tensor
        Unit vectors.
    order : int
        Highest degree, even.
    smooth : float
        Weight of the squared Laplacian; 0.006 is that of the paper.

    Returns
    -------
    ((order + 1) (order + 2) / 2, m) tensor
    """
    basis = sh_basis(directions, order)
    if smooth <= 0 and basis.shape[0] < basis.shape[1]:
        raise InputError(
            f"order {order} has {basis.shape[1]} coefficients, there are {basis.shape[0]} samples",
            "Lower the order, or smooth.",
        )
    degrees = sh_degrees(order)[0].to(basis)
    penalty = torch.diag(smooth * (degrees * (degrees + 1)).square())
    return torch.linalg.solve(basis.mT @ basis + penalty, basis.mT)


def _polar(z: Tensor, m: int, order: int) -> list[tuple[int, Tensor]]:
    """Normalised associated Legendre functions over sin(theta)^m, by degree from m to `order`.

    M. Abramowitz, I. A. Stegun, Handbook of Mathematical Functions (1964), eq. 8.5.3, with the
    normalisation of the real harmonics (sqrt 2 for m > 0).
    """
    # (2 m - 1)!! sqrt((2 m + 1) / (4 pi (2 m)!)), the function of degree m
    factor = math.prod((2 * k + 1) / (2 * k) for k in range(1, m + 1)) / (4 * math.pi)
    before = torch.zeros_like(z)
    now = torch.full_like(z, math.sqrt(factor * (2 if m else 1)))
    out = [(m, now)]
    for n in range(m + 1, order + 1):
        up = math.sqrt((4 * n * n - 1) / (n * n - m * m))
        back = math.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1))
        before, now = now, up * (z * now - back * before)
        out.append((n, now))
    return out
