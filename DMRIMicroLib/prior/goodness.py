"""Goodness of fit: volumes left out, predicted from the others.

Of the prior's habits a few numbers were found with these volumes, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..codebooks.apart import FEWEST, halves
from ..codebooks.network import Codebook
from ..codebooks.recalibrate import Habits
from ..codebooks.stack import Stack
from ..fitting import fit
from ..models.dti import DTI, MM2_S
from ..scan import Scan
from ..signals.evidence import weighted
from .volume import Volume


def left_out(
    scan: Scan, volume: Volume, network: Codebook, habits: Habits, seed: int = 0
) -> dict[str, Any]:
    """Predict half of the volumes of some slices from the other half.

    Returns
    -------
    dict
        ``volumes`` that were predicted, ``error`` of the prediction (of the median voxel, root mean
        square over the noise: the truth would have 1 or little more), and ``tensor``, that of a
        tensor fitted conventionally to the same half, None where it cannot be; both of volumes up
        to b = 1500 where there is a tensor. Empty if there are too few volumes.
    """
    acq = volume.stacks[0].acquisition
    if int(weighted(acq).sum()) < FEWEST:
        return {}
    slab = volume.slab()
    shown, wanted = halves(acq, np.random.default_rng(seed))
    model = DTI()
    low = np.array([v for v in shown if acq.bvals[v] <= model.b_high])
    tensor = not model.missing(acq.subset(low))
    if tensor:
        wanted = np.array([v for v in wanted if acq.bvals[v] <= model.b_high])
    asked = slab.stacks[0].of_volumes(wanted)
    part = slab.of_volumes(shown)
    said = part.given(part.prior(network, features=False))
    error = asked.misfit(part.gathered([s.corrected(habits).posterior().mean for s in said]))
    out = {"volumes": int(weighted(asked.acquisition).sum()), "error": _median(error)}
    return out | {"tensor": _by_tensor(scan, slab.stacks[0], low, asked) if tensor else None}


def _by_tensor(scan: Scan, stack: Stack, low: np.ndarray, asked: Stack) -> float:
    """Fit a tensor to some volumes, and predict others."""
    some = scan.select(low).with_mask(stack.usable)
    found = fit(some, "dti", device="cpu")["tensor"].data[stack.usable]
    parameters = torch.from_numpy(found / MM2_S).double().T
    exponent = _exponents(asked.acquisition) @ parameters
    return _median(asked.unexplained(lambda v: exponent[v].exp().float()))


def _exponents(acquisition: Acquisition) -> Tensor:
    """Of the tensor's signal relative to b = 0: (m, 6)."""
    return DTI().design(acquisition)[:, :6]


def _median(values: Tensor) -> float:
    return round(float(values.median()), 4)
