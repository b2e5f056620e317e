"""Linear algebra of very many very small systems, a batch per row.

Every entry of a matrix is a row of n numbers, so a step of the textbook algorithm is one vector
operation over all voxels; LAPACK, called once a voxel, is some ten times slower at these sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIVOT = 1e-6
"""A Cholesky pivot below this share of its diagonal entry means a singular system."""

SWEEPS = 3
"""Jacobi sweeps: convergence is quadratic and 3 reach float32 rounding on 3x3 matrices."""


def packed_index(p: int) -> tuple[list[int], list[int]]:
    """Row and column of each entry of a packed lower triangle, row by row."""
    pairs = [(i, j) for i in range(p) for j in range(i + 1)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def cholesky_solve(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    """Solve n symmetric positive systems.

    Parameters
    ----------
    matrix : (p (p + 1) / 2, n) tensor
        Packed lower triangles (see `packed_index`). Overwritten.
    rhs : (p, n) tensor
        Right-hand sides. Overwritten.

    Returns
    -------
    (p, n) tensor
        Solutions.
    (n,) bool tensor
        Whether each system was well determined; the solution is meaningless where not.
    """
    tiny = torch.finfo(matrix.dtype).tiny
    diagonal = matrix[[i * (i + 3) // 2 for i in range(len(rhs))]]
    x, low, inverse = list(rhs), {}, []
    # rows as separate tensors: taking a row of a matrix costs as much as working on it
    for (i, j), entry in zip(zip(*packed_index(len(x)), strict=True), matrix, strict=True):
        for k in range(j):
            entry.addcmul_(low[i, k], low[j, k], value=-1)
        if i == j:
            inverse.append(entry.clamp(min=tiny).rsqrt_())
            for k in range(i):
                x[i].addcmul_(low[i, k], x[k], value=-1)
            x[i].mul_(inverse[i])
        else:
            entry.mul_(inverse[j])
        low[i, j] = entry
    for i in reversed(range(len(x))):
        for k in range(i + 1, len(x)):
            x[i].addcmul_(low[k, i], x[k], value=-1)
        x[i].mul_(inverse[i])
    pivots = torch.stack([low[i, i] for i in range(len(x))])
    return rhs, (pivots > PIVOT * diagonal).all(0)


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
    v = torch.eye(3, dtype=tensor.dtype, device=tensor.device)[:, :, None].repeat(
        1, 1, tensor.shape[1]
    )
    tiny = torch.finfo(tensor.dtype).tiny
    for _ in range(SWEEPS):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            r = 3 - p - q
            pr, qr = (min(p, r), max(p, r)), (min(q, r), max(q, r))
            off = a[p, q]
            # tangent of the smaller rotation angle; off = 0 gives t = 0: no rotation
            gap, double = a[q, q] - a[p, p], 2 * off
            root = torch.addcmul(double * double, gap, gap).sqrt_()
            t = double / torch.copysign(root.add_(gap.abs()).add_(tiny), gap)
            c = (t * t).add_(1).rsqrt_()
            s = t * c
            a[p, p], a[q, q] = (
                torch.addcmul(a[p, p], t, off, value=-1),
                torch.addcmul(a[q, q], t, off),
            )
            a[p, q] = torch.zeros_like(off)
            for left, right, turned in ((a[pr], a[qr], a), (v[p], v[q], None)):
                first = torch.addcmul(c * left, s, right, value=-1)
                second = torch.addcmul(s * left, c, right)
                if turned is None:
                    v[p], v[q] = first, second
                else:
                    a[pr], a[qr] = first, second
    values = torch.stack([a[0, 0], a[1, 1], a[2, 2]])
    top = values.amax(0)
    vector = torch.where(values[0] == top, v[0], torch.where(values[1] == top, v[1], v[2]))
    scale = (vector * vector).sum(0).clamp_(min=tiny).rsqrt_()
    bottom = values.amin(0)
    return torch.stack([top, values.sum(0) - top - bottom, bottom]), vector * scale
