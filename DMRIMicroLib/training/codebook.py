"""Recipe of the codebook network: what it is shown and what its mistakes cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..codebooks.network import Codebook, Prediction
from ..codebooks.scale import Scale
from .examples import Example, ExampleConfig, Examples
from .pool import METRICS, load_slice

SIGNAL_ERROR = 0.02
"""Errors of the predicted signal, relative to b = 0, that cost one unit."""

SIGNAL_WEIGHT = 0.3
"""Of the signal's cost beside that of the metrics."""

BETA = 0.5
"""Exponent of the variance that weighs a voxel's likelihood (M. Seitzer, A. Tavakoli, D. Antic,
G. Martius, ICLR 2022): without it the hardest voxels are given up."""

RIDGE = 0.01
"""Of the regression that the training starts from, for inputs of unit variance."""

OUTLIER = 4.0
"""Labels further than this from the prediction, in spreads, cost linearly."""


def scale_of(files: Sequence[Path], metrics: Sequence[str] = METRICS) -> Scale:
    """Find the scale of metrics in a pool."""
    slices = [load_slice(file) for file in files]
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


def start(network: Codebook, examples: Sequence[Example], scale: Scale) -> None:
    """Begin where linear regression ends: what is told directly by fits and invariants."""
    columns, seen, labels, known = columns_of(scale), [], [], []
    hook = network.of_joint.register_forward_hook(lambda module, given, found: seen.append(found))
    with torch.no_grad():
        for example in examples:
            network(example.tokens)
            labels.append(scale.encode(example.labels[:, columns].float()))
            known.append(example.known[:, columns])
    hook.remove()
    inputs = torch.cat(seen).clamp(-OUTLIER, OUTLIER).double()
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    label, good = torch.cat(labels).clamp(-OUTLIER, OUTLIER).double(), torch.cat(known)
    penalty = RIDGE * torch.eye(inputs.shape[1], dtype=torch.float64)
    for k in range(len(columns)):
        own = inputs[good[:, k]]
        both = own.T @ own / max(len(own), 1) + penalty
        found = torch.linalg.solve(both, own.T @ label[good[:, k], k] / max(len(own), 1))
        network.direct.weight.data[k] = found[:-1]
        network.direct.bias.data[k] = found[-1]


def codebook_loss(scale: Scale):
    """Return the loss of an example, for `loop.train`.

    A network without physical kernels (`Shape.physical`) is not held to the signal.
    """
    columns = columns_of(scale)

    def loss(network: nn.Module, example: Example, step: int) -> tuple[Tensor, dict[str, float]]:
        device = next(network.parameters()).device
        found: Prediction = network(example.tokens.to(device))
        labels = scale.encode(example.labels[:, columns].to(device).float())
        metrics, squared = metric_loss(found, labels, example.known[:, columns].to(device))
        kernels = network.kernels
        signal = kernels.signal(found.weights, found.odf, example.asked, example.frame.to(device))
        wrong = (signal - example.signal.to(device)) / SIGNAL_ERROR
        cost = nn.functional.smooth_l1_loss(wrong, torch.zeros_like(wrong))
        told = {
            "loss": float(metrics.detach()),
            "signal": float(wrong.detach().square().mean()) ** 0.5,
        }
        told |= {k: float(v) ** 0.5 for k, v in zip(scale.metrics, squared, strict=True)}
        weight = SIGNAL_WEIGHT if network.shape.physical else 0.0
        return metrics + weight * cost, told

    return loss


def example_stream(
    files: Sequence[Path], seed: int, config: ExampleConfig | None = None, workers: int = 1
):
    """Return the function from the first wanted example to an iterator, for `loop.train`."""

    def stream(first: int) -> Iterator[Example]:
        data = Examples(files, seed, config, first)
        return iter(
            DataLoader(
                data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
            )
        )

    return stream


__all__ = ["Codebook", "codebook_loss", "columns_of", "example_stream", "metric_loss", "scale_of"]
