"""The acquisition as tensors, in the units that the equations use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..acquisition import Acquisition


@dataclass(frozen=True)
class Weighting:
    """What the signal models need of an acquisition of m volumes.

    Attributes
    ----------
    b : (m,) tensor
        b-values [ms/um2].
    g : (m, 3) tensor
        Unit gradient directions in RAS; 0 for a b0 volume without one.
    delta, Delta : float or None
        Gradient duration and separation [ms].
    """

    b: Tensor
    g: Tensor
    delta: float | None
    Delta: float | None


def weighting(acq: Acquisition, like: Tensor) -> Weighting:
    """Return the acquisition in the dtype and on the device of `like` (kept for the next call)."""
    return _weighting(acq, like.dtype, like.device)


@lru_cache(maxsize=64)
def _weighting(acq: Acquisition, dtype: torch.dtype, device: torch.device) -> Weighting:
    with torch.inference_mode(False):  # a tensor born in inference mode cannot be trained with
        b = torch.tensor(acq.bvals / 1e3).to(device, dtype)
        return Weighting(b, torch.tensor(acq.bvecs).to(device, dtype), acq.delta, acq.Delta)
