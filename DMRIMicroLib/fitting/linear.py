"""Weighted least squares for models whose log-signal is linear, all voxels of a batch at once.

J. Veraart, J. Sijbers, S. Sunaert, A. Leemans, B. Jeurissen, NeuroImage 81 (2013) 335-346:
weights are the squared signals predicted by the previous fit, because the variance of ln S is
sigma2 / S2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..physics.linalg import cholesky_solve, packed_index
from .result import Fitted

BLOCK_BYTES = {"cpu": 2**19, "cuda": 2**28}
"""Samples worked on at a time [bytes]: on a CPU, what stays in its second-level cache."""


class WeightedLeastSquares:
    """Solver for one design matrix.

    Parameters
    ----------
    design : (m, p) tensor
        Of ln S; the last column is the constant of ln S0.
    iterations : int
        Reweighted passes; 0 is ordinary least squares, 1 what dipy does, 2 what MRtrix3 does.
    device, dtype
        Of the signals to come.
    """

    def __init__(
        self, design: Tensor, iterations: int = 1, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.iterations = iterations
        self.block = max(
            64, BLOCK_BYTES[torch.device(device).type] // (dtype.itemsize * len(design))
        )
        # unit columns keep the normal equations well conditioned, whatever the powers of b
        norm = design.norm(dim=0).clamp(min=1e-12)
        scaled = design / norm
        rows, columns = packed_index(design.shape[1])
        self.unscale = (1 / norm).to(device, dtype)[:, None]
        self.design = scaled.to(device, dtype)
        # log2 of the weights relative to S0, so that no scale of the signal can overflow
        self.exponent = (2 / math.log(2) * scaled[:, :-1]).to(device, dtype)
        self.inverse = torch.linalg.pinv(scaled).to(device, dtype)
        self.products = (scaled[:, rows] * scaled[:, columns]).T.contiguous().to(device, dtype)

    def fit(self, signal: Tensor) -> Fitted:
        """Fit a batch: (n, m) signal -> parameters.

        Samples that are not finite or not positive carry no information about ln S and get no
        weight; a voxel that they leave underdetermined is marked, never guessed.
        """
        x, good = self._solve(signal.log(), None)
        usable = torch.full(
            (len(signal),), signal.shape[1], dtype=torch.int32, device=signal.device
        )
        # the logarithm of an unusable sample makes every parameter of its voxel NaN or infinite
        gaps = (~torch.isfinite(x.sum(0))).nonzero().squeeze(1)
        if len(gaps):
            valid = (signal[gaps] > 0) & torch.isfinite(signal[gaps])
            usable[gaps] = valid.sum(1, dtype=torch.int32)
            x[:, gaps], good[gaps] = self._solve(torch.where(valid, signal[gaps], 1).log(), valid)
        good &= torch.isfinite(x.sum(0))
        return Fitted(x * self.unscale, good, usable)

    def _solve(self, logs: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Solve ln S (n, m) for scaled parameters (p, n); `valid` (n, m) marks usable samples."""
        good = torch.ones(len(logs), dtype=torch.bool, device=logs.device)
        if valid is None:
            x = self.inverse @ logs.T
        else:
            x, good = self._step(logs, valid, None)
        for _ in range(self.iterations):
            step, solved = self._step(logs, valid, x)
            x, good = x.addcmul_(step, solved.to(step)), good & solved
        return x, good

    def _step(self, logs: Tensor, valid: Tensor | None, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Correction to `x` by weighted normal equations; the weights are those that `x` predicts.

        A correction, not the solution itself, so that rounding acts on the residual only. Without
        `x` all valid samples weigh the same.
        """
        n = len(logs)
        normal = logs.new_empty(len(self.products), n)
        right = logs.new_empty(self.design.shape[1], n)
        for start in range(0, n, self.block):
            at = slice(start, start + self.block)
            if x is None:
                residual, weights = logs[at].clone(), torch.ones_like(logs[at])
            else:
                residual = torch.addmm(logs[at], x[:, at].T, self.design.T, alpha=-1)
                weights = torch.mm(x[:-1, at].T, self.exponent.T).exp2_()
            if valid is not None:
                weights = weights * valid[at]
            torch.mm(self.products, weights.T, out=normal[:, at])
            torch.mm(self.design.T, residual.mul_(weights).T, out=right[:, at])
        return cholesky_solve(normal, right)
