"""The general state of a piece of tissue, and its signal for any acquisition.

The compartments are those of M. Palombo et al., NeuroImage 215 (2020) 116835 (sticks and spheres),
with the zeppelin and free water of H. Zhang et al., NeuroImage 61 (2012) 1000-1016, around a fibre
orientation distribution of any shape (S. N. Jespersen et al., NeuroImage 34 (2007) 1473-1486).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..acquisition import Acquisition
from .compartments import axial_kernel, ball, dot, sphere
from .sh import sh_basis, sh_order
from .weighting import Weighting, weighting

D_FREE = 3.0
"""Diffusivity of free water at body temperature [um2/ms] (M. Holz, S. R. Heil, A. Sacco, Phys.
Chem. Chem. Phys. 2 (2000) 4740-4742)."""

D_SOMA = 3.0
"""Diffusivity inside somas [um2/ms] (Palombo et al.)."""

SOMA_ADC = 0.175
"""Apparent diffusivity of somas where the gradient timing is not known [um2/ms]: that of a sphere
of 8 um with the timing of the Human Connectome Project, delta 10.6 and Delta 43.1 ms (S. N.
Sotiropoulos et al., NeuroImage 80 (2013) 125-143)."""


@dataclass(frozen=True)
class TissueState:
    """What a voxel is made of; all tensors broadcast against each other.

    Attributes
    ----------
    neurite, extra, soma, free, dot : (...) tensors
        Signal fractions, which sum to 1: sticks, the space around them, spheres, free water, and
        water that does not move.
    d_neurite : (...) tensor
        Diffusivity along neurites, D_a [um2/ms].
    d_extra_par, d_extra_perp : (...) tensors
        Diffusivities of the space around them, along and across [um2/ms].
    radius : (...) tensor
        Soma radius [um].
    odf : (..., c) tensor
        SH coefficients of the fibre orientation distribution (`sh.sh_basis`), which integrates to
        1, so that the first is 1 / sqrt(4 pi); c = 28 is order 6.
    """

    neurite: Tensor
    extra: Tensor
    soma: Tensor
    free: Tensor
    dot: Tensor
    d_neurite: Tensor
    d_extra_par: Tensor
    d_extra_perp: Tensor
    radius: Tensor
    odf: Tensor


def signal(state: TissueState, acq: Acquisition) -> Tensor:
    """Signal relative to that without diffusion weighting.

    Parameters
    ----------
    state : TissueState
        With tensors (...).
    acq : Acquisition
        m volumes. Without its delta and Delta somas have the apparent diffusivity `SOMA_ADC`.

    Returns
    -------
    (..., m) tensor
    """
    w = weighting(acq, state.odf)
    b, volume = torch.unique(w.b, return_inverse=True)  # few b-values: one kernel for each
    order = sh_order(state.odf.shape[-1])
    kernel = _kernel(state, b, order)
    isotropic = _isotropic(state, b, w)
    basis = sh_basis(w.g, order)
    total = isotropic[..., volume]
    first = 0
    for n in range(order // 2 + 1):  # S_lm(b) = k_l(b) p_lm, summed over m and then l
        part = slice(first, first + 4 * n + 1)
        shape = state.odf[..., part] @ basis[:, part].T
        total = total + kernel[..., n][..., volume] * shape
        first = part.stop
    return total


def _kernel(state: TissueState, b: Tensor, order: int) -> Tensor:
    """Response of sticks and their surroundings to each b: (k,) -> (..., k, order / 2 + 1)."""
    sticks = axial_kernel(b, state.d_neurite[..., None], 0.0, order)
    around = axial_kernel(b, state.d_extra_par[..., None], state.d_extra_perp[..., None], order)
    return state.neurite[..., None, None] * sticks + state.extra[..., None, None] * around


def _isotropic(state: TissueState, b: Tensor, w: Weighting) -> Tensor:
    """Signal of the compartments without a direction: (k,) -> (..., k)."""
    radius = state.radius[..., None]
    if w.delta is None or w.Delta is None:
        soma = ball(b, SOMA_ADC)
    else:
        soma = sphere(b, radius, D_SOMA, w.delta, w.Delta)
    return (
        state.soma[..., None] * soma
        + state.free[..., None] * ball(b, D_FREE)
        + state.dot[..., None] * dot(b)
    )
