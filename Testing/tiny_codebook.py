"""A codebook network too small to know anything, and a signal space of random tissue."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.brain.directions import spread
from DMRIMicroLib.codebooks.estimate import metric_of
from DMRIMicroLib.codebooks.network import Codebook, Shape
from DMRIMicroLib.codebooks.scale import POWERS
from DMRIMicroLib.physics.sh import fit_matrix
from DMRIMicroLib.physics.tissue import TissueState, signal
from DMRIMicroLib.signals.space import NODES, ORDER, Space
from DMRIMicroLib.training.pool import METRICS
from DMRIMicroLib.weights import Card, save

TINY = {"kernels": 12, "encoder": 8, "width": 8, "blocks": 2, "state": 2}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: those that share small arrays wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tissue(n: int, seed: int = 0) -> TissueState:
    """Return n random voxels without somas."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(8, n, generator=g)
    parts = torch.stack([u[0], u[1], 0.3 * u[2]])
    neurite, extra, free = parts / parts.sum(0)
    zero = torch.zeros(n)
    higher = [0.15 * torch.randn(n, 5, generator=g), 0.05 * torch.randn(n, 9, generator=g)]
    odf = torch.cat([torch.full((n, 1), 0.2821), *higher], 1)
    return TissueState(
        neurite=neurite, extra=extra, soma=zero, free=free, dot=zero, odf=odf,
        d_neurite=1.7 + 0.6 * u[3], d_extra_par=1.2 + 0.8 * u[4], d_extra_perp=0.4 + 0.6 * u[5],
        radius=zero + 5.0,
    )  # fmt: skip


def shells(*values: float, count: int = 30, b0: int = 1) -> Acquisition:
    """Return b0 volumes and shells of the same directions."""
    g = spread(count, torch.Generator().manual_seed(5)).numpy()
    b = np.concatenate([np.zeros(b0), np.repeat(values, count)])
    return Acquisition(b, np.concatenate([np.zeros((b0, 3)), *[g] * len(values)]))


def coefficients(state: TissueState) -> torch.Tensor:
    """Return SH of the signal at the nodes: (n, k, 15)."""
    acq = shells(*(1e3 * b for b in NODES), count=60, b0=0)
    seen = signal(state, acq).unflatten(-1, (len(NODES), 60))
    return seen @ fit_matrix(torch.as_tensor(acq.bvecs[:60].copy()), ORDER, 0.0).float().T


@lru_cache(maxsize=1)
def tiny_space() -> Space:
    """Return the signal space of such tissue."""
    return Space.of(coefficients(tissue(2000)))


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
        "space": tiny_space().told(),
    }
    card = Card(name, version, "codebook", network.arguments(), data=data)
    return save(network.state_dict(), card, folder).with_suffix(".safetensors")
