r"""The simplest prior that there is: a voxel by itself, and the population of this scan's voxels.

Signals are those of the codebook's signal space (`signals.space`), of which every voxel has c
numbers z. The data say of them what they say to the codebook (`signals.evidence`). The prior is
the same for all voxels: the mean is that of simulated tissue, 0, and every component has one
variance for all orders m,

.. math:: z \sim N(0, D), \qquad D = \mathrm{diag}(d_{g(1)}, ..., d_{g(c)}),

which the scan tells by expectation and maximisation (A. P. Dempster, N. M. Laird, D. B. Rubin, J.
R. Stat. Soc. B 39 (1977) 1-38). Conventional fits of the posterior's signal tell the metrics. What
the codebook does better it owes to neighbours and to what it learned of tissue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import _baselines
import _sparse
import numpy as np
import torch
from _sparse import Fitted

STEPS = 5
FAR = 5.0
"""Voxels further from the prior than this, in standard deviations, count as this far."""

S0 = 1000.0
RANGE = (1e-3, 1.2)
"""Of the posterior's signal relative to b = 0: what is fitted must be positive."""


def space_of(weights: str):
    """Return the signal space of a codebook."""
    from DMRIMicroLib.codebooks.slices import open_codebook

    return open_codebook(weights).space


def kept_as(space) -> str:
    """Name the cache: another space is another method."""
    told = json.dumps(space.told(), sort_keys=True)
    return f"gaussian prior {hashlib.sha256(told.encode()).hexdigest()[:8]}"


def with_prior(space) -> Callable[[object], Fitted]:
    """Return the method for a signal space."""

    def work(scan) -> Fitted:
        numbers = posterior_mean(scan, space)

        def predict(asked) -> np.ndarray:
            return signal(space, numbers, asked, frame_of(scan)).numpy()

        found = _baselines.ours(as_dense(scan, predict), likelihood="gaussian", sigma=1.0)
        return Fitted(found.maps, {"signal space": predict})

    return work


def posterior_mean(scan, space) -> torch.Tensor:
    """Find the population's variances, and the numbers of the voxels of the mask: (n, c)."""
    from DMRIMicroLib.codebooks.gaussian import Joint

    seen = as_tokens(scan, space)
    group = torch.as_tensor(space.groups)
    mean = torch.zeros(len(seen.noise), space.channels)
    data = seen.matrix, seen.vector.T.contiguous(), seen.noise
    variance, nothing = torch.ones(space.channels), mean[..., None][..., :0]
    for _ in range(STEPS):
        found = Joint(mean, variance.expand_as(mean), nothing, *data).posterior()
        told = (found.mean.square() + found.variance).clamp(max=FAR**2).mean(0)
        variance = torch.stack([told[group == k].mean() for k in group])
    return Joint(mean, variance.expand_as(mean), nothing, *data).expected()


def as_tokens(scan, space):
    """Prepare all voxels of the mask as the codebook's slices are: one slice, a row of voxels."""
    from DMRIMicroLib.codebooks.stack import Stack
    from DMRIMicroLib.scan import Scan

    row = scan.voxels(scan.mask)[:, None, None]
    every = np.ones(row.shape[:3], bool)
    row = Scan(row, scan.affine, scan.acquisition, every, measured_noise=scan.noise)
    return Stack(row, every, space).tokens(0)


def frame_of(scan) -> torch.Tensor:
    """Rows, columns and thickness of the slices in RAS, as rows."""
    edges = scan.affine[:3, :3]
    return torch.as_tensor((edges / np.linalg.norm(edges, axis=0)).T.copy())


def signal(space, numbers: torch.Tensor, asked, frame: torch.Tensor) -> torch.Tensor:
    """Signal relative to b = 0 of numbers (n, c) at m volumes: (n, m)."""
    design, offset, _ = space.design(asked, frame)
    return numbers @ design.to(numbers).T + offset.to(numbers)


def as_dense(scan, predict: Callable):
    """Return a scan of all volumes of the example, one b0, with the predicted signal."""
    from DMRIMicroLib.scan import Scan

    whole = _sparse.scan().acquisition
    first = np.flatnonzero(whole.is_b0)[:1]
    acq = whole.subset([*first, *np.flatnonzero(~whole.is_b0)])
    filled = np.zeros((*scan.mask.shape, len(acq)), np.float32)
    told = np.clip(predict(acq), *RANGE)
    told[:, acq.is_b0] = 1.0
    filled[scan.mask] = S0 * told
    return Scan(filled, scan.affine, acq, scan.mask, name=scan.name)
