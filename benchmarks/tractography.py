"""Bundles of two real scans, from all their directions and from six.

`python3 run.py bench tractography` writes benchmarks/results/tractography.json and a picture of
each scan. Corpus callosum, corticospinal tracts and the cingulum above the corpus callosum are the
lines of a whole-brain tracking that pass through pairs of regions; these are placed by rules in MNI
space (see _bundles.py), once for each scan. The same regions are applied to the lines of
six-direction subsets, and the bundles are compared with those of all 12 directions: Dice of the
voxels that 1 % of the lines visit or more, and weighted Dice. `again` is all directions with other
seeds: what tracking itself allows. All directions share noise with the subsets of them, which
flatters both. The Philips scan is a slab that ends at the internal capsule; neither scan is
corrected for motion or eddy currents.

Methods: a tensor fitted by weighted least squares, the same after MP-PCA, the tensor of PIGMENT's
noise-free signal at the volumes of the scan, and of each of its samples, in which the seeds track
by turns. Another is a function from a scan to a MapSet with a tensor and the tensors of samples, or
None, and goes into `METHODS`. `verdict` tells for each scan in how many bundles the mean overlap of
PIGMENT's samples is the highest, and `mean` has the mean over bundles. That samples stand for
PIGMENT was chosen on another scan (Siemens, b = 2500). On one quiet core: 35 minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import _bundles
import _pigment
import numpy as np
from _common import RESULTS, Results, rounded

SUBSETS = 3
DIRECTIONS = 6
SHARED = 4
"""Directions that two subsets have in common, at most."""
DENSITY = {"Philips": 4.0, "Canon": 12.0}
"""Seeds a voxel: about as many a millilitre, and so many that the thin cingulum is no lottery."""

SEEDS, INSIDE = "FA > 0.25", "FA > 0.15"
ANGLE = 45.0
LEAST_SHARE = 0.01
"""Of a bundle's lines that visit a voxel of it."""

PICTURED = "six directions 0"
COLOURS = {"CC": "red", "CST L": "cyan", "CST R": "blue", "CG L": "lime", "CG R": "yellow"}


SAMPLES = 8


def conventional(scan):
    """Fit a tensor by weighted least squares."""
    import DMRIMicroLib as dm

    return dm.fit(scan, "dti", device="cpu")


def denoised(scan):
    """Denoise, and fit a tensor."""
    from DMRIMicroLib.preprocess import denoise

    return conventional(replace(denoise(scan, "mppca"), measured_noise=None))


@lru_cache(maxsize=1)
def asked(scan):
    """Ask PIGMENT."""
    return _pigment.estimated(scan, "codebook", "standard", "dti", samples=SAMPLES)


@lru_cache(maxsize=1)  # the tensor of the mean is asked for by two methods in turn
def pigment(scan, which: int | None = None):
    """Fit a tensor to PIGMENT's noise-free signal, or to that of a sample."""
    from DMRIMicroLib.prior.fibres import LEAST

    found = asked(scan)
    signal = np.maximum(found.signal(scan.acquisition, which), LEAST)
    mask = scan.mask & found.usable
    return conventional(replace(scan, signal=signal, mask=mask, measured_noise=None))


def drawn(scan) -> list[np.ndarray]:
    """Tensors of PIGMENT's samples."""
    return [np.nan_to_num(pigment(scan, k)["tensor"].data) for k in range(SAMPLES)]


OURS = "pigment, samples"
METHODS = {
    "tensor": lambda scan: (conventional(scan), None),
    "MP-PCA + tensor": lambda scan: (denoised(scan), None),
    "pigment": lambda scan: (pigment(scan), None),
    OURS: lambda scan: (pigment(scan), drawn(scan)),
}


def subset(scan, number: int):
    """Return the scan with one b0 and six directions that determine a tensor well.

    By the condition of the design: well spread directions can leave a tensor undetermined. Subset 0
    is the best of all; others share `SHARED` directions at most with those before them.
    """
    from DMRIMicroLib.models.dti import DTI

    acq = scan.acquisition
    weighted = np.flatnonzero(~acq.is_b0)
    design = DTI().design(acq).numpy()[weighted, :6]
    every = np.array(list(combinations(range(len(weighted)), DIRECTIONS)))
    ranked = every[np.argsort([np.linalg.cond(design[list(k)]) for k in every], kind="stable")]
    picked: list[set[int]] = []
    for candidate in ranked:
        if all(len(set(candidate) & before) <= SHARED for before in picked):
            picked.append(set(candidate))
        if len(picked) > number:
            break
    chosen = weighted[sorted(picked[number])]
    first = np.flatnonzero(acq.is_b0)[number % int(acq.is_b0.sum())]
    return scan.select(sorted([int(first), *map(int, chosen)]))


def bundles(
    maps, places: dict, density: float, seed: int, threads: int, samples: list | None = None
) -> tuple[dict, dict]:
    """Track the whole brain; return each bundle's lines, and what it took."""
    import DMRIMicroLib as dm

    started = time.perf_counter()
    start = dm.seeds(maps, SEEDS, density=density, seed=seed)
    how = {"inside": INSIDE, "max_angle": ANGLE, "seed": seed, "threads": threads}
    lines = dm.tracts(maps, start, samples=samples, **how)
    took = time.perf_counter() - started
    found = {name: lines.through(**where) for name, where in places.items()}
    facts = {"seeds": len(start), "lines": len(lines), "seconds": rounded(took, 3)}
    return found, facts | {name: len(found[name]) for name in found}


def compare(one: dict, two: dict) -> dict[str, dict[str, float]]:
    """Overlap of each bundle in two trackings."""
    out = {}
    for name in one:
        a, b = ((t.visits(), len(t)) for t in (one[name], two[name]))
        out[name] = {
            "dice": rounded(_bundles.dice(a, b, LEAST_SHARE), 3),
            "weighted_dice": rounded(_bundles.weighted_dice(a, b), 3),
        }
    return out


def study(name: str, results: Results, threads: int) -> None:
    """Track one scan from all and from six directions."""
    from DMRIMicroLib.masking import brain_mask

    scan = brain_mask(_bundles.scan(name))
    full = conventional(scan)
    places = _bundles.regions(full, _bundles.in_mni(name, full))
    density = DENSITY[name]
    reference, facts = bundles(full, places, density, 0, threads)
    results.put(name, "all directions", value=facts | {"protocol": scan.acquisition.describe()})
    again, _ = bundles(full, places, density, 1, threads)
    results.put(name, "again", value=compare(reference, again))
    shown = {"all directions": (full, reference)}
    for number in range(SUBSETS):
        few = subset(scan, number)
        for method, work in METHODS.items():
            maps, samples = work(few)
            found, facts = bundles(maps, places, density, 0, threads, samples)
            case = f"six directions {number}"
            results.put(name, method, case, value={"facts": facts, **compare(reference, found)})
            if case == PICTURED:
                shown[f"{method}, six directions"] = maps, found
    for method in METHODS:
        results.put(name, method, "mean", value=mean(results.content[name][method]))
    results.put(name, "verdict", value=verdict(results.content[name]))
    picture(name, shown)


def verdict(content: dict) -> dict:
    """Tell in which bundles PIGMENT's mean overlap is the highest, and all means over bundles."""
    out: dict = {}
    for score in ("dice", "weighted_dice"):
        told = {m: content[m]["mean"] for m in METHODS}
        won = [
            bundle
            for bundle in _bundles.BUNDLES
            if all(told[OURS][bundle][score] >= told[m][bundle][score] for m in METHODS)
        ]
        out[score] = {"highest in": won, "of": len(_bundles.BUNDLES)}
        out[score]["mean"] = {
            m: rounded(float(np.mean([told[m][b][score] for b in _bundles.BUNDLES])), 3)
            for m in METHODS
        }
    return out


def mean(cases: dict) -> dict[str, dict[str, float]]:
    """Average the overlap over the subsets."""
    cases = {k: v for k, v in cases.items() if k != "mean"}
    return {
        bundle: {
            score: rounded(float(np.mean([case[bundle][score] for case in cases.values()])), 3)
            for score in ("dice", "weighted_dice")
        }
        for bundle in _bundles.BUNDLES
    }


def picture(name: str, shown: dict) -> None:
    """Draw lines of the bundles from three sides over FA, a row for each tracking."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6 * len(shown)), facecolor="black", layout="constrained")
    rows = figure.subplots(len(shown), 3, squeeze=False)
    for row, (title, (maps, found)) in zip(rows, shown.items(), strict=True):
        for axes, (across, over, up, sign) in zip(
            row, ((2, 0, 1, -1), (1, 0, 2, -1), (0, 1, 2, 1)), strict=True
        ):
            back, extent = _flat(maps, across, over, up)
            axes.imshow(back, cmap="gray", vmin=0, vmax=1.2, origin="lower", extent=extent)
            for bundle, lines in found.items():
                every = max(1, len(lines) // 300)
                some = [line[:, (over, up)] for line in lines[::every]]
                axes.add_collection(
                    LineCollection(some, colors=COLOURS[bundle], linewidths=0.5, alpha=0.6)
                )
            if sign < 0:
                axes.invert_xaxis()  # the patient's right on the left
            axes.set_axis_off()
        counts = ", ".join(f"{bundle} {len(lines)}" for bundle, lines in found.items())
        row[0].set_title(f"{title}: {counts}", color="white", fontsize=9, loc="left")
    figure.savefig(RESULTS / f"tractography_{name}.png", dpi=90, facecolor="black")


def _flat(maps, across: int, over: int, up: int) -> tuple[np.ndarray, tuple]:
    """Return the largest FA across the brain in world coordinates, and the picture's extent."""
    from DMRIMicroLib.brain.register import Image, sample, world

    points = world(maps.affine, maps.mask.shape)[maps.mask]
    low, high = points.min(0), points.max(0)
    count = np.ceil((high - low) / 2).astype(int) + 1
    grid = np.diag([2.0, 2, 2, 1])
    grid[:3, 3] = low
    fa = sample(
        Image(np.where(maps.mask, maps["FA"].data, 0), maps.affine), world(grid, tuple(count))
    )
    extent = (low[over] - 1, high[over] + 1, low[up] - 1, high[up] + 1)
    middle = np.abs(np.arange(count[across]) - count[across] / 2) < 8  # of the middle 32 mm
    flat = np.compress(middle, fa, axis=across).max(axis=across)
    return (flat if over < up else flat.T).T, extent


def summary(results: Results) -> str:
    """Say what was found, a line for each bundle."""
    told = []
    for name in filter(results.has, _bundles.SCANS):
        content = results.content[name]
        for bundle in _bundles.BUNDLES:
            again = content["again"][bundle]["dice"]
            parts = [f"{m} {content[m]['mean'][bundle]['dice']:.2f}" for m in METHODS]
            told.append(f"{name} {bundle}: {', '.join(parts)} (again {again:.2f})")
    return "\n".join(told)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", default=",".join(_bundles.SCANS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    results = Results("tractography", fresh=options.scans == ",".join(_bundles.SCANS))
    for name in options.scans.split(","):
        study(name, results, options.threads)
    sys.stdout.write(summary(results) + "\n")


if __name__ == "__main__":
    main()
