"""The real example scan, thinned out: protocols, subsets of volumes, regions, and a cache of fits.

Subsets and tissue mask are those with which the peers were measured first: directions spread by
electrostatic energy, the seed picking among the five best local optima.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from _common import HERE, circumstances, example
from scipy import ndimage

PROTOCOLS = {
    "P3+6": (1, 3, 6),
    "P6+6": (1, 6, 6),
    "P6+15": (1, 6, 15),
    "P15+15": (1, 15, 15),
    "P6": (1, 6, 0),
    "P15": (1, 15, 0),
}
"""Numbers of volumes with b = 0, 1000 and 2000."""

SUBSETS = 5
HALVES = 2
"""Times that all volumes are split into two halves."""

SHELLS = (1000.0, 2000.0)
SHELL_WIDTH = 100.0
RESTARTS = 40
"""Local optima of the spread are sought from so many random subsets."""
BEST = 5
B0_SEED = 100
DARK = 50.0
"""Voxels of the mask with less b0 signal are left out."""

WATER_MD, WATER_FWF = 1.5, 0.5
"""Tissue has a mean diffusivity [um2/ms] and a fraction of free water below."""
WHITE, GREY = 0.3, 0.2
"""White matter: tissue with FA above; grey matter: with FA below (dipy, all volumes)."""
FIBRE = 0.25
"""FA above which angles are compared."""

FOLDER = HERE / "cache" / "sparse"
VERSIONS = "versions.json"


@dataclass
class Fitted:
    """What a method says of the voxels of the mask.

    Attributes
    ----------
    maps : dict of str to (n,) or (n, 3) array
        MD in um2/ms.
    predict : dict of str to callable
        By the name of the model: an acquisition of m volumes to (n, m) signals relative to b = 0.
    """

    maps: dict[str, np.ndarray]
    predict: dict[str, Callable] = field(default_factory=dict)


@cache
def scan():
    """Return all 103 volumes of the two slices."""
    whole = example()
    signal = np.maximum(whole.signal, 0)
    bright = signal[..., whole.acquisition.is_b0].mean(-1) > DARK
    return replace(whole, signal=signal, mask=whole.mask & bright)


def slices() -> np.ndarray:
    """Slice of each voxel of the mask."""
    return np.argwhere(scan().mask)[:, 2]


def spread(directions: np.ndarray, count: int, seed: int) -> list[int]:
    """Choose well spread directions: (n, 3) -> `count` numbers.

    Local optima of the electrostatic energy of charges and their antipodes, one exchange at a
    time; `seed` draws the starts and picks among the `BEST` optima.
    """
    rng = np.random.default_rng(seed)
    apart = np.linalg.norm(directions[:, None] - directions[None], axis=-1)
    opposite = np.linalg.norm(directions[:, None] + directions[None], axis=-1)
    energy = 1 / np.maximum(apart, 1e-3) + 1 / np.maximum(opposite, 1e-3)
    np.fill_diagonal(energy, 0)
    found = {}
    for _ in range(RESTARTS):
        chosen = _descend(energy, list(rng.choice(len(directions), count, replace=False)))
        found[tuple(sorted(chosen))] = energy[np.ix_(chosen, chosen)].sum()
    best = sorted(found.items(), key=lambda item: item[1])[:BEST]
    return [int(k) for k in best[seed % len(best)][0]]


def _descend(energy: np.ndarray, chosen: list[int]) -> list[int]:
    """Exchange members while that lowers the energy."""
    lowest, better = energy[np.ix_(chosen, chosen)].sum(), True
    while better:
        better = False
        for k in range(len(chosen)):
            rest = chosen[:k] + chosen[k + 1 :]
            cost = energy[:, rest].sum(1)
            cost[rest] = np.inf
            candidate = int(cost.argmin())
            if cost[candidate] < cost[chosen[k]] - 1e-9:
                chosen, better = [*chosen[:k], candidate, *chosen[k + 1 :]], True
                lowest = energy[np.ix_(chosen, chosen)].sum()
    assert np.isfinite(lowest)
    return chosen


def subset(protocol: str, seed: int) -> list[int]:
    """Volumes of a subset."""
    acq = scan().acquisition
    b0, *counts = PROTOCOLS[protocol]
    rng = np.random.default_rng(B0_SEED + seed)
    volumes = rng.choice(np.flatnonzero(acq.is_b0), b0, replace=False).tolist()
    for b, count in zip(SHELLS, counts, strict=True):
        if count:
            shell = np.flatnonzero(np.abs(acq.bvals - b) < SHELL_WIDTH)
            volumes += shell[spread(acq.bvecs[shell], count, seed)].tolist()
    return sorted(volumes)


def rest(volumes: list[int]) -> list[int]:
    """All volumes but these."""
    return sorted(set(range(len(scan().acquisition))) - set(volumes))


def half(seed: int) -> list[int]:
    """Half of the volumes of b = 0 and of every shell, well spread."""
    acq = scan().acquisition
    rng = np.random.default_rng(seed)
    b0 = np.flatnonzero(acq.is_b0)
    volumes = rng.choice(b0, len(b0) // 2, replace=False).tolist()
    for b in SHELLS:
        shell = np.flatnonzero(np.abs(acq.bvals - b) < SHELL_WIDTH)
        volumes += shell[spread(acq.bvecs[shell], len(shell) // 2, seed)].tolist()
    return sorted(volumes)


def jobs() -> dict[str, tuple[list[int], list[int]]]:
    """Name of every fit -> the volumes that it sees, and those that it is to predict."""
    out = {}
    for protocol in PROTOCOLS:
        for seed in range(SUBSETS):
            seen = subset(protocol, seed)
            out[f"{protocol} {seed}"] = seen, rest(seen)
    everything = rest([])
    out["all"] = everything, everything
    for seed in range(HALVES):
        first = half(seed)
        out[f"half {seed}a"], out[f"half {seed}b"] = (first, rest(first)), (rest(first), first)
    for name in list(out):
        if name[0] == "P":
            left = out[name][1]
            out[f"{name} rest"] = left, left
    return out


def wrong(fitted: Fitted, asked: list[int]) -> dict[str, np.ndarray]:
    """Mean squared error of predicted volumes, relative to b0: model -> (n, shells).

    Predictions beyond 0 to 1, which no tensor in noise is safe from, are cut.
    """
    whole = scan()
    part = whole.select(asked)
    signal = part.voxels(whole.mask)
    signal = signal / signal[:, part.acquisition.is_b0].mean(1, keepdims=True)
    out = {}
    for model, predict in fitted.predict.items():
        told = np.clip(np.nan_to_num(np.asarray(predict(part.acquisition))), 0, 1)
        square = (told - signal) ** 2
        near = [np.abs(part.acquisition.bvals - b) < SHELL_WIDTH for b in SHELLS]
        out[model] = np.stack([square[:, k].mean(1) for k in near], 1)
    return out


def run(method: str, work: Callable, name: str, keep: bool = True) -> dict | None:
    """Return maps and prediction errors of a method in one fit, from the cache if they are there.

    None if the method cannot do it; why is then kept in `<name>.json`.
    """
    file = _file(method, name)
    if keep and file.exists():
        with np.load(file) as kept:
            return dict(kept)
    if keep and file.with_suffix(".json").exists():
        return None
    seen, asked = jobs_once()[name]
    found = work(scan().select(seen))
    if isinstance(found, str):
        if keep:
            _keep(method, name, found)
        return None
    values = {k: np.asarray(v, np.float32) for k, v in found.maps.items()}
    values |= {f"error {k}": v.astype(np.float32) for k, v in wrong(found, asked).items()}
    if keep:
        _keep(method, name, values)
    return values


jobs_once = cache(jobs)


def _keep(method: str, name: str, values: dict[str, np.ndarray] | str) -> None:
    """Write an answer, or why there is none, and which versions of the programs gave it."""
    file = _file(method, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(values, str):
        file.with_suffix(".json").write_text(json.dumps(values) + "\n")
    else:
        np.savez_compressed(file, **values)  # type: ignore[arg-type]
    (file.parent / VERSIONS).write_text(json.dumps(circumstances()["versions"]) + "\n")


def versions(methods: Iterable[str]) -> dict[str, dict]:
    """Return the versions of the programs that the kept answers of each method came from."""
    files = {name: _file(name, "all").parent / VERSIONS for name in methods}
    return {name: json.loads(f.read_text()) for name, f in files.items() if f.exists()}


def _file(method: str, name: str) -> Path:
    return FOLDER / method.replace(" ", "_") / f"{name.replace(' ', '_')}.npz"


def regions(tensor: dict, water: np.ndarray) -> dict[str, np.ndarray]:
    """Voxels of the mask in each region, from dipy's tensor and FWF of all volumes."""
    mask = scan().mask
    inner = np.stack([ndimage.binary_erosion(mask[..., z]) for z in range(mask.shape[2])], -1)[mask]
    tissue = inner & (tensor["MD"] < WATER_MD) & (water < WATER_FWF)
    return {
        "tissue": tissue,
        "WM": tissue & (tensor["FA"] > WHITE),
        "GM": tissue & (tensor["FA"] < GREY),
    }
