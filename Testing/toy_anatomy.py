"""A head of onion shells: white matter, cortex, fluid, and a ventricle."""

from __future__ import annotations

import torch

from DMRIMicroLib.brain.anatomy import Anatomy


def onion(edge: int = 20, size: float = 4.0) -> Anatomy:
    """Return a round head of `edge` voxels of `size` [mm], fibres in rings around z and along z."""
    affine = torch.diag(torch.tensor([size, size, size, 1.0], dtype=torch.float64))
    affine[:3, 3] = -size * (edge - 1) / 2
    index = torch.stack(torch.meshgrid(*[torch.arange(edge)] * 3, indexing="ij"), 0).float()
    world = size * index - size * (edge - 1) / 2
    r = world.norm(dim=0) / (size * edge / 2)
    csf = ((r < 0.2) | ((r > 0.8) & (r < 0.9))).float()
    cortex = ((r >= 0.6) & (r <= 0.8)).float()
    white = ((r >= 0.2) & (r < 0.6)).float()
    tissue = torch.stack([white, cortex, torch.zeros_like(white), csf]).half()
    ring = torch.stack([-world[1], world[0], torch.zeros_like(world[0])])
    ring = ring / ring.norm(dim=0).clamp(min=1e-3)
    up = torch.zeros_like(ring)
    up[2] = 1
    peaks = torch.stack([ring, 0.5 * up, torch.zeros_like(up)]) * (white + cortex)
    bundle = torch.zeros(edge, edge, edge, dtype=torch.uint8)
    return Anatomy(
        "onion", affine, tissue, peaks.half(), (0.7 * white).half(), bundle, (), ("made up",)
    )
