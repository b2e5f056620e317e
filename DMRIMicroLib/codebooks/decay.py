"""Alpha, beta and gamma of a slice's `Tokens`: the input of `demic`, and of an ablation of ours."""

from __future__ import annotations

import torch
from torch import Tensor

from .abg import DISTINCT, LEAST_MEAN, fit_abg
from .tokens import Tokens


def decay_of(tokens: Tokens, *, one_shell: bool = False) -> tuple[Tensor, Tensor]:
    """Fit S(b) = alpha exp(-beta b) + gamma to the spherical means of a slice, b = 0 included.

    Means are times the b0 image relative to its median: in one unit for all voxels.

    Parameters
    ----------
    tokens : Tokens
    one_shell : bool
        With b0 images and one shell, leave gamma 0; else that is refused, see `abg.fit_abg`.

    Returns
    -------
    (3, x, y) tensor
        alpha, beta [um2/ms], gamma; 0 where the voxel could not be used.
    (x, y) bool tensor
        Voxels that were used.
    """
    bright = tokens.voxel_facts[0].exp()
    means = torch.cat([bright[None], tokens.mean * bright])[:, tokens.mask]
    b = torch.cat([tokens.b.new_zeros(1), tokens.b])
    if one_shell and _distinct(b) < 3:
        found, usable = _one_shell(means, b)
    else:
        found, usable = fit_abg(means, b)
    maps, used = found.new_zeros(3, *tokens.mask.shape), torch.zeros_like(tokens.mask)
    maps[:, tokens.mask], used[tokens.mask] = found, usable
    return maps, used


def _distinct(b: Tensor) -> int:
    values = b.sort().values
    return 1 + int((values.diff() >= DISTINCT).sum())


def _one_shell(means: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Fit alpha and beta alone: (m, n), (m,) -> (3, n), (n,)."""
    usable = (torch.isfinite(means) & (means > LEAST_MEAN)).all(0)
    alpha = means[0]
    beta = -(means[-1] / alpha).clamp(LEAST_MEAN, 1.0).log() / b[-1]
    return torch.stack([alpha, beta, torch.zeros_like(beta)]) * usable, usable
