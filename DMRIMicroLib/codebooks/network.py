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
from .gaussian import Joint, Posterior
from .invariants import INVARIANTS, invariants, products
from .kernels import Kernels
from .standard import Standard
from .tokens import FACTS, Tokens
from .trunk import FILTERS, Filters, Ring, Trunk

KINDS = 2
"""Convolutions of each channel over a voxel's neighbours."""

TOGETHER = 2
"""Directions of the signal space in which a prior is wide."""

VOXEL_FACTS = 2

RANKS = (3, 2, 1)
"""Components of degrees 0, 2 and 4 of the space."""

GROUPS = sum(RANKS)

SIZES = (RANKS[0] * (RANKS[0] * FILTERS + 1), *(r * r * FILTERS for r in RANKS[1:]))
"""Gates of each degree: from the filters' series, and from 1 for degree 0."""

CERTAIN = 1e-5
"""Variance of numbers that are known."""

HEAD = ("head", "mix", "mean", "log_sd", "fibres", "kernels")
"""Parts of the network that read metrics off a posterior; all others say what to expect."""

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
    width : int
        Channels of the trunk.
    blocks : int
        Of the trunk.
    head : int
        Channels between posterior and metrics.
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
    width: int = 64
    blocks: int = 3
    head: int = 128
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
    factors : (n, c, together) tensor
        What changes together, see `gaussian`.
    features : (n, f) tensor
    """

    mean: Tensor
    variance: Tensor
    factors: Tensor
    features: Tensor

    @property
    def gaussian(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and factors of every number, as `gaussian.Joint` takes them."""
        return self.mean, self.variance[:, GROUP], self.factors

    @property
    def width(self) -> Tensor:
        """Variance of every number, that of the factors included: (n, c)."""
        return self.variance[:, GROUP] + self.factors.square().sum(2)

    def posterior(self, matrix: Tensor, vector: Tensor, noise: Tensor) -> Posterior:
        """Let the data have the last word; see `gaussian.Joint`."""
        return Joint(*self.gaussian, matrix, vector, noise).posterior()

    def draw(
        self, matrix: Tensor, vector: Tensor, noise: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Sample the posterior of every voxel by itself: (n, c)."""
        shape = (len(self.mean), self.mean.shape[1] + self.factors.shape[2])
        normal = torch.randn(shape, generator=generator).to(self.mean)
        return Joint(*self.gaussian, matrix, vector, noise).draw(normal)


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


class Codebook(nn.Module):
    """Network from `Tokens` to a `Prediction`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        zeroth, second, fourth = RANKS
        own, many = zeroth + _pairs(second) + _pairs(fourth), (FILTERS * k for k in RANKS[1:])
        around = FILTERS * (DECAY if shape.decay else zeroth) + VOXEL_FACTS * FILTERS
        if not shape.decay:
            around += sum(_pairs(k) for k in many)
        width = shape.width
        self.filters = Filters()
        self.voxel = Standard((DECAY if shape.decay else own) + VOXEL_FACTS)
        self.alone = nn.Sequential(nn.Linear(len(self.voxel.centre), width), nn.SiLU())
        self.ring = Ring(width, KINDS)
        self.inputs = Standard(around + VOXEL_FACTS + GROUPS + FACTS)
        self.encoder = _encoder(len(self.inputs.centre) + KINDS * width, shape.encoder, width)
        self.trunk = Trunk(shape)
        self.features = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.gates = nn.Linear(width, (1 + TOGETHER) * sum(SIZES))
        self.spread = nn.Linear(width, GROUPS)
        self.told = Standard(INVARIANTS + GROUPS)
        self.head = _encoder(INVARIANTS + GROUPS, shape.head, shape.head)
        self.kernels = Kernels(shape.kernels)
        self.mix = nn.Linear(shape.head, shape.kernels)
        self.fibres = nn.Linear(shape.head, second + fourth)
        self.mean = nn.Linear(shape.head + shape.kernels, len(shape.metrics))
        self.log_sd = nn.Linear(shape.head + width, len(shape.metrics))
        self._begin()

    def _begin(self) -> None:
        """Let every prior begin as the mean over neighbours, with the spread that is usual."""
        nn.init.normal_(self.gates.weight, std=1e-3)
        gates = torch.zeros(1 + TOGETHER, sum(SIZES))
        first = 0
        for rank, size in zip(RANKS, SIZES, strict=True):
            part = gates[0, first : first + size].view(rank, -1)
            for k in range(rank):
                part[k, k * FILTERS] = 1.0
            first += size
        for k in range(TOGETHER):  # one begins with the mean signal, one with its anisotropy
            gates[1 + k, : SIZES[0]].view(RANKS[0], -1)[0, -1] = (0.2, 0.0)[k % 2]
            gates[1 + k, SIZES[0]] = (0.0, 0.1)[k % 2]
        with torch.no_grad():
            self.gates.bias.copy_(gates.flatten())
            self.spread.bias.fill_(math.log(0.3))
        nn.init.zeros_(self.spread.weight)

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return asdict(self.shape)

    def forward(self, tokens: Tokens) -> Prediction:
        """Predict a slice."""
        prior = self.prior(tokens)
        data = tokens.matrix, tokens.vector.T, tokens.noise
        return self.tell(prior.posterior(*data), prior.features)

    def prior(self, tokens: Tokens) -> Prior:
        """Say what to expect of every voxel, from its neighbours."""
        series = _series(self._smooth(tokens))  # (3, f, n), (2, f, 5, n), (1, f, 9, n)
        features = self.features(self.trunk(self._encode(tokens, series))[tokens.mask])
        gates = self.gates(features).unflatten(1, (1 + TOGETHER, -1)).split(SIZES, 2)
        ones = torch.ones_like(series[0][:1, 0])
        shown = [torch.cat([series[0].flatten(0, 1), ones])[:, None], *_flat(series[1:])]
        parts = []
        for rank, gate, part in zip(RANKS, gates, shown, strict=True):
            own = gate.unflatten(2, (rank, -1))  # (n, 1 + together, rank, series)
            parts.append(torch.einsum("ntkj,jmn->ntkm", own, part).flatten(2))
        mean, factors = torch.cat(parts, 2).split([1, TOGETHER], 1)
        low, high = LOG_PRIOR
        log = low + F.softplus(self.spread(features) - low)
        log = high - F.softplus(high - log)
        return Prior(mean[:, 0], log.exp(), factors.mT.contiguous(), features)

    def _smooth(self, tokens: Tokens) -> Tensor:
        """Tell what neighbours' data say of the space, taken as one voxel: (c, f, n)."""
        image = tokens.vector.new_zeros(len(tokens.vector), *tokens.mask.shape)
        image[:, tokens.mask] = tokens.vector
        seen = self.filters(image, tokens.mask)
        left = self.filters.weights().detach().square().sum((1, 2, 3))  # 1 / neighbours
        noise = tokens.noise.square().median() * left
        unit = torch.eye(len(tokens.vector)).to(noise)
        solve = torch.linalg.inv((tokens.matrix + noise[:, None, None] * unit).double())
        return torch.einsum("fij,jfn->ifn", solve.to(seen), seen)

    def _encode(self, tokens: Tokens, series: Sequence[Tensor]) -> Tensor:
        """Put what is known of the voxels' neighbours on the grid, encoded: (x, y, width)."""
        mask = tokens.mask
        facts = tokens.voxel_facts
        if self.shape.decay:
            abg, _ = decay_of(tokens, one_shell=True)
            alone, around = abg[:, mask], [self.filters(abg, mask).flatten(0, 1)]
        else:
            zero, *higher = _series(tokens.start[:, mask][:, None])
            alone = torch.cat([zero[:, 0], *map(products, _flat(higher))])
            around = [series[0].flatten(0, 1), *map(products, _flat(series[1:]))]
        alone = self.alone(self.voxel(torch.cat([alone, facts[:, mask]]).T))
        image = alone.new_zeros(*mask.shape, alone.shape[1])
        image[mask] = alone
        around.append(self.filters(facts, mask).flatten(0, 1))
        around.append(facts[:, mask])  # what b = 0 says of a voxel is not what is estimated
        around.append(tokens.facts[:, None].expand(-1, len(alone)))
        seen = self.inputs(torch.cat(around).T)
        encoded = self.encoder(torch.cat([seen, self.ring(image)[mask]], 1))
        image = encoded.new_zeros(*mask.shape, encoded.shape[1])
        image[mask] = encoded
        return image

    def read(self, numbers: Tensor) -> Prediction:
        """Read metrics off numbers that are known: (n, c)."""
        nothing = numbers.new_zeros(len(numbers), self.shape.width)
        return self.tell(Posterior(numbers, torch.full_like(numbers, CERTAIN)), nothing)

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


def of_head(name: str) -> bool:
    """Whether a parameter belongs to `HEAD`."""
    return name.split(".")[0] in HEAD


def _pairs(series: int) -> int:
    """Inner products of so many series, see `products`."""
    return series * (series + 1) // 2


def _flat(series: Sequence[Tensor]) -> list[Tensor]:
    """(r, f, m, n) -> (r f, m, n), of each degree."""
    return [part.flatten(0, 1) for part in series]


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
