"""PIGMENT as the benchmarks run it: with any settings, on thinned scans, with its fibres."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import _baselines
import _sparse
import numpy as np
from _networks import in_mask
from _sparse import Fitted

LABEL = "pigment"

OWN = "benchmark"
"""Preset that stands for settings which have no name."""

WATER = 1e-12
"""Least norm of a tensor whose anisotropy is told [um4/ms2]."""


def estimated(scan, weights: str, work="standard", models="dti dki noddi", samples=None):
    """Run `pigment` on a scan: `work` is a preset or its name, `models` are words or "all"."""
    from DMRIMicroLib.prior import estimate

    if not isinstance(work, str):
        estimate.PRESETS[OWN] = work
        work = OWN
    wanted = models if models == "all" else models.split()
    how = {"preset": work, "samples": samples, "weights": weights, "device": "cpu"}
    return estimate.pigment(scan, wanted, **how)


def settings(work):
    """Return the settings of a preset, or those given."""
    from DMRIMicroLib.prior.estimate import PRESETS

    return PRESETS[work] if isinstance(work, str) else work


def under_test(weights: str, work="standard") -> Callable:
    """Return PIGMENT as a method of the sparse scan."""

    def run(scan) -> Fitted:
        found = estimated(scan, weights, work)
        maps = in_mask(found.maps, scan)
        maps["V1"] = of_tensors(found.tensors()[scan.mask])["V1"]
        return Fitted(maps, {LABEL: lambda asked: found.signal(asked)[scan.mask]})

    return run


def side_by_side(work: Callable, asked: Iterable[tuple], workers: int) -> dict:
    """Call a function of a module with each tuple, in several processes of one thread each.

    Every tuple gets its answer and the seconds that it took.
    """
    asked = list(dict.fromkeys(asked))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_alone) as pool:
        return dict(zip(asked, pool.map(_timed, [work] * len(asked), asked), strict=True))


def _alone() -> None:
    import torch

    torch.set_num_threads(1)


def _timed(work: Callable, asked: tuple) -> tuple:
    start = time.perf_counter()
    found = work(*asked)
    return found, time.perf_counter() - start


def on_sparse(weights: str, work, job: str) -> dict:
    """Answer a fit of the sparse scan."""
    found = _sparse.run("", under_test(weights, work), job, keep=False)
    assert found is not None
    return found


def of_tensors(tensors: np.ndarray) -> dict[str, np.ndarray]:
    """FA, MD [um2/ms] and V1 of tensors xx, yy, zz, xy, xz, yz [mm2/s]: (n, 6) -> (n,), (n, 3)."""
    xx, yy, zz, xy, xz, yz = tensors.T.astype(np.float64) * _baselines.UM2_MS
    matrix = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], 1).reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(matrix)
    mean = values.mean(1)
    spread = np.square(values - mean[:, None]).sum(1)
    fa = np.sqrt(1.5 * spread / np.maximum(np.square(values).sum(1), WATER))
    return {"FA": fa, "MD": mean, "V1": vectors[:, :, 2]}
