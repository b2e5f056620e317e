"""Six directions of clinical scans, whole brains of one shell: PIGMENT beside tensor fits.

`python3 run.py bench pigment_clinical` writes benchmarks/results/pigment_clinical.json. Of three
real scans (12 directions at b = 1000 and at 1500, 20 at 2500; the folder is that of the tests,
CONTRIBUTING.md) one b0 and six directions, which determine a tensor as well as the others do, are
kept, three times each, and FA, MD and V1 are held against dipy's weighted least squares

- `all`: of all directions, among them the six: their noise is in the reference too, which favours
  fits that keep it;
- `rest`: of the directions left out: independent noise, but as much of it as in the data.

Methods: our and dipy's weighted least squares (WLS), the latter also after MP-PCA of the whole
brain; the codebook; PIGMENT. FA and MD depend on b. So "pigment" is the tensor of its noise-free
signal at the scan's own volumes, fitted as the reference is; beside it that at b = 1000, and FA and
MD as told. `verdict` holds "pigment" against what was asked: at most 0.4 of the better NMSE of FA
of dipy with and without MP-PCA, and a smaller median angle where FA > 0.3.

`--weights` and `--preset` are PIGMENT's; `--slices` how many in a row are taken of a brain;
`--subsets` and `--scans` take less, to try things; `--workers` are processes; `--name` is that of
the file. On two quiet cores: 10 minutes.
"""

from __future__ import annotations

import argparse

import _clinical
import _pigment
import numpy as np
from _common import Results
from _scores import dumped, short

OVER = 0.4
"""NMSE of FA at most this share of the better of `RIVALS`."""

RIVALS = ("dipy WLS", "MP-PCA + dipy WLS")
SLICES = 16
METHOD = _clinical.TOLD[0]


def one_scan(name: str, options: argparse.Namespace, found: dict) -> dict:
    """Scores of every method on a scan: reference -> method -> numbers, means over subsets."""
    scan = _clinical.whole(name)
    at = _clinical.levels(scan, options.slices)
    part = _clinical.cut(scan, at)
    dense = _clinical.dipy_wls(part)
    tissue = _clinical.tissue_of(part, dense)
    raw: dict = {"all": {}, "rest": {}}
    clocks: list[float] = []
    for seed in range(options.subsets):
        left = _clinical.dipy_wls(part.select(_clinical.subset(name, seed)[1]))
        asked = name, seed, options.slices, options.weights, options.preset
        maps, seconds = found[asked][0]
        clocks.append(seconds)
        for reference, truth in (("all", dense), ("rest", left)):
            for method, own in maps.items():
                scores = _clinical.scored(own, truth, dense, tissue)
                raw[reference].setdefault(method, []).append(scores)
    out = {"slices": at.tolist(), "tissue": int(tissue.sum())}
    out["seconds of the networks, one thread"] = short(float(np.mean(clocks)))
    return out | {
        reference: {method: means(rows) for method, rows in methods.items()}
        for reference, methods in raw.items()
    }


def means(rows: list[dict[str, float]]) -> dict:
    """Average over subsets."""
    return {k: short(float(np.mean([row[k] for row in rows]))) for k in rows[0]}


def verdict(told: dict) -> dict:
    """Hold a scan's scores against what was asked, by reference; `all` is the one of the bar."""
    out: dict = {}
    for reference in ("all", "rest"):
        place = told[reference]
        own, best = place[METHOD], min(RIVALS, key=lambda m: place[m]["FA"])
        ratio = own["FA"] / place[best]["FA"]
        angle = min(place[m]["V1, degrees"] for m in RIVALS)
        entry = {"FA, NMSE": own["FA"], "of the better": place[best]["FA"], "which": best}
        entry |= {"ratio": short(ratio), "V1, degrees": own["V1, degrees"], "best angle": angle}
        entry["FA holds"] = ratio <= OVER
        entry["V1 holds"] = own["V1, degrees"] < angle
        out[reference] = entry
    return out


def table(content: dict) -> str:
    """One row a method."""
    lines = []
    for name in (k for k in content if k in _clinical.SCANS):
        for reference in ("all", "rest"):
            lines.append(f"{name}, {reference}".ljust(28) + "NMSE FA     bias    NMSE MD     V1")
            for method, row in content[name][reference].items():
                angle = row.get("V1, degrees")
                cells = f"{row['FA']:.4f}  {row['bias of FA']:+.4f}  {row['MD']:.4f}"
                lines.append(f"  {method}".ljust(28) + f"{cells}  {angle if angle else '-'}")
    return "\n".join(lines)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="codebook", help="by default the shipped ones")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--scans", nargs="+", choices=_clinical.SCANS, default=_clinical.SCANS)
    parser.add_argument("--subsets", type=int, default=_clinical.SUBSETS)
    parser.add_argument("--slices", type=int, default=SLICES, help="of each brain, at most")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--name", default="pigment_clinical", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.name, fresh=True)
    own = options.slices, options.weights, options.preset
    asked = [(name, seed, *own) for name in options.scans for seed in range(options.subsets)]
    found = _pigment.side_by_side(_clinical.every_method, asked, options.workers)
    for name in options.scans:
        told = one_scan(name, options, found)
        results.put(name, value=told | {"verdict": verdict(told)})
    results.file.write_text(dumped(results.content))
    print(table(results.content))


if __name__ == "__main__":
    main()
