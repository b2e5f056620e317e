"""Weighted least squares for models whose log-signal is linear, all voxels of a batch at once.

J. Veraart, J. Sijbers, S. Sunaert, A. Leemans, B. Jeurissen, NeuroImage 81 (2013) 335-346:
weights are the squared signals predicted by the previous fit, because the variance of ln S is
sigma2 / S2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import InputError
from ..physics.linalg import cholesky_inverse, cholesky_solve
from .likelihood import Likelihood
from .result import Fitted
from .robust import CUT, outlier_weights
from .scoring import Scoring, packed_products

BLOCK_BYTES = {"cpu": 2**19, "cuda": 2**28}
"""Samples worked on at a time [bytes]: on a CPU, what stays in its second-level cache."""

MATRIX_BYTES = {"cpu": 2**23, "cuda": 2**29}
"""Packed matrices inverted at a time [bytes]; an inversion takes some four times this."""

ROBUST_PASSES = 5
"""Reweighted passes that find the outliers."""

REJECTED = 3.0
"""Residual, in standard deviations, from which a sample is left out (Collier et al. 2015)."""

ROUNDING = 1e-4
"""Share of S0 below which a residual is rounding or interpolation, never an outlier."""

REDUNDANCY = 2
"""Volumes per unknown without which residuals cannot tell an outlier from the rest."""


class WeightedLeastSquares:
    """Solver for one design matrix.

    Parameters
    ----------
    design : (m, p) tensor
        Of ln S; the last column is the constant of ln S0.
    iterations : int
        Reweighted passes; 0 is ordinary least squares, 1 what dipy does, 2 what MRtrix3 does.
    robust : bool
        Find outliers first and leave them out: REKINDLE (Q. Collier, J. Veraart, B. Jeurissen,
        A. J. den Dekker, J. Sijbers, Magn. Reson. Med. 73 (2015) 2174-2184), with the weight
        function of `fitting.robust`.
    likelihood : Likelihood, optional
        Of the noise. Other than Gaussian, where `fit` is told the noise: least squares are the
        start of a maximum-likelihood fit (`fitting.scoring`).
    device, dtype
        Of the signals to come.

    Raises
    ------
    InputError
        If `robust` is asked of fewer than `REDUNDANCY` volumes per unknown.
    """

    def __init__(
        self,
        design: Tensor,
        iterations: int = 1,
        *,
        robust: bool = False,
        likelihood: Likelihood | None = None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        m, p = design.shape
        if robust and m < REDUNDANCY * p:
            raise InputError(
                f"a robust fit of {p} unknowns needs {REDUNDANCY * p} volumes (there are {m})",
                "Switch robust off.",
            )
        self.iterations, self.robust = iterations, robust
        self.block = max(64, BLOCK_BYTES[torch.device(device).type] // (dtype.itemsize * m))
        # unit columns keep the normal equations well conditioned, whatever the powers of b
        norm = design.norm(dim=0).clamp(min=1e-12)
        scaled = design / norm
        self.unscale = (1 / norm).to(device, dtype)[:, None]
        self.design = scaled.to(device, dtype)
        # log2 of the weights relative to S0, so that no scale of the signal can overflow
        self.exponent = (2 / math.log(2) * scaled[:, :-1]).to(device, dtype)
        self.inverse = torch.linalg.pinv(scaled).to(device, dtype)
        self.products = packed_products(scaled).to(device, dtype)
        self.scoring = None
        if likelihood is not None and likelihood.kind != "gaussian":
            self.scoring = Scoring(self.design, self.products, likelihood.coils, self.block)

    @torch.no_grad()
    def fit(
        self, signal: Tensor, covariance: bool = False, sigma: float | Tensor | None = None
    ) -> Fitted:
        """Fit a batch.

        Parameters
        ----------
        signal : (n, m) tensor
            Samples that are not finite or not positive carry no information about ln S and get no
            weight; a voxel that they leave underdetermined is marked, never guessed.
        covariance : bool
            Whether to return the covariance of the parameters: p^2 numbers a voxel.
        sigma : float or (n,) tensor, optional
            Standard deviation of the noise, in the signal's unit. Without it the covariance takes
            that of the voxel's residuals (m - p degrees of freedom; infinite where there are none),
            and the search for outliers their median.

        Returns
        -------
        Fitted

        Notes
        -----
        The covariance is sigma2 (X' diag(S2) X)^-1 for the predicted signal S and the samples that
        were used. It is that of weighted fits; an ordinary one does worse than it says. That of
        maximum likelihood is the inverse of the Fisher information.
        """
        noise = None if sigma is None else torch.as_tensor(sigma).to(signal).expand(len(signal))
        if self.robust:
            return self._fit(signal, _usable(signal), noise, covariance)
        found = self._fit(signal, None, noise, covariance)
        # the logarithm of an unusable sample makes every parameter of its voxel NaN or infinite
        gaps = (~torch.isfinite(found.parameters.sum(0))).nonzero().squeeze(1)
        if len(gaps):
            rest, noise = signal[gaps], None if noise is None else noise[gaps]
            part = self._fit(rest, _usable(rest), noise, covariance)
            found.parameters[:, gaps], found.good[gaps] = part.parameters, part.good
            found.usable[gaps] = part.usable
            if found.covariance is not None:
                found.covariance[..., gaps] = part.covariance
        return found

    def _fit(
        self, signal: Tensor, valid: Tensor | None, sigma: Tensor | None, covariance: bool
    ) -> Fitted:
        """Fit voxels to the samples marked in `valid` (n, m) bool, or to all."""
        n, m = signal.shape
        if valid is None:
            logs, share = signal.log(), None
            usable = torch.full((n,), m, dtype=torch.int32, device=signal.device)
        else:
            logs = torch.where(valid, signal, 1).log()
            usable = valid.sum(1, dtype=torch.int32)
            share = valid & self._inliers(logs, valid, sigma) if self.robust else valid
        x, good = self._solve(logs, share)
        spread = None
        if self.scoring is not None and sigma is not None:
            x, information = self.scoring.refine(x, signal, share, sigma)
            if covariance:
                spread = self._inverse(lambda at: information[:, at], torch.ones_like(sigma))
        elif covariance:
            spread = self._covariance(logs, share, x, sigma)
        good &= torch.isfinite(x.sum(0))
        return Fitted(x * self.unscale, good, usable, covariance=spread)

    def _solve(self, logs: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor]:
        """Solve ln S (n, m) for scaled parameters (p, n)."""
        good = torch.ones(len(logs), dtype=torch.bool, device=logs.device)
        if share is None:
            x = self.inverse @ logs.T
        else:
            x, good = self._step(logs, share, None)
        for _ in range(self.iterations):
            step, solved = self._step(logs, share, x)
            x, good = x.addcmul_(step, solved.to(step)), good & solved
        return x, good

    def _step(self, logs: Tensor, share: Tensor | None, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Correction to `x` by weighted normal equations; the weights are those that `x` predicts.

        A correction, not the solution itself, so that rounding acts on the residual only.
        """
        return cholesky_solve(*self._normal(logs, share, x))

    def _normal(
        self, logs: Tensor, share: Tensor | None, x: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Set up the normal equations: packed (p (p + 1) / 2, n) and right-hand sides (p, n)."""
        normal = logs.new_empty(len(self.products), len(logs))
        right = logs.new_empty(self.design.shape[1], len(logs))
        for at in self._blocks(logs):
            residual, weights = self._residual(logs, share, x, at)
            torch.mm(self.products, weights.T, out=normal[:, at])
            torch.mm(self.design.T, residual.mul_(weights).T, out=right[:, at])
        return normal, right

    def _residual(
        self, logs: Tensor, share: Tensor | None, x: Tensor | None, at: slice
    ) -> tuple[Tensor, Tensor]:
        """Residuals of ln S and weights (S / S0)^2 times `share`, of some voxels: (k, m) each.

        Without `x` the parameters are 0 and all samples weigh the same.
        """
        if x is None:
            residual, weights = logs[at].clone(), torch.ones_like(logs[at])
        else:
            residual = torch.addmm(logs[at], x[:, at].T, self.design.T, alpha=-1)
            weights = torch.mm(x[:-1, at].T, self.exponent.T).exp2_()
        return residual, weights if share is None else weights * share[at]

    def _covariance(
        self, logs: Tensor, share: Tensor | None, x: Tensor, sigma: Tensor | None
    ) -> Tensor:
        """Covariance of the parameters (p, p, n), their unit that of the unscaled design."""
        variance = self._variance(logs, share, x) if sigma is None else (sigma / self._s0(x)) ** 2

        def normal(at: slice) -> Tensor:
            return self._normal(logs[at], None if share is None else share[at], x[:, at])[0]

        return self._inverse(normal, variance)

    def _inverse(self, normal: Callable[[slice], Tensor], variance: Tensor) -> Tensor:
        """Invert packed matrices, in blocks; times `variance` (n,): (p, p, n), unscaled."""
        unit = (self.unscale * self.unscale.T)[..., None]
        p, n = len(unit), len(variance)
        out = variance.new_empty(p, p, n)
        room = MATRIX_BYTES[variance.device.type] // (variance.element_size() * len(self.products))
        for start in range(0, n, room):
            at = slice(start, start + room)
            inverse, _ = cholesky_inverse(normal(at), p)
            torch.mul(inverse.mul_(unit), variance[at], out=out[..., at])
        return out

    def _variance(self, logs: Tensor, share: Tensor | None, x: Tensor) -> Tensor:
        """Variance of the noise over S0^2 by the residuals: (n,)."""
        total = logs.new_empty(len(logs))
        for at in self._blocks(logs):
            residual, weights = self._residual(logs, share, x, at)
            total[at] = (residual.square_() * weights).sum(1)
        count = logs.shape[1] if share is None else share.sum(1)
        freedom = torch.as_tensor(count - len(x), device=logs.device)
        return torch.where(freedom > 0, total / freedom, torch.inf)

    def _inliers(self, logs: Tensor, valid: Tensor, sigma: Tensor | None) -> Tensor:
        """Mark the samples (n, m) that are no outliers of a robust fit.

        Residuals are those of the signal to first order, S (ln S_measured - ln S), over S0.
        """
        x, _ = self._step(logs, valid, None)
        trust = torch.empty_like(logs)
        for _ in range(ROBUST_PASSES):
            least = torch.full_like(logs[:, 0], ROUNDING)
            if sigma is not None:
                least = torch.maximum(least, (sigma / self._s0(x)).nan_to_num())
            for at in self._blocks(logs):
                residual, weights = self._residual(logs, None, x, at)
                residual.mul_(weights.sqrt_())
                trust[at] = outlier_weights(residual.T, valid[at].T, least[at]).T
            trust *= valid
            step, solved = self._step(logs, trust, x)
            x.addcmul_(step, solved.to(step))
        return trust > (1 - (REJECTED / CUT) ** 2) ** 2

    def _s0(self, x: Tensor) -> Tensor:
        return (x[-1] * self.unscale[-1]).exp()

    def _blocks(self, logs: Tensor) -> Iterator[slice]:
        for start in range(0, len(logs), self.block):
            yield slice(start, start + self.block)


def _usable(signal: Tensor) -> Tensor:
    return (signal > 0) & torch.isfinite(signal)
