"""RISH features of a shell: harmonics of its signal relative to b = 0, and their energies.

H. Mirzaalian et al., "Inter-site and inter-scanner diffusion MRI data harmonization", NeuroImage
135 (2016) 311-323; S. Cetin Karayumak et al., NeuroImage 184 (2019) 180-200.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..acquisition import Acquisition, Shell
from ..errors import InputError
from ..physics.sh import fit_matrix, rish
from .units import Setting

ORDER = 4
"""Order that networks know; 8 is allowed where there are directions enough."""

SMOOTH = 1e-5
"""Weight of the Laplace-Beltrami penalty, for each direction (chosen). M. Descoteaux et al., Magn.
Reson. Med. 58 (2007) 497-510, take 0.006 whatever the number of directions N: of evenly spread ones
that leaves the share 1 / (1 + 0.006 4 pi l^2 (l + 1)^2 / N) of order l, so that order 4 of 64
directions has 82 % of the energy of that of 90 on the same tissue. In proportion to N the share is
the same for all: 0.996 at l = 2, 0.95 at l = 4."""

DARK = 0.02
"""A voxel whose b0 signal is below this share of the image's 98th percentile shows no tissue: what
is relative to it is noise (chosen)."""

NO_B0, NEED_B0 = "there is no b0 volume", "RISH features are relative to b = 0."


def coefficient_count(order: int) -> int:
    """Coefficients of an even series."""
    return (order + 1) * (order + 2) // 2


def order_of(shell: Shell, wanted: int = ORDER) -> int:
    """Highest even order up to `wanted` whose coefficients a shell's directions can tell."""
    fits = [n for n in range(0, wanted + 1, 2) if coefficient_count(n) <= shell.directions]
    return max(fits, default=0)


def shell_for(acquisition: Acquisition, b: float, order: int = ORDER) -> Shell:
    """Return the shell nearest to b, if its directions tell all coefficients of an order.

    Raises
    ------
    InputError
        If there is no b0 volume, no shell within a quarter of b, or it has too few directions.
    """
    if not acquisition.is_b0.any():
        raise InputError(NO_B0, NEED_B0)
    shell = acquisition.shell(b)
    if order_of(shell, order) < order:
        raise InputError(
            f"the shell at b = {shell.b:.0f} has {shell.directions} directions; order {order} has "
            f"{coefficient_count(order)} coefficients",
            f"Give a scan with {coefficient_count(order)} directions or more in that shell.",
        )
    return shell


def shells_for(acquisition: Acquisition, setting: Setting, order: int = ORDER) -> list[Shell]:
    """Return the shells that a method knows and whose directions tell an order, the best first.

    Raises
    ------
    InputError
        As of `shell_for`, if there is none.
    """
    able = [s for s in acquisition.shells if order_of(s, order) == order and setting.knows(s.b)]
    if not able:
        return [shell_for(acquisition, setting.b, order)]
    if not acquisition.is_b0.any():
        raise InputError(NO_B0, NEED_B0)
    return sorted(able, key=lambda s: abs(s.b - setting.b))


@dataclass(frozen=True, eq=False)
class Harmonics:
    """Spherical harmonics of one shell, voxel by voxel.

    What is linear in the signal can be resampled: `weighted` and `b0`. What is relative to b = 0
    cannot, it is noise where there is no tissue.

    Attributes
    ----------
    weighted : (c, ...) tensor
        Coefficients times the b0 signal.
    b0 : (...) tensor
        Mean of the b0 volumes.
    order : int
    dark : float
        Voxels with a b0 signal up to this are taken as empty.
    """

    weighted: Tensor
    b0: Tensor
    order: int
    dark: float

    @property
    def coefficients(self) -> Tensor:
        """Relative to b = 0, and 0 where that is dark: (c, ...)."""
        tissue = self.b0 > self.dark
        return torch.where(tissue, self.weighted / torch.where(tissue, self.b0, 1.0), 0.0)

    def rish(self) -> Tensor:
        """Return the energy of each order: (order / 2 + 1, ...)."""
        return rish(self.coefficients.movedim(0, -1), self.order).movedim(-1, 0)


def harmonics(
    signal: Tensor,
    acquisition: Acquisition,
    b: float = 1000.0,
    order: int = ORDER,
    smooth: float | None = None,
) -> Harmonics:
    """Fit spherical harmonics to a shell.

    Parameters
    ----------
    signal : (m, ...) tensor
        Of all volumes.
    acquisition : Acquisition
    b : float
        Of the shell [s/mm2], about.
    order : int
        Even: 4, or 8 where there are 45 directions.
    smooth : float, optional
        Weight of the Laplace-Beltrami penalty; `SMOOTH` times the directions if left out.
    """
    shell = shell_for(acquisition, b, order)
    b0 = signal[torch.from_numpy(np.flatnonzero(acquisition.is_b0))].mean(0)
    matrix = harmonic_fit(acquisition, shell, order, smooth).to(signal)
    weighted = torch.tensordot(matrix, signal[list(shell.indices)], dims=1)
    return Harmonics(weighted, b0, order, dark_level(b0))


def harmonic_fit(
    acquisition: Acquisition, shell: Shell, order: int, smooth: float | None = None
) -> Tensor:
    """Matrix from a shell's volumes to coefficients: (c, k) float64; see `harmonics`."""
    directions = torch.from_numpy(acquisition.bvecs[list(shell.indices)])
    smooth = SMOOTH * len(shell) if smooth is None else smooth
    return fit_matrix(directions, order, smooth)


def dark_level(b0: Tensor) -> float:
    """Return the b0 signal up to which a voxel shows no tissue."""
    bright = np.nanpercentile(b0.detach().cpu().numpy(), 98)
    return max(0.0, DARK * float(bright))
