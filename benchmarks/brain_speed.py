"""Speed of the simulated scanner, from tissue on a fine grid to noisy images; of the tissue too.

`python3 run.py bench brain_speed` writes benchmarks/results/brain_speed.json: brains of tissue on a
1 mm grid, twice as fine along each edge as the scanner's 2 mm, seen with 100 volumes, 6 of them at
b = 0 and the rest in three shells. Counted are voxels with tissue in them; those around them cost
time too. CPU seconds over the threads tell the time that idle cores would have taken.
"""

from __future__ import annotations

import argparse
import json
import sys

from _common import HCP_TIMING, Results, clock, rounded, shells

EDGE = 160
"""Pieces along each edge of the ball of tissue [mm]: 1.56 million of them, as a large brain has."""


def run(brains: int, device: str, threads: int) -> dict:
    """Voxels with 100 volumes a minute, for plain voxels and for those out of k-space."""
    import torch
    from digital_ball import ball_of_tissue

    from DMRIMicroLib.brain.scanner import Scanner, observe

    torch.set_num_threads(threads)
    acq = shells({1000.0: 30, 2000.0: 30, 3000.0: 34}, b0=6, **HCP_TIMING)
    volume = moved(ball_of_tissue(EDGE), device)
    usual = {"noise_profile": 0.3, "bias": 0.1, "transmit": 0.15, "ghost": 0.01, "level": 8000.0}
    scanners = {
        "noise": Scanner("noise"),
        "artefacts": Scanner("artefacts", **usual),
        "artefacts and k-space": Scanner("k-space", ringing=True, partial=0.75, **usual),
    }
    told = {"volumes": len(acq), "brains": brains, "threads": threads, "device": device}
    for name, scanner in scanners.items():
        observe(volume, acq, scanner, torch.Generator().manual_seed(0))  # warm
        before, voxels = clock(), 0
        for seed in range(brains):
            seen = observe(volume, acq, scanner, torch.Generator().manual_seed(seed))
            voxels += int(seen.mask.sum())
        told[name] = rates(voxels, *(clock() - before), threads)
    told["tissue"] = tissue(brains, device, threads)
    return told


def tissue(brains: int, device: str, threads: int) -> dict:
    """Scanner voxels a minute whose tissue is made, on one thread as the library does it."""
    import torch

    from DMRIMicroLib.brain.anatomy import load_anatomy
    from DMRIMicroLib.brain.phantom import draw_subject, render
    from DMRIMicroLib.brain.scanner import Scanner
    from DMRIMicroLib.brain.simulate import fine_grid, generator_for
    from DMRIMicroLib.fitting.threads import one_thread_each

    head = load_anatomy("small")
    affine, shape = fine_grid(head, Scanner("2 mm"))
    before, pieces = clock(), 0
    with one_thread_each():
        for seed in range(brains):
            subject = draw_subject(generator_for(seed, "subject"))
            volume = render(head, subject, affine, shape, torch.device(device))
            pieces += int(volume.mask.sum())
    return rates(pieces // 8, *(clock() - before), threads)


def rates(voxels: int, wall: float, cpu: float, threads: int) -> dict:
    """Voxels a minute."""
    return {
        "voxels": voxels,
        "wall_s": rounded(wall),
        "cpu_s": rounded(cpu),
        "voxels_a_minute": rounded(60 * voxels / wall),
        "voxels_a_minute_of_idle_cores": rounded(60 * voxels / (cpu / threads)),
    }


def moved(volume, device: str):
    """Put a volume on a device."""
    from dataclasses import replace

    state = replace(volume.state, **{k: v.to(device) for k, v in vars(volume.state).items()})
    parts = {k: getattr(volume, k).to(device) for k in ("mask", "affine", "fill", "tissue")}
    return replace(volume, state=state, lesion=volume.lesion.to(device), **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brains", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="brain_speed", help="of the file under results/")
    options = parser.parse_args()
    told = run(options.brains, options.device, options.threads)
    Results(options.name).put(options.device, value=told)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
