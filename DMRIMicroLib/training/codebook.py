"""Recipe of the codebook network: what it is shown and what its mistakes cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..codebooks.gaussian import surprise
from ..codebooks.network import GROUP, GROUPS, Codebook, Posterior, Prediction
from ..codebooks.scale import Scale
from ..signals.space import Space
from .examples import Example, ExampleConfig, Examples
from .mapped import load_mapped
from .pool import METRICS

SIGNAL_ERROR = 0.02
"""Errors of the predicted signal, relative to b = 0, that cost one unit."""

SIGNAL_WEIGHT = 0.3
"""Of the signal's cost beside that of the metrics."""

NUMBERS_WEIGHT = 0.5
"""Of the posterior's numbers beside the prior's likelihood."""

DOUBT = (1e-5, 0.03)
"""Range of the variance of numbers that the head is taught with."""

HEAD_RATE, HEAD_BATCH = 3e-3, 2048

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


def metric_loss(found: Prediction, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian likelihood of the labels, and their squared errors: (n, k) -> (), (k,).

    Parameters
    ----------
    found : Prediction
    labels : (n, k) tensor
        In the network's units.
    known : (n, k) bool tensor
    """
    error = torch.where(known, labels - found.mean, 0.0)
    squared = error.square()
    heavy = error.abs() > OUTLIER
    cost = torch.where(heavy, OUTLIER * (2 * error.abs() - OUTLIER), squared)
    variance = (2 * found.log_sd).exp()
    weight = variance.detach() ** BETA
    nll = weight * (0.5 * cost / variance + found.log_sd)
    count = known.sum(0).clamp(min=1)
    return (nll * known).sum() / known.sum().clamp(min=1), squared.detach().sum(0) / count


def teach_head(
    network: Codebook, files: Sequence[Path], scale: Scale, steps: int = 2500, seed: int = 0
) -> float:
    """Teach a network to read metrics off the signal space, before it learns what to expect.

    Voxels by themselves, their numbers known up to a little: this costs a minute, and the metrics
    of dense data are never better than this. Returns the last loss.
    """
    generator = torch.Generator().manual_seed(seed)
    columns = columns_of(scale)
    slices = [load_mapped(file) for file in files]
    numbers = torch.cat([s.numbers.T for s in slices])
    labels = scale.encode(torch.cat([s.labels[columns].T for s in slices]).float())
    known = torch.cat([s.known[columns].T for s in slices])
    own = [*network.head.parameters(), *network.mix.parameters(), *network.mean.parameters()]
    optimiser = torch.optim.Adam(own, HEAD_RATE)
    low, high = (math.log(v) for v in DOUBT)
    cost = torch.zeros(())
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = HEAD_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        at = torch.randint(len(numbers), (HEAD_BATCH,), generator=generator)
        u = torch.rand(HEAD_BATCH, GROUPS, generator=generator)
        variance = torch.exp(low + (high - low) * u)[:, GROUP]
        noise = torch.randn(HEAD_BATCH, variance.shape[1], generator=generator)
        seen = Posterior(numbers[at] + variance.sqrt() * noise, variance)
        nothing = numbers.new_zeros(HEAD_BATCH, network.shape.width)
        found = network.tell(seen, nothing)
        error = torch.where(known[at], labels[at] - found.mean, 0.0)
        cost = nn.functional.smooth_l1_loss(error, torch.zeros_like(error))
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
    return float(cost.detach())


def codebook_loss(scale: Scale):
    """Return the loss of an example, for `loop.train`.

    A network without physical kernels (`Shape.physical`) is not held to the signal.
    """
    columns = columns_of(scale)

    def loss(network: nn.Module, example: Example, step: int) -> tuple[Tensor, dict[str, float]]:
        device = next(network.parameters()).device
        seen, truth = example.tokens.to(device), example.numbers.to(device)
        prior = network.prior(seen)
        best = prior.posterior(seen.matrix, seen.vector.T, seen.noise)
        # the prior learns what tissue is like, not what makes metrics look right
        found = network.tell(Posterior(*(v.detach() for v in best)), prior.features.detach())
        expected = surprise(truth, prior.mean, prior.variance[:, GROUP], prior.factors).mean()
        guess = Prediction(best.mean, best.variance.clamp(min=LEAST).log() / 2, *found[2:])
        numbers, apart = metric_loss(guess, truth, torch.ones_like(truth, dtype=torch.bool))
        read = _read(network, truth)
        labels = scale.encode(example.labels[:, columns].to(device).float())
        known = example.known[:, columns].to(device)
        labels = torch.where(known, labels, read.detach())
        exact = nn.functional.smooth_l1_loss(read, labels)
        if not bool(known.any()):  # strange tissue, to which no model was fitted
            known = torch.ones_like(known)
        metrics, squared = metric_loss(found, labels, known)
        kernels = network.kernels
        signal = kernels.signal(found.weights, found.odf, example.asked, example.frame.to(device))
        wrong = (signal - example.signal.to(device)) / SIGNAL_ERROR
        cost = nn.functional.smooth_l1_loss(wrong, torch.zeros_like(wrong))
        told = {
            "loss": float(metrics.detach()),
            "exact": float(exact.detach()),
            "signal": float(wrong.detach().square().mean()) ** 0.5,
            "expected": float(expected.detach()),
            "numbers": float(numbers.detach()),
            "apart": float(apart.mean()) ** 0.5,
        }
        told |= {k: float(v) ** 0.5 for k, v in zip(scale.metrics, squared, strict=True)}
        weight = SIGNAL_WEIGHT if network.shape.physical else 0.0
        return expected + NUMBERS_WEIGHT * numbers + metrics + exact + weight * cost, told

    return loss


def _read(network: Codebook, truth: Tensor) -> Tensor:
    """Read metrics off known numbers: (n, k)."""
    nothing = truth.new_zeros(len(truth), network.shape.width)
    return network.tell(Posterior(truth, torch.full_like(truth, DOUBT[0])), nothing).mean


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


__all__ = [
    "Codebook",
    "codebook_loss",
    "columns_of",
    "example_stream",
    "metric_loss",
    "scale_of",
    "teach_head",
]
