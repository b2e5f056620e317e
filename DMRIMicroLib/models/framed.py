"""Models that are linear in the coefficients of a basis, which turns and scales with each voxel."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..acquisition import Acquisition
from .base import Model
from .dti import DTI


class FramedModel(Model):
    """A signal that is a sum of basis functions in a frame of the voxel's own.

    The frame is found first, from the voxel's diffusion tensor; the coefficients then follow from
    one linear system per voxel (`fitting.regularised`), which a penalty keeps well posed when
    there are fewer samples than coefficients. Parameters: the coefficients, in units of the
    signal, then what describes the frame.
    """

    tensor: DTI
    """How the tensor is fitted that the frame comes from."""
    weight: float
    """Weight of the penalty against the sum of squared residuals."""

    @property
    @abstractmethod
    def coefficients(self) -> int:
        """Number k of coefficients."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number p of parameters: coefficients and frame."""

    def missing(self, acq: Acquisition) -> tuple[str, ...]:
        """Say what `acq` lacks for this model or for its tensor; empty if it can be identified."""
        lacks = super().missing(acq)
        return lacks or self.tensor.missing(acq.subset(self.tensor.volumes(acq)))

    @abstractmethod
    def frame(self, acq: Acquisition, tensor: Tensor) -> Tensor:
        """Frame from a tensor: (6, n) in the order of `DTI` [um2/ms] -> (f, n)."""

    @abstractmethod
    def basis(self, acq: Acquisition, frame: Tensor) -> Tensor:
        """Basis functions at the samples: (f, n) frame of n voxels -> (n, m, k)."""

    @abstractmethod
    def penalty(self, frame: Tensor) -> Tensor:
        """Matrix of the quadratic penalty, before its weight: (f, n) frame -> (n, k, k)."""

    @abstractmethod
    def at_origin(self, like: Tensor) -> Tensor:
        """Basis functions without diffusion weighting: (k,), of the dtype and device of `like`."""

    def signal(self, acq: Acquisition, parameters: Tensor) -> Tensor:
        """Predict the signal: (p, n) parameters -> (m, n)."""
        coefficients, frame = parameters[: self.coefficients], parameters[self.coefficients :]
        return torch.einsum("nmk,kn->mn", self.basis(acq, frame), coefficients)
