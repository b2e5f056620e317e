"""Tissue kernels: entries of the codebook, each a piece of tissue with diffusivities of its own.

A voxel is a mixture of them around one fibre orientation distribution; so its weights predict the
signal of any acquisition, and its spherical means must be those that were measured.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..acquisition import Acquisition
from ..physics.compartments import axial_kernel, ball, sphere
from ..physics.sh import sh_basis
from ..physics.tissue import D_FREE, D_SOMA, SOMA_ADC

SPHERES = 6
"""Kernels that are spheres; one more is free water, one still water, all others are zeppelins."""

D_RANGE = (0.05, 3.0)
"""Diffusivities of zeppelins [um2/ms]: between still and free water."""

RADII = (3.0, 12.0)
"""Radii of spheres [um]."""


ORDER = 4
DEGREES = (1, 5, 9)
"""Of fibre distributions: numbers of degrees 0, 2 and 4."""


class Kernels(nn.Module):
    """Learnable kernels.

    Parameters
    ----------
    count : int
        In all.
    """

    def __init__(self, count: int = 64) -> None:
        super().__init__()
        zeppelins = count - SPHERES - 2
        side = math.ceil(math.sqrt(zeppelins))
        along = torch.linspace(-2.5, 2.5, side).repeat_interleave(side)[:zeppelins]
        ratio = torch.linspace(-3.0, 2.5, side).repeat(side)[:zeppelins]
        self.count = count
        self.along = nn.Parameter(along)  # logits within D_RANGE
        self.ratio = nn.Parameter(ratio)  # logit of D_perp / D_par
        self.size = nn.Parameter(torch.linspace(-2.0, 2.0, SPHERES))  # logits within RADII

    def diffusivities(self) -> tuple[Tensor, Tensor]:
        """D_par and D_perp of the zeppelins [um2/ms]."""
        low, high = D_RANGE
        d_par = low + (high - low) * torch.sigmoid(self.along)
        return d_par, d_par * torch.sigmoid(self.ratio)

    def radii(self) -> Tensor:
        """Radii of the spheres [um]."""
        return RADII[0] + (RADII[1] - RADII[0]) * torch.sigmoid(self.size)

    def response(self, b: Tensor, delta: float | None, Delta: float | None) -> Tensor:
        """k_0, k_2 and k_4 of every kernel: (k,) [ms/um2] -> (k, count, 3)."""
        d_par, d_perp = self.diffusivities()
        zeppelins = axial_kernel(b[:, None], d_par, d_perp, ORDER)
        if delta is None or Delta is None:
            soma = ball(b, SOMA_ADC)[:, None].expand(-1, SPHERES)
        else:
            soma = sphere(b[:, None], self.radii(), D_SOMA, delta, Delta)
        still = torch.cat([soma, ball(b, D_FREE)[:, None], torch.ones_like(b)[:, None]], 1)
        isotropic = torch.stack([4 * math.pi * still, 0 * still, 0 * still], -1)
        return torch.cat([zeppelins, isotropic], 1)

    def means(
        self, weights: Tensor, b: Tensor, delta: float | None = None, Delta: float | None = None
    ) -> Tensor:
        """Spherical means of voxels: (n, count), (k,) -> (n, k)."""
        return weights @ self.response(b, delta, Delta)[..., 0].T / (4 * math.pi)

    def signal(
        self, weights: Tensor, odf: Tensor, acquisition: Acquisition, frame: Tensor
    ) -> Tensor:
        """Signal relative to b = 0.

        Parameters
        ----------
        weights : (n, count) tensor
        odf : (n, 14) tensor
            p_lm of degrees 2 and 4, in the slice's frame.
        acquisition : Acquisition
            m volumes.
        frame : (3, 3) tensor
            The slice's axes in RAS, as rows.

        Returns
        -------
        (n, m) tensor
        """
        b = torch.as_tensor(acquisition.bvals / 1e3).to(weights).round(decimals=4)
        g = torch.as_tensor(acquisition.bvecs.copy()).to(weights) @ frame.to(weights).T
        values, which = torch.unique(b, return_inverse=True)
        response = self.response(values, acquisition.delta, acquisition.Delta)
        mixed = torch.einsum("nk,bkl->nbl", weights, response)
        basis = sh_basis(g, ORDER)
        total = mixed[:, which, 0] / (4 * math.pi)
        first = 0
        for degree, size in enumerate(DEGREES[1:], 1):
            part = odf[:, first : first + size] @ basis[:, 1 + first : 1 + first + size].T
            total = total + mixed[:, which, degree] * part
            first += size
        return total
