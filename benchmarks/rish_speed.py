"""Seconds and memory of 7T-like scans of a scan as large as a brain.

`python3 run.py bench rish_speed` writes benchmarks/results/rish_speed.json: 96 x 96 x 60 voxels of
2 mm, 33 volumes, made of copies of a simulated slice; `enhance` start to end, signal in memory to
signal on the finer grid (183 x 183 x 114 at 1.05 mm), and with the scan's own grid kept; each in a
process of its own, so that its peak memory is its own. Asked on two cores: 10 minutes; on a GPU,
where there is one, 20 s.

`--methods` are those of `enhance`, `--weights NAME=FILE ...` theirs where none come with the
library, `--resolutions` some of both, `--threads` is their number, `--device cuda` asks for the
GPU, `--anatomies` names the heads, `--name` the file, in which other entries stay. Wall time on
cores that others use says little: CPU seconds stand beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import _brain
import _large
import numpy as np
from _common import Results, clock, rounded
from _large import KIB_TO_GB, SUBJECTS

SHELLS, B0 = {1000.0: 30}, 3
"""33 volumes."""

EDGE = 2.0
"""Of a voxel [mm]; slices are copied, whatever theirs is."""

WANTED = {"cpu": 600.0, "cuda": 20.0}
"""Seconds."""


def brain(files: list[Path]):
    """Make the scan, of voxels that are cubes."""
    scan = _large.brain(files, _brain.protocol(SHELLS, B0, 0), "speed of enhance")
    return replace(scan, affine=np.diag([EDGE, EDGE, EDGE, 1.0]))


def measured(
    files: list[Path], method: str, weights: str | None, resolution: str, threads: int, device: str
) -> dict:
    """Time one method; memory before it, and the most while it ran [GB]."""
    import torch

    import DMRIMicroLib as dm

    torch.set_num_threads(threads)
    scan = brain(files)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB_TO_GB
    start = clock()
    made = dm.enhance(scan, method, resolution, weights=weights, device=device)
    wall, cpu = clock() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB_TO_GB
    told = {"seconds": rounded(wall, 3), "CPU seconds": rounded(cpu, 3)}
    told |= {"asked, seconds": WANTED[device], "holds": bool(wall <= WANTED[device])}
    told |= {"peak memory, GB": rounded(peak, 3), "before it, GB": rounded(before, 3)}
    told |= {"method": made.provenance["method"], "threads": threads, "device": device}
    told |= {"shape": [*made.scan.shape, len(made.scan.acquisition)]}
    return told | {"tile, overlap": made.provenance["tile"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["auto"])
    parser.add_argument("--weights", nargs="+", default=[], help="NAME=FILE")
    parser.add_argument("--resolutions", nargs="+", default=["7T", "keep"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=sorted(WANTED))
    parser.add_argument("--anatomies", default="all", help="heads, as of `dmrimicro train`")
    parser.add_argument("--name", default="rish_speed", help="of the file under results/")
    options = parser.parse_args()
    weights = dict(text.split("=", 1) for text in options.weights)
    files = _brain.slices(SUBJECTS, options.anatomies)
    results = Results(options.name)
    scan = brain(files)
    told = {"shape": list(scan.shape), "acquisition": scan.acquisition.describe()}
    results.put("scan", value=told | {"edge, mm": EDGE, "brain voxels": int(scan.mask.sum())})
    context = multiprocessing.get_context("spawn")
    for method in options.methods:
        for resolution in options.resolutions:
            print(method, resolution, file=sys.stderr, flush=True)
            asked = files, method, weights.get(method), resolution, options.threads, options.device
            with ProcessPoolExecutor(1, context) as pool:
                told = pool.submit(measured, *asked).result()
            key = f"{told['method']}, {options.device}, threads: {options.threads}"
            results.put(key, resolution, value=told)
    print(results.file.read_text())


if __name__ == "__main__":
    main()
