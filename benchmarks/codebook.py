"""The codebook on sparse real data, beside conventional fits, smoothing, denoising and FORCE.

`python3 run.py bench codebook` writes benchmarks/results/codebook_real.json. The example scan
(103 volumes) is thinned out to 7 to 31 volumes, `_sparse.SUBSETS` times each, and every method's
maps are held against

- `rest`: the volumes that were left out, fitted conventionally: independent noise;
- `dense`: all volumes, fitted conventionally;

each by our own fits and by dipy and AMICO ("peers"), and against the volumes left out themselves.
Two halves of all volumes tell how well the references are known. Baselines are kept under
benchmarks/cache/ (delete a folder to run it again) and the method under test is run anew.
AMICO's licence is for research only; it is run where it is installed. `--weights` may name several
files, `--only-baselines` leaves the codebook out.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

import _baselines
import _scores
import _sparse
import numpy as np
from _common import RESULTS, circumstances
from _sparse import Fitted
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

METRICS = ("FA", "MD", "MK", "MSK", "MK_iso", "NDI", "ODI", "FWF")


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


def under_test(weights: str):
    """Return the codebook with these weights as a method."""
    from DMRIMicroLib.codebooks.estimate import codebook

    def work(scan) -> Fitted:
        maps = codebook(scan, weights=weights, device="cpu")
        return Fitted(in_mask(maps, scan), {"codebook": by_space(scan, weights)})

    return work


def published(weights: str):
    """Return `demic` with these weights as a method; it cannot tell of one shell."""
    from DMRIMicroLib.codebooks.demic_maps import demic
    from DMRIMicroLib.errors import NotIdentifiable

    def work(scan) -> Fitted | str:
        try:
            return Fitted(in_mask(demic(scan, weights=weights, device="cpu"), scan))
        except NotIdentifiable as error:
            return str(error)

    return work


def in_mask(maps, scan) -> dict[str, np.ndarray]:
    """Take the metrics of the voxels of the mask, as the baselines tell them."""
    values = {k: np.asarray(maps[k])[scan.mask] for k in METRICS if k in maps}
    values["MD"] = values["MD"] * _baselines.UM2_MS
    if "MK" in values:
        values["MK"] = np.clip(values["MK"], *_baselines.KURTOSIS)
    return values


def by_space(scan, weights: str):
    """Return the prediction of signals by the posterior in the signal space."""
    import torch

    from DMRIMicroLib.codebooks.slices import on_grid, open_codebook, predictions, slice_order

    loaded, device = open_codebook(weights), torch.device("cpu")
    edges = scan.affine[:3, :3]
    frame = torch.as_tensor((edges / np.linalg.norm(edges, axis=0)).T.copy())
    _, usable, (numbers,) = predictions(scan, loaded, lambda found, means: (found.space,), device)

    def predict(asked) -> np.ndarray:
        design, offset, _ = loaded.space.design(asked, frame)
        signal = numbers @ design.float().T + offset.float()
        order = slice_order(usable)
        volumes = [on_grid(v, order, usable.shape)[scan.mask] for v in signal.T]
        return np.stack(volumes, 1)

    return predict


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


def evaluate(methods: dict, regions: dict) -> dict:
    """Scores of every method: protocol -> method -> reference -> key -> list over subsets."""
    raw: dict = {}
    for protocol in (*_sparse.PROTOCOLS, "all"):
        for method, work in methods.items():
            for seed in range(_sparse.SUBSETS if protocol != "all" else 1):
                job = f"{protocol} {seed}" if protocol != "all" else "all"
                maps = _sparse.run(method, work, job, keep=False) if work else found(method, job)
                if not maps:
                    continue
                place = raw.setdefault(protocol, {}).setdefault(method, {})
                for name in REFERENCES:
                    if protocol == "all" and name.startswith("rest"):
                        continue
                    found_here = scored(maps, reference(name, job), regions)
                    for key, value in found_here.items():
                        place.setdefault(name, {}).setdefault(key, []).append(value)
                for model, value in predicted(maps, job, regions).items():
                    place.setdefault("held out", {}).setdefault(model, []).append(value)
            print(protocol, method, file=sys.stderr, flush=True)
    return raw


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


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["codebook"])
    parser.add_argument("--demic", help="weights of the published network; without, it is left out")
    parser.add_argument("--only-baselines", action="store_true")
    parser.add_argument("--name", default="codebook_real", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tests = {}
    if not options.only_baselines:
        for name in options.weights:
            label = "codebook" if name == "codebook" else f"codebook {Path(name).stem}"
            tests[label] = under_test(name)
    names = [m for m in _baselines.METHODS if m not in _baselines.PEERS.values()]
    network = {"demic": published(options.demic)} if options.demic else {}
    methods = {**tests, **network, "peers": None, **dict.fromkeys(names)}
    regions = regions_of()
    raw = evaluate(methods, regions)
    floor = floors(regions)
    content = {
        "circumstances": circumstances(),
        "voxels": {k: int(v.sum()) for k, v in regions.items()},
        "columns": list(_scores.COLUMNS),
        "columns, held out": ["RMSE b = 1000", "RMSE b = 2000", "RMSE"],
        "baselines were made with": _sparse.versions(),
        "floor": floor,
        "verdict": {name: verdict(raw, name, floor) for name in tests},
        "scores": told(raw),
    }
    (RESULTS / f"{options.name}.json").write_text(_scores.dumped(content))
    print(table(raw))


if __name__ == "__main__":
    main()
