"""A brain with tissue in it, on a grid, before any scanner has seen it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..physics.tissue import TissueState


@dataclass(frozen=True, eq=False)
class StateVolume:
    """Tissue state of the n brain voxels of a grid.

    Attributes
    ----------
    state : TissueState
        Tensors (n,) and (n, c).
    mask : (x, y, z) bool tensor
        Which voxels the n are, in C order.
    affine : (4, 4) float64 tensor
        Voxel indices to RAS millimetres.
    fill : (n,) tensor
        Share of the voxel that is brain (the rest has no signal), 0 to 1.
    tissue : (4, n) tensor
        Volume fractions of `anatomy.CLASSES`, for relaxation and for statistics.
    lesion : (n,) uint8 tensor
        0 none, else a label of `lesions.KINDS`.
    """

    state: TissueState
    mask: Tensor
    affine: Tensor
    fill: Tensor
    tissue: Tensor
    lesion: Tensor

    def on_grid(self, values: Tensor) -> Tensor:
        """Put values of the n voxels on the grid, 0 elsewhere: (n, ...) -> (x, y, z, ...)."""
        grid = values.new_zeros((*self.mask.shape, *values.shape[1:]))
        grid[self.mask] = values
        return grid

    def to(self, device: torch.device | str) -> StateVolume:
        """Return it on another device; the affine stays on the CPU."""
        of_state = (f.name for f in fields(TissueState))
        state = TissueState(**{name: getattr(self.state, name).to(device) for name in of_state})
        own = ("mask", "fill", "tissue", "lesion")
        return replace(self, state=state, **{name: getattr(self, name).to(device) for name in own})
