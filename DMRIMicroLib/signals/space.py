r"""The space that priors live in: what tissue's noise-free signal can be, in a few numbers.

The signal relative to b = 0 is a series of spherical harmonics at every b,

.. math:: E(b, g) = \sum_{lm} E_{lm}(b) \, Y_{lm}(g),

and as a function of b the coefficients of one degree l hardly differ from one tissue to another:
with :math:`r_l` principal components :math:`\varphi_{lj}` over simulated tissue

.. math:: E_{lm}(b) = \bar E_{l}(b) + \sum_{j \le r_l} \varphi_{lj}(b) \, z_{lmj},
          \qquad \bar E_l = 0 \text{ for } l > 0.

All orders m share the components, so the space does not know directions. The numbers z, scaled to
unit variance, are what the prior is about; signals of any acquisition are linear in them. Nothing
here replaces the signal models: the components are those of signals that `physics.tissue` made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from ..acquisition import Acquisition
from ..errors import InputError
from ..physics.sh import sh_basis, sh_degrees
from .coupling import Coupling

ORDER = 4
NODES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
"""b-values [ms/um2] at which components are known; splines in between."""

HIGHEST = 3.2
"""Volumes above this b [ms/um2] say nothing in this space and are left out."""

RANKS = (3, 2, 1)
"""Components of degrees 0, 2 and 4: what is left of simulated signals is below 0.001."""


@dataclass(frozen=True)
class Space:
    """The components, see above; arrays in double precision.

    Attributes
    ----------
    mean : (k,) array
        Mean of degree 0 at `NODES`.
    components : tuple of (k, r_l) arrays
        Of degrees 0, 2 and 4.
    rest : (3, k) array
        Standard deviation of what is left out of a coefficient of each degree.
    coupling : Coupling, optional
        What degree 2 says of degree 4.
    """

    mean: NDArray[np.float64]
    components: tuple[NDArray[np.float64], ...]
    rest: NDArray[np.float64]
    coupling: Coupling | None = None

    @classmethod
    def of(cls, coefficients: Tensor, ranks: Sequence[int] = RANKS) -> Space:
        """Find the components of sample signals: (n, k, 15) coefficients at `NODES`."""
        values = coefficients.double().numpy()
        degrees = sh_degrees(ORDER)[0].numpy()
        mean = values[:, :, 0].mean(0)
        components, rest = [], []
        for degree, rank in zip(range(0, ORDER + 1, 2), ranks, strict=True):
            part = values[:, :, degrees == degree]
            if degree == 0:
                part = part - mean[:, None]
            flat = part.transpose(0, 2, 1).reshape(-1, len(mean))
            moment = flat.T @ flat / len(flat)
            power, vectors = np.linalg.eigh(moment)
            chosen = vectors[:, ::-1][:, :rank] * np.sqrt(power[::-1][:rank])
            chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(0), range(rank)])
            components.append(chosen)
            rest.append(np.sqrt(np.maximum(np.diag(moment - chosen @ chosen.T), 0)))
        return cls(mean, tuple(components), np.stack(rest))

    def coupled(self, numbers: Tensor) -> Space:
        """Return it with what numbers of n voxels, (n, c), tell of `coupling`."""
        return replace(self, coupling=Coupling.of(*self.firsts(numbers)))

    def firsts(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """First components of degrees 2 and 4: (n, c) -> (n, 5) and (n, 9)."""
        second, fourth = (numbers[:, self.degrees == degree] for degree in (2, 4))
        return second[:, :5], fourth[:, :9]

    @property
    def channels(self) -> int:
        """How many numbers a voxel has."""
        return len(self.degrees)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Component that each number belongs to, counted over degrees: orders m share it."""
        sizes = [4 * n + 1 for n, part in enumerate(self.components) for _ in range(part.shape[1])]
        return np.repeat(np.arange(len(sizes)), sizes)

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Degree l of each number; they are ordered by degree, component, then m."""
        counts = [(4 * n + 1) * part.shape[1] for n, part in enumerate(self.components)]
        return np.repeat(np.arange(0, ORDER + 1, 2), counts)

    def encode(self, coefficients: Tensor) -> Tensor:
        """Coefficients at `NODES` -> the space: (..., k, 15) -> (..., c)."""
        out, first = [], 0
        for n, part in enumerate(self.components):
            size = 4 * n + 1
            own = coefficients[..., first : first + size]
            if n == 0:
                own = own - torch.as_tensor(self.mean).to(own)[:, None]
            inverse = torch.as_tensor(np.linalg.pinv(part)).to(own)
            out.append(torch.einsum("jk,...km->...jm", inverse, own).flatten(-2))
            first += size
        return torch.cat(out, -1)

    def design(self, acquisition: Acquisition, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return how an acquisition sees the space.

        Parameters
        ----------
        acquisition : Acquisition
            m volumes of b up to `HIGHEST`.
        frame : (3, 3) tensor
            Rows, columns and thickness of a slice in RAS, as rows: the axes of the harmonics.

        Returns
        -------
        design : (m, c) tensor
            E = design z + offset, in double precision.
        offset : (m,) tensor
        rest : (m,) tensor
            Standard deviation of what the space leaves out of E.
        """
        b = acquisition.bvals / 1e3
        if len(b) and float(b.max()) > HIGHEST:
            raise InputError(f"b = {1e3 * b.max():g} s/mm2", f"Leave out b > {1e3 * HIGHEST:g}.")
        g = torch.as_tensor(np.array(acquisition.bvecs)) @ frame.double().cpu().T
        basis = sh_basis(g, ORDER)
        columns, first, rest = [], 0, torch.zeros(len(b), dtype=torch.float64)
        for n, part in enumerate(self.components):
            size = 4 * n + 1
            own = basis[:, first : first + size]
            at = torch.as_tensor(_spline(part, 0.0)(b))  # (m, r)
            columns.append((at[:, :, None] * own[:, None]).flatten(1))
            left = torch.as_tensor(_spline(self.rest[n], 0.0)(b))
            rest += left.square() * own.square().sum(1)
            first += size
        offset = torch.as_tensor(_spline(self.mean, math.sqrt(4 * math.pi))(b)) * basis[:, 0]
        return torch.cat(columns, 1), offset, rest.sqrt()

    def told(self) -> dict[str, Any]:
        """Return it as JSON values."""
        parts = [c.tolist() for c in self.components]
        out = {"mean": self.mean.tolist(), "components": parts, "rest": self.rest.tolist()}
        return out if self.coupling is None else out | {"coupling": list(self.coupling)}

    @classmethod
    def read(cls, told: dict[str, Any]) -> Space:
        """Make it of what `told` gave."""
        parts = tuple(np.asarray(c) for c in told["components"])
        coupling = Coupling(*told["coupling"]) if "coupling" in told else None
        return cls(np.asarray(told["mean"]), parts, np.asarray(told["rest"]), coupling)


def _spline(values: NDArray, at_zero: float) -> CubicSpline:
    """Interpolate over b; nothing is unknown at b = 0."""
    start = np.full((1, *values.shape[1:]), at_zero)
    return CubicSpline(np.concatenate([[0.0], NODES]), np.concatenate([start, values]))
