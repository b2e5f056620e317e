"""Linear algebra of very many very small systems, a batch per row.

Every entry of a matrix is a row of n numbers, so a step of the textbook algorithm is one vector
operation over all voxels; LAPACK, called once a voxel, is some ten times slower at these sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

PIVOT = 1e-6
"""A Cholesky pivot below this share of its diagonal entry means a singular system."""

SWEEPS = {torch.float32: 3, torch.float64: 4}
"""Jacobi sweeps: convergence is quadratic, and these reach rounding on 3x3 matrices."""


def packed_index(p: int) -> tuple[list[int], list[int]]:
    """Row and column of each entry of a packed lower triangle, row by row."""
    pairs = [(i, j) for i in range(p) for j in range(i + 1)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def unpack(packed: Tensor, p: int) -> Tensor:
    """Write packed lower triangles in full: (q, n) -> symmetric (p, p, n)."""
    full = packed.new_empty(p, p, packed.shape[1])
    row, column = packed_index(p)
    full[row, column] = packed
    full[column, row] = packed
    return full


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
    x = list(rhs)
    low, inverse, good = _cholesky(matrix, len(x))
    for i, row in enumerate(x):
        for k in range(i):
            row.addcmul_(low[i, k], x[k], value=-1)
        row.mul_(inverse[i])
    for i, row in reversed(list(enumerate(x))):
        for k in range(i + 1, len(x)):
            row.addcmul_(low[k, i], x[k], value=-1)
        row.mul_(inverse[i])
    return rhs, good


def cholesky_inverse(matrix: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """Invert n symmetric positive matrices.

    Parameters
    ----------
    matrix : (p (p + 1) / 2, n) tensor
        Packed lower triangles (see `packed_index`). Overwritten.
    p : int
        Rows of a matrix.

    Returns
    -------
    (p, p, n) tensor
        Inverses.
    (n,) bool tensor
        Whether each matrix was well determined; the inverse is meaningless where not.
    """
    low, inverse, good = _cholesky(matrix, p)
    for j in range(p):  # the factor's inverse takes the factor's place, column by column
        column = {j: inverse[j]}
        for i in range(j + 1, p):
            total = low[i, j] * column[j]
            for k in range(j + 1, i):
                total.addcmul_(low[i, k], column[k])
            column[i] = total.mul_(inverse[i]).neg_()
        for i, entry in column.items():
            low[i, j] = entry
    out = matrix.new_empty(p, p, matrix.shape[1])
    for i, j in zip(*packed_index(p), strict=True):
        total = torch.mul(low[i, i], low[i, j], out=out[i, j])
        for k in range(i + 1, p):
            total.addcmul_(low[k, i], low[k, j])
        out[j, i] = total
    return out, good


def _cholesky(matrix: Tensor, p: int) -> tuple[dict[tuple[int, int], Tensor], list[Tensor], Tensor]:
    """Factor in place: rows of the lower factor, reciprocals of its diagonal, success (n,).

    The diagonal rows of the factor hold the pivots, which are its diagonal's squares.
    """
    tiny = torch.finfo(matrix.dtype).tiny
    diagonal = matrix[[i * (i + 3) // 2 for i in range(p)]]
    low, inverse = {}, []
    # rows as separate tensors: taking a row of a matrix costs as much as working on it
    for (i, j), entry in zip(zip(*packed_index(p), strict=True), matrix, strict=True):
        for k in range(j):
            entry.addcmul_(low[i, k], low[j, k], value=-1)
        if i == j:
            inverse.append(entry.clamp(min=tiny).rsqrt_())
        else:
            entry.mul_(inverse[j])
        low[i, j] = entry
    pivots = torch.stack([low[i, i] for i in range(p)])
    return low, inverse, (pivots > PIVOT * diagonal).all(0)


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

    Notes
    -----
    Differentiable once, forwards and backwards. Where the largest eigenvalue is double, its vector
    has no derivative; a finite one is given.
    """
    values, vector, *_ = _Eigh3.apply(tensor)
    return values, vector


class _Eigh3(torch.autograd.Function):
    """`eigh3` with the derivatives of perturbation theory.

    dl_i = e_i' dA e_i and de_1 = sum_k e_k (e_k' dA e_1) / (l_1 - l_k): Golub and Van Loan,
    sections 7.2 and 8.1. Going through the rotations backwards would divide 0 by 0 for a diagonal
    matrix.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `eigh3` does, and the unsorted eigenvalues (3, n) and frame (3, 3, n)."""
        raw, frame = _jacobi(tensor)
        top, bottom = raw.amax(0), raw.amin(0)
        vector = torch.where(
            raw[0] == top, frame[0], torch.where(raw[1] == top, frame[1], frame[2])
        )
        tiny = torch.finfo(raw.dtype).tiny
        scale = (vector * vector).sum(0).clamp_(min=tiny).rsqrt_()
        values = torch.stack([top, raw.sum(0) - top - bottom, bottom])
        return values, vector * scale, raw, frame

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        """Keep what the derivatives need."""
        raw, frame = output[2:]
        ctx.mark_non_differentiable(raw, frame)
        ctx.save_for_backward(raw, frame)
        ctx.save_for_forward(raw, frame)

    @staticmethod
    def jvp(ctx: Any, change: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the changes of the eigenvalues and of the first eigenvector."""
        frame, over_gap = _sorted_frame(ctx)
        xx, yy, zz, xy, xz, yz = change
        rows = torch.stack([torch.stack(row) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))])
        turned = (rows * frame[:, None]).sum(2)  # e_i' dA
        values = (turned * frame).sum(1)
        mixed = (turned * frame[0]).sum(1) * over_gap
        return values, (mixed[:, None] * frame).sum(0), None, None

    @staticmethod
    def backward(ctx: Any, values: Tensor, vector: Tensor, *_: Tensor) -> Tensor:
        """Gradient with respect to the six elements."""
        frame, over_gap = _sorted_frame(ctx)
        first, share = frame[0], (vector * frame).sum(1) * over_gap
        left = (values[:, None] * frame)[:, :, None] * frame[:, None]
        left = left + (share[:, None] * frame)[:, :, None] * first
        grad = left.sum(0)
        pairs = ((0, 1), (0, 2), (1, 2))
        return torch.stack(
            [*(grad[i, i] for i in range(3)), *(grad[i, j] + grad[j, i] for i, j in pairs)]
        )


def _sorted_frame(ctx: FunctionCtx) -> tuple[Tensor, Tensor]:
    """Eigenvectors (3, 3, n) by falling eigenvalue, and 1 / (l_1 - l_k), softened near 0."""
    raw, frame = ctx.saved_tensors  # type: ignore[attr-defined]
    values, order = raw.sort(dim=0, descending=True, stable=True)
    gap = values[0] - values
    # below this share of the largest, rounding decides the vector and the quotient means nothing
    width = torch.finfo(raw.dtype).eps ** 0.5 * values.abs().amax(0)
    over_gap = gap / (gap * gap + width * width).clamp(min=torch.finfo(raw.dtype).tiny)
    return frame.gather(0, order[:, None].expand(frame.shape)), over_gap


def _jacobi(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate (6, n) to diagonal form: eigenvalues (3, n) as they come, eigenvectors (3, 3, n)."""
    a = {(0, 0): tensor[0], (1, 1): tensor[1], (2, 2): tensor[2]}
    a |= {(0, 1): tensor[3], (0, 2): tensor[4], (1, 2): tensor[5]}
    v = list(
        torch.eye(3, dtype=tensor.dtype, device=tensor.device)[:, :, None].repeat(
            1, 1, tensor.shape[1]
        )
    )
    tiny = torch.finfo(tensor.dtype).tiny
    for _ in range(SWEEPS[tensor.dtype]):
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
            a[p, p] = torch.addcmul(a[p, p], t, off, value=-1)
            a[q, q] = torch.addcmul(a[q, q], t, off)
            a[p, q] = torch.zeros_like(off)
            a[pr], a[qr] = _rotate(a[pr], a[qr], c, s)
            v[p], v[q] = _rotate(v[p], v[q], c, s)
    return torch.stack([a[0, 0], a[1, 1], a[2, 2]]), torch.stack(v)


def _rotate(left: Tensor, right: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a pair by an angle of cosine `c` and sine `s`."""
    return torch.addcmul(c * left, s, right, value=-1), torch.addcmul(s * left, c, right)
