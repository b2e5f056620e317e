"""PIGMENT as the benchmarks run it: with any settings, on thinned scans, with its fibres."""

from __future__ import annotations

import time
from collections.abc import Callable

import _baselines
import numpy as np
from _networks import in_mask
from _sparse import Fitted

LABEL = "pigment"

OWN = "benchmark"
"""Preset that stands for settings which have no name."""

WATER = 1e-12
"""Least norm of a tensor whose anisotropy is told [um4/ms2]."""


def estimated(scan, weights: str, work="standard", models="dti dki noddi"):
    """Run `pigment` on a scan: `work` is a preset or its name, `models` are words or "all"."""
    from DMRIMicroLib.prior import estimate

    if not isinstance(work, str):
        estimate.PRESETS[OWN] = work
        work = OWN
    wanted = models if models == "all" else models.split()
    return estimate.pigment(scan, wanted, preset=work, weights=weights, device="cpu")


def settings(work):
    """Return the settings of a preset, or those given."""
    from DMRIMicroLib.prior.estimate import PRESETS

    return PRESETS[work] if isinstance(work, str) else work


def under_test(weights: str, work="standard", seconds: list[float] | None = None) -> Callable:
    """Return PIGMENT as a method of the sparse scan; how long it takes is added to `seconds`."""

    def run(scan) -> Fitted:
        start = time.perf_counter()
        found = estimated(scan, weights, work)
        if seconds is not None:
            seconds.append(time.perf_counter() - start)
        maps = in_mask(found.maps, scan)
        maps["V1"] = of_tensors(found.tensors()[scan.mask])["V1"]
        return Fitted(maps, {LABEL: lambda asked: found.signal(asked)[scan.mask]})

    return run


def of_tensors(tensors: np.ndarray) -> dict[str, np.ndarray]:
    """FA, MD [um2/ms] and V1 of tensors xx, yy, zz, xy, xz, yz [mm2/s]: (n, 6) -> (n,), (n, 3)."""
    xx, yy, zz, xy, xz, yz = tensors.T.astype(np.float64) * _baselines.UM2_MS
    matrix = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], 1).reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(matrix)
    mean = values.mean(1)
    spread = np.square(values - mean[:, None]).sum(1)
    fa = np.sqrt(1.5 * spread / np.maximum(np.square(values).sum(1), WATER))
    return {"FA": fa, "MD": mean, "V1": vectors[:, :, 2]}
