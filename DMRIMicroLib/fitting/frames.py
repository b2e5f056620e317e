"""Each voxel's frame, from a tensor fit, and how it follows the samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..models.framed import FramedModel, eigensystem
from .linear import WeightedLeastSquares

WATER = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
"""Stands for a tensor where there is none [um2/ms], so that all parameters are finite."""


class FrameFit:
    """Finder of frames for one model and one acquisition.

    Parameters
    ----------
    model : FramedModel
    acq : Acquisition
    device, dtype
        Of the signals to come.
    """

    def __init__(
        self, model: FramedModel, acq: Acquisition, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.model, self.acq = model, acq
        volumes = model.tensor.volumes(acq)
        self.volumes = torch.tensor(volumes, device=device)
        design = model.tensor.design(acq.subset(volumes))
        self.design = design.to(device, dtype)
        self.solver = WeightedLeastSquares(design, 1, device=device, dtype=dtype)

    def fit(self, signal: Tensor, levers: bool = False) -> tuple[Tensor, Tensor, Levers | None]:
        """Find the frames of a batch.

        Parameters
        ----------
        signal : (n, m) tensor
        levers : bool
            Whether to say how the frames follow the samples: 65 numbers a voxel.

        Returns
        -------
        (f, n) tensor
            Frames.
        (n,) bool tensor
            Where there is a tensor.
        Levers, optional
        """
        low = signal.index_select(1, self.volumes)
        # with noise of 1 the covariance is (X' diag(S^2) X)^-1
        fitted = self.solver.fit(low, covariance=levers, sigma=1.0 if levers else None)
        tensor = torch.where(fitted.good, fitted.parameters, signal.new_tensor(WATER)[:, None])
        values, axes = eigensystem(tensor[:6])
        frame, good = self.model.frame(self.acq, values, axes), fitted.good.clone()
        if fitted.covariance is None:
            return frame, good, None
        return frame, good, Levers(self, tensor, values, axes, fitted.covariance)


@dataclass(frozen=True)
class Levers:
    """How the frames of n voxels follow the samples of the tensor fit, to first order.

    A weighted fit with the design X that predicts the signals S has the parameters x, with
    dx = (X' diag(S^2) X)^-1 X' diag(S) dy; what the change of the weights adds is of second order
    in the residuals. The eigenvalues l and eigenvectors e of the tensor D follow by perturbation
    theory (G. H. Golub, C. F. Van Loan, Matrix Computations, sections 7.2 and 8.1),

        dl_i = e_i' dD e_i,  de_i = sum_k e_k (e_k' dD e_i) / (l_i - l_k),

    which is infinite for equal eigenvalues. But noise that turns the axes freely changes a function
    of them, with its period of 180 degrees, by half its slope and no more (its standard deviation,
    if it is a sine). The quotient is therefore softened to 1 / sqrt((l_i - l_k)^2 + v), where v is
    the variance of the difference, twice which divides that of the angle.

    Attributes
    ----------
    fit : FrameFit
    tensor : (7, n) tensor
        x
    values, axes : (3, n), (2, 3, n) tensors
        Of the tensor's `eigensystem`.
    inverse : (7, 7, n) tensor
        (X' diag(S^2) X)^-1
    """

    fit: FrameFit
    tensor: Tensor
    values: Tensor
    axes: Tensor
    inverse: Tensor

    def part(self, at: slice) -> Levers:
        """Levers of some of the voxels."""
        own = (t[..., at] for t in (self.tensor, self.values, self.axes, self.inverse))
        return Levers(self.fit, *own)

    def pull(self, by_frame: Tensor, noise: Tensor) -> Tensor:
        """Turn derivatives by the frame into those by the samples of the tensor fit.

        Parameters
        ----------
        by_frame : (c, f, n) tensor
            Of c functions.
        noise : (n,) tensor
            Variance of the noise.

        Returns
        -------
        (n, c, l) tensor
        """
        by_values, by_axes = self._by_eigensystem(by_frame)
        e1, e2 = self.axes
        e3 = torch.linalg.cross(e1, e2, dim=0)
        # for each plane of two axes, what a turn of the first towards the second changes
        turns = (
            ((0, 1), (e1, e2), (by_axes[:, 0] * e2 - by_axes[:, 1] * e1).sum(1)),
            ((0, 2), (e1, e3), (by_axes[:, 0] * e3).sum(1)),
            ((1, 2), (e2, e3), (by_axes[:, 1] * e3).sum(1)),
        )
        squares = [_packed(e, e) for e in (e1, e2, e3)]
        by_tensor = sum(by_values[:, i, None] * squares[i] for i in range(3))
        inverse = self.inverse[:6]
        for (i, k), (first, second), slope in turns:
            apart = squares[i] - squares[k]
            unsure = noise * torch.einsum("pn,pqn,qn->n", apart, inverse[:, :6], apart)
            gap = torch.sqrt((self.values[i] - self.values[k]).square() + unsure)
            turn = (slope / gap.clamp(min=torch.finfo(gap.dtype).tiny))[:, None]
            by_tensor = by_tensor + turn * _packed(first, second)
        by_parameters = torch.einsum("cpn,pqn->ncq", by_tensor, inverse)
        predicted = torch.exp(self.tensor.T @ self.fit.design.T)
        return (by_parameters @ self.fit.design.T) * predicted[:, None]

    def _by_eigensystem(self, by_frame: Tensor) -> tuple[Tensor, Tensor]:
        """Turn derivatives by the frame into those by values (c, 3, n) and axes (c, 2, 3, n)."""
        leaves = [t.detach().requires_grad_() for t in (self.values, self.axes)]
        with torch.enable_grad():
            frame = self.fit.model.frame(self.fit.acq, *leaves)
        found = [torch.autograd.grad(frame, leaves, one, retain_graph=True) for one in by_frame]
        by_values, by_axes = zip(*found, strict=True)
        return torch.stack(by_values), torch.stack(by_axes)


def _packed(left: Tensor, right: Tensor) -> Tensor:
    """Change of left'D right with the six elements of D: (3, n), (3, n) -> (6, n)."""
    x, y, z = left
    u, v, w = right
    return torch.stack([x * u, y * v, z * w, x * v + y * u, x * w + z * u, y * w + z * v])
