"""A small network that tells real from simulated patches, and what it sees them by.

It is trained on the patches of some scans and of the brains simulated like them, and tested on
other scans and brains: the accuracy is that on what it has never seen, averaged over `FOLDS`, with
real and simulated patches counting the same. 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from _common import rounded
from scipy.ndimage import gaussian_filter
from torch import nn

EDGE = 32
"""Of a patch [voxels]."""

FOLDS = (("b1k_b2k", "Toshiba"), ("UIH", "Prisma"), ("Philips", "Canon"))
"""Scans that are held out together."""

BRAIN = 0.6
"""Least share of a patch that is brain."""

BATCH, RATE, DECAY = 64, 2e-3, 1e-2
"""Of training."""

SMOOTH = 1.0
"""Width of the blur that takes texture away [voxels]."""

View = Callable[[np.ndarray], np.ndarray]


def skull_too(x: np.ndarray) -> np.ndarray:
    """Show everything: b0 with what lies around the brain, FA within it."""
    return x[:, :2]


def brain_alone(x: np.ndarray) -> np.ndarray:
    """Show b0 and FA within the mask."""
    return x[:, :2] * x[:, 2:]


def b0_alone(x: np.ndarray) -> np.ndarray:
    """Show b0 within the mask."""
    return x[:, :1] * x[:, 2:]


def fa_alone(x: np.ndarray) -> np.ndarray:
    """Show FA within the mask."""
    return x[:, 1:2] * x[:, 2:]


def blurred(x: np.ndarray) -> np.ndarray:
    """Show shapes and contrast without texture: sharpness, noise and ringing are gone."""
    return gaussian_filter(brain_alone(x), (0, 0, SMOOTH, SMOOTH))


def texture(x: np.ndarray) -> np.ndarray:
    """Show what `blurred` takes away."""
    shown = brain_alone(x)
    return shown - gaussian_filter(shown, (0, 0, SMOOTH, SMOOTH))


def ranked(x: np.ndarray) -> np.ndarray:
    """Show ranks within the patch: the histogram tells nothing, shapes and texture do."""
    order = brain_alone(x).reshape(*x.shape[:1], 2, -1).argsort(-1).argsort(-1)
    return (order / order.shape[-1]).reshape(len(x), 2, EDGE, EDGE)


VIEWS: dict[str, View] = {
    view.__name__.replace("_", " "): view
    for view in (skull_too, brain_alone, b0_alone, fa_alone, blurred, texture, ranked)
}
"""What the network is shown; the differences tell what gives the simulation away."""


def patches(seen, count: int, rng: np.random.Generator) -> np.ndarray:
    """Axial patches of b0 (relative to the slice's median), FA and mask: (count, 3, 32, 32)."""
    out = []
    for _ in range(count):
        for _ in range(200):
            z = rng.integers(seen.mask.shape[2])
            i, j = (rng.integers(n - EDGE + 1) for n in seen.mask.shape[:2])
            part = (slice(i, i + EDGE), slice(j, j + EDGE), z)
            if seen.mask[part].mean() >= BRAIN:
                break
        else:
            continue
        level = max(float(np.median(seen.b0[..., z][seen.mask[..., z]])), 1e-6)
        b0 = np.clip(seen.b0[part] / level, 0, 4) / 2
        x = np.stack([b0, np.clip(seen.fa[part], 0, 1) * seen.mask[part], seen.mask[part]])
        x = x[:, ::-1] if rng.random() < 0.5 else x
        out.append(x)
    return np.stack(out).astype(np.float32)


def network(channels: int) -> nn.Module:
    """Three convolutions and a mean."""
    layers: list[nn.Module] = []
    for before, after in ((channels, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))


def trained(x: torch.Tensor, y: torch.Tensor, seed: int, steps: int) -> nn.Module:
    """Network that tells y = 1 from y = 0."""
    torch.manual_seed(seed)
    net = network(x.shape[1])
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = nn.functional.binary_cross_entropy_with_logits(net(x[rows])[:, 0], y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def balanced(net: nn.Module, real: torch.Tensor, made: torch.Tensor) -> float:
    """Mean of the shares of both kinds that are told rightly."""
    with torch.no_grad():
        return float(
            ((net(real)[:, 0] > 0).float().mean() + (net(made)[:, 0] <= 0).float().mean()) / 2
        )


@dataclass(frozen=True)
class Effort:
    """How much is put into a network.

    Attributes
    ----------
    patches : int
        Of each scan, and as many of the brains like it.
    steps, networks : int
        Of training, and how many networks are averaged.
    """

    patches: int = 240
    steps: int = 150
    networks: int = 2


QUICK = Effort(120, 100, 1)
"""Enough to compare variants."""


def accuracies(
    real: dict, made: dict, views: Sequence[str] | None = None, effort: Effort = Effort()
) -> dict:
    """Held-out accuracy of views (all, by default), in the mean and by held-out scan.

    Scans are held out as `FOLDS` say; two scans that are held out together, and all there is, one
    by one.
    """
    rng = np.random.default_rng(0)
    lots = {}
    for name, fake in made.items():
        share = effort.patches // len(fake)
        fakes = np.concatenate([patches(s, share, rng) for s in fake])
        lots[name] = (patches(real[name], effort.patches, rng), fakes)
    return {view: judged(lots, VIEWS[view], effort) for view in views or VIEWS}


def judged(lots: dict[str, tuple[np.ndarray, np.ndarray]], show: View, effort: Effort) -> dict:
    """Accuracy in one view, in the mean and by held-out scan."""
    shown = {k: [torch.tensor(show(x).copy()).float() for x in v] for k, v in lots.items()}
    by_scan: dict[str, float] = {}
    alone = any(set(shown) <= set(fold) for fold in FOLDS)
    for fold in tuple((name,) for name in shown) if alone else FOLDS:
        seen = [k for k in shown if k not in fold]
        if not seen or not set(fold) & set(shown):
            continue
        x = torch.cat([part for k in seen for part in shown[k]])
        y = torch.cat(
            [torch.full((len(p),), 1.0 - i) for k in seen for i, p in enumerate(shown[k])]
        )
        nets = [trained(x, y, seed, effort.steps) for seed in range(effort.networks)]
        for name in set(fold) & set(shown):
            by_scan[name] = rounded(float(np.mean([balanced(n, *shown[name]) for n in nets])), 3)
    return {
        "mean": rounded(float(np.mean(list(by_scan.values()))), 3),
        **dict(sorted(by_scan.items())),
    }
