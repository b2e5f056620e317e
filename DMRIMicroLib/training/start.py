"""Networks that do not begin from nothing: weights that are there, or their prior only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..codebooks.network import Codebook, of_head
from ..codebooks.standard import settle
from ..codebooks.tokens import Tokens
from ..errors import InputError
from ..signals.space import Space
from ..weights import load

INPUTS, FIRST = ("inputs.centre", "inputs.spread"), "encoder.0.weight"
"""What grows with the facts of a scan that a network is told."""


@dataclass(frozen=True, eq=False)
class Given:
    """Weights that are there.

    Attributes
    ----------
    prior, head : dict of str to tensor
        What says what to expect, and what reads metrics.
    metrics : tuple of str
        That the head reads.
    space : Space
    file : str
        For messages.
    """

    prior: dict[str, Tensor]
    head: dict[str, Tensor]
    metrics: tuple[str, ...]
    space: Space
    file: str

    @classmethod
    def of(cls, weights: str) -> Given:
        """Read weights of a codebook; see `weights.load` for what is refused."""
        tensors, card = load(weights, "codebook")
        prior = {k: v for k, v in tensors.items() if not of_head(k)}
        head = {k: v for k, v in tensors.items() if of_head(k)}
        metrics = tuple(card.data["metrics"])
        return cls(prior, head, metrics, Space.read(card.data["space"]), weights)

    def lend_prior(self, network: nn.Module) -> None:
        """Give a network their prior, which does not depend on its metrics."""
        self._lend(self.prior, network)

    def begin(self, network: Codebook, examples: Sequence[Tokens]) -> None:
        """Let a network begin where they are, and find the units of its other inputs.

        Facts of a scan that they were not told yet have no say at first; `examples` tell their
        centre and spread. What reads metrics begins anew if they are others or its size is.
        """
        settle(network, examples)
        own = network.state_dict()
        fits = all(own[k].shape == v.shape for k, v in self.head.items())
        if fits and network.shape.metrics == self.metrics:
            network.load_state_dict({**own, **self.head})
        before, after = len(self.prior[INPUTS[0]]), len(own[INPUTS[0]])
        prior = dict(self.prior)
        if before < after:
            for name in INPUTS:
                prior[name] = torch.cat([prior[name], own[name][before:]])
            old = prior[FIRST]
            nothing = old.new_zeros(len(old), after - before)
            prior[FIRST] = torch.cat([old[:, :before], nothing, old[:, before:]], 1)
        self._lend(prior, network)

    def _lend(self, prior: dict[str, Tensor], network: nn.Module) -> None:
        own = network.state_dict()
        other = [k for k, v in prior.items() if k not in own or own[k].shape != v.shape]
        if other:
            raise InputError(
                f"its prior is of another size ({other[0]})",
                "Give the same preset.",
                file=self.file,
            )
        network.load_state_dict({**own, **prior})
