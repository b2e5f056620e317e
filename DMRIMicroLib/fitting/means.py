"""Spherical means of the shells, with the noise floor taken out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..physics.noise import expectation, underlying, variance
from ..physics.sh import fit_matrix, sh_basis
from ..table import count_directions
from .robust import ROBUST_PASSES, outlier_weights

ORDERS = ((30, 4), (12, 2), (1, 0))
"""Least number of directions for each order of the smooth signal that tells the noise floor."""

STEP = 0.1
"""Step of the derivative of a magnitude by the signal [sigma]."""

STEEPEST = 5.0
"""Limit of the derivative of a signal by its magnitude, which grows beyond bounds at the floor."""


def spherical_means(
    signal: Tensor,
    acquisition: Acquisition,
    sigma: Tensor | None,
    coils: int = 1,
    robust: bool = False,
) -> tuple[Tensor, Tensor]:
    """Average b0 and each shell over their volumes.

    The magnitude of a noisy signal is too large on average, the more so the smaller the signal,
    so the bias depends on the direction and must go before the average. It is that of a smooth
    signal (spherical harmonics of low order) whose expected magnitude is the measured one.

    Parameters
    ----------
    signal : (n, m) tensor
        Samples that are not finite or not positive are left out.
    acquisition : Acquisition
        Of the m volumes.
    sigma : (n,) tensor, optional
        Standard deviation of the noise; without it nothing is taken out.
    coils : int
        See `fitting.likelihood.Likelihood`.
    robust : bool
        Replace samples far from the smooth signal by it, as far as `robust.outlier_weights` says.

    Returns
    -------
    (n, k) tensor
        Means in the order of `Acquisition.powder`.
    (n, k) tensor
        Samples without a noise floor that would tell as much.
    """
    groups = [torch.tensor(acquisition.is_b0.nonzero()[0])]
    groups += [torch.tensor(shell.indices) for shell in acquisition.shells]
    means, counts = [], []
    for k, group in enumerate(groups):
        part = signal[:, group.to(signal.device)]
        usable = (part > 0) & torch.isfinite(part)
        part = torch.where(usable, part, 0)
        count = usable.sum(1).to(signal)
        mean = part.sum(1) / count.clamp(min=1)
        filled = torch.where(usable, part, mean[:, None])
        smoother = _smoother(acquisition, group, k > 0).to(signal)
        smooth = filled @ smoother
        for _ in range(ROBUST_PASSES * robust):
            kept = outlier_weights((part - smooth).T, usable.T, sigma).T
            smooth = torch.lerp(smooth, part, kept) @ smoother
            count = (kept * usable).sum(1)
            mean = torch.lerp(smooth, part, kept * usable).mean(1)
        if sigma is not None:
            mean, share = _without_floor(mean, smooth, smoother, sigma[:, None], coils)
            count = count * share
        means.append(mean)
        counts.append(count)
    return torch.stack(means, 1), torch.stack(counts, 1)


def _without_floor(
    mean: Tensor, smooth: Tensor, smoother: Tensor, sigma: Tensor, coils: int
) -> tuple[Tensor, Tensor]:
    """Take the floor out of a mean (n,), and say what share of its samples' information is left.

    The mean becomes that of y_i + h(smooth_i) with h(s) = underlying(s) - s and smooth = y A, so
    its variance is the sum over samples of [(1 + sum_i A_ji h'_i) / m]^2 var(y_j).
    """
    true = underlying(smooth, sigma, coils)
    step = STEP * sigma
    slope = (expectation(true + step, sigma, coils) - expectation(true, sigma, coils)) / step
    bend = torch.where(true > 0, (1 / slope).clamp(max=STEEPEST), 0) - 1
    gain = 1 + bend @ smoother.T
    left = (gain.square() * variance(true, sigma, coils)).mean(1) / sigma[:, 0].square()
    # below the floor the correction cancels the noise, but nothing is known the better for it
    return mean - (smooth - true).mean(1), 1 / left.clamp(min=1)


def _smoother(acquisition: Acquisition, group: Tensor, weighted: bool) -> Tensor:
    """Matrix that smooths the signals of a shell over the sphere: (m, m) float64."""
    m = len(group)
    if not weighted:
        return torch.full((m, m), 1 / m, dtype=torch.float64)
    directions = torch.tensor(acquisition.bvecs)[group]
    distinct = count_directions(acquisition.bvecs[group.numpy()])
    order = next(order for least, order in ORDERS if distinct >= least)
    return (sh_basis(directions, order) @ fit_matrix(directions, order)).T
