"""Regularised linear least squares in a basis of each voxel's own, all voxels of a batch at once.

For basis functions M (m, k) of a voxel, samples y and penalty matrix L, the coefficients are

    a = A^-1 M'y,  A = M'M + w L

R. H. J. Fick, D. Wassermann, E. Caruyer, R. Deriche, NeuroImage 134 (2016) 365-385, eq. 9.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..errors import InputError
from ..models.framed import FramedModel
from .frames import FrameFit
from .likelihood import Likelihood
from .propagation import standard_deviations
from .result import Fitted
from .system import System

BLOCK_BYTES = {"cpu": 2**24, "cuda": 2**30}
"""Working memory of the voxels that are solved together [bytes]: on a CPU, what measured fastest of
0.5 to 64 MiB, which is some 200 voxels of 100 volumes."""


class RegularisedLeastSquares:
    """Solver of one model for one acquisition.

    Parameters
    ----------
    model : FramedModel
    acq : Acquisition
        Of the signals to come.
    weight : float or "gcv", optional
        Of the penalty, by default the model's. "gcv" chooses one for each voxel by generalised
        cross-validation, which takes some ten times as long.
    likelihood : Likelihood, optional
        Of the noise, by default Gaussian. Otherwise the noise floor is taken out of the samples
        where `fit` is told the noise; the squared residuals weigh the same as ever, so that what
        the solver finds in signals without noise does not depend on it.
    device, dtype
        Of the signals to come.

    Notes
    -----
    Working memory beyond signal and parameters is `BLOCK_BYTES`, with standard deviations twice
    that, besides what the frames take (`fitting.frames`).
    """

    def __init__(
        self,
        model: FramedModel,
        acq: Acquisition,
        *,
        weight: float | Literal["gcv"] | None = None,
        likelihood: Likelihood | None = None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.acq = model, acq
        self.weight = model.weight if weight is None else weight
        if self.weight != "gcv" and (isinstance(self.weight, str) or not 0 <= self.weight < 1e30):
            raise InputError(f"weight is {self.weight!r}", "Give a number >= 0, or 'gcv'.")
        self.likelihood = likelihood or Likelihood("gaussian")
        self.frames = FrameFit(model, acq, device=device, dtype=dtype)
        k = model.coefficients
        room = dtype.itemsize * (2 * k * len(acq) + 4 * k * k)
        self.block = max(8, BLOCK_BYTES[torch.device(device).type] // room)
        # the penalty needs the fewest; those of a tensor alone would leave all to the penalty
        self.fewest = max(metric.needs.volumes for metric in model.metrics)

    @torch.no_grad()
    def fit(
        self, signal: Tensor, deviations: bool = False, sigma: float | Tensor | None = None
    ) -> Fitted:
        """Fit a batch.

        Parameters
        ----------
        signal : (n, m) tensor
            Samples that are not finite or not positive get no weight.
        deviations : bool
            Whether to return the metrics' standard deviations too.
        sigma : float or (n,) tensor, optional
            Standard deviation of the noise, in units of the signal. Without it the noise floor
            stays, and standard deviations take each voxel's noise from its residuals, which have
            m - 2 tr S + tr S^2 degrees of freedom with S = M A^-1 M'.

        Returns
        -------
        Fitted
            A voxel is good if its usable samples determine the tensor, are at least as many as the
            model needs, and add up to a positive signal at b = 0. Elsewhere the parameters are
            finite and mean nothing. Standard deviations: see `fitting.propagation`.
        """
        frame, good, levers = self.frames.fit(signal, levers=deviations)
        n, k = len(signal), self.model.coefficients
        parameters = torch.cat([signal.new_empty(k, n), frame])
        usable = torch.empty(n, dtype=torch.int32, device=signal.device)
        noise = None if sigma is None else torch.as_tensor(sigma).to(signal).expand(n)
        names = [metric.name for metric in self.model.metrics if metric.kind == "scalar"]
        spread = None if levers is None else {name: signal.new_empty(n) for name in names}
        for start in range(0, n, self.block):
            at = slice(start, start + self.block)
            system = System(self.model, self.acq, signal[at], frame[:, at], self.weight)
            level = None if noise is None else noise[at, None]
            if level is not None and self.likelihood.kind == "rician":
                system.take_floor(level, self.likelihood.coils)
            parameters[:k, at], solved = system.coefficients.T, system.solved
            usable[at] = system.valid.sum(1, dtype=torch.int32)
            good[at] &= solved & (self.model.at_origin(signal) @ parameters[:k, at] > 0)
            if spread is not None:
                found = standard_deviations(
                    system, frame[:, at], levers.part(at), level, self.likelihood
                )
                for name, value in found.items():
                    spread[name][at] = value
        good &= usable >= self.fewest
        return Fitted(parameters, good, usable, deviations=spread)
