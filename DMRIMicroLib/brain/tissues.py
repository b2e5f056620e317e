"""The tissue state of a voxel from what it is made of and where its fibres run.

A voxel of the grid has one state: fractions are averaged over its classes, diffusivities over its
water. Partial volume is not modelled so: the scanner averages signals over finer voxels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..physics.sh import sh_basis, sh_degrees
from ..physics.tissue import TissueState
from ..physics.watson import kappa_from_odi, watson_moments
from .anatomy import CLASSES
from .infant import newborn_middle_and_half
from .values import DENSITY_TO_TORTUOSITY, PARAMETERS, middle_and_half, within

ORDER = 6
"""Of the fibre orientation distribution."""

COHERENCE = 1.2
"""Half widths of the range of dispersion between the most and the middlingly coherent fibres."""

CSF = CLASSES.index("csf")

CORTEX = CLASSES.index("cortex")

TINY = 1e-6
"""Keeps a weighted mean defined where there is nothing to average."""

ODI_LEAST = 0.01
"""Dispersion that deformation cannot narrow a population beyond."""


def coherent(coherence: Tensor, size: Tensor) -> Tensor:
    """Deviation of white matter's parameters by how parallel the fibres are.

    Parameters
    ----------
    coherence : (n,) tensor
        0 to 1, from an anisotropy; where fibres cross that is low whatever the dispersion of each
        population, so crossings count as more coherent than they look.
    size : (n, k) tensor
        Relative sizes of the populations.

    Returns
    -------
    (n, p) tensor
        In half widths of the ranges.
    """
    part = size / size.sum(1, keepdim=True).clamp_min(TINY)
    crossing = 1 - part.square().sum(1)  # 0 for one population, 1/2 for two equal ones
    single = (coherence + crossing).clamp(0, 1)
    out = coherence.new_zeros(len(coherence), len(PARAMETERS))
    out[:, PARAMETERS.index("odi")] = COHERENCE * (1 - 2 * single)
    return out


def parameters(deviation: Tensor, young: Tensor | None) -> Tensor:
    """Parameters of every class from their deviations.

    Parameters
    ----------
    deviation : (n, 4, p) tensor
        In half widths of the ranges.
    young : (n,) tensor or None
        1 newborn to 0 adult.

    Returns
    -------
    (n, 4, p) tensor
    """
    ratio, dense = PARAMETERS.index("perp_ratio"), PARAMETERS.index("neurite")
    deviation[..., ratio] += DENSITY_TO_TORTUOSITY * deviation[..., dense]
    middle, half = middle_and_half(deviation.device)
    if young is None:
        return within(deviation, middle, half)
    middle_0, half_0 = newborn_middle_and_half(deviation.device)
    share = young[:, None, None]
    return within(deviation, torch.lerp(middle, middle_0, share), torch.lerp(half, half_0, share))


def compose(
    tissue: Tensor, values: Tensor, directions: Tensor, size: Tensor, sharper: Tensor
) -> TissueState:
    """State of voxels from their classes and fibres.

    Parameters
    ----------
    tissue : (n, 4) tensor
        Fractions of `anatomy.CLASSES`, summing to 1.
    values : (n, 4, p) tensor
        `values.PARAMETERS` of each class.
    directions : (n, k, 3) tensor
        Unit vectors; zero where there is no fibre. The first is the normal of the cortex in
        cortex.
    size : (n, k) tensor
        Relative sizes of the fibre populations.
    sharper : (n, k) tensor
        Factor of each one's concentration by the deformation.
    """
    v = dict(zip(PARAMETERS, values.unbind(-1), strict=True))
    extra = 1 - v["neurite"] - v["soma"] - v["free"] - v["dot"]
    of_neurite, of_extra = tissue * v["neurite"], tissue * extra
    of_soma = tissue * v["soma"]
    across = v["d_extra_par"] * v["perp_ratio"]
    odf = _odf(of_neurite + of_extra, v, directions, size, sharper)
    return TissueState(
        neurite=of_neurite.sum(1),
        extra=of_extra.sum(1),
        soma=of_soma.sum(1),
        free=(tissue * v["free"]).sum(1),
        dot=(tissue * v["dot"]).sum(1),
        d_neurite=_mean(v["d_neurite"], of_neurite, tissue),
        d_extra_par=_mean(v["d_extra_par"], of_extra, tissue),
        d_extra_perp=_mean(across, of_extra, tissue),
        radius=_mean(v["radius"], of_soma, tissue),
        odf=odf,
    )


def _mean(value: Tensor, weight: Tensor, otherwise: Tensor) -> Tensor:
    """Mean over classes by their water, or by their volume where they have none: (n, 4) -> (n,)."""
    weight = weight + TINY * otherwise
    return (value * weight).sum(1) / weight.sum(1)


def _odf(
    water: Tensor, v: dict[str, Tensor], directions: Tensor, size: Tensor, sharper: Tensor
) -> Tensor:
    """Fibre orientation distribution: -> (n, 28).

    A population is a Watson density. Part of the cortex' neurites runs along its surface, in all
    directions of it: a ring about the normal, spread like the population itself, which multiplies
    its moments by those of the ring, P_l(0) (Funk-Hecke).
    """
    share = water / water.sum(1, keepdim=True).clamp_min(TINY)
    ordered = share * (1 - v["isotropic"])  # cerebrospinal fluid has an isotropic share of 1
    ring = ordered[:, CORTEX] * v["tangential"][:, CORTEX]
    along = ordered.sum(1) - ring
    odi = _mean(v["odi"], ordered, 1 - torch.eye(4).to(share)[CSF])
    kappa = kappa_from_odi(odi)[:, None] * sharper
    kappa = kappa.clamp(max=float(kappa_from_odi(torch.tensor(ODI_LEAST))))
    moments = watson_moments(kappa, ORDER)  # (n, k, 4)
    size = size * (directions.square().sum(-1) > 0.5)
    part = size / size.sum(1, keepdim=True).clamp_min(TINY)
    normal = (size[:, :1] > 0).to(part) * ring[:, None]
    belt = normal * moments.new_tensor(_ring())
    degree = (sh_degrees(ORDER)[0] // 2).to(directions.device)
    odf = torch.zeros(len(water), len(degree)).to(directions)
    for k in range(directions.shape[1]):
        weight = (part[:, k] * along)[:, None]
        if k == 0:
            weight = weight + belt
        odf = odf + (weight * moments[:, k])[:, degree] * sh_basis(directions[:, k], ORDER)
    odf[:, 0] = 1 / np.sqrt(4 * np.pi)
    return odf


@lru_cache(maxsize=1)
def _ring() -> tuple[float, ...]:
    """Legendre polynomials at 0 of degrees 0, 2, 4, 6."""
    return tuple(np.polynomial.legendre.legvander(np.zeros(1), ORDER)[0, ::2].tolist())
