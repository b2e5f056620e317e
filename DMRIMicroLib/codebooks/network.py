"""The codebook network: from a slice of any protocol to kernel weights, metrics and fibres.

Noise is averaged before anything is squared. A few filters smooth the SH coefficients over
neighbours, all orders m of a degree alike; only then rotation invariants are taken: the inner
products, over m, of all pairs of filtered series. Of one filter's they are the RISH features, of a
voxel with its neighbours they have no bias from noise. What follows sees invariants only, so maps
do not depend on how the head or the gradients were turned; fibre orientations come out as filtered
coefficients times gates made of invariants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cumulants import DARKEST, powder_cumulants
from .decay import decay_of
from .demic import DECAY
from .kernels import Kernels
from .mamba import Mamba2d
from .tokens import ALL_FITS, DEGREES, JOINT_FACTS, SHELL_FACTS, VOXEL_FACTS, Tokens

WIDTHS = (0.0, 0.9, 1.8)
"""Of the Gaussians that filters start from [voxels]; 0 is the voxel by itself and stays so. The
others start without the voxel in the middle: their noise is not that of the voxel."""

TINY = 1e-4
"""Keeps the root of an invariant differentiable at 0."""

CUMULANTS = 2
"""Of the spherical means, see `powder_cumulants`."""

TRUST = 1.0
"""Logit of the share that an untrained network leaves to what linear maps say."""

LOG_SD = (-4.0, 1.5)
"""Range of the logarithm of a predicted standard deviation, in units of a metric's spread."""


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
    reach : int
        Edge of the filters on SH coefficients [voxels], odd.
    mamba, cnn, physical : bool
        Without them: ablations.
    decay : bool
        An ablation: alpha, beta and gamma of the spherical means (`decay.decay_of`) are all that
        is seen of a voxel.
    state : int
        States of a channel in the selective scan.
    """

    metrics: tuple[str, ...]
    kernels: int = 64
    encoder: int = 96
    widths: tuple[int, int, int] = (64, 96, 128)
    reach: int = 7
    mamba: bool = True
    cnn: bool = True
    physical: bool = True
    state: int = 8
    decay: bool = False


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
        What the heads see beside the weights.
    """

    mean: Tensor
    log_sd: Tensor
    weights: Tensor
    odf: Tensor
    features: Tensor


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
        """(c, x, y), (x, y) -> (c, filters, x, y); the first filter is the identity."""
        reach = self.logits.shape[-1]
        weights = self.logits.flatten(1).softmax(1).view(-1, 1, reach, reach)
        inside = mask.to(images)[None, None]
        seen = F.conv2d(inside, weights, padding=reach // 2).clamp(min=1e-3)
        smooth = F.conv2d((images * mask)[:, None], weights, padding=reach // 2) / seen
        return torch.cat([images[:, None], smooth], 1)


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
        return (x - self.centre) / self.spread


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


def invariants(series: Tensor) -> Tensor:
    """Inner products of filtered series by degree: (..., 14, f, n) -> (..., f (f + 1), n).

    As signed roots, so that they are of the size of coefficients.
    """
    f = series.shape[-2]
    rows, columns = torch.triu_indices(f, f)
    parts = []
    for part in series.split(DEGREES[1:], dim=-3):
        product = (part[..., rows, :] * part[..., columns, :]).sum(-3)
        parts.append(torch.sign(product) * ((product.abs() + TINY**2).sqrt() - TINY))
    return torch.cat(parts, -2)


class Residual(nn.Module):
    """Depthwise 5x5 convolution and a pointwise network, added to what came in: (1, x, y, c)."""

    def __init__(self, channels: int, cnn: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 2 * channels)
        self.back = nn.Linear(2 * channels, channels)
        self.cnn = cnn
        nn.init.zeros_(self.back.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the neighbourhood says: (1, x, y, c) -> the same."""
        seen = _convolved(self.depthwise, x) if self.cnn else x
        return x + self.back(F.silu(self.wide(self.norm(seen))))


class MambaCNN(nn.Module):
    """Convolutions for what is near, selective scans along rows and columns for what is far."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        self.near = Residual(channels, shape.cnn)
        self.norm = nn.LayerNorm(channels)
        self.far = (
            Mamba2d(channels, lines=True, shared=True, d_state=shape.state, expand=1)
            if shape.mamba
            else None
        )
        self.after = Residual(channels, shape.cnn)

    def forward(self, x: Tensor) -> Tensor:
        """Add what is near and what is far: (1, x, y, c) -> the same."""
        x = self.near(x)
        if self.far is not None:
            x = x + self.far(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.after(x)


class Codebook(nn.Module):
    """Network from `Tokens` to a `Prediction`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        filters = len(WIDTHS)
        pairs = filters * (filters + 1)  # of two degrees
        self.filters = Filters(shape.reach)
        of_shell = 2 * filters + pairs + SHELL_FACTS + VOXEL_FACTS
        of_joint = pairs + JOINT_FACTS + filters * (VOXEL_FACTS + ALL_FITS + CUMULANTS)
        if shape.decay:
            of_joint = filters * DECAY
        else:
            self.of_shell = Standard(of_shell)
            self.shell = _encoder(of_shell, shape.encoder)
            self.gate = nn.Linear(of_shell, shape.encoder)
        self.of_joint = Standard(of_joint)
        self.joint = _encoder(of_joint, shape.encoder)
        full, half, quarter = shape.widths
        self.enter = nn.Sequential(nn.SiLU(), nn.Linear(shape.encoder, full))
        self.at_full = nn.ModuleList([Residual(full, shape.cnn), Residual(full, shape.cnn)])
        self.down = nn.ModuleList([nn.Conv2d(full, half, 2, 2), nn.Conv2d(half, quarter, 2, 2)])
        self.at_half = nn.ModuleList([MambaCNN(half, shape), MambaCNN(half, shape)])
        self.at_quarter = nn.ModuleList([MambaCNN(quarter, shape), MambaCNN(quarter, shape)])
        self.up = nn.ModuleList([nn.Linear(quarter, half), nn.Linear(half, full)])
        self.last = Residual(full, shape.cnn)
        self.features = nn.Sequential(nn.LayerNorm(full), nn.Linear(full, full), nn.SiLU())
        self.kernels = Kernels(shape.kernels)
        self.mix = nn.Linear(full, shape.kernels)
        self.fibres = nn.Linear(full, 2 * filters)
        self.mean = nn.Linear(full + shape.kernels, len(shape.metrics))
        self.direct = nn.Linear(of_joint, len(shape.metrics))
        self.trust = nn.Linear(full, len(shape.metrics))
        nn.init.zeros_(self.mean.weight)
        nn.init.constant_(self.trust.bias, TRUST)
        self.log_sd = nn.Linear(full, len(shape.metrics))

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return asdict(self.shape)

    def forward(self, tokens: Tokens) -> Prediction:
        """Predict a slice."""
        mask = tokens.mask
        series = torch.cat([tokens.series, tokens.joint[None]])
        smooth = self._smooth(series.flatten(0, 1), mask).unflatten(0, (-1, 14))
        voxels, joint_facts = self._encode(tokens, smooth)
        image = voxels.new_zeros(mask.numel(), voxels.shape[1])
        image = image.index_copy(0, mask.flatten().nonzero()[:, 0], voxels)
        image = self._trunk(image.unflatten(0, mask.shape)[None])
        features = self.features(image[0][mask])
        weights = self.mix(features).softmax(-1)
        gates = self.fibres(features).unflatten(1, (2, -1))
        joint = smooth[-1].permute(2, 0, 1)  # (n, 14, filters)
        odf = torch.cat(
            [
                torch.einsum("ncf,nf->nc", part, gates[:, k])
                for k, part in enumerate(joint.split(DEGREES[1:], 1))
            ],
            1,
        )
        book = weights * self.shape.kernels**0.5
        mean = self.mean(torch.cat([features, book if self.shape.physical else 0 * book], 1))
        # where the data are good the fits are right, and are to be passed on as they are
        mean = torch.lerp(mean, self.direct(joint_facts), torch.sigmoid(self.trust(features)))
        low, high = LOG_SD
        log_sd = low + (high - low) * torch.sigmoid(self.log_sd(features))
        return Prediction(mean, log_sd, weights, odf, features)

    def _smooth(self, images: Tensor, mask: Tensor) -> Tensor:
        """Filter images and take the n voxels: (c, x, y) -> (c, filters, n)."""
        return self.filters(images, mask).flatten(2)[..., mask.flatten()]

    def _encode(self, tokens: Tokens, smooth: Tensor) -> tuple[Tensor, Tensor]:
        """Pool what each voxel's shells say: (n, full), and what is said of all of them, (n, k)."""
        mask, n = tokens.mask, smooth.shape[-1]
        if self.shape.decay:
            abg, _ = decay_of(tokens, one_shell=True)
            joint = self.of_joint(self._smooth(abg, mask).flatten(0, 1).T)
            return self.enter(self.joint(joint)), joint
        facts = self._smooth(tokens.voxel_facts, mask)  # (2, f, n)
        means = self._smooth(tokens.mean, mask)  # (s, f, n)
        same = invariants(smooth)  # (s + 1, pairs, n)
        shells, b = len(means), tokens.shell_facts[:, 0]
        decay = -means.clamp(min=DARKEST).log() / b[:, None, None]
        told = tokens.shell_facts[:, :, None].expand(-1, -1, n)
        own = facts[:, 0].expand(shells, -1, -1)
        shell = self.of_shell(torch.cat([means, decay, same[:-1], told, own], 1).mT)
        pooled = (self.shell(shell) * torch.sigmoid(self.gate(shell))).sum(0) / math.sqrt(shells)
        about = tokens.joint_facts[:, None].expand(-1, n)
        fits = self._smooth(tokens.fits, mask).flatten(0, 1)
        powder = powder_cumulants(means, b).flatten(0, 1)
        joint = self.of_joint(torch.cat([same[-1], about, facts.flatten(0, 1), fits, powder]).T)
        return self.enter(pooled + self.joint(joint)), joint

    def _trunk(self, x: Tensor) -> Tensor:
        """Let voxels know their neighbours: (1, x, y, full) -> the same."""
        rows, columns = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -columns % 4, 0, -rows % 4))
        for block in self.at_full:
            x = block(x)
        half = _convolved(self.down[0], x)
        half = self.at_half[0](half)
        quarter = _convolved(self.down[1], half)
        for block in self.at_quarter:
            quarter = block(quarter)
        half = half + _twice(self.up[0](quarter))
        half = self.at_half[1](half)
        x = x + _twice(self.up[1](half))
        return self.last(x)[:, :rows, :columns]


def _encoder(inputs: int, width: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, width))


def _convolved(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve an image whose channels come last: (1, x, y, c) -> (1, x', y', c')."""
    return convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _twice(x: Tensor) -> Tensor:
    """Interpolate to twice the resolution: (1, x, y, c) -> (1, 2 x, 2 y, c)."""
    image = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    return image.permute(0, 2, 3, 1)
