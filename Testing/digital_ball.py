"""A ball of tissue to put into a scanner: a crossing on one side, grey matter on the other."""

from __future__ import annotations

import math

import torch

from DMRIMicroLib.brain.volume import StateVolume
from DMRIMicroLib.physics.tissue import TissueState
from DMRIMicroLib.physics.watson import watson_sh


def ball_of_tissue(
    edge: int = 24, size: float = 1.0, seed: int = 3, dtype: torch.dtype = torch.float32
) -> StateVolume:
    """White matter that crosses (x < 0), grey matter (x > 0), fluid in the middle.

    Parameters
    ----------
    edge : int
        Voxels along each edge.
    size : float
        Of a voxel [mm].
    seed : int
        Of the variation from voxel to voxel.
    """
    affine = torch.diag(torch.tensor([-size, size, size, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([size, -size, -size], dtype=torch.float64) * (edge - 1) / 2
    index = torch.stack(torch.meshgrid(*[torch.arange(edge)] * 3, indexing="ij"), -1).double()
    world = index @ affine[:3, :3].T + affine[:3, 3]
    distance = world.norm(dim=-1)
    reach = 0.45 * edge * size
    mask = distance < reach
    x, r = world[mask][:, 0], distance[mask]
    csf = (r < 0.3 * reach).to(dtype)
    white = (1 - csf) * (x < 0)
    cortex = (1 - csf) * (x >= 0)
    tissue = torch.stack([white, cortex, torch.zeros_like(csf), csf]).to(dtype)
    state = _state(tissue, torch.Generator().manual_seed(seed), dtype)
    fill = torch.ones(len(x), dtype=dtype)
    return StateVolume(state, mask, affine, fill, tissue, torch.zeros(len(x), dtype=torch.uint8))


def _state(tissue: torch.Tensor, generator: torch.Generator, dtype: torch.dtype) -> TissueState:
    n = tissue.shape[1]

    def mixed(white: float, cortex: float, csf: float, spread: float = 0.05) -> torch.Tensor:
        value = tissue[0] * white + tissue[1] * cortex + tissue[3] * csf
        return value * (1 + spread * (2 * torch.rand(n, generator=generator) - 1).to(dtype))

    shares = torch.stack(
        [mixed(0.6, 0.3, 0), mixed(0.36, 0.3, 0), mixed(0, 0.3, 0), mixed(0.04, 0.1, 1.0)]
    )
    neurite, extra, soma, free = shares / shares.sum(0)
    axes = torch.eye(3, dtype=dtype)
    kappa = torch.tensor([12.0, 6.0, 1.0], dtype=dtype)
    lobes = watson_sh(kappa, axes, 6)
    crossing = 0.6 * lobes[0] + 0.4 * lobes[1]
    uniform = torch.zeros(28, dtype=dtype)
    uniform[0] = 1 / math.sqrt(4 * math.pi)
    odf = tissue[0, :, None] * crossing + tissue[1, :, None] * lobes[2]
    odf = odf + tissue[3, :, None] * uniform
    return TissueState(
        neurite,
        extra,
        soma,
        free,
        torch.zeros(n, dtype=dtype),
        mixed(2.2, 1.9, 2.0),
        mixed(1.8, 1.1, 2.0),
        mixed(0.6, 0.9, 2.0),
        mixed(8.0, 9.0, 8.0),
        odf,
    )


def flat_tissue(affine: torch.Tensor, shape: tuple[int, int, int]) -> StateVolume:
    """White matter on one side of the world's x = 0, grey on the other, everywhere on a grid."""
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1)
    x = (index.reshape(-1, 3).double() @ affine[:3, :3].T + affine[:3, 3])[:, 0]
    white = (x < 0).float()
    none = torch.zeros(len(x))
    tissue = torch.stack([white, 1 - white, none, none])
    state = _state(tissue, torch.Generator().manual_seed(0), torch.float32)
    lesion = torch.zeros(len(x), dtype=torch.uint8)
    mask = torch.ones(shape, dtype=torch.bool)
    return StateVolume(state, mask, affine, torch.ones(len(x)), tissue, lesion)
