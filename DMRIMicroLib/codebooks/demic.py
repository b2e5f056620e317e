"""DEMIC: the microstructure codebook as published, the baseline of our own.

"Deep learning empowered microstructure codebook: new paradigm for multi-parameter tissue
characterization estimation", School of Computer Science and Engineering, Nanjing University of
Science and Technology, and School of Information and Communication Engineering, University of
Electronic Science and Technology of China. The paper does not give every size; those here are of
the authors' public code (repository 1nlandempire/Microstructure-codebook-imaging), which this is
written after. Their weights are not public.

Spherical means become alpha, beta, gamma (`codebooks.abg`), these are normalised over the volume,
and slices of them go through the network. What it does not know: orientations, other slices, noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from .mamba import Mamba

WIDTHS = (32, 64, 128, 256)
"""Channels that enter each stage; every stage doubles them."""

KERNELS, METRICS, DECAY = 128, 24, 3
"""Kernels of the codebook, metrics told from them, and alpha, beta, gamma."""

SPLIT = (1, 3, 4)
"""Shares of the channels that see 5x5, 5x5 dilated and 7x7 dilated pixels."""

CONTRAST = 1e-5
"""Weight of the contrast to the image's mean at the start of training (S. Li et al.)."""

LEAST_SPREAD = 1e-6
"""Standard deviation, relative to the mean, below which a map counts as constant."""


class Outcome(NamedTuple):
    """What `Demic` returns, each (b, channels, h, w).

    Attributes
    ----------
    kernels : (b, 128, h, w) tensor
        The codebook: how much of each kernel there is.
    metrics : (b, metrics, h, w) tensor
    abg : (b, 3, h, w) tensor
        Normalised alpha, beta, gamma told back from the kernels.
    """

    kernels: Tensor
    metrics: Tensor
    abg: Tensor


class Demic(nn.Module):
    """The network: normalised alpha, beta, gamma of slices to kernels, and from them to metrics.

    Parameters
    ----------
    metrics : int
        Number of metrics.
    widths : sequence of int
        Channels that enter each stage, each twice the one before; the last a multiple of 4. With
        all of `WIDTHS` it is the published network of 5.2 million parameters; (8, 16, 32) has
        0.1 million.
    kernels : int
    scan : str
        See `codebooks.scan.selective_scan`.
    """

    def __init__(
        self,
        metrics: int = METRICS,
        widths: Sequence[int] = WIDTHS,
        kernels: int = KERNELS,
        scan: str = "auto",
    ) -> None:
        super().__init__()
        _check_widths(widths)
        self.stem = nn.Conv2d(DECAY, widths[0], 1)
        self.stages = nn.Sequential(*(Stage(width, scan) for width in widths))
        self.refine = Refine(2 * widths[-1], kernels, scan)
        self.to_metrics = nn.Conv2d(kernels, metrics, 1)
        self.to_abg = nn.Conv2d(kernels, DECAY, 1)

    def forward(self, abg: Tensor) -> Outcome:
        """Tell kernels and metrics of slices: (b, 3, h, w), see `normalise`."""
        kernels = self.refine(self.stages(self.stem(abg)))
        return Outcome(kernels, self.to_metrics(kernels), self.to_abg(kernels))


class Stage(nn.Module):
    """One stage: (b, c, h, w) -> (b, 2c, h, w), single pixels + (neighbourhood | whole slice)."""

    def __init__(self, width: int, scan: str = "auto") -> None:
        super().__init__()
        self.pixel = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.ReLU())
        self.near = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.far = SliceScan(width, scan)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, 2c, h, w)."""
        return self.pixel(x) + torch.cat([self.near(x), self.far(x)], 1)


class SliceScan(nn.Module):
    """Norm and Mamba along the rows of a slice, one after the other: (b, c, h, w) -> (b, c, h, w).

    The authors take the block of Vision Mamba (L. Zhu et al., ICML 2024) in its form of one
    direction, and use its output without the residual.
    """

    def __init__(self, width: int, scan: str = "auto") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixer = Mamba(width, scan=scan)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        tokens = self.mixer(self.norm(x.flatten(2).mT))
        return tokens.mT.reshape(x.shape)


class Refine(nn.Module):
    """From the features of the last stage to the codebook: (b, c, h, w) -> (b, kernels, h, w)."""

    def __init__(self, width: int, kernels: int, scan: str = "auto") -> None:
        super().__init__()
        self.scan = SliceScan(width, scan)
        self.gather = GatedAggregation(width)
        self.to_kernels = nn.Conv2d(width, kernels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, kernels, h, w)."""
        return self.to_kernels(torch.relu(self.gather(self.scan(x))))


class GatedAggregation(nn.Module):
    """Multi-order gated aggregation: (b, c, h, w) -> (b, c, h, w).

    S. Li et al., MogaNet: multi-order gated aggregation network, ICLR 2024 (arXiv:2211.03295),
    equations 4 to 6: contrast to the image's mean, then a gate times neighbourhoods of three sizes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, width, 1)
        self.contrast = nn.Parameter(torch.full((width, 1, 1), CONTRAST))
        self.gate = nn.Conv2d(width, width, 1)
        self.sizes = [width * share // sum(SPLIT) for share in SPLIT]
        _, middle, large = self.sizes
        self.small = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.middle = nn.Conv2d(middle, middle, 5, padding=4, dilation=2, groups=middle)
        self.large = nn.Conv2d(large, large, 7, padding=9, dilation=3, groups=large)
        self.mix = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        y = self.project(x)
        y = nn.functional.silu(y + self.contrast * (y - y.mean((2, 3), keepdim=True)))
        near, middle, large = self.small(y).split(self.sizes, 1)
        value = self.mix(torch.cat([near, self.middle(middle), self.large(large)], 1))
        gated = nn.functional.silu(self.gate(y)) * nn.functional.silu(value)
        return x + self.out(gated)


def normalise(abg: Tensor, mask: Tensor) -> Tensor:
    """Z-score alpha, beta and gamma over the voxels of a volume: (3, ...), (...) -> (3, ...).

    Outside the mask the result is 0, the mean. (The authors' script takes mean and standard
    deviation over the whole field of view, zeros of the background included; over the mask, the
    answer depends less on how much air was scanned.)

    Parameters
    ----------
    abg : (3, ...) tensor
        From `codebooks.abg.fit_abg`, of a whole volume.
    mask : (...) bool tensor
        Voxels that were fitted.
    """
    inside = abg[:, mask]
    if not inside.numel():
        raise InputError(
            "there is no voxel to normalise over", "Give a mask of voxels that were fitted."
        )
    mean = inside.mean(1, keepdim=True)
    spread = inside.std(1, keepdim=True, correction=0)
    spread = torch.where(spread > LEAST_SPREAD * mean.abs(), spread, 1)
    out = torch.zeros_like(abg)
    out[:, mask] = (inside - mean) / spread
    return out


def _check_widths(widths: Sequence[int]) -> None:
    """Refuse widths that do not double, or cannot be split 1:3:4 after the last stage."""
    doubled = all(b == 2 * a for a, b in pairwise(widths))
    if not widths or not doubled or widths[-1] % (sum(SPLIT) // 2) or widths[0] < 1:
        raise InputError(
            f"widths are {tuple(widths)}",
            f"Give numbers that double, the last a multiple of {sum(SPLIT) // 2}, as {WIDTHS}.",
        )
