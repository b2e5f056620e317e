"""A head small and simple enough to know everything about: shells of tissue, straight fibres."""

from __future__ import annotations

import torch

from DMRIMicroLib.brain.anatomy import Anatomy
from DMRIMicroLib.brain.deform import DeformationConfig
from DMRIMicroLib.brain.phantom import SubjectConfig

STEP = 5.0
"""Voxel size of the head [mm]."""

SIDE = 32
"""Voxels along each edge."""

RADII = {"csf": 12.0, "deep": 20.0, "white": 50.0, "cortex": 60.0, "outer": 66.0}
"""Outer radii of ventricle, nucleus, white matter, cortex and outer fluid [mm]."""

STILL = DeformationConfig(translation=0, rotation=0, scale=0, shear=0, amplitude=0, spacing=64.0)
"""No deformation."""

PLAIN = SubjectConfig(
    deformation=STILL,
    person=0,
    bundle=0,
    coarse=(0, 64.0),
    fine=(0, 64.0),
    sharpness=(1, 1),
    folding=(0, 64.0),
    sulci=(0, 0),
    width=(0, 0),
    rim=(-100, -100),
    crossing=(1, 1),
)
"""A subject without anything random about it."""


def affine() -> torch.Tensor:
    """Of a grid about (10, -20, 5), which is the middle of the head."""
    out = torch.diag(torch.tensor([STEP, STEP, STEP, 1], dtype=torch.float64))
    out[:3, 3] = torch.tensor([10.0, -20, 5], dtype=torch.float64) - STEP * (SIDE - 1) / 2
    return out


def distances() -> torch.Tensor:
    """Of every voxel from the middle [mm]."""
    axis = (torch.arange(SIDE) - (SIDE - 1) / 2) * STEP
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z])


def head() -> Anatomy:
    """Balls in balls; fibres left to right with a smaller crossing, radial in the cortex."""
    offset = distances()
    r = offset.norm(dim=0)
    tissue = torch.zeros(4, SIDE, SIDE, SIDE)
    inner = 0.0
    for label, name in ((3, "csf"), (2, "deep"), (0, "white"), (1, "cortex"), (3, "outer")):
        tissue[label][(r >= inner) & (r < RADII[name])] = 1
        inner = RADII[name]
    peaks = torch.zeros(2, 3, SIDE, SIDE, SIDE)
    peaks[0, 0], peaks[1, 1] = 0.75, 0.25
    cortex = tissue[1] > 0
    peaks[:, :, cortex] = 0
    peaks[0, :, cortex] = (offset / r)[:, cortex]
    bundle = (tissue[0] * (offset[0] > 0)).to(torch.uint8)
    half = torch.float16
    return Anatomy(
        "balls",
        affine(),
        tissue.to(half),
        peaks.to(half),
        torch.full_like(r, 0.5).to(half),
        bundle,
        ("CC",),
        ("made up",),
    )
