"""May PIGMENT be trusted? Simulated brains that no training saw: errors, lesions, false alarms.

`python3 run.py bench pigment_trust` writes benchmarks/results/pigment_trust.json:

- accuracy: brains under protocols of 10 to 32 volumes, and brains at 64 mT: errors of all metrics
  that the acquisition determines, where the conventional fit has an answer, beside it, MP-PCA
  before it, and the codebook; and the share of voxels that 95 % intervals hold (90 to 98 % asked).
- lesions: every kind that the digital brain has, in unseen heads at unseen places, and two that it
  does not have and no training saw (`_lesions.UNSEEN`), at 13 volumes:
  mean of FA, MD and NDI in the lesion less that of the tissue around, beside the truth's. Asked: an
  error of 10 % of it at most, and none larger than the conventional fit's; of contrasts that are
  `CLEAR` also apart.
- healthy: share of voxels of the first brains, those without a lesion, that lie more than 3 of
  PIGMENT's own standard deviations off the truth (0.5 % asked).

Training had lesions of all kinds but these two. Failures are drawn:
results/pigment_trust_lesions.png and pigment_trust_healthy.png.

`--weights` and `--preset` are PIGMENT's; `--subjects`, `--low-field` and `--lesions` (of each kind)
tell how many slices there are, `--voxels` how many of each are fitted, `--parts` takes one of the
parts, `--threads` is their number, `--anatomies` names the heads, `--name` the files. On two quiet
cores: 25 minutes, and ten more the first time, for slices and fits that are kept (_brain.py).
"""

from __future__ import annotations

import argparse
import sys

import _brain
import _lesions
import _pigment
import _trust_pictures as pictures
import codebook_brain as brain
import numpy as np
from _common import RESULTS, Results
from _scores import dumped, short

SUBJECTS, LOW_FIELD, LESIONS = 6, 3, 4
VOXELS = brain.VOXELS
LOW: _brain.Fields = ((0.064, 1.0),)
"""Field strength of the low-field brains [T]."""

WIDE = 3.0
"""Standard deviations beyond which a voxel is a false alarm."""

ALARMS = 0.005
CLOSE = 0.1
"""Error of a contrast relative to the truth's, at most."""

CLEAR = {"FA": 0.05, "MD": 1e-4, "NDI": 0.05}
"""Contrasts below, mean over the lesions of a kind, are hard to see: those above are counted apart,
too."""

OTHERS = ("fits", "MP-PCA + fits", "codebook")
METHOD = _pigment.LABEL
PARTS = ("accuracy", "lesions")


def pigment(weights: str, preset: str, models: str, kept: dict) -> _brain.Method:
    """Return PIGMENT as a method; what it says of each scan is put into `kept`."""

    def work(scan, name: str) -> dict[str, _brain.Told]:
        kept[name] = _brain.by_maps(_pigment.estimated(scan, weights, preset, models).maps)
        return kept[name]

    return work


def accuracy(raw: dict) -> dict:
    """Put together errors of all metrics: RMSE of each method, and whose is lower."""
    metrics = {}
    for name, place in raw.items():
        own = place.get(METHOD)
        if not own or "fits" not in place:
            continue
        covered = [v["covered"] for v in own.values()]
        entry = {"covered": short(np.mean(covered)), "subjects": len(own)}
        for other in OTHERS:
            both = [s for s in own if s in place.get(other, {})]
            if both:
                mine, its = brain.rmse(own, both), brain.rmse(place[other], both)
                entry[other] = {"RMSE": short(its), METHOD: short(mine), "ratio": short(mine / its)}
        metrics[name] = entry
    low, high = brain.INTERVALS
    out: dict = {}
    for other in OTHERS:
        told = {k: v[other]["ratio"] for k, v in metrics.items() if other in v}
        out[f"better than {other}"] = [k for k, v in told.items() if v < 1]
        out[f"not better than {other}"] = [k for k, v in told.items() if v >= 1]
    out["intervals off"] = [k for k, v in metrics.items() if not low <= v["covered"] <= high]
    return out | {"metrics": metrics}


def healthy(files: list, kept: dict) -> dict:
    """Share of voxels that are false alarms in brains without a lesion, by metric."""
    from DMRIMicroLib.training.pool import METRICS, load_slice

    wrong: dict = {name: [] for name in METRICS}
    for number, file in enumerate(files):
        item = load_slice(file)
        if bool((item.volume.lesion > 0).any()):
            continue
        for k, name in enumerate(METRICS):
            told = kept[f"sparse {number}"].get(name)
            at = item.known[k].numpy()
            if told is not None and told.sd is not None and at.any():
                far = np.abs(told.value - item.labels[k].numpy())[at] > WIDE * told.sd[at]
                wrong[name].append(float(far.mean()))
    told = {k: v for k, v in wrong.items() if v}
    out = {k: {"share": short(np.mean(v)), "worst brain": short(max(v))} for k, v in told.items()}
    lost = [k for k in _lesions.CONTRASTS if k in told and np.mean(told[k]) > ALARMS]
    brains = len(wrong["FA"])
    holds = brains > 0 and not lost
    return {"brains": brains, "asked": ALARMS, "holds": holds, "not": lost, "metrics": out}


def lesions(methods: dict, kept: dict, each: int, anatomies: str) -> tuple[dict, list]:
    """Contrasts of every kind of lesion: what is told, and cases for pictures."""
    from DMRIMicroLib.brain.lesions import LESIONS as KINDS

    raw, cases = {}, []
    acq = _brain.protocol(*_lesions.PROTOCOL, 0)
    for kind in (*KINDS, *_lesions.UNSEEN):
        for number in range(each):
            case = _lesions.lesioned(kind, number, anatomies)
            scan = _brain.scanned(case.item, acq, number, f"lesion {kind}")
            found = {"truth": _lesions.labels(case)}
            near = scan.with_measured_noise(scan.noise)
            near = near.with_mask((case.lesion | case.around)[:, :, None])
            found["fits"] = fitted(near)
            for name, work in methods.items():
                found[name] = work(scan, f"{kind} {number}")
            told = {k: _lesions.contrasts(case, v) for k, v in found.items()}
            raw.setdefault(kind, []).append(told)
            cases.append((f"{kind} {number}", case, found, told))
            print(kind, number, told, file=sys.stderr, flush=True)
    return {kind: summary(rows) for kind, rows in raw.items()}, cases


def fitted(scan) -> dict[str, _brain.Told]:
    """Fit what the contrasts are of."""
    import DMRIMicroLib as dm

    return _brain.by_maps(dm.fit(scan, ("dti", "noddi"), device="cpu"))


def summary(rows: list[dict]) -> dict:
    """Contrasts and their errors of one kind of lesion, by metric."""
    out: dict = {}
    for name in _lesions.CONTRASTS:
        some = [r for r in rows if name in r["truth"]]
        if not some:
            continue
        truth = np.array([r["truth"][name] for r in some])
        size = np.abs(truth).mean()
        entry: dict = {"truth": [short(v) for v in truth], "lesions": len(some)}
        entry["clear"] = bool(size >= CLEAR[name])
        for method in (METHOD, "codebook", "fits"):
            own = np.array([r[method][name] for r in some])
            told = {"contrast": [short(v) for v in own]}
            told["ratio of the means"] = short(own.mean() / truth.mean())
            told["error over contrast"] = short(np.abs(own - truth).mean() / size)
            entry[method] = told
        error, its = (entry[m]["error over contrast"] for m in (METHOD, "fits"))
        entry["within 10 %"] = error <= CLOSE
        entry["no worse than fits"] = error <= its
        out[name] = entry
    return out


def together(told: dict, clear: bool = False) -> dict:
    """Tell where the contrasts do not hold; of all, or of the clear ones."""
    out = {}
    for key in ("within 10 %", "no worse than fits"):
        some = {f"{kind} {m}": e for kind, v in told.items() for m, e in v.items()}
        every = {name: e[key] for name, e in some.items() if e["clear"] or not clear}
        lost = [k for k, holds in every.items() if not holds]
        out[key] = {"holds": not lost, "won": len(every) - len(lost), "of": len(every), "not": lost}
    return out


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="codebook", help="by default the shipped ones")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--subjects", type=int, default=SUBJECTS)
    parser.add_argument("--low-field", type=int, default=LOW_FIELD, help="subjects")
    parser.add_argument("--lesions", type=int, default=LESIONS, help="of each kind")
    parser.add_argument("--voxels", type=int, default=VOXELS, help="of a slice that are fitted")
    parser.add_argument("--anatomies", default="all", help="heads, as of `dmrimicro train`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="pigment_trust", help="of the files under results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = Results(options.name, fresh=set(options.parts) == set(PARTS))
    kept: dict = {}
    own = options.weights, options.preset
    methods = {METHOD: pigment(*own, "all", kept), "codebook": _brain.codebook(options.weights)}
    if "accuracy" in options.parts:
        fits = {
            "fits": _brain.kept_fits(options.voxels),
            "MP-PCA + fits": _brain.kept_fits(
                options.voxels, prepare=_brain.after_mppca, label="fits after MP-PCA"
            ),
        }
        if options.low_field:
            low = _brain.slices(options.low_field, options.anatomies, fields=LOW)
            results.put("low field", value=accuracy(brain.accuracy(low, methods | fits)))
        files = _brain.slices(options.subjects, options.anatomies)
        results.put("accuracy", value=accuracy(brain.accuracy(files, methods | fits)))
        results.put("healthy", value=healthy(files, kept))
        pictures.healthy(files, kept, WIDE, RESULTS / f"{options.name}_healthy.png")
    if "lesions" in options.parts:
        work = {**methods, METHOD: pigment(*own, "dti noddi", kept)}
        told, cases = lesions(work, kept, options.lesions, options.anatomies)
        unseen = together({k: v for k, v in told.items() if k in _lesions.UNSEEN})
        seen = together({k: v for k, v in told.items() if k not in _lesions.UNSEEN})
        value = {"of kinds that training had": seen, "of kinds that no training saw": unseen}
        value = together(told) | {"of clear contrasts": together(told, clear=True)} | value
        value |= {"kinds": told}
        results.put("lesions", value=value)
        pictures.lesions(cases, RESULTS / f"{options.name}_lesions.png")
    results.file.write_text(dumped(results.content))
    print(results.file.read_text())


if __name__ == "__main__":
    main()
