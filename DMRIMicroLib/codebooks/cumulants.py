"""Spherical means as two numbers that mean the same for any protocol: their first two cumulants."""

from __future__ import annotations

import torch
from torch import Tensor

USUAL = (0.8, 0.15)
"""First and second cumulant of usual tissue, D [um2/ms] and C [um4/ms2]."""

SPREAD = (0.5, 0.15)
"""Their standard deviations from voxel to voxel."""

ERROR = 0.05
"""Of the logarithm of a spherical mean: noise, and what two cumulants cannot describe."""

DARKEST = 0.01
"""Spherical means below it, relative to b = 0, count as it."""


def powder_cumulants(means: Tensor, b: Tensor) -> Tensor:
    """Fit ln S = -b D + b^2 C to spherical means; one shell leaves C nearly at its usual value.

    Posterior means of a linear Gaussian model (J. H. Jensen, J. A. Helpern, NMR Biomed. 23 (2010)
    698-710 for the expansion).

    Parameters
    ----------
    means : (s, ...) tensor
        Relative to b = 0.
    b : (s,) tensor
        [ms/um2]

    Returns
    -------
    (2, ...) tensor
    """
    design = torch.stack([-b, b.square()], 1).double()
    usual, spread = design.new_tensor(USUAL), design.new_tensor(SPREAD)
    information = design.T @ design / ERROR**2 + torch.diag(1 / spread.square())
    gain = torch.linalg.solve(information, design.T) / ERROR**2
    log = means.clamp(min=DARKEST).log()
    centre = (usual - gain @ (design @ usual)).to(log)
    found = gain.to(log) @ log.flatten(1)
    return (found + centre[:, None]).unflatten(1, means.shape[1:])
