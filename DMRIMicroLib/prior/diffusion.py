r"""Samples of what tissue may be, given a scan: a diffusion model that knows the scan.

Noise is added to the voxels' numbers z (`signals.space`) at falling levels :math:`\sigma`, and a
denoiser says what they were. Here the noisy state is one more measurement of the voxels, beside
those of the scanner (`codebooks.tokens.with_state`), so the network that estimates from
measurements is the denoiser :math:`D = E[z | z + \sigma n, y]` for every acquisition, without a
guess of how data guide a prior. Samples follow the probability flow (T. Karras, M. Aittala, T.
Aila, S. Laine, NeurIPS 2022, eq. 1),

.. math:: \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma} ,

slices of another plane at each step. The network also says how sure it is, c = Var[z | x, y]. Were
the posterior Gaussian, with :math:`a = c / \sigma^2` and :math:`r^2 = a + (1 - a) (\sigma' /
\sigma)^2` a step to the level :math:`\sigma'` would be

.. math:: x' = D + (x - D) \frac{r - a}{1 - a} ,

and that is the step which is taken, number by number: exact there where numbers are independent,
whatever its size. The first state is a sample of
what neighbours and data say, plus noise; what the last level leaves open is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..codebooks.network import TOGETHER
from ..codebooks.recalibrate import Said
from .volume import Work

LEVELS = (2.0, 0.06)
"""First and last noise, in units of the population's spread of each number."""

BEND = 3.0
"""Exponent of the levels' spacing, Karras' rho."""

CERTAIN = 0.999
"""Largest share of a level's variance that the denoiser may leave: it knows more than nothing."""

Ask = Callable[[Tensor, float, int, Work], Tensor]
"""From state (n, c), level, number of the step and work to what that makes of all voxels."""


def levels(steps: int) -> list[float]:
    """Return falling noise levels."""
    first, last = (v ** (1 / BEND) for v in LEVELS)
    share = [k / max(1, steps - 1) for k in range(steps)]
    return [(first + (last - first) * u) ** BEND for u in share]


def sample(ask: Ask, first: Tensor, unit: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Draw the numbers of n voxels: (n, c).

    Parameters
    ----------
    ask : callable
        See `volume.Volume.beside`.
    first : (n, c) tensor
        A draw of what network and data say without a state.
    unit : (n,) tensor
        Noise of a state at level 1 (`codebooks.tokens.state_noise`).
    steps : int
        Evaluations of the network.
    generator : torch.Generator
    """
    schedule = levels(steps)
    state = first + schedule[0] * unit[:, None] * torch.randn(first.shape, generator=generator)
    for step, (level, after) in enumerate(pairwise(schedule)):
        now = state

        def follow(beside: Said, rows: Tensor, now=now, level=level, after=after) -> Tensor:
            best, left = beside.posterior()
            a = (left / (level * unit[rows, None]).square()).clamp(max=CERTAIN)
            r = (a + (1 - a) * (after / level) ** 2).sqrt()
            return best + (now[rows] - best) * (r - a) / (1 - a)

        state = ask(state, level, step, follow)
    normal = torch.randn(len(unit), state.shape[1] + TOGETHER, generator=generator)

    def drawn(beside: Said, rows: Tensor) -> Tensor:
        return beside.joint.draw(normal[rows])

    return ask(state, schedule[-1], steps - 1, drawn)
