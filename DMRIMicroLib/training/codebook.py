"""Recipe of the codebook network: what it is shown and what its mistakes cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..codebooks.gaussian import surprise
from ..codebooks.scale import Scale
from ..signals.space import Space
from .examples import Example, ExampleConfig, Examples
from .mapped import load_mapped
from .pool import METRICS

NUMBERS_WEIGHT = 0.5
"""Of the posterior's numbers beside the prior's likelihood."""

LEAST = 1e-6
"""Smallest variance of a number of the signal space that a posterior may claim."""

BETA = 0.5
"""Exponent of the variance that weighs a voxel's likelihood (M. Seitzer, A. Tavakoli, D. Antic,
G. Martius, ICLR 2022): without it the hardest voxels are given up."""

OUTLIER = 4.0
"""Labels further than this from the prediction, in spreads, cost linearly."""


def scale_of(files: Sequence[Path], metrics: Sequence[str] = METRICS) -> Scale:
    """Find the scale of metrics in a pool."""
    slices = [load_mapped(file) for file in files]
    columns = {}
    for name in metrics:
        k = METRICS.index(name)
        columns[name] = torch.cat([s.labels[k][s.known[k]] for s in slices])
    return Scale.of(columns)


def columns_of(scale: Scale) -> list[int]:
    """Return the columns of an example's labels that hold the metrics of a scale."""
    return [METRICS.index(name) for name in scale.metrics]


def metric_loss(
    mean: Tensor, log_sd: Tensor, labels: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Gaussian likelihood of the labels, and their squared errors: (n, k) -> (), (k,).

    Parameters
    ----------
    mean, log_sd : (n, k) tensor
    labels : (n, k) tensor
        In the network's units.
    known : (n, k) bool tensor
    """
    error = torch.where(known, labels - mean, 0.0)
    squared = error.square()
    heavy = error.abs() > OUTLIER
    cost = torch.where(heavy, OUTLIER * (2 * error.abs() - OUTLIER), squared)
    variance = (2 * log_sd).exp()
    weight = variance.detach() ** BETA
    nll = weight * (0.5 * cost / variance + log_sd)
    count = known.sum(0).clamp(min=1)
    return (nll * known).sum() / known.sum().clamp(min=1), squared.detach().sum(0) / count


def prior_loss(scale: Scale):
    """Return the loss of an example, for `loop.train`: how unexpected the truth is.

    Of the prior, and of the posterior's numbers one by one. What metrics look like has no say in
    it: a prior that is right for all of them is right for those to come.
    """

    def loss(network: nn.Module, example: Example, step: int) -> tuple[Tensor, dict[str, float]]:
        device = next(network.parameters()).device
        seen, truth = example.tokens.to(device), example.numbers.to(device)
        prior = network.prior(seen)
        expected = surprise(truth, *prior.gaussian).mean()
        found = prior.posterior(seen.matrix, seen.vector.T, seen.noise)
        log_sd = found.variance.clamp(min=LEAST).log() / 2
        everywhere = torch.ones_like(truth, dtype=torch.bool)
        numbers, apart = metric_loss(found.mean, log_sd, truth, everywhere)
        told = {
            "expected": float(expected.detach()),
            "numbers": float(numbers.detach()),
            "apart": float(apart.mean()) ** 0.5,
        }
        return expected + NUMBERS_WEIGHT * numbers, told

    return loss


def example_stream(
    files: Sequence[Path],
    space: Space,
    seed: int,
    config: ExampleConfig | None = None,
    workers: int = 1,
):
    """Return the function from the first wanted example to an iterator, for `loop.train`."""

    def stream(first: int) -> Iterator[Example]:
        data = Examples(files, space, seed, config, first)
        return iter(
            DataLoader(
                data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
            )
        )

    return stream
