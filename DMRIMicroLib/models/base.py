"""What every model says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..maps import Metric


class Model(ABC):
    """A signal model: a frozen dataclass without fitting, I/O, random numbers or device code."""

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    def missing(self, acq: Acquisition) -> tuple[str, ...]:
        """Say what `acq` lacks for this model; empty if it can be identified."""
        lacks = [
            lack
            for needs in dict.fromkeys(m.needs for m in self.metrics)
            for lack in needs.missing(acq)
        ]
        return tuple(dict.fromkeys(lacks))

    def volumes(self, acq: Acquisition) -> list[int]:
        """Volumes to fit by default: all."""
        return list(range(len(acq)))

    @abstractmethod
    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the signal: (p, n) parameters -> (m, n)."""

    @abstractmethod
    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Compute the metrics: (p, n) parameters -> name to (n,) or (channels, n)."""


class LinearModel(Model):
    """A model whose logarithm of the signal is linear in its parameters; the last one is ln S0."""

    CONDITION_LIMIT: ClassVar[float] = 1e4
    """Condition number of the column-scaled design above which it is degenerate (coplanar, say)."""

    @abstractmethod
    def design(self, acq: Acquisition) -> Tensor:
        """Design matrix of ln S: (m, p) float64."""

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the signal: (p, n) parameters -> (m, n)."""
        return torch.exp(self.design(acq).to(parameters) @ parameters)

    def missing(self, acq: Acquisition) -> tuple[str, ...]:
        """Say what `acq` lacks for this model; empty if it can be identified."""
        if lacks := super().missing(acq):
            return lacks
        design = self.design(acq)
        scaled = design / design.norm(dim=0).clamp(min=1e-12)
        if torch.linalg.cond(scaled) > self.CONDITION_LIMIT:
            return (
                f"b-values and directions that determine its {design.shape[1]} unknowns "
                "(these are degenerate)",
            )
        return ()
