"""What every model says about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import jvp, vmap

from ..acquisition import Acquisition
from ..metric import Metric

_forward_mode = Lock()
"""Held while differentiating forwards: PyTorch counts its nesting for all threads together."""


class Model(ABC):
    """A signal model: a frozen dataclass without fitting, I/O, random numbers or device code."""

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    @property
    @abstractmethod
    def size(self) -> int:
        """Number p of parameters."""

    def missing(self, acq: Acquisition) -> tuple[str, ...]:
        """Say what `acq` lacks for this model; empty if it can be identified."""
        lacks = [
            lack
            for needs in dict.fromkeys(m.needs for m in self.metrics)
            for lack in needs.missing(acq)
        ]
        return tuple(dict.fromkeys(lacks))

    def cautions(self, acq: Acquisition) -> tuple[str, ...]:
        """Say what the user must know of maps from `acq`, although it is enough for a fit."""
        return ()

    def volumes(self, acq: Acquisition) -> list[int]:
        """Volumes to fit by default: all."""
        return list(range(len(acq)))

    @abstractmethod
    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the signal: (p, n) parameters -> (m, n)."""

    @abstractmethod
    def derive(self, parameters: Tensor) -> dict[str, Tensor]:
        """Compute the metrics: (p, n) parameters -> name to (n,) or (channels, n)."""

    def curvature(self, parameters: Tensor, covariance: Tensor) -> dict[str, Tensor]:
        """Variance of the metrics that their gradients miss: (p, n), (p, p, n) -> name to (n,).

        What second-order terms add to the delta method, of metrics where that is not negligible.
        """
        return {}

    def undetermined(self, metrics: dict[str, Tensor]) -> Tensor | None:
        """Mark voxels whose metrics mean nothing (NDI where all is free water): (n,) bool."""
        return None


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
        return super().missing(acq) or self.degenerate(acq)

    def degenerate(self, acq: Acquisition) -> tuple[str, ...]:
        """Say that b-values and directions leave unknowns open (coplanar ones, say), or nothing."""
        design = self.design(acq)
        scaled = design / design.norm(dim=0).clamp(min=1e-12)
        if torch.linalg.cond(scaled) > self.CONDITION_LIMIT:
            return (
                f"b-values and directions that determine its {design.shape[1]} unknowns "
                "(these are degenerate)",
            )
        return ()


UNIFORM = (0.5, 0.29)
"""Mean and standard deviation of a uniform distribution over 0 to 1, as a prior: no more than the
bounds say, but said smoothly. Without it noise of an SNR of 10 to 20 drives a parameter of the
range 0 to 1 that two shells hardly determine onto its bounds."""


@dataclass(frozen=True)
class Parameter:
    """One unknown of a nonlinear model.

    Attributes
    ----------
    name : str
    low, high : float
        Bounds, in `unit`.
    unit : str
        ``""`` for a pure number.
    meaning : str
    size : int
        1, or 3 for a direction (a unit vector in RAS: two degrees of freedom; its bounds are not
        used).
    prior : (float, float), optional
        Mean and standard deviation of what is known of it in the brain, for a parameter that
        practicable acquisitions do not determine alone.
    """

    name: str
    low: float
    high: float
    unit: str = ""
    meaning: str = ""
    size: int = 1
    prior: tuple[float, float] | None = None


class NonlinearModel(Model):
    """A model that is fitted by `fitting.solver`.

    Its signals are relative to b = 0 times its last parameter S0, which is about 1 because a fit
    divides the data by a robust S0 first.
    """

    parameters: ClassVar[tuple[Parameter, ...]]

    def missing(self, acq: Acquisition) -> tuple[str, ...]:
        """Say what `acq` lacks for this model; empty if it can be identified.

        A model that needs as many directions as a tensor needs them to determine one: coplanar
        directions tell nothing of what is across their plane.
        """
        from .dti import DTI, NEEDS  # the tensor is a model itself

        if lacks := super().missing(acq):
            return lacks
        if all(metric.needs.directions < NEEDS.directions for metric in self.metrics):
            return ()
        if DTI().degenerate(acq):
            return (
                "directions that determine a diffusion tensor (these are degenerate: coplanar?)",
            )
        return ()

    @property
    def size(self) -> int:
        """Number p of parameters, a direction's three components counted."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def rows(self) -> dict[str, slice]:
        """Where each parameter lies in a (p, n) tensor."""
        rows, at = {}, 0
        for parameter in self.parameters:
            rows[parameter.name] = slice(at, at + parameter.size)
            at += parameter.size
        return rows

    @abstractmethod
    def start(self, acq: Acquisition, signal: Tensor) -> Tensor:
        """Propose where to begin: (m, n) signal divided by S0 -> (k, p, n), k starts a voxel."""

    def linearise(self, acq: Acquisition, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and Jacobian: (p, n) -> (m, n) and (p, m, n), by forward-mode differentiation.

        Models that are fitted to every volume give their own analytic one, which a test holds to
        this.
        """

        def along(row: Tensor) -> tuple[Tensor, Tensor]:
            tangent = row[:, None].expand_as(parameters)
            return jvp(lambda x: self.signal(acq, x), (parameters,), (tangent,))

        eye = torch.eye(len(parameters), dtype=parameters.dtype, device=parameters.device)
        with _forward_mode:
            signal, jacobian = vmap(along, out_dims=(None, 0))(eye)
        return signal, jacobian


class PowderModel(NonlinearModel):
    """A model of spherical means, which do not depend on the fibre orientations.

    `signal` and `start` know one volume per shell, and one for b = 0: those that
    `Acquisition.powder` gives; the fit averages each shell first.
    """
