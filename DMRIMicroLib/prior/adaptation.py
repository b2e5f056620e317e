"""The prior learns from the scan at hand: no truth, only volumes that it was not shown.

Half of the volumes are shown, and what is expected of a voxel, with its own signals of that half,
makes the other half's signals more or less likely (`Joint.unlikeliness`): a loss that noise
cannot make small, be it alike in neighbours or not, as that of other volumes is independent. A few
voxels are left out of it and tell when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from ..codebooks.apart import FEWEST, halves
from ..codebooks.gaussian import Joint
from ..codebooks.network import Codebook, Prior, of_head
from ..codebooks.stack import Stack
from ..codebooks.tokens import Tokens
from ..signals.evidence import weighted

RATE = 5e-5
"""Of Adam."""

LEFT_OUT = 0.2
"""Share of the voxels that only tell when to stop."""

PATIENCE = 3
"""Looks without a gain before it stops."""

LOOK = 10
"""Steps between looks."""

CAP = 50.0
"""A voxel that is less likely than this is no tissue that could teach."""

SLICES = 24
"""Of a scan that the prior learns from, spread over it."""

ASKED = 4
"""Of these, that tell when to stop."""


def adapted(
    network: Codebook,
    stack: Stack,
    steps: int,
    device: torch.device,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Codebook, list[float]]:
    """Return the network after it has learned from a scan, and its course.

    Parameters
    ----------
    network : Codebook
        Stays as it is.
    stack : Stack
    steps : int
        At most.
    device : torch.device
    seed : int
    progress : callable
        Gets the share of the work.

    Returns
    -------
    Codebook
        Of the step at which the voxels left out were most likely.
    list of float
        Mean unlikeliness of the voxels left out, before and at each look; empty if there are too
        few volumes or voxels to learn from some and ask others, and then the network has not
        changed.
    """
    learner = deepcopy(network).train()
    learner.requires_grad_(True)
    generator = np.random.default_rng(seed)
    out = generator.random(len(stack.signal)) < LEFT_OUT
    enough = int(weighted(stack.acquisition).sum()) >= FEWEST
    if not enough or not out.any() or out.all():
        return learner.eval().requires_grad_(False), []
    own = [p for name, p in learner.named_parameters() if not of_head(name)]
    optimiser = torch.optim.Adam(own, RATE)
    count = min(SLICES, len(stack))
    chosen = np.unique(np.linspace(0, len(stack) - 1, count).round().astype(int))
    asked = [_Half.of(stack, int(k), device, generator) for k in chosen[:: -(-count // ASKED)]]
    best, kept = [_left_out(learner, asked, out)], deepcopy(learner.state_dict())
    for step in range(steps):
        half = _Half.of(stack, int(generator.choice(chosen)), device, generator)
        teaching = torch.from_numpy(~out[half.rows])
        if bool(teaching.any()):
            optimiser.zero_grad()
            half.cost(learner)[teaching].mean().backward()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimiser.step()
        progress((step + 1) / steps)
        if (step + 1) % LOOK == 0:
            best.append(_left_out(learner, asked, out))
            if best[-1] == min(best):
                kept = deepcopy(learner.state_dict())
            elif len(best) - 1 - best.index(min(best)) >= PATIENCE:
                break
    learner.load_state_dict(kept)
    return learner.eval().requires_grad_(False), best


class _Half:
    """Of a slice's volumes: half of them, and all."""

    def __init__(self, shown: Tokens, every: Tokens, rows: np.ndarray) -> None:
        self.shown, self.every, self.rows = shown, every, rows

    @classmethod
    def of(
        cls, stack: Stack, k: int, device: torch.device, generator: np.random.Generator
    ) -> _Half:
        """Halve the volumes of slice k."""
        half, _ = halves(stack.acquisition, generator)
        shown = stack.of_volumes(half).tokens(k).to(device)
        return cls(shown, stack.tokens(k).to(device), stack.rows(k))

    def cost(self, network: Codebook) -> Tensor:
        """How unlikely the other half is, once this one is known: (n,), on the CPU."""
        prior = network.prior(self.shown)
        cost = (_unlikely(prior, self.every) - _unlikely(prior, self.shown)).cpu()
        return cost.clamp(max=float(cost.detach().median()) + CAP)


def _unlikely(prior: Prior, seen: Tokens) -> Tensor:
    return Joint(*prior.gaussian, seen.matrix, seen.vector.T, seen.noise).unlikeliness()


@torch.no_grad()
def _left_out(network: Codebook, asked: Sequence[_Half], out: np.ndarray) -> float:
    costs = [half.cost(network)[torch.from_numpy(out[half.rows])] for half in asked]
    return float(torch.cat(costs).mean())
