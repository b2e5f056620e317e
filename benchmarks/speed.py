"""Voxels per CPU-second of our fits and of the peers', in one run on the real example slices.

`python3 run.py bench speed` writes benchmarks/results/speed.json. Everything is on one thread but
"all models", which takes two. A peer that loops over voxels is given some of them; its time to
build kernels (AMICO) or to compile (dmipy-fit: the cost of more voxels is taken) is left out.
Times are CPU time of the process, as machines are shared; the best of `--rounds`.
"""

from __future__ import annotations

import argparse
import os
import sys

import _amico
import _dipy
import _dmipy
import numpy as np
from _common import Results, clock, example, rounded
from accuracy import ways_of

WANTED = {"dki": 50, "freewater": 50, "mapmri": 50, "noddi, AMICO": 5, "noddi, dmipy-fit": 20}
"""How many times as fast as the peer each fit has to be."""

ALL_PER_S = 1500
"""Voxels that all models together have to reach a second, wall, on two cores."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Of the peers' libraries, which read it when they are first loaded."""

PARTS = ("dki", "freewater", "mapmri", "noddi", "all")
PEER_VOXELS = {"dki": 8865, "freewater": 400, "mapmri": 400}
PEERS = {"dki": _dipy.dki, "freewater": _dipy.free_water, "mapmri": _dipy.mapmri}
DMIPY_VOXELS = (10, 60)
"""Voxels of two runs of dmipy-fit, whose difference leaves out what it compiles."""


def rate(voxels: int, work, rounds: int) -> tuple[float, float]:
    """Voxels per CPU-second and per second of a call: the best of some."""
    best = np.full(2, np.inf)
    for _ in range(rounds):
        start = clock()
        work()
        best = np.minimum(best, clock() - start)
    wall, cpu = best
    return voxels / cpu, voxels / wall


def ours(scan, model, rounds: int, threads: int = 1, **options) -> dict:
    """Our speed, all of `fit` included."""
    import torch

    import DMRIMicroLib as dm

    torch.set_num_threads(threads)
    dm.fit(scan, model, device="cpu", **options)  # what is computed once for an acquisition
    voxels = int(scan.mask.sum())
    per_cpu, per_wall = rate(voxels, lambda: dm.fit(scan, model, device="cpu", **options), rounds)
    return {
        "voxels": voxels,
        "voxels per CPU-s": rounded(per_cpu, 3),
        "voxels per s": rounded(per_wall, 3),
    }


def some(scan, count: int) -> np.ndarray:
    """Return the signals of some voxels of the mask, evenly drawn: (n, m)."""
    signal = scan.voxels(scan.mask)
    return signal[:: max(1, len(signal) // count)][:count]


def dipy_beside(scan, model: str, rounds: int) -> dict:
    """Our speed and dipy's, with every likelihood that we have for the model."""
    signal = some(scan, PEER_VOXELS[model]).astype(np.float64)
    work = PEERS[model]
    per_cpu, _ = rate(len(signal), lambda: work(signal, scan.acquisition), rounds)
    theirs = {"voxels": len(signal), "voxels per CPU-s": rounded(per_cpu, 3)}
    mine = {way: ours(scan, model, rounds, **more) for way, more in ways_of(model).items()}
    return verdict(mine, theirs, "dipy", WANTED[model])


def verdict(mine: dict, theirs: dict, peer: str, wanted: float) -> dict:
    """Put both speeds side by side."""
    times = {
        way: rounded(m["voxels per CPU-s"] / theirs["voxels per CPU-s"], 3)
        for way, m in mine.items()
    }
    return {"ours": mine, peer: theirs, "times as fast": times, "wanted": wanted}


def noddi_beside(scan, rounds: int) -> dict:
    """Our speed with NODDI beside AMICO and dmipy-fit."""
    mine = {way: ours(scan, "noddi", rounds, **more) for way, more in ways_of("noddi").items()}
    out: dict = {}
    signal = scan.voxels(scan.mask)
    if _amico.available():
        runs = [_amico.fit(signal, scan.acquisition).cpu for _ in range(rounds)]
        cpu = {step: min(run[step] for run in runs) for step in runs[0]}
        theirs = {
            "voxels per CPU-s": rounded(len(signal) / cpu["fit"], 3),
            "kernels, CPU-s, left out": rounded(cpu["kernels"], 3),
        }
        out["noddi, AMICO"] = verdict(mine, theirs, "AMICO", WANTED["noddi, AMICO"])
    if _dmipy.available():
        low, high = DMIPY_VOXELS
        # the first run also pays for JAX's start
        _, few, more = (
            _dmipy.fit_noddi(some(scan, n), scan.acquisition)[1] for n in (low, low, high)
        )
        theirs = {"voxels per CPU-s": rounded((high - low) / (more - few), 3), "voxels": high}
        wanted = WANTED["noddi, dmipy-fit"]
        out["noddi, dmipy-fit"] = verdict(mine, theirs, "dmipy-fit", wanted)
    return out or {"ours": mine}


def every(scan, rounds: int) -> dict:
    """All models on two threads, and what each takes of it."""
    from DMRIMicroLib.models import MODELS

    two = ours(scan, "all", rounds, threads=2)
    shares = {name: ours(scan, name, 1)["voxels per CPU-s"] for name in MODELS}
    return two | {"wanted, voxels per s": ALL_PER_S, "each alone, voxels per CPU-s": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="speed", help="of the file under results/")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        environment = {**os.environ, **ONE_THREAD}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    results = Results(options.name, options.fresh)
    scan = example()
    for part in options.parts:
        if results.has(part):
            continue
        print(part, file=sys.stderr, flush=True)
        if part == "noddi":
            value = noddi_beside(scan, options.rounds)
        elif part == "all":
            value = every(scan, options.rounds)
        else:
            value = dipy_beside(scan, part, options.rounds)
        results.put(part, value=value)
    print(results.file.read_text())


if __name__ == "__main__":
    main()
