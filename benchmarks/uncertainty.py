"""Share of voxels whose nominal 68 % and 95 % intervals hold the truth, for every metric.

`python3 run.py bench uncertainty` writes benchmarks/results/uncertainty.json, entry by entry.
Tissue, protocols and truth are those of `accuracy`. The noise is what a user would have: it is
estimated from the repeated b0 volumes. Intervals are value +- 1 and +- 1.96 standard deviations;
z is the error over the standard deviation, so a calibrated interval has z of mean 0 and sd 1.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from _common import PROTOCOLS, Results, rounded, synthetic
from accuracy import OF_TISSUE, SEED, WHERE, tissue_for, truth_of, ways_of

SNR = (20, 30, 50)
WANTED = {"68 %": (1.0, 0.60, 0.76), "95 %": (1.96, 0.90, 0.98)}
"""Half-width of each interval in standard deviations, and the coverage that counts as right."""


def coverage(model: str, scan, truth: dict, water: np.ndarray, **options) -> dict:
    """Coverage of every metric's intervals."""
    import DMRIMicroLib as dm

    maps = dm.fit(scan, model, device="cpu", uncertainty=True, **options)
    out = {}
    for name, true in truth.items():
        use = water < 0.5 if name in OF_TISSUE else np.ones(len(water), bool)
        value = np.asarray(maps[name]).ravel()[use]
        sd = maps[name].uncertainty.ravel()[use]
        out[name] = calibration(value, sd, true[use])
    return out


def calibration(value: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> dict:
    """Coverage and what explains it: z is error over standard deviation."""
    error = value - truth
    size = np.maximum(sd, 1e-12)
    z = error / size
    entry = {name: rounded((np.abs(z) <= k).mean(), 3) for name, (k, _, _) in WANTED.items()}
    right = all(low <= entry[name] <= high for name, (_, low, high) in WANTED.items())
    low, middle, high = np.percentile(z, [15.865, 50, 84.135])
    return entry | {
        "right": bool(right),
        "z median": rounded(middle, 3),
        "z robust sd": rounded((high - low) / 2, 3),
        "error sd": rounded(error.std()),
        "stated sd, rms": rounded(np.sqrt((sd**2).mean())),
    }


def run(options: argparse.Namespace) -> Results:
    results = Results(options.name, options.fresh)
    for protocol in options.protocols:
        acq = PROTOCOLS[protocol]()
        for model in options.models or WHERE[protocol]:
            cell(results, protocol, acq, model, options)
    return results


def cell(results: Results, protocol: str, acq, model: str, options: argparse.Namespace) -> None:
    """Run one model on one protocol, with every noise level and in every way."""
    tissue = None
    for way, more in ways_of(model).items():
        truth = None
        for snr in options.snr:
            key = (protocol, model, f"SNR {snr}", way)
            if results.has(*key):
                continue
            tissue = tissue or tissue_for(model, acq, options.voxels)
            truth = truth or truth_of(model, tissue, acq, more)
            scan = synthetic(tissue.signal, acq, snr, SEED + snr)
            entry = coverage(model, scan, truth, tissue.water, **more)
            results.put(*key, value={"voxels": options.voxels, **entry})
            print(*key, file=sys.stderr, flush=True)


def rows(content: dict):
    """Yield (protocol, model, SNR, likelihood, metric, entry)."""
    for protocol in WHERE:
        for model, levels in content.get(protocol, {}).items():
            for snr, kinds in levels.items():
                for kind, entry in kinds.items():
                    for metric, cell in entry.items():
                        if isinstance(cell, dict):
                            yield protocol, model, snr, kind, metric, cell


def table(content: dict) -> str:
    """Every result as text."""
    lines = []
    for protocol, model, snr, kind, metric, cell in rows(content):
        numbers = "  ".join(f"{k} {v:.3g}" for k, v in cell.items() if k != "right")
        mark = " " if cell["right"] else "*"
        lines.append(f"{mark} {protocol:5s}{model:10s}{snr:7s}{kind:9s}{metric:12s} {numbers}")
    return "\n".join(lines)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--snr", nargs="+", type=int, default=SNR)
    parser.add_argument("--voxels", type=int, default=2000)
    parser.add_argument("--name", default="uncertainty", help="of the file under results/")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = run(options)
    cells = [(kind, cell["right"]) for *_, kind, _, cell in rows(results.content)]
    for kind in ("default", "rician", "gaussian"):
        right = [r for k, r in cells if k == kind]
        results.put("in the wanted range", kind, value=f"{sum(right)} of {len(right)}")
    print(table(results.content))


if __name__ == "__main__":
    main()
