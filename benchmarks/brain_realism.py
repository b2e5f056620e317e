"""Realism of the digital brain: simulated scans beside real ones, measured.

`python3 run.py bench brain_realism --data DIR` writes benchmarks/results/brain_realism.json. For
every real scan subjects are simulated with its acquisition, voxel size and SNR; both go through the
same brain mask, the same tensor fit and the same rule for tissue classes. Compared are the
distributions of what is seen, by Wasserstein distance, beside the distance between real scans of
other vendors at a comparable b-value; the autocorrelation of FA and b0; and what a small network
can tell apart (`_realism_net`).
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from _common import HERE, Results, rounded
from _realism import FOLDERS, IDEAS, TUNED_ON, Seen, look, real_scan, simulated, without
from scipy.stats import wasserstein_distance

COMPARABLE = (("b1k_b2k", "Philips", "UIH"), ("Canon", "Toshiba"))
"""Scans of different vendors with about the same b-value: 1000 (930) and 1500 s/mm2."""

MOST = 20000
"""Voxels of a distribution: more change no distance in its third digit."""


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein distance of finite values."""
    few = [v[np.isfinite(v)] for v in (a, b)]
    few = [v[:: max(1, len(v) // MOST)] for v in few]
    return float(wasserstein_distance(*few)) if min(map(len, few)) else float("nan")


def between(a: list[Seen], b: list[Seen], quantity: str, tissue: str) -> float:
    """Distance of the pooled voxels of two lots of scans."""
    lots = [
        np.concatenate([s.values[quantity][s.classes[tissue]] for s in some]) for some in (a, b)
    ]
    return distance(*lots)


def shell_alias(quantity: str) -> str:
    """Name for what is compared: b = 930 with b = 1000."""
    return quantity.replace("b900", "b1000")


def named_alike(seen: Seen) -> Seen:
    """Return the scan with its values under comparable names."""
    from dataclasses import replace

    return replace(seen, values={shell_alias(k): v for k, v in seen.values.items()})


def peers_of(name: str) -> list[str]:
    """Real scans of other vendors to compare a real scan with."""
    group = next((g for g in COMPARABLE if name in g), ())
    return [other for other in group if other != name]


def distributions(name: str, real: dict[str, Seen], made: list[Seen]) -> dict:
    """Distance real to simulated, real to real, and whether the first is less."""
    table = {}
    for quantity in real[name].values:
        for tissue in real[name].classes:
            ours = between([real[name]], made, quantity, tissue)
            theirs = [
                between([real[name]], [real[p]], quantity, tissue)
                for p in peers_of(name)
                if p in real and quantity in real[p].values
            ]
            inside = real[name].values[quantity][real[name].classes[tissue]]
            pooled = np.concatenate([s.values[quantity][s.classes[tissue]] for s in made])
            row = {
                "real_simulated": rounded(ours, 3),
                "real_median": rounded(float(np.nanmedian(inside)), 3),
                "simulated_median": rounded(float(np.nanmedian(pooled)), 3),
            }
            if theirs:
                row["real_real"] = rounded(float(np.mean(theirs)), 3)
                row["pass"] = bool(ours < np.mean(theirs))
            table[f"{quantity}, {tissue}"] = row
    return table


def correlations(name: str, real: dict[str, Seen], made: list[Seen]) -> dict:
    """Compare autocorrelations in the same way."""
    table = {}
    for key, value in real[name].correlation.items():
        ours = float(np.mean([s.correlation[key] for s in made]))
        row = {"real": rounded(value, 3), "simulated": rounded(ours, 3)}
        theirs = [abs(value - real[p].correlation[key]) for p in peers_of(name) if p in real]
        if theirs:
            row["real_real"] = rounded(float(np.mean(theirs)), 3)
            row["pass"] = bool(abs(value - ours) < np.mean(theirs))
        table[key] = row
    return table


def passed(tables: dict) -> dict:
    """Count cells that pass: by scan, of the scans that ranges were tuned on, and of the others."""
    out, rows = {}, {"tuning": [], "test": []}
    for name, told in tables.items():
        cells = [
            row["pass"]
            for part in ("distributions", "autocorrelation")
            for row in told[part].values()
            if "pass" in row
        ]
        out[name] = f"{sum(cells)} of {len(cells)}"
        rows["tuning" if name in TUNED_ON else "test"] += cells
    return out | {k: f"{sum(v)} of {len(v)}" for k, v in rows.items()}


def picture(name: str, real: Seen, made: Seen, file: Path) -> None:
    """Real above, simulated below: b0, weighted, FA, MD."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    limits = {"b0": (0, 3), "dwi": (0, 0.9), "fa": (0, 0.9), "md": (0, 2.5)}
    figure, axes = pyplot.subplots(2, 8, figsize=(20, 5.6))
    for row, seen in zip(axes, (real, made), strict=True):
        slices = seen.b0.shape[2]
        for half, z in enumerate((slices // 4, (3 * slices) // 4)):
            for column, (what, (low, high)) in enumerate(limits.items()):
                image = getattr(seen, what)[..., z]
                if what in ("fa", "md"):
                    image = image * seen.mask[..., z]
                axis = row[4 * half + column]
                lr = np.flipud(image) if seen is made else image
                axis.imshow(np.rot90(lr), cmap="gray", vmin=low, vmax=high)
                axis.axis("off")
    figure.suptitle(f"{name}: real above, simulated below")
    figure.tight_layout(pad=0.2)
    figure.savefig(file, dpi=60)
    pyplot.close(figure)


def gather(options: argparse.Namespace) -> tuple[dict[str, Seen], dict[str, list[Seen]], dict]:
    """Look at every real scan and at subjects simulated like it."""
    from DMRIMicroLib.brain.anatomy import load_anatomy

    anatomies = [load_anatomy(a) for a in options.anatomies]
    real, made, told = {}, {}, {}
    for name in options.scans:
        scan = real_scan(options.data, name)
        kurtosis = len(scan.acquisition.shells) > 1
        real[name] = named_alike(look(name, scan, kurtosis))
        made[name], told[name] = [], {"snr": rounded(real[name].snr, 3), "sensitivity": []}
        for subject in range(options.subjects):
            anatomy = anatomies[subject % len(anatomies)]
            seed = options.seed + subject + 100 * list(FOLDERS).index(name)
            fake, sensitivity = simulated(anatomy, name, scan, real[name].snr, seed)
            made[name].append(named_alike(look(f"{name} {subject}", fake, kurtosis)))
            told[name]["sensitivity"].append(rounded(sensitivity, 3))
        told[name]["simulated_snr"] = [rounded(s.snr, 3) for s in made[name]]
        print(name, told[name], file=sys.stderr, flush=True)
    for name in {p for scan in options.scans for p in peers_of(scan)} - set(real):
        scan = real_scan(options.data, name)
        real[name] = named_alike(look(name, scan, len(scan.acquisition.shells) > 1))
    return real, made, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data" / "dwi")
    parser.add_argument("--anatomies", nargs="+", default=["small"], help="names or files")
    parser.add_argument("--scans", nargs="+", choices=list(FOLDERS), default=list(FOLDERS))
    parser.add_argument("--subjects", type=int, default=2, help="for each real scan")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--pictures", type=Path, help="folder for pictures side by side")
    parser.add_argument("--keep", type=Path, help="file to keep what was seen in, for the network")
    parser.add_argument("--variant", default="now", help="key of the results")
    parser.add_argument("--without", choices=list(IDEAS), help="an idea to do without")
    parser.add_argument("--views", nargs="+", help="of the network; default all")
    parser.add_argument("--quick", action="store_true", help="less work for the network")
    parser.add_argument("--brief", action="store_true", help="keep no tables of the scans")
    parser.add_argument("--no-network", action="store_true")
    parser.add_argument("--name", default="brain_realism", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.without:
        without(options.without)
    real, made, told = gather(options)
    for name in options.scans:
        told[name]["distributions"] = distributions(name, real, made[name])
        told[name]["autocorrelation"] = correlations(name, real, made[name])
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            picture(name, real[name], made[name][0], options.pictures / f"{name}.png")
    if options.keep:
        options.keep.write_bytes(pickle.dumps((real, made)))
    value = {"subjects": options.subjects, "passed": passed(told)}
    if not options.brief:
        value["scans"] = told
    if not options.no_network:
        from _realism_net import QUICK, Effort, accuracies

        effort = QUICK if options.quick else Effort()
        value["network"] = accuracies(real, made, options.views, effort)
    Results(options.name).put(options.variant, value=value)
    short = {k: v for k, v in value.items() if k != "scans"}
    sys.stdout.write(json.dumps(short, indent=1) + "\n")


if __name__ == "__main__":
    main()
