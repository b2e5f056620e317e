"""Hermite functions in three dimensions: the basis of the mean apparent propagator.

E. Özarslan, C. G. Koay, T. M. Shepherd, M. E. Komlosh, M. O. İrfanoğlu, C. Pierpaoli,
P. J. Basser, NeuroImage 78 (2013) 16-32. With s = 2 pi u q, for a scale u and a wave vector q,

    phi_n = i^-n / sqrt(2^n n!) exp(-s^2 / 2) H_n(s)                              (eq. 4)
    Phi_j = phi_n1(s1) phi_n2(s2) phi_n3(s3),  n1 + n2 + n3 even and <= N         (eq. 23)

so that the signal sum_j a_j Phi_j is real and the same for q and -q.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from .legendre import check_order


@lru_cache(maxsize=16)
def hermite_orders(order: int) -> NDArray[np.int64]:
    """Orders (n1, n2, n3) of the basis functions up to a radial order.

    Parameters
    ----------
    order : int
        Highest n1 + n2 + n3: even.

    Returns
    -------
    (k, 3) int array
        Sorted by n1, then n2 + n3, then n2; the first row is (0, 0, 0).
    """
    check_order(order)
    return _orders(order)


def _orders(highest: int) -> NDArray[np.int64]:
    """Orders (k, 3) whose sum is even, or odd, like the highest one."""
    return np.array(
        [
            (n1, n2, total - n2)
            for n1 in range(highest + 1)
            for total in range((n1 + highest) % 2, highest - n1 + 1, 2)
            for n2 in range(total + 1)
        ]
    ).reshape(-1, 3)


def hermite_basis(s: Tensor, order: int) -> Tensor:
    """Basis functions at given points.

    Parameters
    ----------
    s : (n, 3, m) tensor
        Coordinates 2 pi u q of m points for each of n voxels.
    order : int
        Radial order, even.

    Returns
    -------
    (n, k, m) tensor
        Phi_j in the order of `hermite_orders`.
    """
    check_order(order)
    return _products(s, order)


class HermiteSum(torch.autograd.Function):
    """Sums of basis functions: (n, 3, m) points, (n, c, k) coefficients, order -> (n, c, m).

    The same as ``coefficients @ hermite_basis(points, order)``. To go backwards through the
    basis would take five times as long: from H_n' = 2 n H_(n-1) and the envelope's derivative,

        dPhi_j / ds1 = +- sqrt(2 n1) Phi_(n1 - 1, n2, n3) - s1 Phi_j,

    so that a sum's derivative is one of the fewer functions of odd order, and of the sum itself.
    Differentiable once, backwards.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, coefficients: Tensor, order: int) -> Tensor:
        """Sum, and keep the slope along each axis."""
        basis = hermite_basis(s, order)
        sums = coefficients @ basis
        ctx.needs_slope, ctx.needs_basis, _ = ctx.needs_input_grad
        kept = [basis] if ctx.needs_basis else []
        if ctx.needs_slope:
            slope = -s[:, None] * sums[:, :, None]  # (n, c, 3, m)
            if order:
                lowered = coefficients.matmul(coefficients.new_tensor(_lowering(order)))
                odd = lowered.unflatten(2, (3, -1)).flatten(1, 2) @ _products(s, order - 1)
                slope += odd.view_as(slope)
            kept.append(slope)
        ctx.save_for_backward(*kept)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradient with respect to points and coefficients."""
        kept = ctx.saved_tensors
        points = (kept[-1] * change[:, :, None]).sum(1) if ctx.needs_slope else None
        return points, change @ kept[0].mT if ctx.needs_basis else None, None


def _products(s: Tensor, highest: int) -> Tensor:
    """Envelope times polynomials along the axes: (n, 3, m) -> (n, k, m) as in `_orders`."""
    envelope = torch.exp(s.square().sum(1) / -2)
    x, y, z = (_polynomials(s[:, axis], highest) for axis in range(3))
    # i^-n of an odd n is imaginary: `_polynomials` leaves a factor 1/i out, which odd orders of
    # two axes together turn into -1
    signed = [-envelope if n1 % 2 else envelope for n1 in range(highest + 1)]
    x = [polynomial * factor for polynomial, factor in zip(x, signed, strict=True)]
    y, z = torch.stack(y, 1), torch.stack(z[::-1], 1)
    # products of the second and third axis by rising n2 + n3, so that for each n1 the pairs that
    # belong to it are the first ones: a few large operations instead of one for each function
    pairs = [y[:, : total + 1] * z[:, highest - total :] for total in range(highest + 1)]
    for total in range(2, highest + 1, 2):
        pairs[total][:, 1::2].neg_()  # n2 and n3 odd
    split = [torch.cat(pairs[parity::2] or pairs[:1], 1) for parity in (0, 1)]
    functions = []
    for n1 in range(highest + 1):
        parity = (n1 + highest) % 2
        count = sum(total + 1 for total in range(parity, highest - n1 + 1, 2))
        functions.append(x[n1][:, None] * split[parity][:, :count])
    return torch.cat(functions, 1)


@lru_cache(maxsize=16)
def _lowering(order: int) -> NDArray[np.float64]:
    """Factors +- sqrt(2 n) of the derivative along each axis: (k, 3 times the odd functions)."""
    even, odd = _orders(order), _orders(order - 1)
    row = {tuple(n): j for j, n in enumerate(odd)}
    out = np.zeros((len(even), 3, len(odd)))
    for j, n in enumerate(even):
        for axis in np.flatnonzero(n):
            lower = n - np.eye(3, dtype=int)[axis]
            sign = (-1) ** (n[axis] - 1) * _sign(n) * _sign(lower)
            out[j, axis, row[tuple(lower)]] = sign * math.sqrt(2 * n[axis])
    return out.reshape(len(even), -1)


def _sign(n: NDArray[np.int64]) -> int:
    """Sign that `_products` gives to the polynomials."""
    return (-1) ** (n[0] % 2 + n[1] % 2 * (n[2] % 2))


def _polynomials(s: Tensor, order: int) -> list[Tensor]:
    """(-1)^floor(n / 2) H_n(s) / sqrt(2^n n!) for n = 0 to `order`, each of the shape of `s`.

    The recurrence H_{n+1} = 2 s H_n - 2 n H_{n-1}, normalised and with the signs in it.
    """
    before, now = torch.zeros_like(s), torch.ones_like(s)
    out = [now]
    for n in range(order):
        slope = (-1) ** n * math.sqrt(2 / (n + 1))
        before, now = now, (slope * s) * now + math.sqrt(n / (n + 1)) * before
        out.append(now)
    return out


@lru_cache(maxsize=16)
def hermite_origin(order: int) -> NDArray[np.float64]:
    """Basis functions at q = 0: (k,) array.

    Eq. 27 of Özarslan et al.: B = sqrt(n1! n2! n3!) / (n1!! n2!! n3!!) for even orders, else 0.
    """
    values = np.zeros(order + 1)
    for n in range(0, order + 1, 2):  # sqrt(n!) / n!! with n!! = 2^(n/2) (n/2)! for even n
        values[n] = math.sqrt(math.factorial(n)) / (2 ** (n // 2) * math.factorial(n // 2))
    return values[hermite_orders(order)].prod(-1)


@lru_cache(maxsize=16)
def hermite_integral_signs(order: int) -> NDArray[np.float64]:
    """(-1)^(n / 2) for the order along each axis: (k, 3) array, 0 for odd n.

    What the integral of phi_n over q differs by from phi_n(0), apart from one factor for all n:
    Hermite functions are their own Fourier transforms up to the phase i^-n.
    """
    n = hermite_orders(order)
    return np.where(n % 2, 0, (-1.0) ** (n // 2))


@lru_cache(maxsize=16)
def laplacian_products(order: int) -> NDArray[np.float64]:
    """Integrals over q of the product of two Laplacians, apart from the scales: (6, k, k).

    R. H. J. Fick, D. Wassermann, E. Caruyer, R. Deriche, NeuroImage 134 (2016) 365-385, eq. 10:
    the penalty matrix is the sum of these six matrices, each times what `laplacian_scales` gives.
    """
    n = hermite_orders(order)
    u, t, s = (matrix[n[:, None], n[None]] for matrix in _integrals(order))
    same, first, second = (np.moveaxis(part, -1, 0) for part in (u, t, s))
    squares = [second[a] * same[b] * same[c] for a, b, c in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]
    mixed = [2 * first[a] * first[b] * same[c] for a, b, c in ((0, 1, 2), (0, 2, 1), (1, 2, 0))]
    parity = (-1.0) ** ((n.sum(1)[:, None] + n.sum(1)[None]) // 2)  # all the factors i^-n together
    return np.stack(squares + mixed) * parity


def _integrals(order: int) -> tuple[NDArray, NDArray, NDArray]:
    """Integrals of phi_n phi_m, phi_n phi_m'' and phi_n'' phi_m'' at u = 1, without i^-(n + m).

    U, T and S of Fick et al., eq. 13, 12 and 11, here from the ladder of normalised Hermite
    functions, psi_n' = sqrt(n / 2) psi_(n-1) - sqrt((n + 1) / 2) psi_(n+1). They scale as 1/u, u
    and u^3.
    """
    size = order + 3  # two derivatives raise the order by two
    down = np.diag(np.sqrt(np.arange(1, size) / 2), 1)
    twice = (down - down.T) @ (down - down.T)
    keep = slice(order + 1)
    root = math.sqrt(math.pi)  # phi_n is pi^(1/4) times a normalised function
    same = root / (2 * math.pi) * np.eye(order + 1)
    first = root * (2 * math.pi) * twice[keep, keep]
    second = root * (2 * math.pi) ** 3 * (twice.T @ twice)[keep, keep]
    return same, first, second


def laplacian_scales(scales: Tensor) -> Tensor:
    """Factors of the six matrices of `laplacian_products`: (3, n) scales u -> (n, 6)."""
    squares = scales.square()
    mixed = squares[[0, 0, 1]] * squares[[1, 2, 2]]
    return (torch.cat([squares.square(), mixed]) / scales.prod(0)).T
