r"""Noise of a scan whose volumes are too few to tell it: what predictions of volumes leave.

With a single b0 volume and six directions all that a tensor leaves is nothing, and the finest
detail of an image is anatomy as well as noise: in large voxels it was 2.6 times the noise of a real
scan. The network predicts a volume y from the others, with the variance v of what it does not know:

.. math:: y - m \sim t_4(0, \kappa v + s^2),

and the noise s that the network is told is lowered as long as that makes volumes likelier, with the
likeliest :math:`\kappa` of each. Two real series got 0.9 times what all their volumes tell; four
whose noise seemed about right, or too little, kept it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..fitting.threads import in_threads
from ..scan import Scan
from ..signals.evidence import FLOOR, weighted
from ..signals.space import Space
from .apart import Volumes, some_slices
from .gaussian import predicted
from .network import Codebook
from .recalibrate import Said
from .stack import Stack

FEWEST = 3
"""Weighted volumes of a scan of which one can be predicted."""

LEFT_OUT = 3
"""Volumes that are predicted, each by all others."""

STEP = 2**-0.5
"""Factor by which noise is lowered, again and again."""

STEPS = 6
"""At most."""

GAIN = 0.01
"""Of the log probability of a voxel in a volume, below which noise is left as it is."""

FREEDOM = 4.0
"""Of Student's t: a few odd voxels do not decide."""

SPREADS = 2.0 ** torch.arange(-1.0, 3.01, 0.25)
"""Of the variance of predictions."""


def with_settled_noise(
    scan: Scan, usable: NDArray[np.bool_], network: Codebook, space: Space, device: torch.device
) -> Scan:
    """Return a scan whose noise is no longer rough: as it was where it was not, or cannot be told.

    Parameters
    ----------
    scan : Scan
    usable : (x, y, z) bool array
    network : Codebook
    space : Space
    device : torch.device
    """
    noise = scan.noise
    if noise is None or not noise.rough or int(weighted(scan.acquisition).sum()) < FEWEST:
        return scan
    some, factor = some_slices(Stack(scan, usable, space)), 1.0
    best = likelihood(*_left(network, some, device))
    for _ in range(STEPS):
        lower = likelihood(*_left(network, some.louder(STEP * factor), device))
        if lower < best + GAIN:
            break
        factor, best = STEP * factor, lower
    if factor == 1:
        return scan
    told = f"{noise.method}, lowered until volumes were predicted best"
    return scan.with_measured_noise(replace(noise, sigma=noise.sigma * factor, method=told))


def likelihood(error: Tensor, variance: Tensor, noise: Tensor) -> float:
    """Mean log probability of errors of predictions, less a constant: (n,) each."""
    spread = SPREADS[:, None] * variance + noise.square()
    odd = torch.log1p(error.square() / (FREEDOM * spread))
    return float(-0.5 * (spread.log() + (FREEDOM + 1) * odd).mean(1).min())


def _left(network: Codebook, stack: Stack, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Predict some volumes from all others: errors, their variances, and the noise."""
    told = np.flatnonzero(weighted(stack.acquisition))
    chosen = told[np.linspace(0, len(told) - 1, LEFT_OUT).round().astype(int)]
    asked = [(int(v), k) for v in chosen for k in range(len(stack))]
    found = {}

    def one(number: int) -> int:
        with torch.inference_mode():
            found[number] = _errors(network, stack, *asked[number], device)
        return number

    for _ in in_threads(one, range(len(asked)), device):
        pass
    return tuple(torch.cat(v) for v in zip(*found.values(), strict=True))  # type: ignore[return-value]


def _errors(
    network: Codebook, stack: Stack, volume: int, k: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    acq, rows = stack.acquisition, stack.rows(k)
    others: Volumes = np.setdiff1d(np.arange(len(acq)), volume)
    said = Said.of(network, stack.of_volumes(others).tokens(k).to(device))
    design, offset, _ = stack.space.design(acq.subset([volume]), stack.frame)
    mean, variance = predicted(*said.prior.gaussian, *said.informed.data, design[0].float())
    signal = stack.signal[rows]
    ratio = torch.from_numpy(signal[:, volume] / signal[:, acq.is_b0].mean(1))
    # the floor of magnitudes, as of `signals.evidence`
    power = ratio.square() - said.noise.square()
    measured = power.clamp(min=(FLOOR * said.noise).square()).sqrt()
    return measured - mean - float(offset[0]), variance, said.noise
