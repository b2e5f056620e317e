r"""What the voxels of a scanner see of a finer grid of tissue.

A voxel's signal is the mean over the tissue in it. For one b-value the signal of a piece of tissue
is a series of spherical harmonics in the gradient's direction, S_lm(b) = k_l(b) p_lm (see
`physics.tissue`), and the mean of the signals is the series of the mean coefficients. So the
coefficients are averaged, once for each b-value, and only the few means become signals of many
directions: partial volume is exact, at the cost of the coarse grid.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Acquisition
from ..fitting.threads import in_threads
from ..physics.compartments import ball
from ..physics.sh import sh_basis, sh_order
from ..physics.tissue import D_FREE, SOMA_ADC, TissueState
from ..physics.weighting import Weighting, weighting
from .grid import Grid, Overlap, overlap
from .kernels import soma_diffusivity, stick_kernel
from .volume import StateVolume

PIECES = 16384
"""Pieces of tissue in a batch: what is under way (a few MB) stays near the processor."""

GROUP_WIDTH = 0.12
"""b-values [ms/um2] within this width are interpolated from `GROUP_NODES` of them: the error is
below (width D / 2)^4 / (4! 2^3) = 6e-6 of the signal at D = 3 um2/ms (Chebyshev nodes)."""

GROUP_NODES = 4


@dataclass(frozen=True, eq=False)
class Shell:
    """Volumes whose signals come from the same few b-values.

    Attributes
    ----------
    volumes : (k,) int64 tensor
    design : (nodes c, k) tensor
        From coefficients to signals.
    coefficients : (n, nodes c) tensor
        SH coefficients of the n voxels at each node; no nodes: volumes without weighting.
    """

    volumes: Tensor
    design: Tensor
    coefficients: Tensor


@dataclass(frozen=True, eq=False)
class Sampled:
    """Noise-free signal of the n voxels of a grid that hold tissue.

    Attributes
    ----------
    voxels : (n,) int64 tensor
        Their numbers in the grid, in C order.
    s0 : (n,) tensor
        Signal without diffusion weighting.
    fill : (n,) tensor
        Share of the voxel that is brain.
    shells : tuple of Shell
    volumes : int
    """

    voxels: Tensor
    s0: Tensor
    fill: Tensor
    shells: tuple[Shell, ...]
    volumes: int

    def signal(self) -> Tensor:
        """Signal of every volume, (m, n)."""
        out = self.s0.new_empty(self.volumes, len(self.s0))
        for volumes, signal in self.parts(self.volumes):
            out[volumes] = signal
        return out

    def parts(self, most: int):
        """Yield (k,) volume numbers and their (k, n) signals, at most `most` at a time."""
        for shell in self.shells:
            for part in torch.arange(len(shell.volumes), device=self.s0.device).split(most):
                volumes = shell.volumes[part]
                if not shell.coefficients.shape[1]:
                    yield volumes, self.s0.expand(len(part), -1)
                else:
                    yield volumes, shell.design[:, part].T @ shell.coefficients.T


def sample(volume: StateVolume, s0: Tensor, grid: Grid, acq: Acquisition) -> Sampled:
    """Average the tissue of a volume over the voxels of a grid.

    Parameters
    ----------
    volume : StateVolume
        n pieces of tissue on a grid at least as fine.
    s0 : (n,) tensor
        Signal of each piece without diffusion weighting, for a piece that is all brain.
    grid : Grid
    acq : Acquisition
        Directions in the frame of the tissue.
    """
    seen = overlap(volume.mask, volume.affine, grid, volume.fill.dtype)
    return average(volume, s0, seen, acq)


def average(volume: StateVolume, s0: Tensor, seen: Overlap, acq: Acquisition) -> Sampled:
    """Average the tissue of a volume over voxels that are known to `overlap` it."""
    w = weighting(acq, s0)
    order = sh_order(volume.state.odf.shape[-1])
    groups = _groups(acq, w, order)
    nodes = torch.cat([g.b for g in groups])
    weights = seen.share * (volume.fill * s0)[seen.piece]
    n, c = len(seen.voxels), volume.state.odf.shape[-1]
    sums = s0.new_zeros(n, len(nodes), c)
    batches = list(seen.batches(PIECES))

    def work(k: int) -> int:
        rows, pieces = batches[k]
        part = _take(volume.state, seen.piece[pieces])
        starts = seen.start[rows.start : rows.stop + 1] - pieces.start
        _accumulate(sums[rows], part, weights[pieces], starts, nodes, w, order)
        return k

    with warnings.catch_warnings():  # torch says of every sparse matrix that it is new to them
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        for _ in in_threads(work, range(len(batches)), s0.device):
            pass
    first, shells = 0, []
    for g in groups:
        k = len(g.b)
        shells.append(Shell(g.volumes, g.design, sums[:, first : first + k].reshape(n, k * c)))
        first += k
    total = _rows_sum(weights, seen.start)
    fill = _rows_sum(seen.share * volume.fill[seen.piece], seen.start)
    return Sampled(seen.voxels, total, fill, tuple(shells), len(acq))


@dataclass(frozen=True, eq=False)
class _Group:
    """Volumes (k,), the b-values [ms/um2] that are computed (nodes,), and the design."""

    volumes: Tensor
    b: Tensor
    design: Tensor


def _groups(acq: Acquisition, w: Weighting, order: int) -> list[_Group]:
    """Volumes by b-value, neighbours together; those without weighting first, without nodes."""
    values, of_volume = np.unique(np.round(acq.bvals / 1e3, 9), return_inverse=True)
    basis = sh_basis(w.g, order)
    groups, first = [], 0
    while first < len(values):
        last = first + 1
        if values[first] > 0:
            last = int(np.searchsorted(values, values[first] + GROUP_WIDTH, side="right"))
        chosen = np.flatnonzero((of_volume >= first) & (of_volume < last))
        volumes = torch.as_tensor(chosen, device=basis.device)
        nodes, mix = _interpolation(values[first:last], of_volume[chosen] - first)
        mix = torch.as_tensor(mix).to(basis)  # (nodes, k)
        design = (mix[:, None, :] * basis[volumes].T[None]).flatten(0, 1)
        groups.append(_Group(volumes, torch.as_tensor(nodes).to(basis), design))
        first = last
    return groups


def _interpolation(values: NDArray, which: NDArray) -> tuple[NDArray, NDArray]:
    """Nodes and, for each volume, their Lagrange weights (nodes, k)."""
    if values[0] == 0:
        return values[:0], np.zeros((0, len(which)))
    if len(values) <= GROUP_NODES:
        return values, np.eye(len(values))[:, which]
    middle, half = (values[0] + values[-1]) / 2, (values[-1] - values[0]) / 2
    angle = np.pi * (np.arange(GROUP_NODES) + 0.5) / GROUP_NODES
    nodes = middle + half * np.cos(angle)
    apart = nodes[:, None] - nodes[None]
    np.fill_diagonal(apart, 1)
    reach = values[which][None, None] - nodes[None, :, None]  # (1, j, k)
    reach = np.where(np.eye(GROUP_NODES, dtype=bool)[..., None], 1, reach)
    return nodes, reach.prod(1) / apart.prod(1)[:, None]


def _take(state: TissueState, pieces: Tensor) -> TissueState:
    """Return the state of some pieces; what is common to all stays."""
    parts = {
        name: value[pieces] if value.ndim > (name == "odf") else value
        for name, value in vars(state).items()
    }
    return TissueState(**parts)


def _accumulate(
    sums: Tensor,
    part: TissueState,
    weights: Tensor,
    starts: Tensor,
    nodes: Tensor,
    w: Weighting,
    order: int,
) -> None:
    """Put the weighted sums over pieces of tissue into `sums`: (rows, nodes, c)."""
    degrees = [2 * n + 1 for n in range(0, order + 1, 2)]
    odf = [piece.contiguous() for piece in part.odf.expand(len(weights), -1).split(degrees, -1)]
    column = torch.arange(len(weights), device=weights.device)
    timed = w.delta is not None and w.Delta is not None
    inside = soma_diffusivity(part.radius, w.delta, w.Delta) if timed else SOMA_ADC
    for k, b in enumerate(nodes):
        still = part.soma * ball(b, inside) + part.free * ball(b, D_FREE) + part.dot
        sticks = stick_kernel(b * part.d_neurite, order)
        around = stick_kernel(b * (part.d_extra_par - part.d_extra_perp), order)
        outside = part.extra * torch.exp(-b * part.d_extra_perp)
        first = 0
        for n, shape in enumerate(odf):
            # the kernel goes into the matrix that sums, so that nothing is written twice
            values = weights * (part.neurite * sticks[n] + outside * around[n])
            adding = _adding(starts, column, values)
            sums[:, k, first : first + shape.shape[1]] = adding @ shape
            first += shape.shape[1]
        # a constant signal s is the coefficient s sqrt(4 pi) of Y_00
        sums[:, k, 0] += math.sqrt(4 * math.pi) * _rows_sum(weights * still, starts)


def _adding(starts: Tensor, column: Tensor, values: Tensor) -> Tensor:
    """Return the sparse matrix that sums runs of entries: (rows, entries)."""
    size = (len(starts) - 1, len(column))
    return torch.sparse_csr_tensor(starts, column, values, size, check_invariants=False)


def _rows_sum(values: Tensor, starts: Tensor) -> Tensor:
    """Sum runs of values: (e,), (rows + 1,) -> (rows,)."""
    return torch.segment_reduce(values, "sum", offsets=starts, initial=0)
