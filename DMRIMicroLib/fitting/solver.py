"""Batched Levenberg-Marquardt: every voxel of a batch takes its own steps, all at once.

D. W. Marquardt, J. Soc. Indust. Appl. Math. 11 (1963) 431-441; bounds by projection, C. Kanzow,
N. Yamashita, M. Fukushima, J. Comput. Appl. Math. 172 (2004) 375-397.

It minimises, for the parameters x of each voxel,

    sum_i w_i [-2 ln p(y_i | S_i(x), sigma)] + (x - m)' L (x - m)

within bounds. The first term is the weighted sum of squares over sigma2 for Gaussian noise; the
second is an optional Gaussian prior with mean m and precision L.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..models.base import NonlinearModel
from ..physics.linalg import cholesky_solve, packed_index, unpack
from .laplace import RANGE_INFORMATION, laplace
from .likelihood import Likelihood
from .prior import Prior, bounds, declared
from .result import Fitted
from .robust import ROBUST_PASSES, outlier_weights

BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}
"""Samples (volumes times voxels) that take a step together: on a CPU, what the caches hold."""

BLOCK_VOXELS = {"cpu": 16384, "cuda": 2**20}
"""Voxels that take a step together at most."""

ROUND = 3
"""Steps between two looks at which voxels still need some."""

DAMPING = 1e-2
"""First damping, relative to the diagonal of the normal matrix."""

DAMPING_HIGH = 1e6
"""Damping at which no step is left to try: the voxel rests where it is."""

REST = 1e-3
"""Expected fall of the cost (in units of chi-square) below which a voxel is at rest: its
parameters are then within 0.03 of their standard deviation of the optimum."""

FLOOR = 1e-3
"""Information about every parameter that is assumed, in units of 1 / range2: it moves no optimum
and keeps the normal matrix regular where the data say nothing of a parameter."""


@dataclass
class _State:
    """Where each of n voxels stands; H is a packed lower triangle."""

    x: Tensor  # (p, n) best parameters so far
    trial: Tensor  # (p, n) next to be tried
    cost: Tensor  # (n,)
    normal: Tensor  # (q, n)
    gradient: Tensor  # (p, n)
    damping: Tensor  # (n,)
    fall: Tensor  # (n,) expected fall of the cost by the last step that was proposed
    moving: Tensor  # (n,) bool

    def at(self, index: Tensor) -> _State:
        return _State(*(getattr(self, f)[..., index] for f in self.__dataclass_fields__))

    def put(self, index: Tensor, part: _State) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name)[..., index] = getattr(part, name)


class LevenbergMarquardt:
    """Solver for one model and acquisition.

    Parameters
    ----------
    model : NonlinearModel
    acquisition : Acquisition
        Of the m volumes of the signals to come.
    likelihood : Likelihood
    iterations : int
        Steps at most.
    robust : bool
        Give samples far from the fit less weight, and fit again (see `outlier_weights`).
    """

    def __init__(
        self,
        model: NonlinearModel,
        acquisition: Acquisition,
        likelihood: Likelihood,
        *,
        iterations: int = 60,
        robust: bool = False,
    ) -> None:
        self.model, self.acquisition, self.likelihood = model, acquisition, likelihood
        self.iterations, self.robust = iterations, robust
        self.low, self.high, self.span = bounds(model)
        self.directions = [model.rows[p.name] for p in model.parameters if p.size == 3]
        self.row, self.column = packed_index(len(self.span))
        self.diagonal = [i * (i + 3) // 2 for i in range(len(self.span))]

    @torch.no_grad()
    def fit(
        self,
        signal: Tensor,
        sigma: Tensor | float | None = None,
        *,
        counts: Tensor | None = None,
        prior: Prior | None = None,
        start: Tensor | None = None,
        covariance: bool = False,
    ) -> Fitted:
        """Fit a batch of voxels.

        Parameters
        ----------
        signal : (n, m) tensor
            Divided by S0. Samples that are not finite or not positive get no weight; where `counts`
            says what is usable, a mean may be 0 or negative.
        sigma : float or (n,) tensor, optional
            Standard deviation of the noise, divided by S0 too. Without it the noise is Gaussian
            and the covariance comes from the residuals.
        counts : (n, m) tensor, optional
            Samples that each signal is the mean of; 1 by default.
        prior : Prior, optional
            Of each voxel; by default what the model's parameters declare.
        start : (p, n) or (k, p, n) tensor, optional
            Where to begin; by default the model proposes. Of k starts the best end counts.
        covariance : bool
            Whether to compute it (Laplace approximation).
        """
        usable = torch.isfinite(signal) & (signal > 0 if counts is None else counts > 0)
        count = usable.sum(1, dtype=torch.int32)
        y = torch.where(usable, signal, 0).T.contiguous()
        weight = usable.T.to(y)
        if counts is not None:
            weight = weight * counts.T
        if start is None:
            start = self.model.start(self.acquisition, torch.where(weight > 0, y, 0.01))
        prior = declared(self.model, y) if prior is None else prior.like(y)
        problem = _Problem(self, y, weight, _as_row(sigma, y), prior)
        starts = start[None] if start.ndim == 2 else start
        if prior is not None:
            starts = torch.stack([prior.turned(x, self.directions) for x in starts])
        best = problem.solve(starts[0])
        for other in starts[1:]:
            rival = problem.solve(other)
            better = (rival.cost < best.cost).nonzero().squeeze(1)
            best.put(better, rival.at(better))
        for _ in range(ROBUST_PASSES * self.robust):
            residual = problem.y - self.model.signal(self.acquisition, best.x)
            problem.weight = weight * outlier_weights(residual, weight > 0, problem.sigma)
            best = problem.solve(best.x)
        good = torch.isfinite(best.x.sum(0)) & torch.isfinite(best.cost)
        told = self._told(weight > 0, problem.prior)
        good &= told >= len(self.span) - len(self.directions)
        found = Fitted(best.x, good, count, converged=~best.moving)
        return replace(found, covariance=problem.covariance(best)) if covariance else found

    def _told(self, usable: Tensor, prior: Prior | None) -> Tensor:
        """Count what speaks about the parameters: weighted samples, b0 as one, known priors."""
        b0 = torch.from_numpy(self.acquisition.is_b0).to(usable.device)
        told = usable[~b0].sum(0) + usable[b0].any(0)
        return told if prior is None else told + prior.informed


@dataclass
class _Problem:
    """The data of a batch: (m, n) signals and weights, (n,) sigma, prior."""

    solver: LevenbergMarquardt
    y: Tensor
    weight: Tensor
    sigma: Tensor | None
    prior: Prior | None

    def __post_init__(self) -> None:
        s = self.solver
        self.low, self.high, self.span = (v.to(self.y)[:, None] for v in (s.low, s.high, s.span))

    def at(self, index: Tensor) -> _Problem:
        return replace(
            self,
            y=self.y[:, index],
            weight=self.weight[:, index],
            sigma=None if self.sigma is None else self.sigma[index],
            prior=None if self.prior is None else self.prior.at(index),
        )

    def solve(self, start: Tensor) -> _State:
        """Take steps from `start` (p, n) until every voxel rests."""
        state = self._begin(start)
        pending = torch.arange(start.shape[1], device=start.device)
        for _ in range(0, self.solver.iterations, ROUND):
            for index in pending.split(self._block()):
                part, problem = state.at(index), self.at(index)
                for _ in range(ROUND):
                    problem._step(part)
                state.put(index, part)
            pending = pending[state.moving[pending]]
            if not len(pending):
                break
        return state

    def _block(self) -> int:
        kind = self.y.device.type
        return max(256, min(BLOCK_VOXELS[kind], BLOCK_ELEMENTS[kind] // len(self.y)))

    def _begin(self, start: Tensor) -> _State:
        p, n = start.shape
        x = self._inside(start)
        wide = x.new_zeros(len(self.solver.row), n)
        infinite = x.new_full((n,), torch.inf)
        return _State(
            x, x.clone(), infinite, wide, x.new_zeros(p, n), x.new_full((n,), DAMPING),
            infinite.clone(), torch.ones(n, dtype=torch.bool, device=x.device),
        )  # fmt: skip

    def _inside(self, x: Tensor) -> Tensor:
        """Project onto the bounds, and directions onto the sphere."""
        x = torch.minimum(torch.maximum(x, self.low), self.high)
        for rows in self.solver.directions:
            x[rows] /= x[rows].norm(dim=0).clamp(min=1e-12)
        return x

    def _step(self, state: _State) -> None:
        """Judge the trial parameters, and propose the next ones, in place."""
        cost, normal, gradient = self._expand(state.trial)
        better = cost < state.cost
        fall = state.cost - cost
        state.x = torch.where(better, state.trial, state.x)
        state.cost = torch.where(better, cost, state.cost)
        state.normal = torch.where(better, normal, state.normal)
        state.gradient = torch.where(better, gradient, state.gradient)
        state.damping = torch.where(better, state.damping * 0.1, state.damping * 8).clamp(min=1e-7)
        # at rest: little was expected and little was gained, or no step is short enough
        scale = self._noise_scale(state.cost)
        rest = (state.fall.abs() < REST * scale) & (better & (fall < REST * scale) | ~better)
        state.moving &= ~(rest | (state.damping > DAMPING_HIGH))
        self._propose(state)

    def _noise_scale(self, cost: Tensor) -> Tensor:
        """Cost of one sample (n,): 1 in units of chi-square, or else estimated."""
        if self.sigma is not None:
            return torch.ones_like(cost)
        free = (len(self.y) - len(self.span) + len(self.solver.directions)) or 1
        return cost / max(free, 1)

    def _propose(self, state: _State) -> None:
        """Damped Gauss-Newton step within the bounds."""
        x, gradient = state.x, state.gradient
        held = ((x <= self.low) & (gradient > 0)) | ((x >= self.high) & (gradient < 0))
        step = self._solve(state, ~held, -gradient)
        # what would leave its bounds goes to the bound; the others answer to that
        inside = torch.minimum(torch.maximum(x + step, self.low), self.high)
        free = ~held & (inside == x + step)
        short = torch.where(free | held, 0, inside - x)
        if (hit := (~held & ~free).any(0).nonzero().squeeze(1)).numel():
            part = state.at(hit)
            pull = (unpack(part.normal, len(x)) * short[:, hit]).sum(1)
            again = self._solve(part, free[:, hit], -part.gradient - pull)
            step[:, hit] = short[:, hit] + again
        trial = self._inside(x + step)
        state.fall = -(gradient * (trial - x)).sum(0)
        state.trial = trial

    def _solve(self, state: _State, free: Tensor, right: Tensor) -> Tensor:
        """Solve the damped normal equations for the parameters that are free: (p, n)."""
        s, free = self.solver, free.to(right)
        normal = state.normal * free[s.row] * free[s.column]
        normal[s.diagonal] = state.normal[s.diagonal] * (1 + state.damping) + FLOOR / self.span**2
        step, _ = cholesky_solve(normal, right * free)
        return torch.nan_to_num(step * free, nan=0.0, posinf=0.0, neginf=0.0)

    def _expand(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cost (n,), half its Hessian (q, n) and half its gradient (p, n) at x."""
        s = self.solver
        signal, jacobian = s.model.linearise(s.acquisition, x)
        cost, slope, weight = s.likelihood(self.y, signal, self.sigma, self.weight)
        gradient = torch.stack([(row * slope).sum(0) for row in jacobian])
        normal = _products(jacobian, weight)
        normal, gradient = self._tangent(x, normal, gradient)
        if self.prior is not None:
            away = x - self.prior.mean
            pull = (self.prior.precision * away).sum(1)
            cost = cost + (away * pull).sum(0)
            gradient = gradient + pull
            normal = normal + self.prior.precision[s.row, s.column]
        return cost, normal, gradient

    def _tangent(self, x: Tensor, normal: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Leave directions only the steps along the sphere.

        The radial part of the normal matrix is replaced by one that is decoupled and regular, so
        that the system stays solvable and the solution tangential.
        """
        s = self.solver
        if not s.directions:
            return normal, gradient
        p = len(x)
        full = unpack(normal, p)
        for rows in s.directions:
            v = x[rows]
            gradient[rows] -= v * (v * gradient[rows]).sum(0)
            full[rows] -= v[:, None] * (v[:, None] * full[rows]).sum(0)
            full[:, rows] -= v * (full[:, rows] * v).sum(1, keepdim=True)
            size = (full[range(p), range(p)][rows].sum(0) / 2).clamp(min=FLOOR)
            full[rows, rows] += size * v[:, None] * v
        return full[s.row, s.column], gradient

    def covariance(self, state: _State) -> Tensor:
        """Covariance (p, p, n) at the optimum, see `laplace`."""
        s = self.solver
        known = RANGE_INFORMATION / self.span**2
        if self.prior is not None:  # the prior says all that is known beforehand
            known = torch.where(self.prior.precision.diagonal().T > 0, 0, known)
        scale = self._noise_scale(state.cost)
        limits = {"low": self.low, "high": self.high, "directions": s.directions}
        every = (state.normal, state.gradient, state.x, scale, known.expand_as(state.x))
        blocks = zip(*(v.split(self._block(), dim=-1) for v in every), strict=True)
        return torch.cat(
            [laplace(n / k, g / k, x, known=i, **limits) for n, g, x, k, i in blocks], dim=-1
        )


def _products(jacobian: Tensor, weight: Tensor) -> Tensor:
    """Packed J' W J: (p, m, n), (m, n) -> (q, n)."""
    rows = []
    for i in range(len(jacobian)):
        weighted = jacobian[i] * weight
        rows += [(weighted * jacobian[j]).sum(0) for j in range(i + 1)]
    return torch.stack(rows)


def _as_row(sigma: Tensor | float | None, like: Tensor) -> Tensor | None:
    if sigma is None:
        return None
    return torch.as_tensor(sigma).to(like).expand(like.shape[1])
