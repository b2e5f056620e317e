"""A codebook network too small to know anything, for tests of what is around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from DMRIMicroLib.codebooks.estimate import metric_of
from DMRIMicroLib.codebooks.network import Codebook, Shape
from DMRIMicroLib.codebooks.scale import POWERS
from DMRIMicroLib.training.pool import METRICS
from DMRIMicroLib.weights import Card, save

TINY = {"kernels": 12, "encoder": 8, "widths": (8, 8, 8), "reach": 3, "state": 2}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: those that share small arrays wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    windows = [metric_of(key).window for key in METRICS]
    roots = [[v ** POWERS.get(k, 1) for v in w] for k, w in zip(METRICS, windows, strict=True)]
    data = {
        "metrics": METRICS,
        "centre": [(low + high) / 2 for low, high in roots],
        "spread": [(high - low) / 20 for low, high in roots],
        "calibration": [1.0] * len(METRICS),
    }
    card = Card(name, version, "codebook", network.arguments(), data=data)
    return save(network.state_dict(), card, folder).with_suffix(".safetensors")
