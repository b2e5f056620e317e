"""What the codebook sees of a slice: what its signals say of the signal space, any protocol alike.

`signals.space` holds noise-free signals as a few numbers a voxel, in which measured signals are
linear. So everything that depends on the protocol is linear algebra: `Tokens.matrix` and
`Tokens.vector` are the whole likelihood of a slice, and `Tokens.start` is the posterior mean under
the standard normal prior, which is what the population of simulated voxels has.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..signals.evidence import Evidence, evidence, weighted
from ..signals.space import HIGHEST, Space

LAGS = ((1, 0), (0, 1), (2, 0), (0, 2))
"""Neighbours [voxels] whose noise may be like a voxel's own: k-space leaves it a colour."""

FACTS = 4 + len(LAGS)
"""Beside the share of the data in each component."""

DIM = 0.05
"""S0 is at least this share of the median: what lies outside the brain divides nothing."""

SNR_RANGE = (2.0, 200.0)
"""SNR of b0 within which the network was trained."""


class Tokens(NamedTuple):
    """Of a slice of (x, y) voxels, n of them in the mask; c numbers of the space.

    Attributes
    ----------
    matrix : (c, c) tensor
        A'V^-1 A, see `signals.evidence`, in single precision.
    vector : (c, n) tensor
        A'V^-1 (y - a).
    noise : (n,) tensor
        Standard deviation relative to b = 0.
    start : (c, x, y) tensor
        Posterior mean under the standard normal prior.
    voxel_facts : (2, x, y) tensor
        Log of b0 relative to its median, log of noise relative to b0.
    facts : (k + 8,) tensor
        Share of the data in each of the k components, log number of volumes and of b0 volumes, log
        SNR, highest b.
    mean : (s, x, y) tensor
        Mean signal of each shell relative to b = 0.
    b : (s,) tensor
        Of the shells [ms/um2].
    mask : (x, y) bool tensor
    coupling : (2,) or (0,) tensor
        Of the space, if it has one.
    """

    matrix: Tensor
    vector: Tensor
    noise: Tensor
    start: Tensor
    voxel_facts: Tensor
    facts: Tensor
    mean: Tensor
    b: Tensor
    mask: Tensor
    coupling: Tensor

    def to(self, device: torch.device | str) -> Tokens:
        """Return it on another device."""
        return Tokens(*(value.to(device) for value in self))


def tokens(
    signal: Tensor,
    mask: Tensor,
    acquisition: Acquisition,
    sigma: Tensor,
    frame: Tensor,
    space: Space,
    coils: float = 1.0,
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
    space : Space
    coils : float
        Of the noise's floor, see `sigma.Noise`.
    """
    is_b0 = torch.as_tensor(acquisition.is_b0.copy(), device=signal.device)
    b0 = signal[is_b0].mean(0)
    middle = b0[mask].median() if bool(mask.any()) else b0.max()
    s0 = torch.maximum(b0, DIM * middle).clamp(min=1e-12)
    relative = (sigma / s0).clamp(1 / SNR_RANGE[1], 1 / SNR_RANGE[0])
    ratio = (signal / s0).clamp(0, 2) * mask
    seen = evidence(space, ratio[:, mask], relative[mask], acquisition, frame, coils)
    seen = Evidence(seen.matrix.to(signal), seen.vector, seen.noise)
    start = _start(seen, mask)
    alike = _alike(space, ratio, seen, start, acquisition, frame, mask)
    shells = acquisition.shells
    log_b0 = (b0 / middle).clamp(DIM, 20).log()
    return Tokens(
        matrix=seen.matrix,
        vector=seen.vector,
        noise=seen.noise,
        start=start,
        voxel_facts=torch.stack([log_b0, relative.log() / 3]) * mask,
        facts=torch.cat([_shares(space, seen), _facts(seen, informative(acquisition)), alike]).to(
            signal
        ),
        mean=torch.stack([ratio[list(shell.indices)].mean(0) for shell in shells]),
        b=signal.new_tensor([shell.b / 1e3 for shell in shells]),
        mask=mask,
        coupling=signal.new_tensor(space.coupling or ()),
    )


def _alike(
    space: Space,
    ratio: Tensor,
    seen: Evidence,
    start: Tensor,
    acquisition: Acquisition,
    frame: Tensor,
    mask: Tensor,
) -> Tensor:
    """Correlation of what is left of a voxel's and its neighbours' signals, see `LAGS`: (4,).

    Tissue that `start` leaves unexplained is in it, too, alike in training and in use.
    """
    every = weighted(acquisition).nonzero()[0]
    rows = [int(v) for v in every[:: -(-len(every) // VOLUMES)]]
    design, offset, _ = space.design(acquisition.subset(rows), frame)
    told = design.to(ratio) @ start[:, mask] + offset.to(ratio)[:, None]
    left = (ratio[rows][:, mask] - told) / seen.noise
    left = (left - left.mean(0)).clamp(-FARTHEST, FARTHEST)
    image = ratio.new_zeros(len(rows), *mask.shape)
    image[:, mask] = left
    out = []
    for lag in LAGS:
        both = mask & mask.roll(lag, (0, 1))
        there = image.roll(lag, (1, 2))
        out.append((image * there)[:, both].mean() / image[:, both].square().mean().clamp(min=1e-6))
    return torch.stack(out).nan_to_num().double().cpu()


VOLUMES = 32
"""So many, spread over the scan, tell how alike the noise is."""

FARTHEST = 4.0
"""What is left of a signal counts as so many standard deviations at most."""


def informative(acquisition: Acquisition) -> Acquisition:
    """Return the volumes that the signal space can tell of."""
    kept = [v for v, b in enumerate(acquisition.bvals) if b <= 1e3 * HIGHEST]
    return acquisition.subset(kept)


def with_state(
    tokens: Tokens, space: Space, state: Tensor, level: float, typical: Tensor | None = None
) -> Tokens:
    """Add a noisy guess of the voxels' numbers as one more measurement.

    So a network that estimates from measurements is the denoiser of a diffusion model, too, which
    knows the scan.

    Parameters
    ----------
    tokens : Tokens
    space : Space
    state : (c, n) tensor
        The truth plus white noise.
    level : float
        Standard deviation of that noise in a voxel of typical noise; elsewhere it is larger or
        smaller as the noise of the signal is, see `state_noise`.
    typical : () tensor, optional
        Noise relative to b0; the slice's median if left out.
    """
    typical = tokens.noise.median() if typical is None else typical.to(tokens.noise)
    weight = (typical / level).square()
    unit = torch.eye(space.channels).to(tokens.matrix)
    matrix = tokens.matrix + weight * unit
    seen = Evidence(matrix, tokens.vector + weight * state, tokens.noise)
    shares = _shares(space, seen).to(tokens.facts)
    facts = torch.cat([shares, tokens.facts[len(shares) :]])
    start = _start(seen, tokens.mask)
    return tokens._replace(matrix=matrix, vector=seen.vector, start=start, facts=facts)


def state_noise(tokens: Tokens, level: float) -> Tensor:
    """Return the standard deviation of a state's noise, see `with_state`: (n,)."""
    return level * tokens.noise / tokens.noise.median()


def _start(seen: Evidence, mask: Tensor) -> Tensor:
    """Posterior mean under the standard normal prior: (c, x, y)."""
    unit = torch.ones(len(seen.vector), dtype=torch.float64, device=seen.vector.device)
    start = seen.vector.new_zeros(len(seen.vector), *mask.shape)
    whole = torch.ones_like(seen.noise)
    start[:, mask] = seen.posterior(torch.zeros_like(seen.vector), unit, whole)
    return start


def _shares(space: Space, seen: Evidence) -> Tensor:
    """Share of the data in each component: (k,)."""
    noise = float(seen.noise.median()) if len(seen.noise) else 1 / SNR_RANGE[0]
    precision = torch.eye(space.channels, dtype=torch.float64) + seen.matrix.cpu() / noise**2
    left = torch.linalg.inv(precision).diagonal()
    group = torch.as_tensor(space.groups)
    return torch.stack([1 - left[group == k].mean() for k in range(int(group.max()) + 1)])


def _facts(seen: Evidence, acquisition: Acquisition) -> Tensor:
    """Return what else is said of the whole slice: (4,)."""
    noise = float(seen.noise.median()) if len(seen.noise) else 1 / SNR_RANGE[0]
    volumes, b0 = len(acquisition), int(acquisition.is_b0.sum())
    highest = float(acquisition.bvals.max()) / 1e3
    told = [math.log(volumes), math.log(b0), -math.log(noise) / 3, highest]
    return torch.tensor(told, dtype=torch.float64)
