"""A codebook network too small to know anything, for tests of what is around it."""

from __future__ import annotations

from pathlib import Path

import torch

from DMRIMicroLib.codebooks.network import Codebook, Shape
from DMRIMicroLib.training.pool import METRICS
from DMRIMicroLib.weights import Card, save

TINY = {"kernels": 12, "encoder": 8, "widths": (8, 8, 8), "reach": 3, "state": 2}


def tiny_network(seed: int = 0, metrics: tuple[str, ...] = METRICS) -> Codebook:
    """Return a network with random weights, all of them: no layer starts at 0."""
    torch.manual_seed(seed)
    network = Codebook(Shape(metrics=metrics, **TINY))
    with torch.no_grad():
        for value in network.parameters():
            if not value.any():
                value.normal_(0, 0.1)
    return network


def tiny_weights(folder: Path, seed: int = 0, name: str = "tiny", version: str = "1.0.0") -> Path:
    """Write such a network with its card; return the weights' path."""
    network = tiny_network(seed)
    count = len(METRICS)
    data = {"metrics": METRICS, "centre": [1.0] * count, "spread": [0.3] * count}
    data["calibration"] = [1.0] * count
    card = Card(name, version, "codebook", network.arguments(), data=data)
    return save(network.state_dict(), card, folder).with_suffix(".safetensors")
