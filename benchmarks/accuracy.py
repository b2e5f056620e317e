"""Bias and error of every metric on synthetic tissue with Rician noise, AMICO beside NODDI.

`python3 run.py bench accuracy` writes benchmarks/results/accuracy.json, entry by entry; what is
there already is not run again (`--fresh` starts anew). AMICO is run on the same data if
`dmri-amico` is installed. DTI, DKI and MAP-MRI generate no tissue: their truth is the same
estimator on the noise-free signals. NDI and ODI mean nothing in free water: their errors are
weighted by 1 - FWF, and given once more for the voxels with FWF < 0.5 alone.
"""

from __future__ import annotations

import argparse
import sys

import _amico
import _tissue
import numpy as np
from _common import PROTOCOLS, S0, Results, errors, rounded, synthetic

SNR = (10, 20, 30, 50)
ESTIMATORS = ("dti", "dki", "mapmri")
"""Models whose truth is their own answer without noise."""

WHERE = {
    "hcp": ("noddi", "freewater", "smt", "mcsmt", "sandi", *ESTIMATORS),
    "mdt": ("noddi", "freewater", "smt", "mcsmt", "sandi", *ESTIMATORS),
    "soma": ("sandi",),
}
OF_TISSUE = ("NDI", "ODI", "FA_t")
"""Metrics of the tissue beside free water."""

SEED = 2026


QUIET = 1e-4 * S0
"""Noise that is told of noise-free signals: a fit must not take it for a noise floor."""


def ways_of(model: str) -> dict[str, dict]:
    """Name of each way to fit -> options. Linear models are fitted by least squares by default."""
    other = "rician" if model in ("dti", "dki") else "gaussian"
    return {"default": {}, other: {"likelihood": other}}


def tissue_for(model: str, acq, n: int) -> _tissue.Tissue:
    """Voxels to fit a model to; what only an estimator defines is left to `truth_of`."""
    rng = np.random.default_rng(SEED)
    return _tissue.KINDS.get(model, _tissue.mixed)(acq, n, rng)


def truth_of(model: str, tissue: _tissue.Tissue, acq, options: dict) -> dict[str, np.ndarray]:
    """Truth of the metrics: that of the tissue, or what the estimator makes of it without noise."""
    if model not in ESTIMATORS:
        return tissue.truth
    return by_us(model, synthetic(tissue.signal, acq, None, 0), sigma=QUIET, **options)[0]


def by_us(model: str, scan, **options) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Our scalar metrics, and how many voxels carry which flag."""
    import DMRIMicroLib as dm

    maps = dm.fit(scan, model, device="cpu", **options)
    values = {k: np.asarray(m).ravel() for k, m in maps.items() if m.metric.kind == "scalar"}
    voxels = maps.provenance[model]["voxels"]
    flags = {k: voxels[k] for k in ("left_out", "not_converged", "out_of_range", "undetermined")}
    return values, flags


def judge(truth: dict, water: np.ndarray, found: dict[str, np.ndarray]) -> dict:
    """Errors of every metric of the tissue."""
    out, most = {}, water < 0.5
    for name, true in truth.items():
        if name not in OF_TISSUE:
            out[name] = errors(found[name], true)
            continue
        out[name] = errors(found[name], true, 1 - water)
        out[f"{name}, FWF < 0.5"] = errors(found[name][most], true[most])
    return out


def run(options: argparse.Namespace) -> Results:
    results = Results(options.name, options.fresh)
    for protocol in options.protocols:
        acq = PROTOCOLS[protocol]()
        for model in options.models or WHERE[protocol]:
            cell(results, protocol, acq, model, options)
    return results


def cell(results: Results, protocol: str, acq, model: str, options: argparse.Namespace) -> None:
    """Run one model on one protocol, with every noise level and in every way."""
    tissue, ways = None, dict(ways_of(model))
    if model == "noddi" and _amico.available():
        ways["AMICO"] = {}
    for way, more in ways.items():
        truth = None
        for snr in options.snr:
            key = (protocol, model, f"SNR {snr}", way)
            if results.has(*key):
                continue
            tissue = tissue or tissue_for(model, acq, options.voxels)
            truth = truth or truth_of(model, tissue, acq, more)
            scan = synthetic(tissue.signal, acq, snr, SEED + snr)
            if way == "AMICO":
                found, flags = _amico.fit(scan.signal[:, 0, 0], acq).maps, {}
            else:
                found, flags = by_us(model, scan, **more)
            entry = {"voxels": options.voxels, **judge(truth, tissue.water, found)}
            results.put(*key, value={**entry, "flags": flags} if flags else entry)
            print(*key, file=sys.stderr, flush=True)


def against_amico(content: dict) -> dict:
    """Our error over AMICO's for every cell that has both."""
    out = {}
    for protocol, models in content.items():
        for snr, ways in (models.get("noddi", {}) if protocol in WHERE else {}).items():
            if "AMICO" not in ways:
                continue
            for way in ("default", "gaussian"):
                for metric, theirs in ways["AMICO"].items():
                    if metric != "voxels" and way in ways:
                        ratio = ways[way][metric]["rmse"] / theirs["rmse"]
                        out.setdefault(f"{protocol} {snr} {way}", {})[metric] = rounded(ratio, 3)
    return out


def table(content: dict) -> str:
    """Every result as text: RMSE and bias."""
    lines = []
    for protocol, models in content.items():
        if protocol not in WHERE:
            continue
        for model, rows in models.items():
            for snr, ways in rows.items():
                for way, entry in ways.items():
                    cells = [
                        f"{k} {v['rmse']:.4g} ({v['bias']:+.3g})"
                        for k, v in entry.items()
                        if isinstance(v, dict) and "rmse" in v
                    ]
                    lines.append(f"{protocol:5s}{model:10s}{snr:7s}{way:9s} {'  '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--snr", nargs="+", type=int, default=SNR)
    parser.add_argument("--voxels", type=int, default=2000)
    parser.add_argument("--name", default="accuracy", help="of the file under results/")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = run(options)
    results.put("NODDI: error over AMICO's", value=against_amico(results.content))
    print(table(results.content))


if __name__ == "__main__":
    main()
