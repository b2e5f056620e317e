"""Labels of tissue that no simulated brain has: what estimators say of any point of the space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..brain.protocols import named
from ..brain.truth import DENSE, USUAL_DENSE
from ..fitting import fit
from ..models import MODELS
from ..scan import Scan
from ..signals.space import Space
from .examples import ExampleConfig, moved
from .mapped import load_mapped
from .pool import METRICS, gives, told

DARKEST = 0.01
"""Signals below this share of that at b = 0, or above it, are those of no tissue."""

LOOSE = 0.4
"""Standard deviation of the noise on numbers, at most."""

S0 = 1000.0


def strange_labels(
    files: Sequence[Path],
    space: Space,
    count: int,
    generator: torch.Generator,
    config: ExampleConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move voxels of slices within the signal space, and fit the models to what they then are.

    Parameters
    ----------
    files : sequence of path
        Mapped slices.
    space : Space
    count : int
        Voxels, about; those that no tissue can be are left out.
    generator : torch.Generator
    config : ExampleConfig, optional
        How far classes of tissue are moved.

    Returns
    -------
    numbers : (n, c) tensor
    labels, known : (n, 24) tensor
        Metrics of models that two shells do not determine are not known.
    """
    config, parts = config or ExampleConfig(), []
    for file in files:
        item = moved(load_mapped(file), space, generator, config)
        at = torch.randperm(item.numbers.shape[1], generator=generator)
        z = item.numbers[:, at[: -(-count // len(files))]].T
        loose = LOOSE * torch.rand(len(z), 1, generator=generator).square()
        parts.append(z + loose * torch.randn(z.shape, generator=generator))
    return label_numbers(torch.cat(parts), space)


def label_numbers(numbers: Tensor, space: Space) -> tuple[Tensor, Tensor, Tensor]:
    """Fit models to the noise-free signal of n points: see `strange_labels`."""
    acq = named(USUAL_DENSE)
    rows = [int(v) for v in (~acq.is_b0).nonzero()[0]]
    design, offset, _ = space.design(acq.subset(rows), torch.eye(3))
    signal = torch.ones(len(numbers), len(acq))
    signal[:, rows] = numbers @ design.float().T + offset.float()
    possible = (signal > DARKEST).all(1) & (signal <= 1).all(1)
    numbers, signal = numbers[possible], signal[possible]
    image = np.ascontiguousarray(S0 * signal.numpy()[:, None, None])
    scan = Scan(image, np.eye(4), acq, np.ones(image.shape[:3], bool), name="noise-free")
    names = [name for name, model in MODELS.items() if name not in DENSE and gives(model)]
    maps = fit(scan, names, likelihood="gaussian", device="cpu")
    labels = torch.zeros(len(numbers), len(METRICS))
    known = torch.zeros(labels.shape, dtype=torch.bool)
    for k, metric in enumerate(METRICS):
        if metric in maps:
            labels[:, k] = torch.from_numpy(np.asarray(maps[metric].data)[:, 0, 0])
            known[:, k] = torch.from_numpy(told(maps, metric)[:, 0, 0])
    return numbers, labels, known
