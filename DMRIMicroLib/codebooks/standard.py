"""Inputs of a network in their own units, found from some examples before the training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .tokens import Tokens

FARTHEST = 8.0
"""Inputs further than this from the usual, in spreads, count as this far."""


class Standard(nn.Module):
    """Inputs around 0 with a spread around 1, as `settle` found them before the training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.seen: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Bring inputs into their units: (..., channels) -> the same."""
        if self.seen is not None:
            self.seen.append(x.detach().flatten(0, -2))
        return ((x - self.centre) / self.spread).clamp(-FARTHEST, FARTHEST)


def settle(network: nn.Module, tokens: Sequence[Tokens]) -> None:
    """Find centre and spread of every `Standard` of a network from some examples."""
    standards = [m for m in network.modules() if isinstance(m, Standard)]
    for standard in standards:
        standard.seen = []
    with torch.no_grad():
        for one in tokens:
            network(one)
    for standard in standards:
        seen = torch.cat(standard.seen or [])
        standard.centre.copy_(seen.mean(0))
        standard.spread.copy_(seen.std(0).clamp(min=1e-3))
        standard.seen = None
