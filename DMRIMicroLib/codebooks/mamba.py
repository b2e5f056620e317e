"""Mamba: a selective state-space block for sequences, and for images.

A. Gu, T. Dao, Mamba: Linear-time sequence modeling with selective state spaces, arXiv:2312.00752
(2023), figure 3 and algorithm 2. Parameters have the names and shapes of the package mamba_ssm
(`mamba_ssm.modules.mamba_simple.Mamba`, version 2.3), so that weights go from one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .scan import selective_scan

STEPS = (1e-3, 0.1)
"""Range of the steps at the start of training (Gu and Dao, section 3.6)."""

CHANNELS_PER_RANK = 16
"""Channels that share one input of the projection to the steps (mamba_ssm's dt_rank="auto")."""

DIRECTIONS = ("right", "left", "down", "up")
"""Ways over an image of rows and columns: along rows forth and back, along columns forth and
back."""


class StateSpace(nn.Module):
    """The selective part of a Mamba block: causal convolution, then the scan it steers.

    Parameters
    ----------
    d_inner : int
        Channels.
    dt_rank : int
        Inputs of the projection to the steps.
    d_state : int
        States of a channel.
    d_conv : int
        Tokens that the convolution sees.
    scan : str
        See `codebooks.scan.selective_scan`.
    """

    def __init__(
        self, d_inner: int, dt_rank: int, d_state: int = 16, d_conv: int = 4, scan: str = "auto"
    ) -> None:
        super().__init__()
        self.sizes, self.scan = (dt_rank, d_state, d_state), scan
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self._start_steps()

    def _start_steps(self) -> None:
        """Begin with steps log-uniform in `STEPS` whose spread does not depend on the rank."""
        nn.init.uniform_(self.dt_proj.weight, -(self.sizes[0] ** -0.5), self.sizes[0] ** -0.5)
        low, high = (math.log(step) for step in STEPS)
        steps = torch.exp(low + (high - low) * torch.rand_like(self.D))
        with torch.no_grad():  # the inverse of softplus
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))

    def mix(self, u: Tensor) -> Tensor:
        """Let tokens know of those before them: (b, l, d) -> (b, l, d)."""
        u = F.silu(self.conv1d(u.mT)[..., : u.shape[1]].mT)  # what it adds at the end is cut off
        dt, B, C = self.x_proj(u).split(self.sizes, -1)
        dt = F.softplus(self.dt_proj(dt))
        return selective_scan(u, dt, -torch.exp(self.A_log), B, C, self.D, scan=self.scan)


class Mamba(StateSpace):
    """One Mamba block, without norm and residual: (b, l, d_model) -> (b, l, d_model).

    Parameters
    ----------
    d_model : int
        Channels.
    d_state, d_conv, scan
        See `StateSpace`.
    expand : int
        Channels inside, in units of `d_model`.
    """

    def __init__(
        self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, scan: str = "auto"
    ) -> None:
        d_inner = expand * d_model
        super().__init__(d_inner, _rank(d_model), d_state, d_conv, scan)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens that know of those before them: (b, l, d_model) -> (b, l, d_model)."""
        u, gate = self.in_proj(x).chunk(2, -1)
        return self.out_proj(self.mix(u) * F.silu(gate))


class Mamba2d(nn.Module):
    """Mamba over images, in several directions: (b, d_model, h, w) -> (b, d_model, h, w).

    Projections and gate are those of one Mamba block; every direction adds convolution and scan
    (as do L. Zhu et al., Vision Mamba, ICML 2024, for forth and back, and Y. Liu et al., VMamba,
    NeurIPS 2024, for four directions). The mean over directions goes on.

    Parameters
    ----------
    d_model : int
        Channels.
    directions : sequence of str
        Some of `DIRECTIONS`.
    lines : bool
        Scan each row or column by itself, as a sequence of its own, and not the image as one long
        sequence: less time, and what a pixel sees in one block are its row and its column.
    shared : bool
        The same weights for all directions: fewer parameters, and with lines and all four
        directions the block commutes with flips and quarter turns.
    d_state, d_conv, expand, scan
        See `Mamba`.
    """

    def __init__(
        self,
        d_model: int,
        directions: Sequence[str] = DIRECTIONS,
        *,
        lines: bool = False,
        shared: bool = False,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        scan: str = "auto",
    ) -> None:
        super().__init__()
        if not directions or not set(directions) <= set(DIRECTIONS):
            raise InputError(
                f"directions are {tuple(directions)}", f"Give some of {', '.join(DIRECTIONS)}."
            )
        self.directions, self.lines = tuple(directions), lines
        d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.ways = nn.ModuleList(
            StateSpace(d_inner, _rank(d_model), d_state, d_conv, scan)
            for _ in (self.directions[:1] if shared else self.directions)
        )
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Pixels that know of those before them: (b, d_model, h, w) -> (b, d_model, h, w)."""
        u, gate = self.in_proj(image.permute(0, 2, 3, 1)).chunk(2, -1)
        total: Tensor | float = 0.0
        for number, direction in enumerate(self.directions):
            way = self.ways[number % len(self.ways)]
            total = total + self._along(direction, u, way)
        y = self.out_proj(total / len(self.directions) * F.silu(gate))
        return y.permute(0, 3, 1, 2)

    def _along(self, direction: str, u: Tensor, way: StateSpace) -> Tensor:
        """Scan an image in one direction: (b, h, w, d) -> (b, h, w, d)."""
        columns, back = direction in ("down", "up"), direction in ("left", "up")
        u = u.transpose(1, 2) if columns else u
        b, rows, length, d = u.shape
        tokens = u.reshape((b * rows, length, d) if self.lines else (b, rows * length, d))
        y = way.mix(tokens.flip(1)).flip(1) if back else way.mix(tokens)
        y = y.reshape(b, rows, length, d)
        return y.transpose(1, 2) if columns else y


def _rank(d_model: int) -> int:
    """Return the number of inputs of the projection to the steps."""
    return math.ceil(d_model / CHANNELS_PER_RANK)
