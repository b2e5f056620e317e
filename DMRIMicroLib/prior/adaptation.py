"""The prior learns from the scan at hand: no truth, no held-out volumes, only likelihood.

What the network expects of a voxel comes from its neighbours alone, so the voxel's own signals are
data that the expectation has not seen: their probability (`gaussian.unlikeliness`) is a loss that
noise cannot make small. A few voxels are left out of it and tell when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from ..codebooks.gaussian import unlikeliness
from ..codebooks.network import Codebook, of_head
from ..codebooks.tokens import Tokens

RATE = 5e-4
"""Of Adam."""

LEFT_OUT = 0.2
"""Share of the voxels that only tell when to stop."""

PATIENCE = 3
"""Looks without a gain before it stops."""

LOOK = 10
"""Steps between looks."""

CAP = 50.0
"""A voxel that is less likely than this is no tissue that could teach."""


def adapted(
    network: Codebook,
    slices: Sequence[Tokens],
    steps: int,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Codebook, list[float]]:
    """Return the network after it has learned from a scan's slices, and its course.

    Parameters
    ----------
    network : Codebook
        Stays as it is.
    slices : sequence of Tokens
    steps : int
        At most.
    seed : int
    progress : callable
        Gets the share of the work.

    Returns
    -------
    Codebook
        Of the step at which the voxels left out were most likely.
    list of float
        Mean unlikeliness of the voxels left out, before and at each look; empty if there are too
        few voxels to learn from some and ask others, and then the network has not changed.
    """
    learner = deepcopy(network).train()
    learner.requires_grad_(True)
    own = [p for name, p in learner.named_parameters() if not of_head(name)]
    optimiser = torch.optim.Adam(own, RATE)
    generator = torch.Generator().manual_seed(seed)
    out = [torch.rand(len(s.noise), generator=generator) < LEFT_OUT for s in slices]
    teaching = [k for k, o in enumerate(out) if not o.all()]
    if not teaching or not any(bool(o.any()) for o in out):
        return learner.eval().requires_grad_(False), []
    best, kept = [_left_out(learner, slices, out)], deepcopy(learner.state_dict())
    for step in range(steps):
        k = teaching[int(torch.randint(len(teaching), (1,), generator=generator))]
        chosen = (~out[k]).to(slices[k].noise.device)
        cost = _cost(learner, slices[k])[chosen].mean()
        optimiser.zero_grad()
        cost.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimiser.step()
        progress((step + 1) / steps)
        if (step + 1) % LOOK == 0:
            best.append(_left_out(learner, slices, out))
            if best[-1] == min(best):
                kept = deepcopy(learner.state_dict())
            elif len(best) - 1 - best.index(min(best)) >= PATIENCE:
                break
    learner.load_state_dict(kept)
    return learner.eval().requires_grad_(False), best


def _cost(network: Codebook, seen: Tokens) -> Tensor:
    prior = network.prior(seen)
    cost = unlikeliness(*prior.gaussian, seen.matrix, seen.vector.T, seen.noise)
    return cost.clamp(max=float(cost.detach().median()) + CAP)


@torch.no_grad()
def _left_out(network: Codebook, slices: Sequence[Tokens], out: Sequence[Tensor]) -> float:
    costs = [_cost(network, s)[o.to(s.noise.device)] for s, o in zip(slices, out, strict=True)]
    return float(torch.cat(costs).mean())
