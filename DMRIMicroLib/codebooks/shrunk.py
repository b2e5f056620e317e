"""Tensor and kurtosis tensor from any number of volumes: posterior means, where fits have none.

The kurtosis expansion ln S = ln S0 - b D(g) + b^2 V(g) / 6 (see `models.dki`) is linear in its 22
parameters. With a Gaussian prior of what tissue has, which knows no direction, and Gaussian noise
the posterior mean is linear in ln S: six volumes give a tensor freed of most of its kurtosis bias,
sixty give what the fit gives. The prior is diagonal in spherical harmonics of D(g) and V(g).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ..acquisition import Acquisition
from ..models.dki import DKI
from ..models.dti import fractional_anisotropy
from ..physics.linalg import eigh3
from ..physics.sh import sh_basis

MEAN = (0.9, 0.55)
"""Of D [um2/ms] and V [um4/ms2], averaged over directions."""

SPREAD = ((0.5, 0.35), (0.4, 0.42, 0.15))
"""Standard deviations: of the mean of D and each of its coefficients of degree 2; of V the same,
and of degree 4. White matter of FA 0.5 has 0.5 in a coefficient of D, most tissue has less."""

TOGETHER = 0.7
"""Correlation of the coefficients of degree 2 of D and V: V = K D^2 is large along fibres."""

LOOSE = 10.0
"""Standard deviation of ln S0 relative to the b0 image."""

ERROR = (0.01, 0.01)
"""What the expansion leaves of ln S: so much, and so much times b^2 [ms2/um4]."""

HIGHEST = 3.1
"""Volumes above this b [ms/um2] are left out where there are others."""

FLOOR = 0.3
"""Signals count as at least so many standard deviations of the noise."""

SMOOTH = 0.6
"""Width of the Gaussian over neighbours [voxels]."""

LIMITS = ((0.0, 1.0), (0.0, 4.0), (0.0, 4.0), (0.0, 4.0), (-0.5, 3.0), (-0.5, 3.0), (-0.5, 3.0))
"""Of FA, MD, AD, RD [um2/ms], MK, AK, RK."""

SHRUNK = 2 * len(LIMITS)


def shrunk(ratio: Tensor, mask: Tensor, acquisition: Acquisition, relative: float) -> Tensor:
    """FA, MD, AD, RD, MK, AK, RK of a slice: of each voxel, and of its neighbourhood.

    Neighbours are averaged before anything is squared.

    Parameters
    ----------
    ratio : (m, x, y) tensor
        Signal relative to b = 0.
    mask : (x, y) bool tensor
    acquisition : Acquisition
    relative : float
        Noise relative to b = 0.

    Returns
    -------
    (14, x, y) tensor
        0 outside the mask.
    """
    out = ratio.new_zeros(SHRUNK, *mask.shape)
    if not bool(mask.any()):
        return out
    found = kurtosis_parameters(ratio[:, mask], acquisition, relative)
    image = found.new_zeros(len(found), *mask.shape)
    image[:, mask] = found
    near = _smoothed(image, mask)[:, mask]
    out[:, mask] = torch.cat([metrics_of(found), metrics_of(near)])
    return out


def kurtosis_parameters(ratio: Tensor, acquisition: Acquisition, relative: float) -> Tensor:
    """Posterior means of the parameters of `models.dki.DKI`: (m, n) -> (22, n)."""
    weighted = ~acquisition.is_b0
    low = acquisition.bvals <= 1e3 * HIGHEST
    volumes = [int(v) for v in (low | (not (low & weighted).any())).nonzero()[0]]
    kept = acquisition.subset(volumes)
    power = ratio[volumes].square() - relative**2  # the noise floor
    log = power.clamp(min=(FLOOR * relative) ** 2).log() / 2
    b = torch.as_tensor(kept.bvals / 1e3)
    error = ERROR[0] + ERROR[1] * b.square()
    noise = relative / log.median(1).values.double().exp().cpu()
    gain, offset = _posterior(kept, error.square() + noise.square())
    return gain.to(log) @ log + offset.to(log)[:, None]


def _posterior(acq: Acquisition, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean of the 22 parameters as a linear map of ln S: (22, m) and (22,)."""
    design = DKI().design(acq)
    mean, prior = _prior()
    weighted = prior @ design.T
    gain = torch.linalg.solve(design @ weighted + torch.diag(variance), weighted.T).T
    return gain, mean - gain @ (design @ mean)


@lru_cache(maxsize=1)
def _prior() -> tuple[Tensor, Tensor]:
    """Mean (22,) and covariance (22, 22) of the parameters of `models.DKI`."""
    g = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = g / g.norm(dim=1, keepdim=True)  # any directions: the series are polynomials of degree 4
    sphere = Acquisition([0.0] + [1e3] * len(g), [[0.0] * 3, *g.tolist()])
    columns = DKI().design(sphere)[1:]
    second, fourth = -columns[:, :6], 6 * columns[:, 6:21]  # b = 1: D(g) and V(g)
    to_tensor = torch.linalg.lstsq(second, sh_basis(g, 2)).solution  # (6, 6)
    to_quartic = torch.linalg.lstsq(fourth, sh_basis(g, 4)).solution  # (15, 15)
    unit = math.sqrt(4 * math.pi)
    (d0, d2), (v0, v2, v4) = SPREAD
    deviations = torch.tensor([unit * d0, *[d2] * 5, unit * v0, *[v2] * 5, *[v4] * 9, LOOSE])
    correlation = torch.eye(22, dtype=torch.float64)
    for k in range(1, 6):
        correlation[k, k + 6] = correlation[k + 6, k] = TOGETHER
    deviations = deviations.double()
    series = deviations[:, None] * correlation * deviations
    onto = torch.block_diag(to_tensor, to_quartic, torch.ones(1, 1, dtype=torch.float64))
    centre = torch.zeros(22, dtype=torch.float64)
    centre[0], centre[6] = unit * MEAN[0], unit * MEAN[1]
    return onto @ centre, onto @ series @ onto.T


def metrics_of(parameters: Tensor) -> Tensor:
    """FA, MD, AD, RD, MK, AK, RK of n voxels: (22, n) -> (7, n)."""
    values = eigh3(parameters[:6])[0].clamp(min=0)
    kurtosis = DKI().derive(parameters)
    told = [fractional_anisotropy(values), values.mean(0), values[0], values[1:].mean(0)]
    told += [kurtosis[name] for name in ("MK", "AK", "RK")]
    limited = [v.nan_to_num().clamp(*limit) for v, limit in zip(told, LIMITS, strict=True)]
    return torch.stack(limited)


def _smoothed(images: Tensor, mask: Tensor) -> Tensor:
    """Average images (c, x, y) over neighbours inside the mask."""
    at = torch.arange(-2, 3).to(images)
    line = torch.exp(-at.square() / (2 * SMOOTH**2))
    weights = (line[:, None] * line)[None, None]
    inside = conv2d(mask.to(images)[None, None], weights, padding=2).clamp(min=1e-3)
    return (conv2d((images * mask)[:, None], weights, padding=2) / inside)[:, 0]
