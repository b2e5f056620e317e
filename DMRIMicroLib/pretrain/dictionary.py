"""A dictionary of q-space that is learned: signals as sparse sums of diffusion tensors.

For a scan to be moved to any other scheme, atoms must be functions of q-space and no lists of
numbers: those of S. Merlet, E. Caruyer, A. Ghosh, R. Deriche, Med. Image Anal. 17 (2013) 830-843,
are continuous, with parameters that are learned. Ours are signals of diffusion tensors, in the
frame of the voxel's own tensor,

    E(b, g) = sum_k x_k exp(-b g' R' D_k R g),        x >= 0,

so that every prediction is positive, falls with b and is 1 at b = 0 as far as the codes add up to
1; a fibre population of any direction, free water and what hardly moves are single atoms. The codes
are the most probable ones under Gaussian noise s and exponential distributions, whose means u_k are
the atoms' mean use in the scans that the dictionary was learned on:

    x = argmin_{x >= 0}  |A x - y|^2 / 2 + w s^2 sum_k x_k / u_k

(`sparse.sparse_code`). The weight w is the one that predicts left-out volumes best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..brain.directions import spread
from ..errors import InputError
from ..fitting.linear import WeightedLeastSquares
from ..models.dti import DTI
from ..models.framed import eigensystem
from .sparse import sparse_code

SHAPES = ((2.2, 0.05), (1.7, 0.3), (1.0, 0.1))
"""Diffusivities along and across of the atoms that learning begins with [um2/ms] (chosen)."""

ROUND = (0.02, 0.3, 0.6, 0.9, 1.3, 1.8, 2.4, 3.0)
"""Diffusivities of those without a direction [um2/ms] (chosen)."""

RATE = 0.02
"""Learning rate of the atoms' parameters, in units of the root of a diffusivity."""

BATCH = 128
"""Voxels of a step."""

LEARNING_ITERATIONS = 50
"""Of FISTA while the atoms still move."""

LEAST_USE = 1e-3
"""Mean use that an atom is never said to fall below: it may be what another scan needs."""

WEIGHTS = (0.1, 0.3, 1.0, 3.0)
"""Weights of the penalty among which left-out volumes choose."""

LEFT_OUT, FOLDS = 3, 2
"""One volume in so many of every shell is left out then, and how often others are."""

JUDGES = 192
"""Voxels that choose the weight."""

PART = 512
"""Voxels whose codes are found together: their Gram matrices fit into a cache."""

DIRECTIONS = 6
"""That a voxel's frame takes at least."""

NO_TENSOR = (3.0, 2.0, 1.0, 0.0, 0.0, 0.0)
"""Stands for a tensor where there is none [um2/ms]: its axes are those of the world."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Atoms, and how they are used.

    Attributes
    ----------
    factors : (k, 6) tensor
        Lower triangles L of the tensors D = L L', by rows; D in um2/ms, in the voxel's frame.
    use : (k,) tensor
        Mean code of every atom.
    noise : float
        Standard deviation relative to b = 0, of the scan to be coded.
    weight : float
        Of the penalty, 1 by the model of the codes.
    """

    name: ClassVar[str] = "dictionary"
    factors: Tensor
    use: Tensor
    noise: float
    weight: float = 1.0

    def predict(self, signal: Tensor, acq: Acquisition, target: Acquisition) -> Tensor:
        """Return signals of another scheme, see `qspace.Interpolator`."""
        out = []
        for part in signal.split(PART):
            tensors = self.tensors(frames(part, acq))
            codes = self.encode(part, atoms(tensors, acq))
            out.append((atoms(tensors, target) @ codes[:, :, None])[:, :, 0])
        return torch.cat(out) if out else signal.new_zeros(0, len(target))

    def tensors(self, frame: Tensor) -> Tensor:
        """Tensors of the atoms in the world: (n, 3, 3) frames -> (n, k, 6), order of `DTI`."""
        lower = triangles(self.factors.to(frame))
        turned = torch.einsum("nar,kab->nkrb", frame, lower)  # R' L
        d = turned @ turned.mT
        rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
        return d[:, :, rows, columns]

    def encode(self, signal: Tensor, matrix: Tensor, iterations: int | None = None) -> Tensor:
        """Find the codes: (n, m) signals, (n, m, k) atoms at their volumes -> (n, k)."""
        gram = matrix.mT @ matrix
        vector = (matrix.mT @ signal[:, :, None])[:, :, 0]
        cost = self.weight * self.noise**2 / self.use.clamp(min=LEAST_USE).to(signal)
        extra = () if iterations is None else (iterations,)
        return sparse_code(gram, vector, cost, *extra)

    def heard(self, noise: float) -> Dictionary:
        """Return the same for a scan of another noise."""
        return replace(self, noise=noise)


def atoms(tensors: Tensor, acq: Acquisition) -> Tensor:
    """Signals of tensors: (n, k, 6) -> (n, m, k)."""
    design = DTI().design(acq)[:, :6].to(tensors)
    return torch.einsum("mc,nkc->nmk", design, tensors).exp()


def triangles(factors: Tensor) -> Tensor:
    """Lower triangles from their six elements: (k, 6) -> (k, 3, 3)."""
    a, b, c, d, e, f = factors.unbind(-1)
    zero = torch.zeros_like(a)
    return torch.stack([a, zero, zero, b, c, zero, d, e, f], -1).unflatten(-1, (3, 3))


def frames(signal: Tensor, acq: Acquisition) -> Tensor:
    """Axes of the voxels' tensors as rows, by falling diffusivity: (n, m) -> (n, 3, 3).

    They turn with the voxel. Those of the world where a voxel has no tensor.
    """
    tensor = DTI()
    volumes = tensor.volumes(acq)
    if len(volumes) <= DIRECTIONS:
        raise InputError(
            f"a frame takes {DIRECTIONS} directions, the scan has {acq.describe()}",
            "Give scans with more directions.",
        )
    design = tensor.design(acq.subset(volumes))
    solver = WeightedLeastSquares(design, 1, device=signal.device, dtype=signal.dtype)
    found = solver.fit(signal[:, volumes])
    none = signal.new_tensor(NO_TENSOR)[:, None]
    _, (first, second) = eigensystem(torch.where(found.good, found.parameters[:6], none))
    axes = torch.stack([first, second, torch.linalg.cross(first, second, dim=0)]).permute(2, 0, 1)
    unit = torch.eye(3).to(signal)
    return torch.where(found.good[:, None, None], _one_way(axes, signal, acq), unit)


def _one_way(axes: Tensor, signal: Tensor, acq: Acquisition) -> Tensor:
    """Choose the axes' signs by the signal, so that a turned voxel's frame turns with it.

    A tensor knows its axes up to half turns around them, under which sums of y g1 g2^3 and of
    y g1 g3^3 change their signs: the frame is the one in which both are positive.
    """
    rows = [int(v) for v in (~acq.is_b0).nonzero()[0]]
    g = torch.as_tensor(acq.bvecs[rows]).to(signal)
    x, y, z = torch.einsum("nar,mr->anm", axes, g)
    u, v = ((signal[:, rows] * x * other**3).sum(1) for other in (y, z))
    u, v = (torch.where(w < 0, -1.0, 1.0).to(signal) for w in (u, v))
    return axes * torch.stack([u * v, v, u], 1)[:, :, None]


def begin(count: int, noise: float) -> Dictionary:
    """Return about so many atoms before any learning: sticks all over the sphere, and balls."""
    each = max(1, (count - len(ROUND)) // len(SHAPES))
    generator = torch.Generator().manual_seed(0)
    parts = [math.sqrt(d) * torch.eye(3)[None].expand(1, -1, -1) for d in ROUND]
    for along, across in SHAPES:
        n = spread(each, generator).float()
        d = (along - across) * n[:, :, None] * n[:, None] + across * torch.eye(3)
        parts.append(torch.linalg.cholesky(d))
    lower = torch.cat(parts)
    factors = lower[:, (0, 1, 1, 2, 2, 2), (0, 0, 1, 0, 1, 2)]
    return Dictionary(factors, torch.full((len(factors),), 1 / len(factors)), noise)


def learn(
    signal: Tensor,
    acq: Acquisition,
    noise: float,
    *,
    count: int = 62,
    steps: int = 60,
    seed: int = 0,
) -> Dictionary:
    """Learn a dictionary from a scan.

    Parameters
    ----------
    signal : (n, m) tensor
        Of n voxels, relative to b = 0.
    acq : Acquisition
    noise : float
        Its standard deviation.
    count : int
        Atoms, about.
    steps : int
        In which atoms move; each is of `BATCH` voxels.
    seed : int

    Returns
    -------
    Dictionary
    """
    if not len(signal):
        raise InputError("there are no voxels to learn from", "Check the masks.")
    generator = torch.Generator().manual_seed(seed)
    own, now = frames(signal, acq), begin(count, noise)
    factors = now.factors.to(signal).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([factors], RATE)
    use = now.use.to(signal)
    for step in range(steps):
        at = torch.randint(len(signal), (min(BATCH, len(signal)),), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        now = replace(now, factors=factors, use=use)
        matrix = atoms(now.tensors(own[at]), acq)
        with torch.no_grad():
            codes = now.encode(signal[at], matrix, LEARNING_ITERATIONS)
            use = use.lerp(codes.mean(0), 0.1)
        # the codes minimise their own cost, so that its derivative by the atoms is the partial one
        wrong = (matrix @ codes[:, :, None])[:, :, 0] - signal[at]
        optimiser.zero_grad()
        wrong.square().mean().backward()
        optimiser.step()
    now = replace(now, factors=factors.detach(), use=use)
    return replace(now, weight=_best_weight(now, signal, acq, generator))


def _best_weight(
    now: Dictionary, signal: Tensor, acq: Acquisition, generator: torch.Generator
) -> float:
    """Choose the weight that predicts left-out volumes best."""
    at = torch.randperm(len(signal), generator=generator)[:JUDGES]
    wrong = dict.fromkeys(WEIGHTS, 0.0)
    for seen, asked in _folds(acq):
        for weight in WEIGHTS:
            own = replace(now, weight=weight)
            told = own.predict(signal[at][:, seen], acq.subset(seen), acq.subset(asked))
            wrong[weight] += float((told - signal[at][:, asked]).square().sum())
    return min(wrong, key=wrong.__getitem__) if any(wrong.values()) else 1.0


def _folds(acq: Acquisition) -> Iterator[tuple[list[int], list[int]]]:
    """Volumes to see and to predict, if enough are left to see."""
    for first in range(FOLDS):
        asked = [v for shell in acq.shells for v in shell.indices[first::LEFT_OUT]]
        seen = sorted(set(range(len(acq))) - set(asked))
        if asked and len(seen) > DIRECTIONS and not _lacks(acq, seen):
            yield seen, sorted(asked)


def _lacks(acq: Acquisition, seen: Sequence[int]) -> tuple[str, ...]:
    return DTI().missing(acq.subset(np.array(seen)))
