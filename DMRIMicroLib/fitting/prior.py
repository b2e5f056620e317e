"""What is known of the parameters before the data: bounds, and Gaussian priors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import NonlinearModel


@dataclass(frozen=True)
class Prior:
    """Gaussian prior of the parameters.

    Attributes
    ----------
    mean : (p, n) or (p, 1) tensor
    precision : (p, p, n) or (p, p, 1) tensor
        Inverse covariance; 0 where nothing is known.
    """

    mean: Tensor
    precision: Tensor

    @property
    def informed(self) -> Tensor:
        """Number of parameters, (n,) or (1,), of which something is known."""
        return (self.precision.diagonal().T > 0).sum(0)

    def like(self, tensor: Tensor) -> Prior:
        """Return the prior in the type and on the device of `tensor`."""
        return Prior(self.mean.to(tensor), self.precision.to(tensor))

    def turned(self, start: Tensor, directions: list[slice]) -> Tensor:
        """Turn directions of a start (p, n), which have no sign, to the side of the prior's."""
        start = start.clone()
        for rows in directions:
            against = (start[rows] * self.mean[rows]).sum(0) < 0
            start[rows] = torch.where(against, -start[rows], start[rows])
        return start

    def at(self, index: Tensor) -> Prior:
        """Prior of some of the voxels."""
        return Prior(
            *(v if v.shape[-1] == 1 else v[..., index] for v in (self.mean, self.precision))
        )


def declared(model: NonlinearModel, like: Tensor) -> Prior | None:
    """Return the prior that the model's parameters declare; None if they declare none."""
    told = [p.prior for p in model.parameters for _ in range(p.size)]
    if not any(told):
        return None
    mean = torch.tensor([t[0] if t else 0.0 for t in told]).to(like)[:, None]
    precision = torch.tensor([t[1] ** -2 if t else 0.0 for t in told]).to(like)
    return Prior(mean, torch.diag(precision)[..., None])


def bounds(model: NonlinearModel) -> tuple[Tensor, Tensor, Tensor]:
    """Return low, high and range of the p unknowns; a component of a direction has no bounds."""
    low, high, span = [], [], []
    for parameter in model.parameters:
        free = parameter.size > 1
        low += [-torch.inf if free else parameter.low] * parameter.size
        high += [torch.inf if free else parameter.high] * parameter.size
        span += [2.0 if free else parameter.high - parameter.low] * parameter.size
    return tuple(torch.tensor(v, dtype=torch.float64) for v in (low, high, span))  # type: ignore[return-value]
