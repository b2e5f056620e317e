"""What the codebook sees of a slice: for every shell a spherical mean and SH, any protocol alike.

A shell of six directions does not determine an SH series of order 4, so all series are posterior
means of a linear Gaussian model: white matter of usual diffusivities says how large the
coefficients of a fibre orientation distribution are at each b (Funk-Hecke, S_lm = k_l(b) p_lm), the
noise how far the data move them. Each series is divided by k_l(b): all shells then tell the same
p_lm, and one more series is that of all shells together. What share of it was measured, rather
than assumed, goes along as the trace of the resolution matrix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..physics.compartments import axial_kernel
from ..physics.sh import sh_basis
from .fits import FITS, linear_fits
from .shrunk import SHRUNK, shrunk

ORDER = 4
"""Of the SH series: 1 + 5 + 9 coefficients."""

DEGREES = (1, 5, 9)

USUAL = (0.55, 2.0, 0.6)
"""White matter that says how large coefficients are: share of sticks, diffusivity along the fibres
[um2/ms] and across them outside. Coefficients are only scaled by it."""

PRIOR_SD = (0.2, 0.12)
"""Of a coefficient p_lm of degree 2 and 4: a Watson distribution of ODI 0.2 has 0.2 and 0.15 in
the root mean square over m."""

MEAN_SD = 0.3
"""Of a spherical mean around that of usual tissue, relative to b = 0."""

ALL_FITS = FITS + SHRUNK
SHELL_FACTS = 7
JOINT_FACTS = 7
VOXEL_FACTS = 2

DIM = 0.05
"""S0 is at least this share of the median: what lies outside the brain divides nothing."""

SNR_RANGE = (2.0, 200.0)


class Tokens(NamedTuple):
    """A slice as the network takes it: s shells, x by y voxels.

    Attributes
    ----------
    mean : (s, x, y) tensor
        Spherical mean relative to b = 0.
    series : (s, 14, x, y) tensor
        p_lm of degrees 2 and 4, from each shell alone.
    joint : (14, x, y) tensor
        The same from all shells together.
    shell_facts : (s, 7) tensor
        b [ms/um2], log number of volumes, resolution of degrees 2 and 4, k_2 and k_4 relative to
        4 pi, log SNR of b0.
    joint_facts : (7,) tensor
        Log number of volumes, of b0 volumes, resolution of degrees 2 and 4, log SNR, and which of
        the linear fits there are.
    fits : (21, x, y) tensor
        What linear fits say, see `fits.linear_fits`, and what they say with a prior, `shrunk`.
    voxel_facts : (2, x, y) tensor
        Log of b0 relative to its median, log of noise relative to b0.
    mask : (x, y) bool tensor
    """

    mean: Tensor
    series: Tensor
    joint: Tensor
    shell_facts: Tensor
    joint_facts: Tensor
    fits: Tensor
    voxel_facts: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> Tokens:
        """Return it on another device."""
        return Tokens(*(value.to(device) for value in self))


def tokens(
    signal: Tensor,
    mask: Tensor,
    acquisition: Acquisition,
    sigma: Tensor,
    frame: Tensor,
    fits: tuple[Tensor, Tensor] | None = None,
) -> Tokens:
    """Prepare one slice.

    Parameters
    ----------
    signal : (m, x, y) tensor
        In any scale.
    mask : (x, y) bool tensor
    acquisition : Acquisition
        Directions in RAS.
    sigma : (x, y) tensor
        Standard deviation of the noise.
    frame : (3, 3) tensor
        The slice's rows, columns and thickness in RAS, as rows.
    fits : (7, x, y) and (2,) tensor, optional
        What `fits.linear_fits` says of the slice, if it was asked already.
    """
    is_b0 = torch.as_tensor(acquisition.is_b0.copy(), device=signal.device)
    b0 = signal[is_b0].mean(0)
    middle = b0[mask].median() if bool(mask.any()) else b0.max()
    s0 = torch.maximum(b0, DIM * middle).clamp(min=1e-12)
    relative = (sigma / s0).clamp(1 / SNR_RANGE[1], 1 / SNR_RANGE[0])
    snr = 1 / float(relative[mask].median()) if bool(mask.any()) else SNR_RANGE[0]
    ratio = (signal / s0).clamp(0, 2) * mask
    means, joint, joint_facts = _together(ratio, acquisition, snr, frame)
    alone = [_alone(ratio, acquisition, k, snr, frame) for k in range(len(acquisition.shells))]
    values, fitted = fits or linear_fits(signal, mask, acquisition)
    log_b0 = (b0 / middle).clamp(DIM, 20).log()
    return Tokens(
        mean=means * mask,
        series=torch.stack([a[0] for a in alone]),
        joint=joint,
        shell_facts=torch.stack([a[1] for a in alone]).to(signal),
        joint_facts=torch.cat([joint_facts.to(signal), fitted]),
        fits=torch.cat([values, shrunk(ratio, mask, acquisition, 1 / snr)]),
        voxel_facts=torch.stack([log_b0, relative.log() / 3]) * mask,
        mask=mask,
    )


def usual_kernel(b: Tensor) -> Tensor:
    """Kernel of `USUAL` tissue: (...) -> (..., 3), k_0, k_2 and k_4."""
    share, along, across = USUAL
    sticks = axial_kernel(b, along, 0.0, ORDER)
    return share * sticks + (1 - share) * axial_kernel(b, along, across, ORDER)


def _design(acquisition: Acquisition, volumes: list[int], frame: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of degrees 2 and 4 (m, 14) and usual means (m,), in float64."""
    b = torch.as_tensor(acquisition.bvals[volumes] / 1e3)
    g = torch.as_tensor(acquisition.bvecs[volumes]) @ frame.double().cpu().T
    kernel = usual_kernel(b)
    degree = torch.repeat_interleave(torch.arange(1, 3), torch.tensor(DEGREES[1:]))
    return sh_basis(g, ORDER)[:, 1:] * kernel[:, degree], kernel[:, 0] / (4 * math.pi)


def _prior() -> Tensor:
    return torch.repeat_interleave(
        torch.tensor(PRIOR_SD, dtype=torch.float64), torch.tensor(DEGREES[1:])
    )


def _gain(design: Tensor, sd: Tensor, snr: float) -> Tensor:
    """Matrix from data to posterior means, for noise of 1 / snr and a prior around 0."""
    weighted = design * sd.square()
    covariance = weighted @ design.T + torch.eye(len(design), dtype=design.dtype) / snr**2
    return torch.linalg.solve(covariance, weighted).T


def _resolution(gain: Tensor, design: Tensor) -> list[float]:
    """Mean diagonal of the resolution matrix for degrees 2 and 4, the last 14 unknowns."""
    diagonal = (gain * design.T).sum(1)[-14:]
    return [float(part.mean()) for part in diagonal.split(DEGREES[1:])]


def _together(
    ratio: Tensor, acquisition: Acquisition, snr: float, frame: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Spherical means (s, x, y), series of all shells (14, x, y) and what to know about it."""
    shells = acquisition.shells
    volumes = [v for shell in shells for v in shell.indices]
    columns, usual = _design(acquisition, volumes, frame)
    member = torch.repeat_interleave(
        torch.arange(len(shells)), torch.tensor([len(s) for s in shells])
    )
    own = torch.nn.functional.one_hot(member, len(shells)).double()
    design = torch.cat([own, columns], 1)
    sd = torch.cat([torch.full((len(shells),), MEAN_SD, dtype=torch.float64), _prior()])
    gain = _gain(design, sd, snr)
    centre = torch.stack([usual[member == k].mean() for k in range(len(shells))])
    found = _apply(gain, ratio[volumes] - (own @ centre).to(ratio)[:, None, None])
    means = found[: len(shells)] + centre.to(ratio)[:, None, None]
    b0 = int(acquisition.is_b0.sum())
    facts = [math.log(len(volumes)), math.log(b0), *_resolution(gain, design), math.log(snr) / 3]
    return means, found[len(shells) :], torch.tensor(facts)


def _alone(
    ratio: Tensor, acquisition: Acquisition, number: int, snr: float, frame: Tensor
) -> tuple[Tensor, Tensor]:
    """Series of one shell (14, x, y) and what to know about it (7,)."""
    shell = acquisition.shells[number]
    volumes = list(shell.indices)
    columns, usual = _design(acquisition, volumes, frame)
    design = torch.cat([torch.ones(len(volumes), 1, dtype=torch.float64), columns], 1)
    sd = torch.cat([torch.full((1,), MEAN_SD, dtype=torch.float64), _prior()])
    gain = _gain(design, sd, snr)
    series = _apply(gain[1:], ratio[volumes] - float(usual.mean()))
    kernel = usual_kernel(torch.tensor(shell.b / 1e3, dtype=torch.float64)) / (4 * math.pi)
    facts = [shell.b / 1e3, math.log(len(volumes)), *_resolution(gain, design)]
    facts += [float(kernel[1]), float(kernel[2]), math.log(snr) / 3]
    return series, torch.tensor(facts)


def _apply(gain: Tensor, data: Tensor) -> Tensor:
    """(k, m), (m, x, y) -> (k, x, y)."""
    return (gain.to(data) @ data.flatten(1)).unflatten(1, data.shape[1:])
