"""Even Legendre polynomials, and integrals over the cosine to an axis."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError


def gauss_legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the mean of an even function of the cosine.

    The mean of f over the sphere is ``(weights * f(nodes)).sum()`` for an f that depends on the
    cosine to one axis only and is even in it.

    Parameters
    ----------
    count : int
        Number of nodes; exact for polynomials up to degree ``2 * count - 1``.
    like : tensor
        Type and device of the result.

    Returns
    -------
    (count,) tensor
        Nodes, rising in (0, 1).
    (count,) tensor
        Weights, which sum to 1.
    """
    nodes, weights = _gauss_legendre(count)
    return like.new_tensor(nodes), like.new_tensor(weights)


# numpy arrays are cached, not tensors: a tensor born in inference mode cannot be used in training
@lru_cache(maxsize=64)
def _gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(count)  # on [-1, 1]
    return (nodes + 1) / 2, weights / 2


def legendre(t: Tensor, order: int) -> Tensor:
    """Legendre polynomials of even degree.

    M. Abramowitz, I. A. Stegun, Handbook of Mathematical Functions (1964), eq. 8.5.3.

    Parameters
    ----------
    t : (...) tensor
        Cosines in [-1, 1].
    order : int
        Highest degree, even.

    Returns
    -------
    (..., order / 2 + 1) tensor
        P_0, P_2, ..., P_order at `t`.
    """
    check_order(order)
    before, now = torch.ones_like(t), t
    even = [before]
    for n in range(1, order):
        before, now = now, ((2 * n + 1) * t * now - n * before) / (n + 1)  # eq. 8.5.3
        if n % 2:
            even.append(now)
    return torch.stack(even, dim=-1)


def check_order(order: int) -> None:
    """Raise InputError if `order` is not an even degree >= 0."""
    if order < 0 or order % 2:
        raise InputError(
            f"the order is {order}", "Give an even order >= 0: diffusion is the same both ways."
        )
