"""Spherical means of the shells, with the noise floor taken out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..physics.noise import fisher, underlying
from ..physics.sh import fit_matrix, sh_basis

ORDERS = ((30, 4), (12, 2), (1, 0))
"""Least number of directions for each order of the smooth signal that tells the noise floor."""

LEAST_TOLD = 0.04
"""Least information of a magnitude, relative to one far above the noise."""


def spherical_means(
    signal: Tensor, acquisition: Acquisition, sigma: Tensor | None, coils: int = 1
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
        if sigma is not None:
            filled = torch.where(usable, part, mean[:, None])
            smooth = filled @ _smoother(acquisition, group, k > 0).to(signal)
            true = underlying(smooth, sigma[:, None], coils)
            mean = mean - (smooth - true).mean(1)
            # near the floor a magnitude tells less: taking the floor out amplifies its noise
            told = fisher(true, sigma[:, None], coils).clamp(min=LEAST_TOLD)
            count = count / (1 / told).mean(1)
        means.append(mean)
        counts.append(count)
    return torch.stack(means, 1), torch.stack(counts, 1)


def _smoother(acquisition: Acquisition, group: Tensor, weighted: bool) -> Tensor:
    """Matrix that smooths the signals of a shell over the sphere: (m, m) float64."""
    m = len(group)
    if not weighted:
        return torch.full((m, m), 1 / m, dtype=torch.float64)
    directions = torch.tensor(acquisition.bvecs)[group]
    order = next(order for least, order in ORDERS if m >= least)
    return (sh_basis(directions, order) @ fit_matrix(directions, order)).T
