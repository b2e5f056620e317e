"""Recipe of `demic`: the examples of our own codebook, the published loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..codebooks.network import Prediction
from ..codebooks.scale import Scale
from .codebook import OUTLIER, columns_of
from .examples import Example, ExampleConfig

DECAY_WEIGHT = 0.1
"""Of the reconstruction of alpha, beta and gamma beside the metrics (the paper does not say)."""

SHELLS = 2
"""At least, beside b0 images: three unknowns."""

TOP = 3100.0
"""Highest b [s/mm2] of a shell whose scattered volumes all lie below `signals.space.HIGHEST`, above
which examples lose them, and perhaps the second shell."""


def two_shells(config: ExampleConfig) -> ExampleConfig:
    """Return the same examples with protocols that tell alpha, beta and gamma, and with labels."""
    own = config.protocol
    shells = (max(SHELLS, own.shells[0]), max(SHELLS, own.shells[1]))
    volumes = (max(own.volumes[0], 2 * SHELLS + 1), own.volumes[1])
    b = (min(own.b[0], TOP), min(own.b[1], TOP))
    protocol = replace(own, shells=shells, volumes=volumes, b=b, missing_b0=0.0)
    return replace(config, protocol=protocol, strange=0.0, state=0.0)


def demic_loss(scale: Scale):
    """Return the loss of an example, for `loop.train`: squared errors of metrics and decay.

    Beyond `OUTLIER` spreads errors cost linearly, as they do in the loss of our own codebook.
    """
    columns = columns_of(scale)

    def loss(network: nn.Module, example: Example, step: int) -> tuple[Tensor, dict[str, float]]:
        device = next(network.parameters()).device
        found: Prediction = network(example.tokens.to(device))
        labels = scale.encode(example.labels[:, columns].to(device).float())
        known = example.known[:, columns].to(device)
        error = torch.where(known, labels - found.mean, 0.0)
        heavy = error.abs() > OUTLIER
        cost = torch.where(heavy, OUTLIER * (2 * error.abs() - OUTLIER), error.square())
        metrics = cost.sum() / known.sum().clamp(min=1)
        back = (found.odf - found.features).square().mean()
        squared = error.detach().square().sum(0) / known.sum(0).clamp(min=1)
        told = {"loss": float(metrics.detach()), "decay": float(back.detach()) ** 0.5}
        told |= {k: float(v) ** 0.5 for k, v in zip(scale.metrics, squared, strict=True)}
        return metrics + DECAY_WEIGHT * back, told

    return loss
