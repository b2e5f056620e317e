r"""Samples of what tissue may be, given a scan: a diffusion model that knows the scan.

Noise is added to a slice's numbers z (`signals.space`) at falling levels :math:`\sigma`, and a
denoiser says what they were. Here the noisy state is one more measurement of the voxels, beside
those of the scanner (`codebooks.tokens.with_state`), so the network that estimates from
measurements is the denoiser :math:`D = E[z | z + \sigma n, y]` for every acquisition, without a
guess of how data guide a prior. Samples follow the probability flow (T. Karras, M. Aittala, T.
Aila, S. Laine, NeurIPS 2022, eq. 1, 5 and algorithm 1 without churn),

.. math:: \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma} ,

between two draws of the denoiser's Gaussians: the first state is a sample of what neighbours and
data say, plus noise, and what the last level leaves open is drawn. For a Gaussian posterior both
ends are exact, so the flow's steps are all that makes samples too alike.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..codebooks.gaussian import Posterior
from ..codebooks.network import Codebook
from ..codebooks.recalibrate import Habits, Said
from ..codebooks.tokens import Tokens, state_noise, with_state
from ..signals.space import Space

LEVELS = (2.0, 0.06)
"""First and last noise, in units of the population's spread of each number."""

BEND = 3.0
"""Exponent of the levels' spacing, Karras' rho."""


def levels(steps: int) -> list[float]:
    """Return falling noise levels."""
    first, last = (v ** (1 / BEND) for v in LEVELS)
    share = [k / max(1, steps - 1) for k in range(steps)]
    return [(first + (last - first) * u) ** BEND for u in share]


def denoise(network: Codebook, seen: Tokens, habits: Habits) -> Posterior:
    """Say what the voxels' numbers are, from all that is known of them: means of (n, c)."""
    return Said.of(network, seen).corrected(habits).posterior()


def sample(
    network: Codebook,
    space: Space,
    seen: Tokens,
    said: Said,
    habits: Habits,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw the numbers of a slice's voxels: (n, c).

    Parameters
    ----------
    network : Codebook
    space : Space
    seen : Tokens
        Of the slice.
    said : Said
        What the network says of it.
    habits : Habits
        Of the prior in this scan.
    steps : int
        Evaluations of the network.
    generator : torch.Generator
    """
    schedule = levels(steps)
    state = said.corrected(habits).draw(generator)
    unit = state_noise(seen, 1.0).cpu()[:, None]
    state = state + schedule[0] * unit * torch.randn(state.shape, generator=generator)
    for level, after in pairwise(schedule):
        joined = with_state(seen, space, state.T.to(seen.vector), level)
        best = denoise(network, joined, habits).mean
        state = best + (state - best) * (after / level)
    joined = with_state(seen, space, state.T.to(seen.vector), schedule[-1])
    return Said.of(network, joined).corrected(habits).draw(generator)
