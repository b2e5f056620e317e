"""Signals of one q-space scheme from those of another: what every way to do it has in common.

All ways are functions of the same kind, so that they can be compared (`benchmarks/pretraining.py`)
and exchanged: `Interpolator`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
import torch
from scipy.special import eval_genlaguerre, gammaln
from torch import Tensor

from ..acquisition import SHELL_TOLERANCE, Acquisition
from ..errors import InputError
from ..fitting.regularised import RegularisedLeastSquares
from ..models import MAPMRI
from ..physics.sh import fit_matrix, sh_basis, sh_degrees
from ..signals.evidence import evidence
from ..signals.space import HIGHEST, Space

LOWEST = 1e-3
"""Means below this share of b = 0 are taken for it before their logarithm."""


class Interpolator(Protocol):
    """A way from one scheme to another."""

    name: ClassVar[str]

    def predict(self, signal: Tensor, acq: Acquisition, target: Acquisition) -> Tensor:
        """Return signals at other directions and b-values.

        Parameters
        ----------
        signal : (n, m) tensor
            Of all m volumes, relative to b = 0.
        acq, target : Acquisition
            Of the m volumes that there are, and of the k that are wanted.

        Returns
        -------
        (n, k) tensor
        """
        ...


@dataclass(frozen=True)
class Harmonics:
    """Spherical harmonics of every shell by itself.

    M. Descoteaux, E. Angelino, S. Fitzgibbons, R. Deriche, Magn. Reson. Med. 58 (2007) 497-510.
    Between shells, and from b = 0 to the first, the logarithm of the mean and the coefficients of
    higher degree are linear in b.

    Attributes
    ----------
    order : int
        Highest degree; lower where a shell has not as many directions as it takes.
    smooth : float
        Weight of the Laplacian, see `physics.sh.fit_matrix`.
    """

    name: ClassVar[str] = "SH"
    order: int = 8
    smooth: float = 0.006

    def predict(self, signal: Tensor, acq: Acquisition, target: Acquisition) -> Tensor:
        """Return signals of another scheme, see `Interpolator`."""
        shells = acq.shells
        size = (self.order + 1) * (self.order + 2) // 2
        knots, values = [0.0], [signal.new_zeros(len(signal), size)]
        values[0][:, 0] = (4 * np.pi) ** 0.5
        for shell in shells:
            order = self._order(shell.directions)
            g = torch.as_tensor(acq.bvecs[list(shell.indices)])
            matrix = fit_matrix(g, order, self.smooth).to(signal)
            own = signal[:, list(shell.indices)] @ matrix.T
            knots.append(shell.b)
            values.append(torch.nn.functional.pad(own, (0, size - own.shape[1])))
        highest = float(target.bvals.max())
        if highest > knots[-1] + SHELL_TOLERANCE:
            raise InputError(
                f"b = {highest:g} s/mm2 is wanted, the highest shell has {knots[-1]:.0f}",
                "Spherical harmonics do not go beyond it: choose another way, or other data.",
            )
        at = _between(knots, target.bvals)
        table = torch.stack(values)  # (knots, n, c)
        mean = table[..., :1].clamp(min=LOWEST).log()
        low, share = torch.as_tensor(at[0]), torch.as_tensor(at[1]).to(signal)[:, None, None]
        whole = torch.cat([mean, table[..., 1:]], 2)
        found = whole[low].lerp(whole[low + 1], share.expand(-1, *whole.shape[1:]))
        found = torch.cat([found[..., :1].exp(), found[..., 1:]], 2)  # (k, n, c)
        basis = sh_basis(torch.as_tensor(np.array(target.bvecs)), self.order).to(signal)
        return torch.einsum("knc,kc->nk", found, basis)

    def _order(self, directions: int) -> int:
        """Highest even degree, up to the wanted one, with as many coefficients as directions."""
        fits = [n for n in range(0, self.order + 1, 2) if (n + 1) * (n + 2) // 2 <= directions]
        return fits[-1] if fits else 0


@dataclass(frozen=True)
class Shore:
    """Three-dimensional functions of q: Gauss-Laguerre times spherical harmonics.

    E. Özarslan, C. Koay, T. Shepherd, S. Blackband, P. Basser, ISMRM 2009, 1396; S. Merlet,
    R. Deriche, Med. Image Anal. 17 (2013) 556-572, eq. 10. The conventions, of basis and penalties,
    are those of `dipy.reconst.shore`.

    Attributes
    ----------
    order : int
        Radial order.
    zeta : float
        Scale [s/mm2].
    penalty : (float, float)
        Weights of radial and angular order.
    """

    name: ClassVar[str] = "SHORE"
    order: int = 6
    zeta: float = 700.0
    penalty: tuple[float, float] = (1e-8, 1e-8)

    def predict(self, signal: Tensor, acq: Acquisition, target: Acquisition) -> Tensor:
        """Return signals of another scheme, see `Interpolator`."""
        basis, (n, degree) = self.basis(acq), self._indices()
        weight = (
            self.penalty[0] * (n * (n + 1)) ** 2 + self.penalty[1] * (degree * (degree + 1)) ** 2
        )
        inverse = np.linalg.solve(basis.T @ basis + np.diag(weight), basis.T)
        return signal @ torch.as_tensor(self.basis(target) @ inverse).to(signal).T

    def basis(self, acq: Acquisition) -> np.ndarray:
        """Values of the basis functions: (m, c)."""
        n, degree = self._indices()
        r = (acq.bvals / self.zeta)[:, None]
        # kappa of Merlet and Deriche, eq. 11
        log = np.log(2) + gammaln(n - degree + 1) - 1.5 * np.log(self.zeta) - gammaln(n + 1.5)
        radial = np.exp(log / 2 - r / 2) * r ** (degree / 2)
        radial = radial * eval_genlaguerre(n - degree, degree + 0.5, r)
        angular = sh_basis(torch.as_tensor(np.array(acq.bvecs)), self.order).numpy()
        return radial * angular[:, self._angular()]

    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Radial index and degree of every function."""
        pairs = [
            (n, degree)
            for degree in range(0, self.order + 1, 2)
            for n in range(degree, (self.order + degree) // 2 + 1)
            for _ in range(2 * degree + 1)
        ]
        return tuple(np.array(pairs).T)  # type: ignore[return-value]

    def _angular(self) -> np.ndarray:
        """Column of the spherical harmonic of every function."""
        degrees = sh_degrees(self.order)[0].numpy()
        columns = [
            np.flatnonzero(degrees == degree)
            for degree in range(0, self.order + 1, 2)
            for _ in range(degree, (self.order + degree) // 2 + 1)
        ]
        return np.concatenate(columns)


@dataclass(frozen=True)
class Propagator:
    """Mean apparent propagator, see `models.mapmri`.

    The timing of the scan that there is stands for both: the signal is one of b and direction.
    """

    name: ClassVar[str] = "MAP-MRI"
    model: MAPMRI = field(default_factory=MAPMRI)

    def predict(self, signal: Tensor, acq: Acquisition, target: Acquisition) -> Tensor:
        """Return signals of another scheme, see `Interpolator`."""
        own = {"device": signal.device, "dtype": signal.dtype}
        solver = RegularisedLeastSquares(self.model, acq, **own)
        found = solver.fit(signal).parameters
        k, same = self.model.coefficients, replace(target, delta=acq.delta, Delta=acq.Delta)
        coefficients = found[:k].T
        origin = coefficients @ self.model.at_origin(signal)
        out = [
            self.model.expand(same, found[k:, at], coefficients[at, None])[:, 0]
            for at in torch.arange(len(signal), device=signal.device).split(solver.block)
        ]
        return torch.cat(out) / origin.clamp(min=LOWEST)[:, None]


@dataclass(frozen=True, eq=False)
class Numbers:
    """The signal space of the codebook (`signals.space`), under the population's prior.

    Attributes
    ----------
    space : Space
    noise : float
        Standard deviation, relative to b = 0.
    frame : (3, 3) tensor
        See `Space.design`.
    """

    name: ClassVar[str] = "signal space"
    space: Space
    noise: float
    frame: Tensor = field(default_factory=lambda: torch.eye(3))

    def predict(self, signal: Tensor, acq: Acquisition, target: Acquisition) -> Tensor:
        """Return signals of another scheme, see `Interpolator`."""
        noise = signal.new_full((len(signal),), self.noise)
        z = numbers_of(self.space, signal, noise, acq, self.frame)
        seen = replace(target, bvals=target.bvals.clip(max=1e3 * HIGHEST))
        design, offset, _ = self.space.design(seen, self.frame)
        return z @ design.to(z).T + offset.to(z)


def numbers_of(
    space: Space, signal: Tensor, noise: Tensor, acq: Acquisition, frame: Tensor
) -> Tensor:
    """Return the numbers of the signal space that a scan tells by itself: (n, c).

    Parameters
    ----------
    space : Space
    signal : (n, m) tensor
        Relative to b = 0.
    noise : (n,) tensor
        Its standard deviation.
    acq : Acquisition
    frame : (3, 3) tensor
        See `Space.design`.

    Returns
    -------
    (n, c) tensor
        Mean of the posterior under the standard normal prior, which is the population's.
    """
    seen = evidence(space, signal.T, noise, acq, frame)
    prior = torch.ones(space.channels, dtype=torch.float64, device=signal.device)
    return seen.posterior(torch.zeros_like(seen.vector), prior, torch.ones_like(noise)).T


def _between(knots: list[float], b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval of each b, and how far into it: values within a shell's width are on the shell."""
    near = np.abs(b[:, None] - np.array(knots)).argmin(1)
    snapped = np.array(knots)[near]
    b = np.where(np.abs(snapped - b) <= SHELL_TOLERANCE, snapped, b)
    low = np.clip(np.searchsorted(knots, b, side="right") - 1, 0, len(knots) - 2)
    left, right = np.array(knots)[low], np.array(knots)[low + 1]
    return low, np.clip((b - left) / (right - left), 0, 1)
