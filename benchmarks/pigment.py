"""PIGMENT on sparse real data, beside the codebook, conventional fits, smoothing and denoising.

`python3 run.py bench pigment` writes benchmarks/results/pigment.json. Subsets, references, regions,
kept baselines and columns are those of codebook.py. V1 is that of the tensor fitted to PIGMENT's
noise-free signal at b = 1000; the volumes left out are predicted by its posterior mean.

- bar: six protocols, all volumes, and halves of all volumes. `verdict` holds the method against
  what was asked of it (`ASKED`, `DENSE`), and `holds` puts that together. Dense data have no truth:
  there PIGMENT on one half of the volumes and the conventional fit of the same half are held
  against the conventional fit of the other half.
- ablation, on P6+6: no prior, the population's Gaussian (_gaussian.py), the network's posterior
  mean (the codebook), samples without and with what the network learns from the scan; and numbers
  of samples, of steps and of adaptation, each with its seconds on one thread.

`--weights` names the file of both networks, `--preset` that of PIGMENT. `--parts` takes one of the
two parts and leaves the other's results as they are; `--protocols`, `--subsets` and
`--ablation-subsets` take less or more (codebook.py has five subsets), `--workers` tells how many
processes of one thread there are, `--name` is that of the file. On two quiet cores: 20 minutes.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import _pigment
import _scores
import _sparse
import codebook as real
import numpy as np
from _common import Results
from _networks import under_test
from _verdict import (
    ASKED as USUAL,
)
from _verdict import (
    DENSE_R,
    Demands,
    aim,
    bar,
    by_kind,
    correlations,
    held_out,
    mean,
    paired,
    table,
    together,
)

ASKED = Demands(
    label=_pigment.LABEL,
    protocols=("P3+6", "P6+6"),
    over_peers={"FA": 0.3, "MK": 0.4, "NDI": 0.4, "ODI": 0.4},
    over_careful={"NDI": 0.7, "ODI": 0.7, "FWF": 1.0},
    aim=("FA", "MD", "NDI", "ODI", "MK"),
)
"""Of sparse data."""

METRICS = ("FA", "MD", "MK", "NDI", "ODI", "FWF")
EQUAL = dict.fromkeys(METRICS, 1.0)
DENSE = Demands(_pigment.LABEL, ("P15+15",), EQUAL, EQUAL)
"""No worse than conventional fits where these do well."""

ABLATION = "P6+6"
SUBSETS, ABLATION_SUBSETS = 3, 1
NOT_ADAPTED = 0

PARTS = ("bar", "ablation")


def verdict(raw: dict, name: str, floor: dict, halves: dict) -> dict:
    """Hold PIGMENT against what was asked; `holds` puts together what does and what not."""
    sparse = [p for p in ASKED.protocols if p in raw]
    dense = [p for p in DENSE.protocols if p in raw]
    out = {
        "bar": {p: bar(raw, name, p, floor, ASKED) for p in sparse},
        "dense": {p: bar(raw, name, p, floor, DENSE) for p in dense},
        "beside the codebook": {p: beside(raw, name, "codebook", p) for p in raw},
        "held out": {p: held_out(raw, name, p, ASKED) for p in raw if p != "all"},
        "halves": halves,
        "all volumes, r": correlations(raw, name, "all", dict.fromkeys(USUAL, DENSE_R)),
        "aim": aim(raw, name, ASKED),
        "wilcoxon, NMSE against the rest": paired(raw, name),
    }
    parts = by_kind(out["bar"])
    parts["at most the codebook's"] = {
        f"{p} {m}": entry for p in sparse for m, entry in out["beside the codebook"][p].items()
    }
    parts["held out"] = {p: out["held out"][p] for p in (*sparse, *dense)}
    parts["P15+15, rest"] = by_kind(out["dense"])["NMSE, rest"]
    parts |= {"halves of all volumes": halves, "aim": out["aim"]}
    return {"holds": together(parts)} | out


def beside(raw: dict, name: str, other: str, protocol: str) -> dict:
    """NMSE of two methods against the same reference, by metric."""
    reference, out = f"{'dense' if protocol == 'all' else 'rest'}, ours", {}
    for metric in METRICS:
        both = [mean(raw, protocol, m, reference, f"{metric} tissue") for m in (name, other)]
        if None not in both:
            told = {_pigment.LABEL: both[0], other: both[1], "ratio": both[0] / max(both[1], 1e-9)}
            out[metric] = {k: _scores.short(v) for k, v in told.items()}
            out[metric]["holds"] = both[0] <= both[1]
    return out


def of_halves(answers: real.Answers, regions: dict) -> dict:
    """Hold half of all volumes, by PIGMENT and by fits, against our fit of the other half."""
    found: dict = {}
    for seed in range(_sparse.HALVES):
        for one, other in ("ab", "ba"):
            truth = real.found("ours", f"half {seed}{other}")
            maps = {_pigment.LABEL: answers(f"half {seed}{one}")}
            maps["careful"] = real.found("ours", f"half {seed}{one}")
            for method, own in maps.items():
                scores = real.scored(own, truth, regions)
                for metric in METRICS:
                    place = found.setdefault(metric, {}).setdefault(method, [])
                    place.append(scores[f"{metric} tissue"][0])
    out: dict = {}
    for metric, both in found.items():
        means = {k: float(np.mean(v)) for k, v in both.items()}
        out[metric] = {k: _scores.short(v) for k, v in means.items()}
        out[metric]["holds"] = means[_pigment.LABEL] <= means["careful"]
    return out


def variants(preset: str) -> dict:
    """Name the settings that are compared; most are without adaptation."""
    from dataclasses import replace

    own = _pigment.settings(preset)
    plain = replace(own, adapt=NOT_ADAPTED)
    out = {"pigment, not adapted": plain, "pigment": own}
    out |= {f"{n} steps of adaptation": replace(own, adapt=n) for n in (20, 200)}
    out |= {f"{n} levels, not adapted": replace(plain, steps=n) for n in (2, 4, 16)}
    return out | {f"{n} samples, not adapted": replace(plain, samples=n) for n in (1, 2, 8)}


def ablation(weights: str, preset: str, regions: dict, subsets: int, workers: int) -> dict:
    """NMSE in tissue, RMSE of the volumes left out, and seconds, of every variant on P6+6."""
    chosen = variants(preset)
    jobs = [f"{ABLATION} {k}" for k in range(subsets)]
    asked = [(weights, work, job) for work in chosen.values() for job in jobs]
    done = _pigment.side_by_side(_pigment.on_sparse, asked, workers)
    methods: dict[str, real.Answers] = {
        "no prior": partial(real.found, "ours"),
        "gaussian prior": real.by_gaussian(weights),
        "codebook": real.anew(under_test(weights)),
    }
    methods |= {k: partial(_one, done, weights, w) for k, w in chosen.items()}
    raw = real.evaluate(methods, regions, (ABLATION,), subsets)
    out: dict = {}
    for name in methods:
        place = {k: mean(raw, ABLATION, name, "rest, ours", f"{k} tissue") for k in METRICS}
        place["MK"] = place["MK"] or mean(raw, ABLATION, name, "rest, ours", "MK_iso tissue")
        held = raw[ABLATION][name].get("held out", {})
        place["held out"] = min((np.mean([v[2] for v in x]) for x in held.values()), default=None)
        place["V1, degrees"] = mean(raw, ABLATION, name, "rest, ours", "V1 angle")
        out[name] = {k: None if v is None else _scores.short(v) for k, v in place.items()}
        if name in chosen:
            own = chosen[name]
            seconds = np.mean([done[weights, own, j][1] for j in jobs])
            out[name] |= {k: getattr(own, k) for k in ("samples", "steps", "adapt")}
            out[name]["seconds"] = _scores.short(float(seconds))
    return out


def _one(done: dict, weights: str, work, job: str) -> dict:
    return done[weights, work, job][0]


def run_bar(options: argparse.Namespace, regions: dict) -> tuple[dict, dict]:
    """Evaluate all methods on all protocols: what is written, and the scores."""
    weights, preset = options.weights, options.preset
    jobs = [f"{p} {k}" for p in options.protocols if p != "all" for k in range(options.subsets)]
    if "all" in options.protocols:
        jobs += ["all", *(f"half {k}{side}" for k in range(_sparse.HALVES) for side in "ab")]
    asked = [(weights, preset, job) for job in jobs]
    done = _pigment.side_by_side(_pigment.on_sparse, asked, options.workers)
    own: real.Answers = partial(_one, done, weights, preset)
    methods = {_pigment.LABEL: own, "codebook": real.anew(under_test(weights))}
    methods |= real.methods_of([weights], None, tested=False)
    raw = real.evaluate(methods, regions, options.protocols, options.subsets)
    floor = real.floors(regions)
    halves = of_halves(own, regions) if "all" in options.protocols else {}
    work = _pigment.settings(preset)
    told = {k: getattr(work, k) for k in ("samples", "steps", "adapt")}
    content = {
        "preset": {"name": preset} | told,
        "seconds on one thread": {j: round(done[weights, preset, j][1]) for j in jobs},
        "voxels": {k: int(v.sum()) for k, v in regions.items()},
        "columns": list(_scores.COLUMNS),
        "columns, held out": ["RMSE b = 1000", "RMSE b = 2000", "RMSE"],
        "floor": floor,
        "verdict": verdict(raw, _pigment.LABEL, floor, halves),
        "scores": real.told(raw),
    }
    return content, raw


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="codebook", help="by default the shipped ones")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--protocols", nargs="+", choices=real.EVERY, default=real.EVERY)
    parser.add_argument("--subsets", type=int, default=SUBSETS)
    parser.add_argument("--ablation-subsets", type=int, default=ABLATION_SUBSETS)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--name", default="pigment", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.name, fresh=options.parts is None)
    regions, parts = real.regions_of(), options.parts or PARTS
    if "bar" in parts:
        content, raw = run_bar(options, regions)
        results.put("bar", value=content)
        print(table(raw))
    if "ablation" in parts:
        work = options.weights, options.preset, regions
        told = ablation(*work, options.ablation_subsets, options.workers)
        results.put("ablation", value=told)
        for name, row in told.items():
            print(name, row, file=sys.stderr)
    results.file.write_text(_scores.dumped(results.content))


if __name__ == "__main__":
    main()
