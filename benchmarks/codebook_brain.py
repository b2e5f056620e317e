"""The codebook on unseen simulated brains, beside conventional fits and `demic`.

`python3 run.py bench codebook_brain` writes benchmarks/results/codebook_brain.json:

- accuracy: 20 subjects, each with a protocol of 10 to 32 volumes and a scanner of its own. Errors
  of each of the 24 metrics against the truth; share of voxels that the 95 % intervals hold. A
  conventional fit is run with the library's defaults where the acquisition determines its model;
  where it does not, that is counted apart ("cannot"), not as the codebook's win. All methods are
  scored on the voxels whose truth means something and for which the fit has an answer.
- protocols: five of them under five protocols; how far each metric moves within a voxel.

See _brain.py for where slices come from. `--weights` (several, if you like) and `--demic` name the
weights. Conventional fits are run on `--voxels` of every slice, and kept. `--parts` takes one of
the two parts and leaves the other's results as they are, `--subjects` and `--cross-subjects` tell
how many there are, `--anatomies` names the heads, `--name` the file. On two cores: five minutes for
the slices and five for the fits the first time, then what the networks take, some seconds a scan.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _brain
import numpy as np
from _brain import Method, Told
from _common import Results
from _scores import short

SUBJECTS, CROSS_SUBJECTS = 20, 5

VOXELS = 2500
"""Of every slice, that are fitted conventionally."""

CROSS = (
    ({700.0: 10, 2000.0: 20}, 2),
    ({1000.0: 15, 2500.0: 15}, 2),
    ({1000.0: 12, 2000.0: 12, 3000.0: 12}, 3),
    ({1000.0: 50, 2000.0: 50}, 5),
    ({1000.0: 30}, 5),
)
"""Five protocols: directions by b [s/mm2], and b0 volumes."""

WINS = 22
"""Of 24 metrics, in which the codebook is to be better than fits and `demic`."""

INTERVALS = (0.90, 0.98)
"""Share of voxels that intervals of nominally 95 % are to hold."""

CANNOT, NOT_RUN = "cannot", "not run"

SPREAD = 0.5
"""Largest share of the fits' spread over protocols that the codebook's may be."""


def compare(told: Told, truth: np.ndarray, at: np.ndarray) -> dict[str, float]:
    """Errors of a map on some voxels, and the share that its intervals hold."""
    error = told.value[at] - truth[at]
    out = {"mse": np.square(error).mean(), "mae": np.abs(error).mean(), "bias": error.mean()}
    both = np.stack([told.value[at], truth[at]])
    out["r"] = np.corrcoef(both)[0, 1] if (both.std(1) > 0).all() else np.nan
    if told.sd is not None:
        out["covered"] = (np.abs(error) <= _brain.WIDE * told.sd[at]).mean()
    return {k: float(v) for k, v in out.items()}


def accuracy(files: list[Path], methods: dict[str, Method]) -> dict:
    """Scores of every method: metric -> method -> subject -> errors; "fits" tell the voxels."""
    from DMRIMicroLib.training.pool import METRICS, load_slice

    raw: dict = {name: {} for name in METRICS}
    for number, file in enumerate(files):
        item = load_slice(file)
        scan = _brain.scanned(item, _brain.sparse_protocol(number), number)
        found = {k: work(scan, f"sparse {number}") for k, work in methods.items()}
        for k, name in enumerate(METRICS):
            truth, at = item.labels[k].numpy(), item.known[k].numpy()
            if name in found.get("fits", {}):
                at = at & found["fits"][name].answered
            if not at.any():
                continue
            place = raw[name]
            place.setdefault("truth", {})[number] = {"mse": float(truth[at].var())}
            for method, maps in found.items():
                if name in maps:
                    place.setdefault(method, {})[number] = compare(maps[name], truth, at)
        print(scan.acquisition.describe(), file=sys.stderr, flush=True)
    return raw


def rmse(entries: dict, subjects) -> float:
    """Root mean squared error over subjects, each counted alike."""
    return float(np.sqrt(np.mean([entries[s]["mse"] for s in subjects])))


def against(place: dict, mine: str, other: str) -> dict | None:
    """Compare on the subjects that the other method can tell of; None if there are none."""
    theirs = place.get(other, {})
    both = [s for s in place.get(mine, {}) if s in theirs]
    if not both:
        return None
    own, its = rmse(place[mine], both), rmse(theirs, both)
    won = sum(place[mine][s]["mse"] < theirs[s]["mse"] for s in both)
    told = {"RMSE": its, "RMSE of the codebook": own, "ratio": own / its}
    told |= {"MAE": np.mean([theirs[s]["mae"] for s in both])}
    told |= {"MAE of the codebook": np.mean([place[mine][s]["mae"] for s in both])}
    told = {k: short(v) for k, v in told.items()}
    return told | {"subjects": len(both), "won": won, "better": own < its}


def summary(raw: dict, mine: str) -> dict:
    """Put together what is said of one codebook, and whether it holds."""
    metrics, subjects = {}, max((len(p.get(mine, {})) for p in raw.values()), default=0)
    for name, place in raw.items():
        own = place.get(mine)
        if own is None:
            continue
        means = {k: np.mean([v[k] for v in own.values()]) for k in ("mae", "bias", "r", "covered")}
        entry: dict = {"RMSE": short(rmse(own, own))}
        entry["RMSE / sd of the truth"] = short(rmse(own, own) / rmse(place["truth"], own))
        entry |= {k: short(v) for k, v in means.items()}
        for other in ("fits", "demic"):
            entry[other] = against(place, mine, other) or absent(raw, other)
        metrics[name] = entry
    return {"metrics": metrics, "subjects": subjects, "verdict": verdict(metrics)}


def absent(raw: dict, method: str) -> str:
    """Say why there is nothing of a method on one metric."""
    return CANNOT if any(method in place for place in raw.values()) else NOT_RUN


def verdict(metrics: dict) -> dict:
    """Count what was asked of 24 metrics; what others cannot tell is counted apart."""
    out: dict = {}
    lost, won = set(), set(metrics)
    for other in ("fits", "demic"):
        told = {k: v[other] for k, v in metrics.items() if not isinstance(v[other], str)}
        better = [k for k, v in told.items() if v["better"]]
        worse = [k for k in told if k not in better]
        out[f"better than {other}"], out[f"not better than {other}"] = better, worse
        out[f"{other} cannot"] = [k for k, v in metrics.items() if v[other] == CANNOT]
        lost, won = lost | set(worse), won & set(better)
    low, high = INTERVALS
    out["intervals off"] = [k for k, v in metrics.items() if not low <= v["covered"] <= high]
    out["intervals hold"] = not out["intervals off"]
    compared = all(v["demic"] != NOT_RUN for v in metrics.values())
    out["better than both"] = len(won)
    out["better holds"] = len(won) >= WINS
    out["better holds if what others cannot tell counts"] = (
        compared and len(metrics) - len(lost) >= WINS
    )
    return out


def across(files: list[Path], methods: dict[str, Method]) -> dict:
    """Return what `spreads` tells: metric -> method -> list over subjects."""
    from DMRIMicroLib.training.pool import METRICS, load_slice

    raw: dict = {}
    for number, file in enumerate(files):
        item = load_slice(file)
        found: dict = {k: [] for k in methods}
        for p, (count, b0) in enumerate(CROSS):
            scan = _brain.scanned(item, _brain.protocol(count, b0, p), number, f"protocol {p}")
            for k, work in methods.items():
                found[k].append(work(scan, f"protocol {p} {number}"))
        for k, name in enumerate(METRICS):
            for method, variance in spreads(found, name, item.known[k].numpy()).items():
                raw.setdefault(name, {}).setdefault(method, []).append(variance)
        print(f"subject {number}", file=sys.stderr, flush=True)
    return raw


def spreads(found: dict[str, list[dict[str, Told]]], name: str, at: np.ndarray) -> dict:
    """Mean variance over protocols within a voxel, and that between voxels, of one subject.

    Every other method with the codebook beside it on the same protocols, of which it needs two.
    """
    out = {}
    for method, maps in found.items():
        can = [p for p, told in enumerate(maps) if name in told]
        if len(can) < 2:
            continue
        where = at & np.all([maps[p][name].answered for p in can], 0)
        for other in found:
            if (method != other and not other.startswith("codebook")) or not where.any():
                continue
            if not all(name in found[other][p] for p in can):
                continue
            values = np.stack([found[other][p][name].value[where] for p in can])
            key = method if other == method else f"{other} beside {method}"
            out[key] = [float(values.var(0, ddof=1).mean()), float(values.mean(0).var())]
    return out


def across_summary(raw: dict, mine: str) -> dict:
    """Spread of each metric and its share of the others'.

    A method that always says the same has no spread: so also relative to that of its map over
    voxels.
    """
    out: dict = {}
    for name, place in raw.items():
        if mine not in place:
            continue
        within, share = map(short, _spread(place[mine]))
        entry: dict = {"spread": within, "over sd of the map": share}
        for other in ("fits", "demic"):
            if other in place:
                its, its_share = _spread(place[other])
                own, own_share = _spread(place[f"{mine} beside {other}"])
                told = {"spread": its, "of the codebook": own, "ratio": own / its}
                told["ratio, each over the sd of its map"] = own_share / its_share
                entry[other] = {k: short(v) for k, v in told.items()}
                entry[other]["holds"] = bool(own <= SPREAD * its)
            else:
                entry[other] = absent(raw, other)
        out[name] = entry
    fits = {k: v["fits"] for k, v in out.items() if not isinstance(v["fits"], str)}
    lost = [k for k, v in fits.items() if not v["holds"]]
    relative = "ratio, each over the sd of its map"
    told = {"holds": bool(fits) and not lost, "not half of the fits'": lost}
    told[f"not half, {relative}"] = [k for k, v in fits.items() if (v[relative] or 0) > SPREAD]
    return told | {"fits cannot": [k for k in out if k not in fits], "metrics": out}


def _spread(variances: list[list[float]]) -> tuple[float, float]:
    """Return the standard deviation within voxels, and as a share of that between them."""
    within, between = np.sqrt(np.mean(variances, 0))
    return float(within), float(within / between) if between else np.nan


def methods_of(weights: list[str], demic: str | None, voxels: int) -> dict[str, Method]:
    """Return what is run: codebooks by name, fits, and demic if there are weights."""
    out = {label(name): _brain.codebook(name) for name in weights}
    out["fits"] = _brain.kept_fits(voxels)
    return out | ({"demic": _brain.demic(demic)} if demic else {})


def label(weights: str) -> str:
    """Name a codebook in the results."""
    return "codebook" if weights == "codebook" else f"codebook {Path(weights).stem}"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["codebook"])
    parser.add_argument("--demic", help="weights of demic; without, it is left out")
    parser.add_argument("--parts", nargs="+", choices=("accuracy", "protocols"))
    parser.add_argument("--subjects", type=int, default=SUBJECTS)
    parser.add_argument("--cross-subjects", type=int, default=CROSS_SUBJECTS)
    parser.add_argument("--voxels", type=int, default=VOXELS, help="of a slice that are fitted")
    parser.add_argument("--anatomies", default="all", help="heads, as of `dmrimicro train`")
    parser.add_argument("--name", default="codebook_brain", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = methods_of(options.weights, options.demic, options.voxels)
    files = _brain.slices(options.subjects, options.anatomies)
    results = Results(options.name, fresh=options.parts is None)
    parts = options.parts or ["accuracy", "protocols"]
    names = [label(name) for name in options.weights]
    if "accuracy" in parts:
        raw = accuracy(files, methods)
        for name in names:
            results.put("accuracy", name, value=summary(raw, name))
    if "protocols" in parts:
        spread = across(files[: options.cross_subjects], methods)
        for name in names:
            results.put("protocols", name, value=across_summary(spread, name))
    print(results.file.read_text())


if __name__ == "__main__":
    main()
