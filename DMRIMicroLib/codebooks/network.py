"""The codebook network: from a slice of any protocol to kernel weights, metrics and fibres.

The network does not answer, it says what answer is likely: for every voxel a Gaussian over the
signal space (`signals.space`), from the voxel and what surrounds it. The voxel's own signals then
have the last word (`posterior`), so that dense data are told as they are and sparse data are told
as far as they go. Metrics are read off the posterior by what does not depend on the protocol.

Noise is averaged before anything is squared: filters smooth the numbers of the space over
neighbours, all orders m of a degree alike, and only then rotation invariants are taken, the inner
products over m of all pairs of filtered series. The trunk sees invariants only, and a degree's
prior mean is a sum of filtered series with gates made of invariants: maps do not depend on how the
head or the gradients were turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decay import decay_of
from .demic import DECAY
from .gaussian import Posterior, posterior
from .invariants import INVARIANTS, invariants, products
from .kernels import Kernels
from .tokens import FACTS, Tokens
from .trunk import Trunk

WIDTHS = (0.0, 0.9, 1.8)
"""Of the Gaussians that filters start from [voxels]; 0 is the voxel by itself and stays so. The
others start without the voxel in the middle: their noise is not that of the voxel."""

RANKS = (3, 2, 1)
"""Components of degrees 0, 2 and 4 of the space."""

GROUPS = sum(RANKS)

LOG_SD = (-4.0, 1.5)
"""Range of the logarithm of a predicted standard deviation, in units of a metric's spread."""

LOG_PRIOR = (-6.0, 3.0)
"""Range of the logarithm of the prior's variance, in units of the population's."""


@dataclass(frozen=True)
class Shape:
    """Of a network.

    Attributes
    ----------
    metrics : tuple of str
    kernels : int
    encoder : int
        Channels of a voxel before it knows its neighbours.
    widths : (int, int, int)
        Channels at full, half and quarter resolution.
    head : int
        Channels between posterior and metrics.
    reach : int
        Edge of the filters [voxels], odd.
    mamba, cnn, physical : bool
        Without them: ablations.
    decay : bool
        An ablation: alpha, beta and gamma of the spherical means (`decay.decay_of`) are all that
        the trunk sees of a voxel.
    state : int
        States of a channel in the selective scan.
    """

    metrics: tuple[str, ...]
    kernels: int = 64
    encoder: int = 64
    widths: tuple[int, int, int] = (64, 96, 128)
    head: int = 128
    reach: int = 7
    mamba: bool = True
    cnn: bool = True
    physical: bool = True
    state: int = 8
    decay: bool = False


class Prior(NamedTuple):
    """What a network expects of the n voxels of a mask, in C order.

    Attributes
    ----------
    mean : (n, c) tensor
    variance : (n, groups) tensor
        Of each component.
    features : (n, f) tensor
    """

    mean: Tensor
    variance: Tensor
    features: Tensor


class Prediction(NamedTuple):
    """Of a slice; all over the n voxels of its mask, in C order.

    Attributes
    ----------
    mean, log_sd : (n, metrics) tensor
        In units of each metric's spread around its centre.
    weights : (n, kernels) tensor
        Non-negative, with the sum 1.
    odf : (n, 14) tensor
        p_lm of degrees 2 and 4, in the slice's frame.
    features : (n, f) tensor
        What the metrics are made of, beside the weights.
    space : (n, c) tensor
        Mean of the posterior.
    variance : (n, c) tensor
        Of the posterior.
    """

    mean: Tensor
    log_sd: Tensor
    weights: Tensor
    odf: Tensor
    features: Tensor
    space: Tensor
    variance: Tensor


class Filters(nn.Module):
    """Smooth images over neighbours inside the mask, with learnable positive filters."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        at = torch.arange(reach) - reach // 2
        squared = at[:, None] ** 2 + at**2
        logits = torch.stack([-squared / (2 * width**2) for width in WIDTHS[1:]])
        logits[:, reach // 2, reach // 2] = -6.0
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """(c, x, y), (x, y) -> (c, filters, n); the first filter is the identity."""
        reach = self.logits.shape[-1]
        weights = self.logits.flatten(1).softmax(1).view(-1, 1, reach, reach)
        inside = mask.to(images)[None, None]
        seen = F.conv2d(inside, weights, padding=reach // 2).clamp(min=1e-3)
        smooth = F.conv2d((images * mask)[:, None], weights, padding=reach // 2) / seen
        return torch.cat([images[:, None], smooth], 1)[..., mask]


class Standard(nn.Module):
    """Inputs around 0 with a spread around 1, as `settle` found them before the training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.seen: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Bring inputs into their units: (..., channels) -> the same."""
        if self.seen is not None:
            self.seen.append(x.detach().flatten(0, -2))
        return ((x - self.centre) / self.spread).clamp(-FARTHEST, FARTHEST)


FARTHEST = 8.0
"""Inputs further than this from the usual, in spreads, count as this far."""


def settle(network: nn.Module, tokens: Sequence[Tokens]) -> None:
    """Find centre and spread of every `Standard` of a network from some examples."""
    standards = [m for m in network.modules() if isinstance(m, Standard)]
    for standard in standards:
        standard.seen = []
    with torch.no_grad():
        for one in tokens:
            network(one)
    for standard in standards:
        seen = torch.cat(standard.seen or [])
        standard.centre.copy_(seen.mean(0))
        standard.spread.copy_(seen.std(0).clamp(min=1e-3))
        standard.seen = None


class Codebook(nn.Module):
    """Network from `Tokens` to a `Prediction`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        filters, (zeroth, second, fourth) = len(WIDTHS), RANKS
        pairs = sum(k * (k + 1) // 2 for k in (filters * second, filters * fourth))
        inputs = filters * DECAY if shape.decay else filters * (zeroth + 2) + pairs
        inputs += GROUPS + FACTS
        full = shape.widths[0]
        self.filters = Filters(shape.reach)
        self.inputs = Standard(inputs)
        self.encoder = _encoder(inputs, shape.encoder, full)
        self.trunk = Trunk(shape)
        self.features = nn.Sequential(nn.LayerNorm(full), nn.Linear(full, full), nn.SiLU())
        gates = [zeroth * (filters * zeroth + 1), second * filters * second, fourth**2 * filters]
        self.gates = nn.Linear(full, sum(gates))
        self.sizes = gates
        self.spread = nn.Linear(full, GROUPS)
        self.told = Standard(INVARIANTS + GROUPS)
        self.head = _encoder(INVARIANTS + GROUPS, shape.head, shape.head)
        self.kernels = Kernels(shape.kernels)
        self.mix = nn.Linear(shape.head, shape.kernels)
        self.fibres = nn.Linear(shape.head, second + fourth)
        self.mean = nn.Linear(shape.head + shape.kernels, len(shape.metrics))
        self.log_sd = nn.Linear(shape.head + full, len(shape.metrics))
        self._begin()

    def _begin(self) -> None:
        """Let every prior mean begin as the mean over neighbours, and the variance as a tenth."""
        nn.init.zeros_(self.gates.weight)
        filters, (zeroth, second, fourth) = len(WIDTHS), RANKS
        zero = torch.zeros(zeroth, zeroth * filters + 1)
        two, four = torch.zeros(second, second * filters), torch.zeros(fourth, fourth * filters)
        for part in (zero, two, four):
            for k in range(len(part)):
                part[k, k * filters + 1] = 1.0  # the filter next to the identity
        with torch.no_grad():
            self.gates.bias.copy_(torch.cat([zero.flatten(), two.flatten(), four.flatten()]))
            self.spread.bias.fill_(math.log(0.1))
        nn.init.zeros_(self.spread.weight)

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return asdict(self.shape)

    def forward(self, tokens: Tokens) -> Prediction:
        """Predict a slice."""
        prior = self.prior(tokens)
        evidence = tokens.matrix, tokens.vector.T, tokens.noise
        return self.tell(posterior(prior.mean, prior.variance[:, GROUP], *evidence), prior.features)

    def prior(self, tokens: Tokens) -> Prior:
        """Say what to expect of every voxel."""
        mask = tokens.mask
        smooth = self.filters(tokens.start, mask)  # (c, f, n)
        zero, two, four = _series(smooth)  # (3, f, n), (2, f, 5, n), (1, f, 9, n)
        features = self.features(self.trunk(self._encode(tokens, zero, two, four))[0][mask])
        gates = self.gates(features).split(self.sizes, 1)
        n = len(features)
        ones = torch.ones_like(zero[:1, 0])
        means = torch.einsum(
            "nkj,jn->nk", gates[0].view(n, RANKS[0], -1), torch.cat([zero.flatten(0, 1), ones])
        )
        parts = [means]
        for gate, series in zip(gates[1:], (two, four), strict=True):
            rank = series.shape[0]
            own = torch.einsum("nkj,jmn->nkm", gate.view(n, rank, -1), series.flatten(0, 1))
            parts.append(own.flatten(1))
        low, high = LOG_PRIOR
        log = self.spread(features).clamp(low, high)
        return Prior(torch.cat(parts, 1), log.exp(), features)

    def _encode(self, tokens: Tokens, zero: Tensor, two: Tensor, four: Tensor) -> Tensor:
        """Put the voxels' inputs on the grid, encoded: (1, x, y, full)."""
        mask, n = tokens.mask, zero.shape[-1]
        told = tokens.facts[:, None].expand(-1, n)
        if self.shape.decay:
            abg, _ = decay_of(tokens, one_shell=True)
            seen = [self.filters(abg, mask).flatten(0, 1)]
        else:
            facts = self.filters(tokens.voxel_facts, mask).flatten(0, 1)
            same = [products(part.flatten(0, 1)) for part in (two, four)]
            seen = [zero.flatten(0, 1), facts, *same]
        voxels = self.encoder(self.inputs(torch.cat([*seen, told]).T))
        image = voxels.new_zeros(mask.numel(), voxels.shape[1])
        image = image.index_copy(0, mask.flatten().nonzero()[:, 0], voxels)
        return image.unflatten(0, mask.shape)[None]

    def tell(self, found: Posterior, features: Tensor) -> Prediction:
        """Read metrics, kernels and fibres off the posterior: (n, c), (n, f)."""
        left = torch.stack([found.variance[:, GROUP == k].mean(1) for k in range(GROUPS)], 1)
        seen = torch.cat([invariants(found.mean), left.clamp(min=1e-6).log()], 1)
        hidden = F.silu(self.head(self.told(seen)))
        weights = self.mix(hidden).softmax(-1)
        book = weights * self.shape.kernels**0.5
        mean = self.mean(torch.cat([hidden, book if self.shape.physical else 0 * book], 1))
        low, high = LOG_SD
        log_sd = low + (high - low) * torch.sigmoid(self.log_sd(torch.cat([hidden, features], 1)))
        _, two, four = _series(found.mean.T[:, None])
        gates = self.fibres(hidden)
        odf = torch.cat(
            [
                torch.einsum("nk,kmn->nm", gates[:, : RANKS[1]], two[:, 0]),
                torch.einsum("nk,kmn->nm", gates[:, RANKS[1] :], four[:, 0]),
            ],
            1,
        )
        return Prediction(mean, log_sd, weights, odf, hidden, found.mean, found.variance)


GROUP = torch.repeat_interleave(
    torch.arange(GROUPS), torch.tensor([1] * RANKS[0] + [5] * RANKS[1] + [9] * RANKS[2])
)
"""Component of each number, see `Space.groups`."""


def _series(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers by degree: (c, f, n) -> (3, f, n), (2, f, 5, n), (1, f, 9, n)."""
    zeroth, second, fourth = RANKS
    zero, two, four = numbers.split([zeroth, 5 * second, 9 * fourth])
    return (
        zero,
        two.unflatten(0, (second, 5)).transpose(1, 2),
        four.unflatten(0, (fourth, 9)).transpose(1, 2),
    )


def _encoder(inputs: int, width: int, out: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, out))
