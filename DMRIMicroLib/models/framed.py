"""Models that are linear in the coefficients of a basis, which turns and scales with each voxel."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..physics.linalg import eigh3
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
    def frame(self, acq: Acquisition, values: Tensor, axes: Tensor) -> Tensor:
        """Frame from a tensor's `eigensystem` [um2/ms]: (3, n), (2, 3, n) -> (f, n)."""

    @abstractmethod
    def basis(self, acq: Acquisition, frame: Tensor) -> Tensor:
        """Basis functions at the samples: (f, n) frame of n voxels -> (n, m, k)."""

    def expand(self, acq: Acquisition, frame: Tensor, coefficients: Tensor) -> Tensor:
        """Sum basis functions at the samples: (f, n) frame, (n, c, k) -> (n, c, m).

        For derivatives by the frame, which a model may know how to take faster than this.
        """
        return coefficients @ self.basis(acq, frame).mT

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


def eigensystem(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, and the first two eigenvectors: (6, n) -> (3, n), (2, 3, n)."""
    values, first = eigh3(tensor)
    return values, torch.stack([first, _second_axis(tensor, first)])


def _second_axis(tensor: Tensor, first: Tensor) -> Tensor:
    """Eigenvector of the second eigenvalue, given the first: (6, n), (3, n) -> (3, n).

    In the plane across the first axis the tensor is a symmetric matrix [[a, b], [b, c]], whose
    larger eigenvalue lies at half the angle of (a - c, 2 b).
    """
    # the coordinate axis most nearly across the first one, made perpendicular to it
    helper = torch.nn.functional.one_hot(first.abs().argmin(0), 3).to(first).T
    u = torch.linalg.cross(first, helper, dim=0)
    u = u / torch.linalg.vector_norm(u, dim=0)
    w = torch.linalg.cross(first, u, dim=0)
    xx, yy, zz, xy, xz, yz = tensor
    matrix = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).unflatten(0, (3, 3))
    on_u, on_w = (matrix * u).sum(1), (matrix * w).sum(1)
    angle = torch.atan2(2 * (w * on_u).sum(0), (u * on_u).sum(0) - (w * on_w).sum(0)) / 2
    return torch.cos(angle) * u + torch.sin(angle) * w
