"""What reads metrics off the signal space is taught after the prior, which it has no say in.

First the map from known numbers to the metrics that conventional estimators find there. Then, with
that map as the teacher, its mean and spread over the posteriors that the prior and random scans
leave: what is asked of a metric is its integral over what the voxel may be, and no second opinion
on what is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from ..codebooks.network import GROUP, GROUPS, Codebook, Posterior, of_head
from ..codebooks.scale import Scale
from ..signals.space import Space
from .codebook import columns_of, metric_loss
from .examples import Example
from .mapped import load_mapped
from .relabel import strange_labels

SIGNAL_ERROR = 0.02
"""Errors of the predicted signal, relative to b = 0, that cost one unit."""

SIGNAL_WEIGHT = 0.3
"""Of the signal's cost beside that of the metrics."""

DOUBT = (1e-5, 0.01)
"""Range of the variance of numbers that the map is taught with: noise that keeps it smooth."""

RATE, BATCH = 3e-3, 2048
"""Learning rate at its highest, and voxels a step, of the map."""

LATER_RATE = 1e-3
"""Learning rate at its highest while integrals are learned."""

FARTHEST = 8.0
"""Metrics further from the usual than this, in spreads, count as this far."""

Progress = Callable[[float], None]
Labelled = tuple[Tensor, Tensor, Tensor]
"""Numbers (n, c), labels (n, 24), where they are known (n, 24)."""


def teach_head(
    network: Codebook,
    files: Sequence[Path],
    space: Space,
    scale: Scale,
    examples: Iterator[Example],
    steps: tuple[int, int, int],
    seed: int = 0,
    progress: Progress = lambda share: None,
) -> dict[str, float]:
    """Teach a network whose prior is trained to read metrics.

    Parameters
    ----------
    network : Codebook
        Changed in place.
    files : sequence of path
        Mapped slices.
    space : Space
    scale : Scale
        Of the metrics.
    examples : iterator of Example
        Endless.
    steps : (int, int, int)
        Strange voxels that are labelled, batches of voxels for the map, examples for the integrals.
    seed : int
    progress : callable
        Gets the share of the work.

    Returns
    -------
    dict of str to float
        Last losses, for the log.
    """
    generator = torch.Generator().manual_seed(seed)
    known = [labelled(files), strange_labels(files, space, steps[0], generator)]
    return teach_from(network, known, scale, examples, steps[1:], generator, progress)


def teach_from(
    network: Codebook,
    known: Sequence[Labelled],
    scale: Scale,
    examples: Iterator[Example],
    steps: tuple[int, int],
    generator: torch.Generator,
    progress: Progress = lambda share: None,
) -> dict[str, float]:
    """Teach what `teach_head` does, from labels that are given: all sources count alike."""
    exact = _teach_map(network, known, scale, steps[0], generator, lambda u: progress(u / 2))
    told = _teach_integrals(
        network, scale, examples, steps[1], generator, lambda u: progress(0.5 + u / 2)
    )
    return {"map": exact, **told}


def labelled(files: Sequence[Path]) -> Labelled:
    """Voxels of mapped slices, with their labels."""
    slices = [load_mapped(file) for file in files]
    numbers = torch.cat([s.numbers.T for s in slices])
    labels = torch.cat([s.labels.T for s in slices]).float()
    return numbers, labels, torch.cat([s.known.T for s in slices])


def _teach_map(
    network: Codebook,
    sources: Sequence[Labelled],
    scale: Scale,
    steps: int,
    generator: torch.Generator,
    progress: Progress,
) -> float:
    """From numbers to the metrics that were fitted there, voxel by voxel, of all sources alike."""
    columns, device = columns_of(scale), next(network.parameters()).device
    own = [*network.head.parameters(), *network.mix.parameters(), *network.mean.parameters()]
    optimiser = torch.optim.Adam(own, RATE)
    low, high = (math.log(v) for v in DOUBT)
    average, count = 0.0, 0
    for step in range(steps):
        _slow_down(optimiser, RATE, step / steps)
        parts = []
        for source in sources:
            at = torch.randint(len(source[0]), (BATCH // len(sources),), generator=generator)
            parts.append([v[at] for v in source])
        numbers, labels, known = (torch.cat(v) for v in zip(*parts, strict=True))
        labels = scale.encode(labels[:, columns]).clamp(-FARTHEST, FARTHEST)
        u = torch.rand(len(numbers), GROUPS, generator=generator)
        variance = torch.exp(low + (high - low) * u)[:, GROUP]
        noise = torch.randn(variance.shape, generator=generator)
        seen = Posterior(numbers + variance.sqrt() * noise, variance)
        nothing = numbers.new_zeros(len(numbers), network.shape.width)
        found = network.tell(Posterior(*(v.to(device) for v in seen)), nothing.to(device))
        error = torch.where(known[:, columns], labels - found.mean.cpu(), 0.0)
        cost = nn.functional.smooth_l1_loss(error, torch.zeros_like(error))
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
        progress((step + 1) / steps)
        if step >= 0.9 * steps:
            average, count = average + float(cost.detach()), count + 1
    return average / max(1, count)


def _teach_integrals(
    network: Codebook,
    scale: Scale,
    examples: Iterator[Example],
    steps: int,
    generator: torch.Generator,
    progress: Progress,
) -> dict[str, float]:
    """From posteriors to mean and spread of the map over them, and to kernels and fibres."""
    teacher = deepcopy(network).eval().requires_grad_(False)
    device = next(network.parameters()).device
    own = [p for name, p in network.named_parameters() if of_head(name)]
    optimiser = torch.optim.Adam(own, LATER_RATE)
    weight = SIGNAL_WEIGHT if network.shape.physical else 0.0
    sums: dict[str, float] = {}
    for step in range(steps):
        _slow_down(optimiser, LATER_RATE, step / steps)
        example = next(examples)
        seen, truth = example.tokens.to(device), example.numbers.to(device)
        with torch.no_grad():
            prior = network.prior(seen)
            data = seen.matrix, seen.vector.T, seen.noise
            found = prior.posterior(*data)
            drawn = prior.draw(*data, generator)
            wanted = teacher.read(drawn).mean.clamp(-FARTHEST, FARTHEST)
            known = teacher.read(truth).mean
        told = network.tell(found, prior.features)
        metrics, _ = metric_loss(told.mean, told.log_sd, wanted, torch.ones_like(wanted).bool())
        exact = nn.functional.smooth_l1_loss(network.read(truth).mean, known)
        wrong = _signal_error(network, told.weights, told.odf, example)
        cost = nn.functional.smooth_l1_loss(wrong, torch.zeros_like(wrong))
        optimiser.zero_grad()
        (metrics + exact + weight * cost).backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimiser.step()
        progress((step + 1) / steps)
        if step >= 0.9 * steps:
            signal = float(wrong.detach().square().mean()) ** 0.5
            now = {"metrics": float(metrics.detach()), "exact": float(exact.detach())}
            for key, value in {**now, "signal": signal, "count": 1.0}.items():
                sums[key] = sums.get(key, 0.0) + value
    count = sums.pop("count", 1.0)
    return {key: value / count for key, value in sums.items()}


def _signal_error(network: Codebook, weights: Tensor, odf: Tensor, example: Example) -> Tensor:
    """Return what the kernels say of the noise-free signal, less what it is: (n, m)."""
    frame, clean = example.frame.to(weights), example.signal.to(weights)
    signal = network.kernels.signal(weights, odf, example.asked, frame)
    return (signal - clean) / SIGNAL_ERROR


def _slow_down(optimiser: torch.optim.Optimizer, rate: float, share: float) -> None:
    """Let the learning rate fall as a cosine."""
    for group in optimiser.param_groups:
        group["lr"] = rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
