"""Voxels a second of the codebook, all 24 metrics with their standard deviations.

`python3 run.py bench codebook_speed` writes benchmarks/results/codebook_speed.json: a scan of 105
volumes (UK Biobank's protocol) as large as a brain, made of copies of simulated slices; `codebook`
start to end, signal in memory to maps; beside it all conventional fits of the same 24 metrics on
some of the slices. With a GPU, there as well. Speed does not depend on what a network has learned:
without `--weights` it is one of the same size (`--preset`) that has learned nothing, in the signal
space of those slices.

`--levels` is the number of slices of the scan, `--rounds` how often it is timed (the fastest
counts) after one round to warm up, `--threads` how many there are, `--no-fits` leaves the
conventional fits out, `--anatomies` names the heads and `--name` the file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import _brain
import numpy as np
from _common import Results, clock, rounded

WANTED = 20_000
"""Voxels a second on two cores."""

PROTOCOL, SUBJECTS = "ukb", 4

USUAL = 2.0
"""Largest edge of the voxels of the slice that is taken, if there is one [mm]."""

FITTED = 1
"""Slices that the conventional fits are timed on."""


def untrained(preset: str, files: list[Path], folder: Path) -> str:
    """Write a network that has learned nothing, of a preset's size; its space is of some slices."""
    import torch

    from DMRIMicroLib.codebooks.network import Codebook
    from DMRIMicroLib.training.mapped import find_space
    from DMRIMicroLib.training.recipe import read_recipe
    from DMRIMicroLib.weights import Card, save

    torch.manual_seed(0)
    shape = read_recipe(preset).shape()
    network, flat = Codebook(shape), [1.0] * len(shape.metrics)
    data = {"metrics": shape.metrics, "centre": flat, "spread": flat, "calibration": flat}
    data["space"] = find_space(files).told()
    card = Card("untrained", "0.0.0", "codebook", network.arguments(), data=data)
    return str(save(network.state_dict(), card, folder).with_suffix(".safetensors"))


def brain(files: list[Path], levels: int):
    """Stack copies of the slice with the most voxels: a scan of some levels."""
    from DMRIMicroLib.brain.protocols import named
    from DMRIMicroLib.scan import Scan
    from DMRIMicroLib.training.pool import load_slice

    items = [load_slice(file) for file in files]
    usual = [i for i in items if i.scanner.voxel[0] <= USUAL] or items
    item = max(usual, key=lambda i: int(i.mask.sum()))
    one = _brain.scanned(item, named(PROTOCOL), 0, "speed")
    signal = np.repeat(np.asarray(one.signal, np.float32), levels, 2)
    mask = np.repeat(one.mask, levels, 2)
    return Scan(signal, one.affine, one.acquisition, mask, name="brain")


def timed(work, voxels: int, rounds: int) -> dict:
    """Voxels per second and per CPU-second of the fastest of some rounds, after one to warm up."""
    work()
    best = np.full(2, np.inf)
    for _ in range(rounds):
        start = clock()
        work()
        best = np.minimum(best, clock() - start)
    wall, cpu = best
    told = {"voxels per s": voxels / wall, "voxels per CPU-s": voxels / cpu, "seconds": wall}
    return {k: rounded(v, 3) for k, v in told.items()} | {"voxels": voxels}


def measured(scan, weights: str, device: str, rounds: int) -> dict:
    """Time `codebook` on a scan."""
    import DMRIMicroLib as dm

    voxels = int(scan.mask.sum())
    return timed(lambda: dm.codebook(scan, weights=weights, device=device), voxels, rounds)


def few(scan, levels: int):
    """Take the first slices of a scan."""
    from dataclasses import replace

    return replace(scan, signal=scan.signal[:, :, :levels], mask=scan.mask[:, :, :levels])


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="by default a network that has learned nothing")
    parser.add_argument("--preset", default="cpu", help="size of that network")
    parser.add_argument("--levels", type=int, default=40, help="slices of the scan")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--anatomies", default="all", help="heads, as of `dmrimicro train`")
    parser.add_argument("--no-fits", action="store_true", help="leave the conventional fits out")
    parser.add_argument("--name", default="codebook_speed", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = _brain.slices(SUBJECTS, options.anatomies)
    scan = brain(files, options.levels)
    results = Results(options.name, fresh=True)
    results.put("scan", value={"shape": scan.shape, "acquisition": scan.acquisition.describe()})
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or untrained(options.preset, files, Path(folder))
        told = measured(scan, weights, "cpu", options.rounds)
        told |= {"threads": options.threads, "wanted, voxels per s": WANTED}
        told["holds"] = told["voxels per s"] >= WANTED
        results.put("codebook, CPU", value=told)
        if torch.cuda.is_available():
            told = measured(scan, weights, "cuda", options.rounds)
            gpu = {"device": torch.cuda.get_device_name()}
            results.put("codebook, GPU", value=told | gpu)
    if not options.no_fits:
        print("conventional fits", file=sys.stderr, flush=True)
        one = few(scan, FITTED)
        told = timed(lambda: conventional(one), int(one.mask.sum()), 1)
        whole = scan.mask.sum() / told["voxels per s"]
        told |= {"threads": options.threads, "seconds for the whole scan": rounded(whole, 3)}
        results.put("conventional fits of the 24 metrics, CPU", value=told)
    print(results.file.read_text())


def conventional(scan):
    """Fit every model of the 24 metrics that the acquisition determines."""
    import DMRIMicroLib as dm

    names, lacking = _brain.identifiable(scan.acquisition)
    if lacking:
        print("cannot:", ", ".join(lacking), file=sys.stderr)
    return dm.fit(scan, names, device="cpu")


if __name__ == "__main__":
    main()
