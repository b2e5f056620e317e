"""What does not depend on how the head was turned, of points of the signal space."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..physics.linalg import eigh3
from ..physics.sh import sh_basis

INVARIANTS = 13
"""Of a voxel, see `invariants`."""

TINY = 1e-4
"""Keeps the root of an invariant differentiable at 0."""


def products(series: Tensor) -> Tensor:
    """Inner products of all pairs of k series of one degree: (k, m, n) -> (k (k + 1) / 2, n).

    As signed roots, so that they are of the size of coefficients. Of a series with itself they are
    the RISH features; of a voxel with its neighbours they have no bias from noise.
    """
    rows, columns = torch.triu_indices(len(series), len(series))
    return signed_root((series[rows] * series[columns]).sum(1))


def signed_root(x: Tensor) -> Tensor:
    """Root of the size, with the sign; differentiable at 0."""
    return torch.sign(x) * ((x.abs() + TINY**2).sqrt() - TINY)


def invariants(numbers: Tensor) -> Tensor:
    """Rotation invariants of posterior means: (n, 22) -> (n, 13).

    The three numbers of degree 0; the eigenvalues of the first series of degree 2, as a symmetric
    traceless matrix; every series along the matrix' first eigenvector, which is the fibre; the root
    of the power of every series, and of the product of those of degree 2.
    """
    zero, first, second, fourth = numbers.split([3, 5, 5, 9], 1)
    values, fibre = eigh3(_matrix().to(numbers) @ -first.T)  # the signal is low along fibres
    basis = sh_basis(fibre.T, 4)
    two, four = basis[:, 1:6], basis[:, 6:]
    along = [(two * first).sum(1), (two * second).sum(1), (four * fourth).sum(1)]
    power = [(a * b).sum(1) for a, b in ((first, second), (first, first), (second, second))]
    power.append(fourth.square().sum(1))
    return torch.cat([zero, values.T, torch.stack([*along, *map(signed_root, power)], 1)], 1)


@lru_cache(maxsize=1)
def _matrix() -> Tensor:
    """From SH of degree 2 to xx, yy, zz, xy, xz, yz of the matrix Q with f(g) = g'Qg: (6, 5)."""
    g = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = g / g.norm(dim=1, keepdim=True)  # any directions: it is an identity
    x, y, z = g.T
    square = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1)
    return torch.linalg.lstsq(square, sh_basis(g, 2)[:, 1:]).solution
