"""Linear algebra of very many very small systems, a batch per row.

Every entry of a matrix is a row of n numbers, so a step of the textbook algorithm is one vector
operation over all voxels; LAPACK, called once a voxel, is some ten times slower at these sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIVOT = 1e-6
"""A Cholesky pivot below this share of its diagonal entry means a singular system."""

SWEEPS = 4
"""Jacobi sweeps: convergence is quadratic and 4 reach float32 rounding on 3x3 matrices."""


def packed_index(p: int) -> tuple[list[int], list[int]]:
    """Row and column of each entry of a packed lower triangle, row by row."""
    pairs = [(i, j) for i in range(p) for j in range(i + 1)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def cholesky_solve(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    """Solve n symmetric positive systems.

    Parameters
    ----------
    matrix : (p (p + 1) / 2, n) tensor
        Packed lower triangles (see `packed_index`).
    rhs : (p, n) tensor
        Right-hand sides.

    Returns
    -------
    (p, n) tensor
        Solutions.
    (n,) bool tensor
        Whether each system was well determined; the solution is meaningless where not.
    """
    p = rhs.shape[0]
    at = {(i, j): k for k, (i, j) in enumerate(zip(*packed_index(p), strict=True))}
    low: dict[tuple[int, int], Tensor] = {}
    inverse: list[Tensor] = []
    good = torch.ones(rhs.shape[1], dtype=torch.bool, device=rhs.device)
    x = []
    for i in range(p):
        for j in range(i + 1):
            value = matrix[at[i, j]]
            for k in range(j):
                value = torch.addcmul(value, low[i, k], low[j, k], value=-1)
            if i == j:
                good &= value > PIVOT * matrix[at[i, i]]
                inverse.append(value.clamp(min=torch.finfo(value.dtype).tiny).rsqrt())
            else:
                low[i, j] = value * inverse[j]
        value = rhs[i]
        for k in range(i):
            value = torch.addcmul(value, low[i, k], x[k], value=-1)
        x.append(value * inverse[i])
    for i in reversed(range(p)):
        for k in range(i + 1, p):
            x[i] = torch.addcmul(x[i], low[k, i], x[k], value=-1)
        x[i] = x[i] * inverse[i]
    return torch.stack(x), good


def eigh3(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and first eigenvector of symmetric 3x3 matrices, by cyclic Jacobi rotations.

    G. H. Golub, C. F. Van Loan, Matrix Computations, section 8.5. Accurate for equal eigenvalues
    too, where closed formulas lose half of the digits.

    Parameters
    ----------
    tensor : (6, n) tensor
        xx, yy, zz, xy, xz, yz.

    Returns
    -------
    (3, n) tensor
        Eigenvalues, falling.
    (3, n) tensor
        Unit eigenvector of the largest.
    """
    a = {(0, 0): tensor[0], (1, 1): tensor[1], (2, 2): tensor[2]}
    a |= {(0, 1): tensor[3], (0, 2): tensor[4], (1, 2): tensor[5]}
    one, zero = torch.ones_like(tensor[0]), torch.zeros_like(tensor[0])
    v = [[one if i == j else zero for j in range(3)] for i in range(3)]
    tiny = torch.finfo(tensor.dtype).tiny
    for _ in range(SWEEPS):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            r = 3 - p - q
            off = a[p, q]
            # tan of the smaller rotation angle; off = 0 gives theta = inf, t = 0: no rotation
            gap = a[q, q] - a[p, p]
            double = 2 * off
            t = double / (gap.abs() + torch.sqrt(gap * gap + double * double) + tiny)
            t = torch.where(gap < 0, -t, t)
            c = torch.rsqrt(t * t + 1)
            s = t * c
            shift = t * off
            a[p, p], a[q, q], a[p, q] = a[p, p] - shift, a[q, q] + shift, zero
            pr, qr = (min(p, r), max(p, r)), (min(q, r), max(q, r))
            a[pr], a[qr] = c * a[pr] - s * a[qr], s * a[pr] + c * a[qr]
            for row in v:
                row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
    l0, l1, l2 = a[0, 0], a[1, 1], a[2, 2]
    top = torch.maximum(torch.maximum(l0, l1), l2)
    bottom = torch.minimum(torch.minimum(l0, l1), l2)
    values = torch.stack([top, l0 + l1 + l2 - top - bottom, bottom])
    first = [torch.where(l0 == top, row[0], torch.where(l1 == top, row[1], row[2])) for row in v]
    vector = torch.stack(first)
    return values, vector / vector.norm(dim=0).clamp(min=tiny)
