"""Metrics that a codebook was not trained on, learned from 2,000 voxels by `adapt`.

`python3 run.py bench codebook_adapt --without W1 --trained W2` writes
benchmarks/results/codebook_adapt.json. W1 are weights of a training that left out three metrics
(`dmrimicro train codebook --without MK,f_soma,RTOP`), W2 those of the same training with them. Each
metric is learned from labelled voxels of some simulated subjects, scanned by protocols of 10 to 32
volumes, and told of others; held against what W2 says of these.

`--threads` is how many there are, `--tested` the number of these others, `--anatomies` names the
heads (_brain.py) and `--name` the file. Half a minute with slices that are there.
"""

from __future__ import annotations

import argparse
import sys
import time

import _brain
import numpy as np
from _common import Results, circumstances
from _scores import short

KINDS = {"MK": "kurtosis", "f_soma": "SANDI", "RTOP": "MAP-MRI"}
"""Metrics that are left out."""

VOXELS, TEACHERS, TESTED = 2000, 4, 10
"""Labelled voxels in all, subjects that they are of, and others."""

SHARE, SECONDS = 0.95, 60.0
"""Of W2's correlation, at least; and time to learn one metric, at most."""

SEED = 3


def labelled(items: list, column: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Label `VOXELS` voxels of some slices at random, others are NaN: (x, y, 1) each."""
    known = [item.known[column].numpy() for item in items]
    picked = np.zeros(sum(k.sum() for k in known), bool)
    picked[rng.permutation(len(picked))[:VOXELS]] = True
    out = []
    for item, at, chosen in zip(
        items, known, np.split(picked, np.cumsum([k.sum() for k in known])[:-1]), strict=True
    ):
        values = np.full((*at.shape, 1), np.nan)
        values[at, 0] = np.where(chosen, item.labels[column].numpy()[at], np.nan)
        out.append(values)
    return out


def learn(weights: str, metric: str, items: list, scans: list, out) -> dict:
    """Run `adapt` on the labelled voxels of some subjects."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.training.pool import METRICS

    rng, column = np.random.default_rng(SEED), METRICS.index(metric)
    targets = labelled(items, column, rng)
    masks = [np.isfinite(t) for t in targets]
    began = time.perf_counter()
    made = dm.adapt(weights, scans, targets, name=metric, mask=masks, out=out, device="cpu")
    took = time.perf_counter() - began
    return {
        "voxels": made.voxels,
        "seconds": short(took),
        "r of the folds": short(made.correlation),
    }


def correlation(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """Correlate over the voxels of all subjects together, and average each subject's own."""
    x, y = (np.concatenate(v) for v in zip(*pairs, strict=True))
    each = [np.corrcoef(a, b)[0, 1] for a, b in pairs if a.std() > 0 and b.std() > 0]
    whole = np.corrcoef(x, y)[0, 1] if x.std() > 0 else np.nan
    return {"r": short(whole), "mean r": short(np.mean(each) if each else np.nan)}


def tried(without: str, trained: str, subjects: list, folder) -> dict:
    """Learn every metric and test it: subjects are slices with their scans."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.training.pool import METRICS

    items, scans = zip(*subjects, strict=True)
    heads, out = {}, {}
    for metric in KINDS:
        heads[metric] = folder / f"{metric}.safetensors"
        taught = (list(items[:TEACHERS]), list(scans[:TEACHERS]))
        out[metric] = {"kind": KINDS[metric]} | learn(without, metric, *taught, heads[metric])
        print(metric, out[metric], file=sys.stderr, flush=True)
    pairs: dict = {}
    for item, scan in subjects[TEACHERS:]:
        own = dm.codebook(scan, weights=without, extra=list(heads.values()), device="cpu")
        theirs = dm.codebook(scan, weights=trained, device="cpu")
        for metric in KINDS:
            k = METRICS.index(metric)
            at, truth = item.known[k].numpy(), item.labels[k].numpy()
            for name, maps in (("adapted", own), ("trained", theirs)):
                told = np.asarray(maps[metric].data)[:, :, 0][at]
                pairs.setdefault(metric, {}).setdefault(name, []).append((told, truth[at]))
    for metric, both in pairs.items():
        place = out[metric]
        place |= {name: correlation(values) for name, values in both.items()}
        share = (place["adapted"]["r"] or 0.0) / (place["trained"]["r"] or np.nan)
        place["share of r"] = short(share)
        place["holds"] = bool(share >= SHARE and place["seconds"] < SECONDS)
    return out


def main() -> None:
    import tempfile
    from pathlib import Path

    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", required=True, help="weights trained without the metrics")
    parser.add_argument("--trained", default="codebook", help="weights trained with them")
    parser.add_argument("--tested", type=int, default=TESTED, help="subjects that are told of")
    parser.add_argument("--anatomies", default="all", help="heads, as of `dmrimicro train`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="codebook_adapt", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from DMRIMicroLib.training.pool import load_slice

    files = _brain.slices(TEACHERS + options.tested, options.anatomies)
    items = [load_slice(file) for file in files]
    scans = [
        _brain.scanned(item, _brain.sparse_protocol(k), k, "adapt") for k, item in enumerate(items)
    ]
    results = Results(options.name, fresh=True)
    with tempfile.TemporaryDirectory() as folder:
        subjects = list(zip(items, scans, strict=True))
        found = tried(options.without, options.trained, subjects, Path(folder))
    told = circumstances() | {"threads": options.threads}
    results.put("metrics", value=found)
    results.put("circumstances", value=told)
    print(results.file.read_text())


if __name__ == "__main__":
    main()
