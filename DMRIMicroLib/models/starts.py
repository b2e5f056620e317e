"""Where a nonlinear fit begins: the best of a grid, and the tensor of the logarithm."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..acquisition import Acquisition
from .base import NonlinearModel
from .dti import DTI

TISSUE_MD = 0.75
"""Mean diffusivity of brain tissue [um2/ms], for the weights of `log_tensor` (C. Pierpaoli, P.
Jezzard, P. J. Basser, A. Barnett, G. Di Chiro, Radiology 201 (1996) 637-648: 0.70 +- 0.04 in white
matter)."""

SIGNAL_FLOOR = 1e-3
"""Share of S0 below which a signal is noise, and its logarithm would mislead."""


def evenly(low: float, high: float, count: int) -> list[float]:
    """Evenly spaced values, both ends among them."""
    return [low + (high - low) * k / (count - 1) for k in range(count)]


def mesh(*axes: list[float], like: Tensor) -> Tensor:
    """Every combination of some values: k lists -> (k, product of their lengths)."""
    values = [torch.tensor(axis, dtype=like.dtype, device=like.device) for axis in axes]
    return torch.stack(torch.meshgrid(*values, indexing="ij")).flatten(1)


def best_of_grid(model: NonlinearModel, acq: Acquisition, signal: Tensor, grid: Tensor) -> Tensor:
    """Choose for every voxel the grid point that explains its signal best.

    Parameters
    ----------
    model : NonlinearModel
        S0, its last parameter, must scale the signal.
    acq : Acquisition
    signal : (m, n) tensor
        Divided by S0.
    grid : (p - 1, k) tensor
        Values of the parameters without S0.

    Returns
    -------
    (p, n) tensor
        Parameters, S0 by least squares.
    """
    predicted = model.signal(acq, torch.cat([grid, torch.ones_like(grid[:1])]))
    size = predicted.norm(dim=0)
    # |y - s0 p|^2 at its best s0 is |y|^2 - (y.p / |p|)^2: the best point has the largest y.p / |p|
    score, best = ((predicted / size).T @ signal).max(0)
    return torch.cat([grid[:, best], (score / size[best])[None]])


def log_tensor(acq: Acquisition, signal: Tensor) -> Tensor:
    """Tensor and S0 of a signal by weighted linear least squares on its logarithm.

    The weights are those of average tissue, so that one matrix serves every voxel.

    Parameters
    ----------
    acq : Acquisition
    signal : (m, n) tensor
        Divided by S0. It is overwritten.

    Returns
    -------
    (7, n) tensor
        Dxx, Dyy, Dzz, Dxy, Dxz, Dyz [um2/ms], S0.
    """
    x = _log_inverse(acq, signal.dtype, signal.device) @ signal.clamp_(min=SIGNAL_FLOOR).log_()
    x[6].exp_()
    return x


@lru_cache(maxsize=16)
def _log_inverse(acq: Acquisition, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weighted pseudo-inverse of the tensor's design: (7, m)."""
    # the standard deviation of ln S is sigma / S
    weight = torch.exp(-TISSUE_MD * torch.tensor(acq.bvals) / 1e3)[:, None]
    return (torch.linalg.pinv(DTI().design(acq) * weight) * weight.T).to(device, dtype)
