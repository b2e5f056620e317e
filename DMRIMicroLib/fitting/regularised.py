"""Regularised linear least squares in a basis of each voxel's own, all voxels of a batch at once.

For basis functions M (m, k) of a voxel, samples y and penalty matrix L, the coefficients are

    a = A^-1 M'y,  A = M'M + w L

R. H. J. Fick, D. Wassermann, E. Caruyer, R. Deriche, NeuroImage 134 (2016) 365-385, eq. 9.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..errors import InputError
from ..models.framed import FramedModel
from .linear import WeightedLeastSquares
from .result import Fitted

BLOCK_BYTES = {"cpu": 2**24, "cuda": 2**30}
"""Working memory of the voxels that are solved together [bytes]: on a CPU, what measured fastest of
0.5 to 64 MiB, which is some 200 voxels of 100 volumes."""

GCV_WEIGHTS = (-5.0, 1.0, 49)
"""Weights tried by cross-validation: decimal logarithm of the first and the last, and how many."""


class RegularisedLeastSquares:
    """Solver of one model for one acquisition.

    Parameters
    ----------
    model : FramedModel
    acq : Acquisition
        Of the signals to come.
    weight : float or "gcv", optional
        Of the penalty, by default the model's. "gcv" chooses one for each voxel by generalised
        cross-validation, which takes some ten times as long.
    device, dtype
        Of the signals to come.

    Notes
    -----
    Working memory beyond signal and parameters is `BLOCK_BYTES`, besides what the tensor fit takes
    (`fitting.linear`). A covariance has (k + f)^2 values a voxel, 34 times the signal of
    100 volumes for 50 coefficients: ask for it in batches that memory can hold.
    """

    def __init__(
        self,
        model: FramedModel,
        acq: Acquisition,
        *,
        weight: float | Literal["gcv"] | None = None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.acq = model, acq
        self.weight = model.weight if weight is None else weight
        if self.weight != "gcv" and (isinstance(self.weight, str) or not 0 <= self.weight < 1e30):
            raise InputError(f"weight is {self.weight!r}", "Give a number >= 0, or 'gcv'.")
        volumes = model.tensor.volumes(acq)
        self.volumes = torch.tensor(volumes, device=device)
        design = model.tensor.design(acq.subset(volumes))
        self.tensor_fit = WeightedLeastSquares(design, 1, device=device, dtype=dtype)
        k = model.coefficients
        room = dtype.itemsize * (2 * k * len(acq) + 4 * k * k)
        self.block = max(8, BLOCK_BYTES[torch.device(device).type] // room)
        # the penalty needs the fewest; those of a tensor alone would leave all to the penalty
        self.fewest = max(metric.needs.volumes for metric in model.metrics)

    @torch.no_grad()
    def fit(
        self, signal: Tensor, covariance: bool = False, sigma: float | Tensor | None = None
    ) -> Fitted:
        """Fit a batch.

        Parameters
        ----------
        signal : (n, m) tensor
            Samples that are not finite or not positive get no weight.
        covariance : bool
            Whether to return the covariance too.
        sigma : float or (n,) tensor, optional
            Standard deviation of the noise, in units of the signal, for the covariance; by default
            each voxel's from its residuals.

        Returns
        -------
        Fitted
            A voxel is good if its usable samples determine the tensor, are at least as many as the
            model needs, and add up to a positive signal at b = 0. Elsewhere the parameters are
            finite and mean nothing.

        Notes
        -----
        The covariance of the coefficients is sigma^2 A^-1 M'M A^-1: what noise does to them. The
        bias that the penalty brings in, and the noise in the frame, are no part of it; the rows
        and columns of the frame are 0. Residuals have m - 2 tr S + tr S^2 degrees of freedom,
        with S = M A^-1 M'.
        """
        frame, good = self._frame(signal)
        n, k = len(signal), self.model.coefficients
        parameters = torch.cat([signal.new_empty(k, n), frame])
        usable = torch.empty(n, dtype=torch.int32, device=signal.device)
        size = len(parameters)
        spread = signal.new_zeros(n, size, size) if covariance else None
        for start in range(0, n, self.block):
            at = slice(start, start + self.block)
            system = _System(self.model, self.acq, signal[at], frame[:, at], self.weight)
            parameters[:k, at], solved = system.solve()
            usable[at] = system.valid.sum(1, dtype=torch.int32)
            good[at] &= solved & (self.model.at_origin(signal) @ parameters[:k, at] > 0)
            if spread is not None:
                noise = sigma[at] if isinstance(sigma, Tensor) and sigma.ndim else sigma
                spread[at, :k, :k] = system.covariance(parameters[:k, at], noise)
        good &= usable >= self.fewest
        return Fitted(
            parameters,
            good,
            usable,
            covariance=None if spread is None else spread.permute(1, 2, 0),
        )

    def _frame(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Frame (f, n) from a tensor fit, and (n,) bool: where there is a tensor."""
        fitted = self.tensor_fit.fit(signal.index_select(1, self.volumes))
        water = signal.new_tensor([1.0, 1, 1, 0, 0, 0])  # any tensor, to have finite parameters
        tensor = torch.where(fitted.good, fitted.parameters[:6], water[:, None])
        return self.model.frame(self.acq, tensor), fitted.good.clone()


class _System:
    """Normal equations of a block of voxels.

    Attributes
    ----------
    valid : (n, m) bool tensor
        Usable samples.
    rows : (n, k, m) tensor
        M', 0 for unusable samples.
    gram, right : (n, k, k), (n, k, 1) tensors
        M'M and M'y.
    factor : (n, k, k) tensor
        Lower Cholesky factor of A.
    """

    def __init__(
        self,
        model: FramedModel,
        acq: Acquisition,
        signal: Tensor,
        frame: Tensor,
        weight: float | Literal["gcv"],
    ) -> None:
        self.valid = (signal > 0) & torch.isfinite(signal)
        self.samples = torch.where(self.valid, signal, 0)
        self.rows = model.basis(acq, frame).mT
        if not self.valid.all():
            self.rows = self.rows * self.valid[:, None]
        # the samples as one more row: one product gives M'M, M'y and y'y
        joint = torch.cat([self.rows, self.samples[:, None]], 1)
        joint = joint @ joint.mT
        self.gram, self.right = joint[:, :-1, :-1], joint[:, :-1, -1:]
        self.power = joint[:, -1, -1]
        penalty = model.penalty(frame)
        if weight == "gcv":
            weight = self._cross_validated(penalty)
            matrix = self.gram + weight[:, None, None] * penalty
        else:
            matrix = torch.add(self.gram, penalty, alpha=weight)
        self.factor, self.info = torch.linalg.cholesky_ex(matrix)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Coefficients (k, n), and (n,) bool: where the system could be solved."""
        solution = torch.cholesky_solve(self.right, self.factor)[..., 0]
        solved = (self.info == 0) & torch.isfinite(solution).all(1)
        return torch.where(solved[:, None], solution, 0).T, solved

    def covariance(self, coefficients: Tensor, sigma: float | Tensor | None) -> Tensor:
        """Covariance (n, k, k) of the coefficients (k, n); see `RegularisedLeastSquares.fit`."""
        share = torch.cholesky_solve(self.gram, self.factor)  # A^-1 M'M
        spread = torch.cholesky_solve(share.mT, self.factor)
        if sigma is None:
            residual = self.samples - (coefficients.T[:, None] @ self.rows)[:, 0]
            trace = share.diagonal(dim1=1, dim2=2).sum(1)
            freedom = self.valid.sum(1) - 2 * trace + (share * share.mT).sum((1, 2))
            variance = residual.square().sum(1) / freedom.clamp(min=1)
        else:
            variance = torch.as_tensor(sigma, dtype=spread.dtype, device=spread.device).square()
        return spread * variance.reshape(-1, 1, 1)

    def _cross_validated(self, penalty: Tensor) -> Tensor:
        """Weight (n,) that minimises |y - S y|^2 / (m - tr S)^2 (Fick et al., eq. 15).

        With A0 = M'M + w0 L = C C' and the eigenvalues e of C^-1 L C^-T, both the trace and the
        residual are sums over e for every weight w: A = C (1 + (w - w0) e) C'.
        """
        first, last, count = GCV_WEIGHTS
        tried = torch.logspace(first, last, count, dtype=penalty.dtype, device=penalty.device)
        middle = 10 ** ((first + last) / 2)
        factor = torch.linalg.cholesky_ex(torch.add(self.gram, penalty, alpha=middle))[0]
        half = torch.linalg.solve_triangular(factor, penalty, upper=False)
        half = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        values, vectors = torch.linalg.eigh((half + half.mT) / 2)
        z = vectors.mT @ torch.linalg.solve_triangular(factor, self.right, upper=False)
        values, z2 = values.clamp(0, 1 / middle)[..., None], z.square()
        data = 1 - middle * values  # share of M'M in each direction
        scale = 1 / (1 + (tried - middle) * values)
        residual = self.power[:, None] - (z2 * scale * (2 - data * scale)).sum(1)
        freedom = self.valid.sum(1)[:, None] - (data * scale).sum(1)
        return tried[(residual / freedom.square()).argmin(1)]
