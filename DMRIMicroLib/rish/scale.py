"""Scale maps: how much each order of a scan is larger in the other one.

H. Mirzaalian et al., NeuroImage 135 (2016) 311-323. X. Zhu et al. (MICCAI 2024), eq. 2 and 3:
lambda_l = sqrt(RISH'_l / (RISH_l + tau)) and C'_lm = lambda_l C_lm. All m of an order are scaled
alike, so the directions in which an order has its peaks stay; what changes is how much of each
order there is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..physics.sh import sh_basis, sh_degrees

TAU = 1e-6
"""Keeps lambda finite where an order has no energy. That of fourth order is 1e-4 and more, mostly
noise, where it is least in a scan: lambda is off by half a percent there, and nowhere else."""

LIMITS = (0.05, 4.0)
"""Of lambda (chosen): larger ones come of the noise of orders that a tissue hardly has, and of such
orders little more than nothing is left in a scan without noise."""


def scale_maps(
    target: Tensor, own: Tensor, tau: float = TAU, limits: tuple[float, float] = LIMITS
) -> Tensor:
    """Return lambda of each order (eq. 2), within limits; 1 where the scan has no energy.

    Parameters
    ----------
    target, own : (k, ...) tensor
        Energies of orders 0, 2, ... that are wanted, and those of the scan.
    tau : float
    limits : (float, float)
    """
    known = own > 0
    ratio = torch.where(known, target / torch.where(known, own + tau, 1.0), 1.0)
    return ratio.sqrt().clamp(*limits)


def scaled_signal(
    signal: Tensor,
    coefficients: Tensor,
    scale: Tensor,
    directions: Tensor,
    order: int,
    turned: Tensor | None = None,
) -> Tensor:
    """Scale the harmonics of a signal (eq. 3); what they do not represent is carried along.

    S' = sum lambda_l C_lm Y_lm + (S - sum C_lm Y_lm), so lambda of 1 gives the signal back, to the
    last bit. With C'_lm in the place of the first C_lm, harmonics are turned, too.

    Parameters
    ----------
    signal : (m, ...) tensor
        Relative to b = 0, of one shell.
    coefficients : (c, ...) tensor
        Fitted to it.
    scale : (k, ...) tensor
        Lambda of orders 0, 2, ...; orders beyond those of `coefficients` are not looked at.
    directions : (m, 3) tensor
    order : int
        Of the coefficients.
    turned : (c, ...) tensor, optional
        C'_lm, of the energies of C_lm (`directions.turned`).

    Returns
    -------
    (m, ...) tensor
    """
    degrees = (sh_degrees(order)[0] // 2).to(scale.device)
    wanted = coefficients if turned is None else turned
    change = scale[degrees] * wanted - coefficients
    return signal + torch.tensordot(sh_basis(directions, order).to(signal), change, dims=1)
