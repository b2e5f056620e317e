r"""Noise of a scan whose volumes are too few to tell it: what predictions of volumes leave.

With a single b0 volume and six directions all that a tensor leaves is nothing, and the finest
detail of an image is anatomy as well as noise: in large voxels it was 2.6 times the noise of a real
scan. The network predicts a volume y from the others, with the variance v of what it does not know:

.. math:: y - m \sim t_4(0, \kappa v + s^2),

and the noise s that the network is told is changed, one way or the other, as long as that makes
volumes clearly likelier, with the likeliest :math:`\kappa` of each. In a real series it had been
2.6 times too high and got to 0.9 times what all volumes tell, in a simulated one it was raised from
0.4 to 0.75 times the truth; where it was right it stayed, and in two real series where it was half.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..fitting.threads import in_threads
from ..scan import Scan
from ..signals.evidence import weighted, without_floor
from ..signals.space import Space
from .apart import Volumes, some_slices
from .network import Codebook
from .recalibrate import Said
from .stack import Stack

FEWEST = 3
"""Weighted volumes of a scan of which one can be predicted."""

LEFT_OUT = 3
"""Volumes that are predicted, each by all others."""

STEP = 2**0.5
"""Factor by which noise is changed, again and again."""

STEPS = 6
"""At most."""

FIRST, GAIN = 0.05, 0.01
"""Of the log probability of a voxel in a volume: least gain of the first step and of each other.
Noise that was right gained 0.04 at most by a step down, in six simulated brains."""

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
    some = some_slices(Stack(scan, usable, space))

    def under(factor: float) -> float:
        return likelihood(*_left(network, some.louder(factor), device))

    as_it_is = under(1.0)
    ways = {way: under(way) for way in (1 / STEP, STEP)}
    way = max(ways, key=lambda way: ways[way])
    if ways[way] < as_it_is + FIRST:
        return scan
    factor, best = way, ways[way]
    for _ in range(STEPS - 1):
        further = under(way * factor)
        if further < best + GAIN:
            break
        factor, best = way * factor, further
    told = f"{noise.method}, changed until volumes were predicted best"
    return scan.with_measured_noise(replace(noise.louder(factor), method=told))


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
    mean, variance = said.joint.predicted(design[0].float())
    signal = stack.signal[rows]
    ratio = torch.from_numpy(signal[:, volume] / signal[:, acq.is_b0].mean(1))
    measured = without_floor(ratio, said.noise, stack.coils)
    return measured - mean - float(offset[0]), variance, said.noise
