"""From fitted parameters to metrics, their standard deviations, and what to think of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..metric import Flag, Metric
from ..models.base import Model
from .result import Fitted


@dataclass(frozen=True)
class Outcome:
    """Metrics of a batch of n voxels.

    Attributes
    ----------
    values : dict of name to (channels, n) tensor
    deviations : dict of name to (1, n) tensor
        Standard deviations of scalar metrics; empty unless asked for.
    flags : (n,) uint8 tensor
        See `maps.Flag`.
    """

    values: dict[str, Tensor]
    deviations: dict[str, Tensor]
    flags: Tensor


CERTAIN = 1e-6
"""Standard deviation over the range that no measurement reaches."""

RANGE_SLACK = 1e-4
"""Share of its range by which a value may pass a limit without being called out of range."""


def outcome(model: Model, found: Fitted) -> Outcome:
    """Derive the metrics; set what lies outside its valid range to the limit, and flag it."""
    derived = model.derive(found.parameters)
    known = found.deviations or {}
    if found.covariance is not None:
        known = _propagated(model, found.parameters, found.covariance)
    if found.unbiased is not None:
        other = model.derive(found.unbiased)
        known = {name: torch.hypot(sd, other[name] - derived[name]) for name, sd in known.items()}
    deviations = {m.name: _held(m, known[m.name])[None] for m in model.metrics if m.name in known}
    flags = torch.full_like(found.good, Flag.GOOD, dtype=torch.uint8)
    if found.converged is not None:
        flags[~found.converged] = Flag.NOT_CONVERGED
    values, finite = {}, found.good.clone()
    for metric in model.metrics:
        value = derived[metric.name].reshape(metric.channels, -1)
        finite &= torch.isfinite(value).all(0)
        if metric.kind == "scalar":
            slack = RANGE_SLACK * (metric.high - metric.low)
            outside = (value < metric.low - slack) | (value > metric.high + slack)
            flags[outside[0]] = Flag.OUT_OF_RANGE
            value = value.clamp(metric.low, metric.high)
        values[metric.name] = value
    unclear = model.undetermined(derived)
    if unclear is not None:
        flags[unclear] = Flag.UNDETERMINED
    flags[~finite] = Flag.EMPTY
    return Outcome(values, deviations, flags)


def _held(metric: Metric, deviation: Tensor) -> Tensor:
    """Hold a deviation to that of a uniform spread over the range: nothing is known less well."""
    widest = (metric.high - metric.low) / 12**0.5
    return deviation.nan_to_num(nan=widest).clamp(max=widest)


def _propagated(model: Model, parameters: Tensor, covariance: Tensor) -> dict[str, Tensor]:
    """Compute standard deviations by the delta method: sd2 = g' C g, g the metric's gradient.

    To this a model adds the second-order terms that it knows to matter.
    """
    leaf = parameters.detach().requires_grad_()
    with torch.enable_grad():
        derived = model.derive(leaf)
    curvature = model.curvature(parameters, covariance)
    out = {}
    for metric in model.metrics:
        if metric.kind != "scalar":
            continue
        (gradient,) = torch.autograd.grad(derived[metric.name].sum(), leaf, retain_graph=True)
        variance = torch.einsum("pn,pqn,qn->n", gradient, covariance, gradient)
        variance = variance.clamp(min=0)
        if metric.name in curvature:
            variance = variance + curvature[metric.name]
        out[metric.name] = variance.sqrt()
    certain = torch.zeros_like(parameters[0], dtype=torch.bool)
    for metric in model.metrics:
        if metric.name in out:
            certain |= out[metric.name] < CERTAIN * (metric.high - metric.low)
    at = certain.nonzero().squeeze(1)
    if len(at):
        moved = _by_moves(model, parameters[:, at], covariance[..., at])
        for name, value in out.items():
            value[at] = torch.maximum(value[at], moved[name])
    return out


def _by_moves(model: Model, parameters: Tensor, covariance: Tensor) -> dict[str, Tensor]:
    """Change of each metric when the parameters move by a standard deviation, one by one.

    For voxels in which a metric rests on a limit of its own (an eigenvalue below 0, an FA of 0):
    its gradient vanishes there, but that does not make it certain.
    """
    size = covariance.diagonal(dim1=0, dim2=1).T.clamp(min=0).sqrt().nan_to_num(posinf=0.0)
    here = model.derive(parameters)
    names = [m.name for m in model.metrics if m.kind == "scalar"]
    total = {name: torch.zeros_like(parameters[0]) for name in names}
    for i in range(len(parameters)):
        step = torch.zeros_like(parameters)
        step[i] = size[i]
        up, down = model.derive(parameters + step), model.derive(parameters - step)
        for name in names:
            change = torch.maximum((up[name] - here[name]).abs(), (down[name] - here[name]).abs())
            total[name] += change.nan_to_num().square()
    return {name: value.sqrt() for name, value in total.items()}
