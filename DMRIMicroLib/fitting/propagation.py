"""Standard deviations of metrics, by propagation of noise through a whole estimator.

To first order a metric g of n voxels' samples y has the variance sum_j (dg / dy_j)^2 var y_j. The
derivative is taken through every step of `fitting.regularised`: tensor, frame, basis, penalty,
system, metric. At the solution A a = M'y, with l = A^-1 dg/da,

    dg/dy = M l + dh/df df/dy,  h(f) = (M(f) l)'(y - M a) - (M l)'(M(f) a) - w l'L(f) a + g(a, f)

where only what is written as a function of the frame f varies. (The adjoint method: M. B. Giles,
N. A. Pierce, Flow, Turbul. Combust. 65 (2000) 393-415.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.framed import FramedModel
from ..physics.noise import variance
from .frames import Levers
from .likelihood import Likelihood
from .system import System


def standard_deviations(
    system: System,
    frame: Tensor,
    levers: Levers,
    sigma: Tensor | None,
    likelihood: Likelihood,
) -> dict[str, Tensor]:
    """Compute the standard deviation of every scalar metric of a block of voxels.

    Parameters
    ----------
    system : System
        Solved.
    frame : (f, n) tensor
    levers : Levers
    sigma : (n, 1) tensor, optional
        Standard deviation of the noise; by default from the residuals.
    likelihood : Likelihood
        Of the noise: magnitudes near the noise floor vary less.

    Returns
    -------
    dict of name to (n,) tensor

    Notes
    -----
    The bias that the penalty brings in is no part of it, nor is the choice of the penalty's weight
    by cross-validation. Where the noise floor was taken out, what that does to the noise is taken
    into account.
    """
    level = system.variance()[:, None] if sigma is None else sigma.square()
    noise = level
    if sigma is not None and likelihood.kind == "rician":
        noise = variance(system.predicted.clamp(min=0), sigma, likelihood.coils)
    slopes = sensitivities(system, frame, levers, level[:, 0])
    deviations = (slopes.square() * noise[:, None]).sum(2).sqrt()
    return dict(zip(_names(system.model), deviations.T, strict=True))


def sensitivities(system: System, frame: Tensor, levers: Levers, noise: Tensor) -> Tensor:
    """Differentiate the c scalar metrics by each sample: (n, c, m).

    `noise` (n,) is the variance of the noise.
    """
    model, k = system.model, system.model.coefficients
    leaf = torch.cat([system.coefficients.T, frame]).requires_grad_()
    with torch.enable_grad():
        derived = model.derive(leaf)
        sums = [derived[name].sum() for name in _names(model)]
    slopes = torch.stack([torch.autograd.grad(s, leaf, retain_graph=True)[0] for s in sums])
    adjoint, stays = system.adjoint(slopes[:, :k].permute(2, 0, 1))
    total = adjoint @ system.rows
    by_frame = slopes[:, k:] + _by_frame(system, frame, adjoint, total * stays)
    total[..., levers.fit.volumes] += levers.pull(by_frame, noise)
    return total * system.valid[:, None]


def _by_frame(system: System, frame: Tensor, adjoint: Tensor, direct: Tensor) -> Tensor:
    """Differentiate h - g by the frame, for each of c metrics: (c, f, n).

    `adjoint` (n, c, k) is l', `direct` (n, c, m) is l'M'.
    """
    leaf = frame.detach().requires_grad_()
    residual = system.samples - system.predicted
    with torch.enable_grad():
        both = torch.cat([adjoint, system.coefficients[:, None]], 1)
        signals = system.model.expand(system.acq, leaf, both)
        rough = system.weight * (system.model.penalty(leaf) @ system.coefficients[..., None])
        out = []
        for c in range(adjoint.shape[1]):
            h = (signals[:, c] * residual).sum() - (signals[:, -1] * direct[:, c]).sum()
            h = h - (adjoint[:, c] * rough[..., 0]).sum()
            out.append(torch.autograd.grad(h, leaf, retain_graph=True)[0])
    return torch.stack(out)


def _names(model: FramedModel) -> list[str]:
    return [metric.name for metric in model.metrics if metric.kind == "scalar"]
