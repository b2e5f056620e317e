r"""Spherical means as one decay: S(b) = alpha exp(-beta b) + gamma.

The input of "Deep learning empowered microstructure codebook" (see `codebooks.demic`). Their code
calls a curve fit for every voxel; here all voxels are fitted at once, by variable projection
(G. H. Golub, V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413-432): for a given beta the best alpha
and gamma >= 0 follow in closed form, so that only beta is sought, on a grid and then by
Gauss-Newton steps (L. Kaufman, BIT 15 (1975) 49-57).

Three unknowns ask for three distinct b-values, b = 0 being one: b0 images and two shells. With
exactly three the curve goes through the means wherever one with alpha, gamma >= 0 can; with b0
images and one shell there is no such fit, and no `demic`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import NotIdentifiable
from ..physics.compartments import ball

LEAST_MEAN = 0.01
"""Voxels with a mean at or below it are left out [unit of the signal] (the authors' code)."""

BETA = (1e-3, 7.0)
"""Range of beta [um2/ms]: the authors' upper bound; below the lower one a decay cannot be told from
a constant at any b in use."""

BETAS = 64
"""Values on the grid, evenly spaced in log beta: neighbours differ by 15 %."""

STEPS = 20
"""Gauss-Newton steps of beta from the best value of the grid."""

LARGEST_STEP = 0.5
"""Largest change of log beta in a step: three steps of the grid."""

DISTINCT = 0.1
"""b-values closer than this are one [ms/um2] (the authors' code rounds b to 100 s/mm2)."""

VOXELS = 65536
"""Voxels fitted at a time: the grid takes 64 numbers of each."""


def check_distinct(b: Tensor) -> None:
    """Refuse fewer than three distinct b-values: (m,) [ms/um2]."""
    values = sorted(float(x) for x in b)
    distinct = [x for k, x in enumerate(values) if k == 0 or x - values[k - 1] >= DISTINCT]
    if len(distinct) < 3:
        have = ", ".join(f"{1e3 * x:.0f}" for x in distinct) or "none"
        raise NotIdentifiable(
            "alpha, beta and gamma need three distinct b-values, b = 0 being one; "
            f"these are {have} s/mm2",
            "demic cannot be used with b0 images and one shell; take another codebook.",
        )


@torch.no_grad()
def fit_abg(means: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the decay to the spherical means of n voxels, least squares.

    Parameters
    ----------
    means : (m, n) tensor
        Spherical means, b = 0 first or anywhere, in any unit that is the same for all voxels. (The
        authors fit the signal as it comes; if it is divided by each voxel's own b0, alpha tells
        nothing more that gamma does not.)
    b : (m,) tensor
        b-values [ms/um2].

    Returns
    -------
    (3, n) tensor
        alpha, beta [um2/ms], gamma; 0 where the voxel could not be used.
    (n,) bool tensor
        Voxels that were used: all means finite and above `LEAST_MEAN`.

    Raises
    ------
    NotIdentifiable
        If there are fewer than three distinct b-values.
    """
    check_distinct(b)
    b = b.to(means)
    usable = (torch.isfinite(means) & (means > LEAST_MEAN)).all(0)
    abg = means.new_zeros(3, means.shape[1])
    if usable.any():
        parts = means[:, usable].split(VOXELS, dim=1)
        abg[:, usable] = torch.cat([_fit(part, b) for part in parts], 1)
    return abg, usable


def predict(abg: Tensor, b: Tensor) -> Tensor:
    """Spherical means of the decay: (3, n), (m,) [ms/um2] -> (m, n)."""
    alpha, beta, gamma = abg
    return alpha * ball(b.to(abg)[:, None], beta) + gamma


def _fit(means: Tensor, b: Tensor) -> Tensor:
    """Fit voxels that are all usable: (m, n), (m,) -> (3, n)."""
    scale = means.amax(0)
    means = means / scale
    beta = _best_of_grid(means, b)
    best = _solve(means, b, beta)
    cost = _misfit(means, b, best).square().sum(0)
    step, damping = _step(means, b, best), torch.ones_like(cost)
    for _ in range(STEPS):
        trial = _solve(means, b, (best[1] * torch.exp(damping * step)).clamp(*BETA))
        trial_cost = _misfit(means, b, trial).square().sum(0)
        better = trial_cost < cost
        best, cost = torch.where(better, trial, best), torch.where(better, trial_cost, cost)
        damping = torch.where(better, 1.0, damping / 4)
        step = torch.where(better, _step(means, b, best), step)
    return best * torch.stack([scale, torch.ones_like(scale), scale])


def _misfit(means: Tensor, b: Tensor, abg: Tensor) -> Tensor:
    """Return what the decay leaves: (m, n), (m,), (3, n) -> (m, n)."""
    return means - predict(abg, b)


def _best_of_grid(means: Tensor, b: Tensor) -> Tensor:
    """Value of the grid that leaves the least: (m, n), (m,) -> (n,)."""
    low, high = (math.log(x) for x in BETA)
    betas = torch.linspace(low, high, BETAS, dtype=b.dtype, device=b.device).exp()
    decay = ball(b, betas[:, None])
    mean, level = decay.mean(1, keepdim=True), means.mean(0)
    alpha = (decay - mean) @ means / (decay - mean).square().sum(1, keepdim=True)
    gamma = level - alpha * mean
    both = len(b) * level.square() + alpha * ((decay - mean) @ means)
    alone = (decay @ means).square() / decay.square().sum(1, keepdim=True)
    constant = len(b) * level.square()
    explained = torch.where(gamma < 0, alone, torch.where(alpha < 0, constant, both))
    return betas[explained.argmax(0)]


def _solve(means: Tensor, b: Tensor, beta: Tensor) -> Tensor:
    """Best alpha and gamma >= 0 for each voxel's beta: (m, n), (m,), (n,) -> (3, n).

    Means are positive, so the constraint that is broken is the one that binds: alpha < 0 leaves
    the constant, gamma < 0 the decay alone.
    """
    decay = ball(b[:, None], beta)
    mean, level = decay.mean(0), means.mean(0)
    centred = decay - mean
    alpha = (centred * means).sum(0) / centred.square().sum(0)
    gamma = level - alpha * mean
    alone = (decay * means).sum(0) / decay.square().sum(0)
    alpha, gamma = (
        torch.where(gamma < 0, alone, alpha).clamp(min=0),
        torch.where(alpha < 0, level, gamma).clamp(min=0),
    )
    return torch.stack([alpha, beta, gamma])


def _step(means: Tensor, b: Tensor, abg: Tensor) -> Tensor:
    """Gauss-Newton step of log beta, alpha and gamma following (Kaufman): (n,)."""
    alpha, beta, gamma = abg
    decay = ball(b[:, None], beta)
    slope = -b[:, None] * beta * decay * alpha  # of the curve by log beta
    column = torch.where(gamma > 0, decay - decay.mean(0), decay)
    slope = slope - torch.where(gamma > 0, slope.mean(0), 0)
    share = (slope * column).sum(0) / column.square().sum(0)
    slope = slope - share * column
    power = slope.square().sum(0)
    change = (slope * _misfit(means, b, abg)).sum(0) / power.clamp(min=torch.finfo(b.dtype).tiny)
    return change.clamp(-LARGEST_STEP, LARGEST_STEP)
