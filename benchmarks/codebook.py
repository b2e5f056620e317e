"""The codebook on sparse real data, beside conventional fits, smoothing, denoising and FORCE.

`python3 run.py bench codebook` writes benchmarks/results/codebook_real.json. The example scan
(103 volumes) is thinned out to 7 to 31 volumes, `_sparse.SUBSETS` times each, and every method's
maps are held against

- `rest`: the volumes that were left out, fitted conventionally: independent noise;
- `dense`: all volumes, fitted conventionally;

each by our own fits and by dipy and AMICO ("peers"), and against the volumes left out themselves.
Two halves of all volumes tell how well the references are known. `verdict` in the file holds each
codebook against what was asked of it (_verdict.py): NMSE of FA, MK, NDI and ODI and its ratios,
volumes left out, correlations, paired tests, and `holds` of every bar.

Baselines are kept under benchmarks/cache/ (delete a folder to run it again) and the method under
test is run anew. AMICO's licence is for research only; it is run where it is installed.

`--weights` may name several files; the signal space of the first is that of the baseline "gaussian
prior" (_gaussian.py), which is kept for each space. `--demic` names weights of the published
network, `--only-baselines` leaves the codebook out, and the Gaussian prior unless `--weights` are
given. `--protocols P6+6 all` takes some of the protocols only and `--subsets 1` fewer subsets, to
try things; `--name` is that of the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import _baselines
import _gaussian
import _scores
import _sparse
import numpy as np
from _common import RESULTS, circumstances
from _networks import METRICS, published, under_test
from _verdict import table, verdict

REFERENCES = ("rest, ours", "rest, peers", "dense, ours", "dense, peers")
LABEL = {"MK_iso": "MK"}
"""Reference of a metric that is another estimate of the same."""

SPARSE_ONLY = set(_baselines.METHODS) - {"ours", *_baselines.PEERS.values()}
"""Methods that are no reference: run on the subsets and on all volumes."""

SLOW = {"dipy DKI": ("P6+15", "P15+15"), "dipy MSDKI": ("P3+6", "P6+6", "P6+15", "P15+15")}
"""Kurtoses of the volumes left out are fitted by dipy where it can fit those of the subset."""

FORCE_RUNS = 2
"""Subsets that FORCE is run on: it simulates anew for each."""

HIGHEST = _baselines.KURTOSIS[1]
"""Of any metric as it is compared; the lowest is 0."""

EVERY = (*_sparse.PROTOCOLS, "all")

Answers = Callable[[str], "dict | None"]
"""From the name of a fit to a method's maps and prediction errors, None if it cannot do it."""


def wanted(method: str, job: str) -> bool:
    """Tell whether a baseline is run on a job."""
    if method in SLOW and job.endswith("rest"):
        return job.split()[0] in SLOW[method]
    if method not in SPARSE_ONLY:
        return True
    if job.endswith("rest") or job.startswith("half"):
        return False
    return method != "FORCE" or (job != "all" and int(job.split()[1]) < FORCE_RUNS)


@cache
def found(method: str, job: str) -> dict | None:
    """Return the maps of a method, "peers" being dipy's and AMICO's together."""
    if method != "peers":
        if not wanted(method, job):
            return None
        try:
            return _sparse.run(method, _baselines.METHODS[method], job)
        except ModuleNotFoundError as error:
            print(f"{method}: {error}", file=sys.stderr)
            return None
    parts = {name: found(name, job) or {} for name in dict.fromkeys(_baselines.PEERS.values())}
    out = {k: parts[name][k] for k, name in _baselines.PEERS.items() if k in parts[name]}
    return out | {k: v for part in parts.values() for k, v in part.items() if k[:5] == "error"}


def anew(work: Callable) -> Answers:
    """Run a method each time that it is asked."""
    return partial(_sparse.run, "", work, keep=False)


def by_gaussian(weights: str) -> Answers:
    """Return the Gaussian prior in the signal space of these weights, from the cache."""
    space = _gaussian.space_of(weights)
    return partial(_sparse.run, _gaussian.kept_as(space), _gaussian.with_prior(space))


def reference(name: str, job: str) -> dict:
    """Return the maps that a job's are held against."""
    which, whose = name.split(", ")
    return found(whose, "all" if which == "dense" else f"{job} rest") or {}


def scored(maps: dict, truth: dict, regions: dict) -> dict[str, np.ndarray]:
    """Compare the maps of one fit: "metric region" -> five numbers, and NMSE of each slice."""
    out, z = {}, _sparse.slices()
    for metric in METRICS:
        label = LABEL.get(metric, metric)
        if metric not in maps or label not in truth:
            continue
        x, y = (np.clip(np.nan_to_num(v), 0, HIGHEST) for v in (maps[metric], truth[label]))
        weight = _scores.weights(label, truth)
        similar = _scores.similarity(x, y, _scores.RANGE[label])
        for region, inside in regions.items():
            picked = (v[inside] for v in (x, y, weight, similar))
            out[f"{metric} {region}"] = _scores.compare(*picked)
        tissue = regions["tissue"]
        out[f"{metric} slices"] = np.array([
            _scores.compare(x[k], y[k], weight[k])[0]
            for k in (tissue & (z == level) for level in np.unique(z))
        ])  # fmt: skip
    if "V1" in maps and "V1" in truth:
        fibre = regions["tissue"] & (truth["FA"] > _sparse.FIBRE)
        out["V1 angle"] = np.array([np.median(_scores.angle(maps["V1"], truth["V1"])[fibre])])
    return out


def predicted(maps: dict, job: str, regions: dict) -> dict[str, list[float]]:
    """RMSE of the volumes asked for in tissue: model -> both shells, all, and of each slice."""
    asked = _sparse.scan().acquisition.bvals[_sparse.jobs_once()[job][1]]
    count = np.array([(np.abs(asked - b) < _sparse.SHELL_WIDTH).sum() for b in _sparse.SHELLS])
    tissue, z, out = regions["tissue"], _sparse.slices(), {}
    for key, square in maps.items():
        if key.startswith("error "):
            levels = [square[tissue & (z == level)] for level in np.unique(z)]
            means = [square[tissue], *levels]
            total = [m.mean(0) @ count / count.sum() for m in means]
            out[key[6:]] = np.sqrt([*square[tissue].mean(0), *total]).tolist()
    return out


def floors(regions: dict) -> dict:
    """Compare two halves of all volumes; a fourth of their NMSE is that of the whole by noise.

    And the noise of one volume relative to b0, from what DKI leaves of all volumes.
    """
    out = {}
    for whose in ("ours", "peers"):
        both = [
            scored(found(whose, f"half {s}a"), found(whose, f"half {s}b"), regions)
            for s in range(_sparse.HALVES)
        ]
        for key in both[0]:
            if key.endswith("tissue"):
                values = np.mean([b[key] for b in both], 0)
                entry = {"NMSE between halves": values[0], "r": values[3], "floor": values[0] / 4}
                entry = {k: _scores.short(v) for k, v in entry.items()}
                out.setdefault(whose, {})[key.split()[0]] = entry
    volumes = len(_sparse.scan().acquisition)
    left = predicted(found("ours", "all"), "all", regions)["DKI"][2]
    freedom = (volumes - _baselines.DKI_VOLUMES) / volumes
    return out | {"RMSE of a perfect prediction": _scores.short(left / freedom**0.5)}


def evaluate(
    methods: dict[str, Answers],
    regions: dict,
    protocols: Sequence[str] = EVERY,
    subsets: int = _sparse.SUBSETS,
) -> dict:
    """Scores of every method: protocol -> method -> reference -> key -> list over subsets."""
    raw: dict = {}
    for protocol in protocols:
        jobs = [f"{protocol} {seed}" for seed in range(subsets)]
        for method, answers in methods.items():
            for job in jobs if protocol != "all" else ["all"]:
                if maps := answers(job):
                    place = raw.setdefault(protocol, {}).setdefault(method, {})
                    _put(place, maps, job, regions)
            print(protocol, method, file=sys.stderr, flush=True)
    return raw


def _put(place: dict, maps: dict, job: str, regions: dict) -> None:
    """Add the scores of one fit: reference -> key -> list over subsets."""
    for name in REFERENCES:
        if job != "all" or not name.startswith("rest"):
            for key, value in scored(maps, reference(name, job), regions).items():
                place.setdefault(name, {}).setdefault(key, []).append(value)
    for model, value in predicted(maps, job, regions).items():
        place.setdefault("held out", {}).setdefault(model, []).append(value)


def told(raw: dict) -> dict:
    """Means over the subsets, for the file: white and grey matter against our references only."""
    out: dict = {}
    for protocol, methods in raw.items():
        for method, places in methods.items():
            for name, entries in places.items():
                for key, values in entries.items():
                    short = [_scores.short(v) for v in np.mean(values, 0)]
                    if name != "held out" and key.endswith("slices"):
                        continue
                    if key.endswith(("WM", "GM")) and "peers" in name:
                        continue
                    if key.endswith(("tissue", "WM", "GM")):
                        short = _scores.summary(values)
                    elif name == "held out":
                        short = short[:3]
                    place = out.setdefault(protocol, {}).setdefault(method, {})
                    place.setdefault(name, {})[key] = short
    return out


def regions_of() -> dict[str, np.ndarray]:
    """Return tissue, white and grey matter: (n,) bool each."""
    water = found("AMICO", "all") or found("ours", "all")
    return _sparse.regions(found("dipy DTI", "all"), water["FWF"])


def label(weights: str) -> str:
    """Name a codebook in the results."""
    return "codebook" if weights == "codebook" else f"codebook {Path(weights).stem}"


def methods_of(weights: Sequence[str], demic: str | None, tested: bool) -> dict[str, Answers]:
    """Return what is run; the Gaussian prior is kept, but that of another space is another."""
    out = {label(name): anew(under_test(name)) for name in weights} if tested else {}
    if demic:
        out["demic"] = anew(published(demic))
    names = [m for m in _baselines.METHODS if m not in _baselines.PEERS.values()]
    out |= {name: partial(found, name) for name in ("peers", *names)}
    return out | ({"gaussian prior": by_gaussian(weights[0])} if weights else {})


def options_of() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", help="of codebooks; by default the shipped ones")
    parser.add_argument("--demic", help="weights of the published network; without, it is left out")
    parser.add_argument("--only-baselines", action="store_true")
    parser.add_argument("--protocols", nargs="+", choices=EVERY, default=EVERY)
    parser.add_argument("--subsets", type=int, default=_sparse.SUBSETS)
    parser.add_argument("--name", default="codebook_real", help="of the file under results/")
    options = parser.parse_args()
    if options.weights is None:
        options.weights = [] if options.only_baselines else ["codebook"]
    return options


def main() -> None:
    import torch

    options = options_of()
    torch.set_num_threads(1)
    methods = methods_of(options.weights, options.demic, not options.only_baselines)
    regions = regions_of()
    raw = evaluate(methods, regions, options.protocols, options.subsets)
    floor = floors(regions)
    kept = list(_baselines.METHODS)
    kept += [_gaussian.kept_as(_gaussian.space_of(name)) for name in options.weights[:1]]
    content = {
        "circumstances": circumstances(),
        "voxels": {k: int(v.sum()) for k, v in regions.items()},
        "columns": list(_scores.COLUMNS),
        "columns, held out": ["RMSE b = 1000", "RMSE b = 2000", "RMSE"],
        "baselines were made with": _sparse.versions(kept),
        "floor": floor,
        "verdict": {
            name: verdict(raw, name, floor) for name in methods if name.startswith("codebook")
        },
        "scores": told(raw),
    }
    (RESULTS / f"{options.name}.json").write_text(_scores.dumped(content))
    print(table(raw))


if __name__ == "__main__":
    main()
