"""Derivatives by one parameter at a time, for Jacobians that are mostly sums of compartments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivative of a function of one number a voxel: (n,) -> (..., n) and (..., n).

    Forward-mode differentiation of one compartment by one of its parameters costs a fraction of
    that of the whole model by all of them.
    """
    return jvp(function, (x,), (torch.ones_like(x),))
