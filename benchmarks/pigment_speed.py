"""Seconds and memory of PIGMENT on a scan as large as a brain.

`python3 run.py bench pigment_speed` writes benchmarks/results/pigment_speed.json: 96 x 96 x 60
voxels, 32 volumes, made of copies of a simulated slice; `pigment` start to end, signal in memory to
maps, with the fast and the standard preset, each in a process of its own, so that its peak memory
is its own. Asked on two cores: 3 and 20 minutes; on a GPU, where there is one, 30 s for "standard".
Speed does not depend on what a network has learned: without `--weights` it is one of the same size
that has learned nothing; how soon the adaptation stops does, so the times of all its steps are
those without an early stop.

`--slices` takes a few of the 60 slices and tells what the whole would take (the time in the file is
then an estimate), `--presets` some of the presets and leaves the others' times, `--threads` is
their number, `--device cuda` asks for the GPU, `--anatomies` names the heads, `--name` the file. On
two quiet cores: what is asked, at most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import _brain
import _large
import _pigment
from _common import Results, clock, rounded
from _large import KIB_TO_GB, SHAPE, SUBJECTS
from codebook_speed import untrained

SHELLS, B0 = {1000.0: 15, 2000.0: 15}, 2
"""32 volumes."""

WANTED = {"fast": 180.0, "standard": 1200.0}
WANTED_GPU = {"standard": 30.0}
"""Seconds."""


def brain(files: list[Path], levels: int):
    """Make the scan, of some slices."""
    return _large.brain(files, _brain.protocol(SHELLS, B0, 0), "speed of pigment", levels)


def measured(files: list, levels: int, weights: str, preset: str, threads: int, device: str):
    """Time one preset; memory before it, and the most while it ran [GB]."""
    import torch

    from DMRIMicroLib.prior.estimate import pigment

    torch.set_num_threads(threads)
    scan = brain(files, levels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB_TO_GB
    start = clock()
    found = pigment(scan, preset=preset, weights=weights, device=device)
    wall, cpu = clock() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB_TO_GB
    told = {"seconds": rounded(wall, 3), "CPU seconds": rounded(cpu, 3)}
    told |= {"peak memory, GB": rounded(peak, 3), "before it, GB": rounded(before, 3)}
    told |= {"voxels": int(scan.mask.sum()), "slices": levels, "threads": threads, "device": device}
    told["adaptation"] = found.maps.provenance["pigment"]["adapted"]
    return told


def judged(told: dict, preset: str, device: str) -> dict:
    """Add what was asked, and an estimate for the whole if only some slices were run."""
    whole = told["seconds"] * SHAPE[2] / told["slices"]
    told["seconds for the whole"] = rounded(whole, 3)
    told["estimated"] = told["slices"] < SHAPE[2]
    wanted = (WANTED if device == "cpu" else WANTED_GPU).get(preset)
    if wanted is not None:
        told |= {"asked, seconds": wanted, "holds": whole <= wanted}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="by default a network that has learned nothing")
    parser.add_argument("--presets", nargs="+", default=["fast", "standard"])
    parser.add_argument("--slices", type=int, default=SHAPE[2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--anatomies", default="all", help="heads, as of `dmrimicro train`")
    parser.add_argument("--name", default="pigment_speed", help="of the file under results/")
    options = parser.parse_args()
    files = _brain.slices(SUBJECTS, options.anatomies)
    results = Results(options.name, fresh=set(options.presets) >= set(WANTED))
    scan = replace(brain(files, 1), name="whole")
    told = {"shape": [*SHAPE[:2], options.slices], "acquisition": scan.acquisition.describe()}
    results.put("scan", value=told | {"voxels of a slice": int(scan.mask.sum())})
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or untrained("cpu", files, Path(folder))
        for preset in options.presets:
            print(preset, file=sys.stderr, flush=True)
            asked = files, options.slices, weights, preset, options.threads, options.device
            with ProcessPoolExecutor(1, context) as pool:
                told = pool.submit(measured, *asked).result()
            work = _pigment.settings(preset)
            told |= {k: getattr(work, k) for k in ("samples", "steps", "adapt")}
            results.put(preset, value=judged(told, preset, options.device))
    print(results.file.read_text())


if __name__ == "__main__":
    main()
