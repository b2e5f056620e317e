"""Weighted least squares for models whose log-signal is linear, all voxels of a batch at once.

J. Veraart, J. Sijbers, S. Sunaert, A. Leemans, B. Jeurissen, NeuroImage 81 (2013) 335-346:
weights are the squared signals predicted by the previous fit, because the variance of ln S is
sigma2 / S2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..physics.linalg import cholesky_solve, packed_index


BLOCK = {"cpu": 1024, "cuda": 131072}
"""Voxels whose samples are worked on at a time: on a CPU they fit its second-level cache."""

LOG_RANGE = 20.0
"""A predicted ln S further than this from ln S0 gets the weight of this distance."""


@dataclass(frozen=True)
class LinearFit:
    """Solution of a batch.

    Attributes
    ----------
    parameters : (p, n) tensor
    good : (n,) bool tensor
        Whether the usable samples of the voxel determine its parameters.
    usable : (n,) int tensor
        Number of samples that are positive and finite.
    """

    parameters: Tensor
    good: Tensor
    usable: Tensor


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

    def __init__(self, design: Tensor, iterations: int = 1, *, device: torch.device, dtype: torch.dtype) -> None:
        self.iterations = iterations
        self.block = BLOCK[torch.device(device).type]
        # unit columns keep the normal equations well conditioned in float32, whatever the powers of b
        norm = design.norm(dim=0).clamp(min=1e-12)
        scaled = design / norm
        rows, columns = packed_index(design.shape[1])
        self.unscale = (1 / norm).to(device, dtype)[:, None]
        self.design = scaled.to(device, dtype)
        self.inverse = torch.linalg.pinv(scaled).to(device, dtype)
        self.products = (scaled[:, rows] * scaled[:, columns]).T.contiguous().to(device, dtype)

    def fit(self, signal: Tensor) -> LinearFit:
        """Fit a batch: (n, m) signal -> parameters.

        Samples that are not finite or not positive carry no information about ln S and get no
        weight; a voxel that they leave underdetermined is marked, never guessed.
        """
        # NaN fails both comparisons
        complete = (signal.amin(1) > 0) & (signal.amax(1) < torch.inf)
        x, good = self._solve(signal.log(), None)
        usable = torch.full_like(complete, signal.shape[1], dtype=torch.int32)
        gaps = (~complete).nonzero().squeeze(1)
        if len(gaps):
            valid = (signal[gaps] > 0) & torch.isfinite(signal[gaps])
            usable[gaps] = valid.sum(1, dtype=torch.int32)
            x[:, gaps], good[gaps] = self._solve(torch.where(valid, signal[gaps], 1).log(), valid)
        return LinearFit(x * self.unscale, good & torch.isfinite(x).all(0), usable)

    def _solve(self, logs: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Solve ln S (n, m) for the scaled parameters (p, n); `valid` (n, m) marks the samples to use."""
        good = torch.ones(len(logs), dtype=torch.bool, device=logs.device)
        if valid is None:
            x = self.inverse @ logs.T
        else:
            x, good = self._step(logs, valid, None)
        for _ in range(self.iterations):
            step, solved = self._step(logs, valid, x)
            x, good = torch.where(solved, x + step, x), good & solved
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
            residual = logs[at]
            if x is None:
                weights = torch.ones_like(residual)
            else:
                fitted = x[:, at].T @ self.design.T
                residual = residual - fitted
                # relative to S0, so that no scale of the signal can overflow
                fitted -= (x[-1, at] * self.design[0, -1])[:, None]
                weights = fitted.clamp_(-LOG_RANGE, LOG_RANGE).mul_(2).exp_()
            if valid is not None:
                weights = weights * valid[at]
            torch.mm(self.products, weights.T, out=normal[:, at])
            torch.mm(self.design.T, (residual * weights).T, out=right[:, at])
        return cholesky_solve(normal, right)
