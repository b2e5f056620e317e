"""What the parts of the codebook are worth: several trainings in one table.

`python3 run.py bench codebook_ablations NAME=WEIGHTS ...` writes
benchmarks/results/codebook_ablations.json, the first being the whole network after a short training
(`dmrimicro train codebook --preset cpu-short`), the others those of the presets `cpu-no-mamba`,
`cpu-no-cnn`, `cpu-no-kernels` and `cpu-abg`, as short, or `demic`. On unseen simulated brains
(codebook_brain.py): error of the 24 metrics, relative to the spread of the truth. On thinned real
data (codebook.py): NMSE against the volumes left out, fitted by us, and the error of these volumes'
prediction by the signal space.

`--subjects` and `--subsets` tell how many simulated brains and subsets of the real data,
`--no-real` leaves real data out, `--anatomies` names the heads, `--name` the file.
"""

from __future__ import annotations

import argparse
import sys

import _brain
import _sparse
import codebook as real
import codebook_brain as brain
import numpy as np
from _common import Results
from _networks import published, under_test
from _scores import short
from _verdict import ASKED, BAR, mean

REFERENCE = "rest, ours"
SUBJECTS = 20


def kind(weights: str) -> str:
    """Tell of which network weights are."""
    from DMRIMicroLib.weights import load

    return load(weights)[1].kind


def simulated(named: dict[str, str], files: list) -> dict:
    """Score every network on unseen brains: name -> errors."""
    methods = {
        k: (_brain.demic if kind(w) == "demic" else _brain.codebook)(w) for k, w in named.items()
    }
    raw = brain.accuracy(files, methods)
    out: dict = {}
    for name in named:
        relative, covered = {}, []
        for metric, place in raw.items():
            own = place.get(name, {})
            if own:
                relative[metric] = brain.rmse(own, own) / brain.rmse(place["truth"], own)
                covered += [v["covered"] for v in own.values()]
        subjects = max(len(place.get(name, {})) for place in raw.values())
        told = {"mean": np.mean(list(relative.values())), "covered": np.mean(covered)}
        out[name] = {k: short(v) for k, v in told.items()} | {"subjects": subjects}
        out[name]["metrics"] = {k: short(v) for k, v in relative.items()}
    return out


def on_real(named: dict[str, str], subsets: int) -> dict:
    """Score every network on thinned real data: name -> protocol -> metric -> NMSE."""
    methods = {
        k: real.anew((published if kind(w) == "demic" else under_test)(w)) for k, w in named.items()
    }
    raw = real.evaluate(methods, real.regions_of(), BAR, subsets)
    out: dict = {}
    for name in named:
        for protocol in BAR:
            place = {k: mean(raw, protocol, name, REFERENCE, f"{k} tissue") for k in ASKED}
            held = raw.get(protocol, {}).get(name, {}).get("held out", {}).get("codebook")
            place["held out"] = None if held is None else float(np.mean([v[2] for v in held]))
            told = {k: None if v is None else short(v) for k, v in place.items()}
            out.setdefault(name, {})[protocol] = told
    return out


def table(content: dict) -> str:
    """One row a network: simulated mean error, coverage; real NMSE by protocol and metric."""
    heads = [f"{p} {m}" for p in BAR for m in (*ASKED, "held out")]
    lines = ["network".ljust(20) + "".join(h.rjust(15) for h in ("simulated", "covered", *heads))]
    for name, own in content.get("simulated", {}).items():
        cells = [own["mean"], own["covered"]]
        told = content.get("real", {}).get(name, {})
        cells += [told.get(p, {}).get(m) for p in BAR for m in (*ASKED, "held out")]
        text = ["-" if c is None else f"{c:.4f}" for c in cells]
        lines.append(name.ljust(20) + "".join(c.rjust(15) for c in text))
    return "\n".join(lines)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="+", help="NAME=WEIGHTS, the whole network first")
    parser.add_argument("--subjects", type=int, default=SUBJECTS)
    parser.add_argument("--subsets", type=int, default=_sparse.SUBSETS, help="of the real data")
    parser.add_argument("--anatomies", default="all", help="heads, as of `dmrimicro train`")
    parser.add_argument("--no-real", action="store_true", help="only simulated brains")
    parser.add_argument("--name", default="codebook_ablations", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if wrong := [w for w in options.weights if "=" not in w]:
        parser.error(f"write NAME=WEIGHTS in place of {wrong[0]}")
    named = dict(w.split("=", 1) for w in options.weights)
    results = Results(options.name, fresh=True)
    files = _brain.slices(options.subjects, options.anatomies)
    results.put("simulated", value=simulated(named, files))
    if not options.no_real:
        results.put("real", value=on_real(named, options.subsets))
    print(table(results.content), file=sys.stdout)


if __name__ == "__main__":
    main()
