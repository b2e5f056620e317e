r"""A prior's habits, corrected by the scan at hand.

Simulated tissue is not quite real tissue: what the network expects may be off by about the same in
all voxels of a scan. A scan has thousands of voxels, so its likelihood tells. With the network's
mean :math:`\mu` and variance v, the voxels' numbers are taken as

.. math:: z_0 \sim N(W_0 (\mu_0, 1), \kappa v_0), \qquad z_l \sim N(W_l \mu_l, \kappa v_l),

degree by degree, the same for all orders m and all voxels. W and :math:`\kappa` (one for each
component) maximise the probability of the scan by expectation and maximisation (A. P. Dempster, N.
M. Laird, D. B. Rubin, J. R. Stat. Soc. B 39 (1977) 1-38), held to 1 as by `HELD` voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..signals.coupling import Coupling
from .gaussian import Joint, Posterior
from .network import GROUP, GROUPS, RANKS, Codebook, Prediction, Prior
from .tokens import Tokens

STEPS = 12
VOXELS = 4000
"""Of a scan that are asked."""

HELD = 100.0
"""Voxels of which W is the identity and the variance is as predicted."""

RANGE = (0.05, 20.0)
"""Of the factor of the variance."""

FOURTH = RANKS[0] + 5 * RANKS[1]
"""The first number of degree 4."""

ROUNDS = 2
"""Degree 4 follows from degree 2, which a better degree 4 changes a little."""

FAR = 5.0
"""Voxels further from the prior than this, in standard deviations, count as this far."""


@dataclass(frozen=True, eq=False)
class Said:
    """What network and data say of the n voxels of a slice: all that an answer needs.

    Attributes
    ----------
    prior : Prior
    matrix, vector, noise : (c, c), (n, c), (n,) tensor
        See `signals.evidence.Evidence`.
    coupling : Coupling, optional
        What degree 2 says of degree 4.
    """

    prior: Prior
    matrix: Tensor
    vector: Tensor
    noise: Tensor
    coupling: Coupling | None = None

    @classmethod
    def of(cls, network: Codebook, tokens: Tokens) -> Said:
        """Ask a network of a slice; the answer is on the CPU."""
        return cls.beside(Prior(*(v.cpu() for v in network.prior(tokens))), tokens)

    @classmethod
    def beside(cls, prior: Prior, tokens: Tokens) -> Said:
        """Put a prior beside the data of a slice; the answer is on the CPU."""
        data = (tokens.matrix, tokens.vector.T.contiguous(), tokens.noise)
        told = tokens.coupling.tolist()
        return cls(prior, *(v.cpu() for v in data), Coupling(*told) if told else None)

    def corrected(self, habits: Habits) -> Said:
        """Return it without a prior's habits."""
        return replace(self, prior=habits.corrected(self.prior))

    @property
    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Matrix, vector and noise."""
        return self.matrix, self.vector, self.noise

    @cached_property
    def informed(self) -> Said:
        """The same with one more measurement: what the coupling makes of degree 2.

        Its error is the coupling's in a voxel of typical noise; elsewhere it is larger or smaller
        as the noise is.
        """
        if self.coupling is None:
            return self
        weight = (self.noise.median() / self.coupling.spread).square()
        fourth = slice(FOURTH, FOURTH + 9)
        matrix, found = self.matrix.clone(), replace(self, coupling=None)
        matrix[fourth, fourth] += weight * torch.eye(9).to(matrix)
        for _ in range(ROUNDS):
            mean = Joint(*self.prior.gaussian, *found.data).expected()
            second = mean[:, RANKS[0] : RANKS[0] + 5]
            vector = self.vector.clone()
            vector[:, fourth] += weight * self.coupling.expected(second)
            found = replace(self, matrix=matrix, vector=vector, coupling=None)
        return found

    @property
    def joint(self) -> Joint:
        """The prior beside the data and what the coupling makes of them."""
        return Joint(*self.prior.gaussian, *self.informed.data)

    def posterior(self) -> Posterior:
        """Return what prior and data say together."""
        return self.joint.posterior()

    def draw(self, generator: torch.Generator) -> Tensor:
        """Sample every voxel by itself, as if its neighbours told all of them: (n, c)."""
        return self.prior.draw(*self.informed.data, generator)

    def subset(self, at: Tensor) -> Said:
        """Return what is said of some voxels."""
        prior = Prior(*(v[at] for v in self.prior))
        return replace(self, prior=prior, vector=self.vector[at], noise=self.noise[at])


@dataclass(frozen=True, eq=False)
class Habits:
    """What a scan says of a prior.

    Attributes
    ----------
    zeroth : (3, 4) tensor
        Numbers of degree 0 from those expected and 1.
    higher : tuple of (r, r) tensors
        The same for degrees 2 and 4, without 1.
    factor : (groups,) tensor
        Of the variances.
    """

    zeroth: Tensor
    higher: tuple[Tensor, ...]
    factor: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Habits:
        """Leave a prior as it is."""
        unit = [torch.eye(rank).to(like) for rank in RANKS]
        zeroth = torch.cat([unit[0], torch.zeros(RANKS[0], 1).to(like)], 1)
        return cls(zeroth, tuple(unit[1:]), torch.ones(GROUPS).to(like))

    def mean(self, mean: Tensor) -> Tensor:
        """Return the mean of a prior without them: (n, c) -> the same."""
        zero, *rest = _degrees(mean)
        parts = [_with_one(zero[..., 0]) @ self.zeroth.T]
        for matrix, part in zip(self.higher, rest, strict=True):
            parts.append(torch.einsum("kj,njm->nkm", matrix, part).flatten(1))
        return torch.cat(parts, 1)

    def corrected(self, prior: Prior) -> Prior:
        """Return the prior without them."""
        factors = prior.factors * self.factor.sqrt()[GROUP, None]
        return Prior(self.mean(prior.mean), prior.variance * self.factor, factors, prior.features)


def find_habits(slices: Sequence[Said], seed: int = 0) -> Habits:
    """Find the habits of a prior that a scan tells of."""
    total = sum(len(said.noise) for said in slices)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for said in slices:
        count = round(VOXELS * len(said.noise) / total)
        at = torch.randperm(len(said.noise), generator=generator)[:count]
        if len(at):
            # what follows from degree 2 is no evidence of how well degree 4 is expected
            chosen.append(replace(said.subset(at.to(said.noise.device)), coupling=None))
    habits = Habits.none(slices[0].noise)
    for _ in range(STEPS):
        habits = _step(chosen, habits)
    return habits


def tell_slice(network: Codebook, tokens: Tokens) -> Prediction:
    """Predict a scan of one slice, its habits corrected, all by the same volumes.

    For calibration; in use those of directions come from halves of the volumes (`apart`).
    """
    said = Said.of(network, tokens)
    corrected = said.corrected(find_habits([said]))
    return network.tell(corrected.posterior(), corrected.prior.features)


def _step(slices: Sequence[Said], habits: Habits) -> Habits:
    """Expect the voxels' numbers, and maximise over the habits."""
    means, found, left, scale = [], [], [], []
    for said in slices:
        one = said.corrected(habits).posterior()
        means.append(said.prior.mean)
        found.append(one.mean)
        left.append(one.variance)
        scale.append(said.prior.width)
    mean, z, rest, variance = (torch.cat(v) for v in (means, found, left, scale))
    seen, told = _degrees(mean), _degrees(z)
    weights = _degrees(1 / variance)
    zeroth = _regression(_with_one(seen[0][..., 0])[..., None], told[0], weights[0])
    higher = tuple(
        _regression(a, b, w) for a, b, w in zip(seen[1:], told[1:], weights[1:], strict=True)
    )
    new = Habits(zeroth, higher, habits.factor)
    apart = (z - new.mean(mean)).square() + rest
    relative = (apart / variance).clamp(max=FAR**2)
    factor = [(relative[:, GROUP == k].sum() / (GROUP == k).sum() + HELD) for k in range(GROUPS)]
    low, high = RANGE
    return Habits(zeroth, higher, (torch.stack(factor) / (len(z) + HELD)).clamp(low, high))


def _regression(seen: Tensor, told: Tensor, weights: Tensor) -> Tensor:
    """Weighted regression held to the identity: (n, j, m), (n, k, m), (n, k, m) -> (k, j)."""
    rows = []
    for k in range(told.shape[1]):
        w = weights[:, k]
        own = torch.eye(seen.shape[1]).to(seen)[k]
        held = HELD * w.mean() * seen.square().mean((0, 2)).clamp(min=1.0)
        matrix = torch.einsum("njm,nm,nim->ji", seen, w, seen) + torch.diag(held)
        right = torch.einsum("njm,nm,nm->j", seen, w, told[:, k]) + held * own
        rows.append(torch.linalg.solve(matrix.double(), right.double()).to(seen))
    return torch.stack(rows)


def _degrees(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers by degree: (n, c) -> (n, 3, 1), (n, 2, 5), (n, 1, 9)."""
    zeroth, second, fourth = RANKS
    zero, two, four = numbers.split([zeroth, 5 * second, 9 * fourth], 1)
    return zero[..., None], two.unflatten(1, (second, 5)), four.unflatten(1, (fourth, 9))


def _with_one(zero: Tensor) -> Tensor:
    """(n, 3) -> (n, 4)."""
    return torch.cat([zero, torch.ones_like(zero[:, :1])], 1)
