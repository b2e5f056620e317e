"""Are the numbers right? Signals and fits against independent programs.

`python3 run.py bench oracles` writes benchmarks/results/oracles.json. Signals without noise are
compared with brute-force averages over orientations and, where they are installed, with AMICO and
dmipy-fit (conventions in `_signals`); fits with dipy, on the real example scan and on noise-free
synthetic tissue. dipy's conventions: DTI and DKI by one reweighted pass, kurtoses limited to
-3/7..10; free water by nonlinear least squares of Gaussian noise, water at 3.0 um2/ms; MAP-MRI with
the tensor of all volumes (so ours is given the same here) and times of Delta - delta / 3.
"""

from __future__ import annotations

import argparse

import _dipy
import _signals
import _tissue
import numpy as np
from _common import S0, Results, example, hcp, rounded, synthetic

VOXELS = {"dti": None, "dki": None, "freewater": 600, "mapmri": 600}
"""Real voxels to compare, None for all: dipy's loops take 10 to 20 ms a voxel."""


def chosen(scan, count: int | None):
    """Return the scan with a mask of some voxels, drawn evenly."""
    if count is None:
        return scan
    inside = np.flatnonzero(scan.mask)
    mask = np.zeros(scan.mask.shape, bool)
    mask.ravel()[inside[:: max(1, len(inside) // count)]] = True
    return scan.with_mask(mask)


def like_dipy(model: str):
    """Our model with dipy's conventions."""
    from DMRIMicroLib.models import get
    from DMRIMicroLib.models.dti import DTI
    from DMRIMicroLib.models.mapmri import MAPMRI

    return MAPMRI(tensor=DTI(b_high=float("inf"))) if model == "mapmri" else get(model)


THEIRS = {
    "dti": _dipy.dti,
    "dki": _dipy.dki,
    "freewater": _dipy.free_water,
    "mapmri": _dipy.mapmri,
}


def compare(model: str, scan, **options) -> dict:
    """Differences from dipy in every metric, over the voxels of the mask."""
    import DMRIMicroLib as dm

    volumes = {"b_max": 1e5} if model in ("dti", "dki") else {}
    maps = dm.fit(scan, like_dipy(model), device="cpu", likelihood="gaussian", **volumes, **options)
    signal = scan.voxels(scan.mask).astype(np.float64)
    positive = (signal > 0).all(1)
    theirs = THEIRS[model](signal, scan.acquisition)
    out = {"voxels": len(signal), "all samples positive": int(positive.sum())}
    for name, value in theirs.items():
        ours = np.asarray(maps[name])[scan.mask].astype(np.float64)
        difference = np.abs(ours - value)
        size = np.median(np.abs(value))
        out[name] = {
            "median": rounded(np.median(difference), 3),
            "median, relative": rounded(np.median(difference) / size, 3),
            "p95": rounded(np.percentile(difference, 95), 3),
            "p99, all samples positive": rounded(np.percentile(difference[positive], 99), 3),
        }
    if model == "freewater":
        out["apart"] = apart(np.asarray(maps["FW"])[scan.mask], theirs["FW"])
    return out


def apart(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """How often the two free water fractions are far apart, and what they are there."""
    far = np.abs(ours - theirs) > 0.05
    out = {"share with FW apart by more than 0.05": rounded(far.mean(), 3)}
    if far.any():
        out["median FW there, ours"] = rounded(np.median(ours[far]), 3)
        out["median FW there, dipy's"] = rounded(np.median(theirs[far]), 3)
    return out


def noise_free(n: int = 200) -> dict:
    """Both free water fits on noise-free tissue whose answer is known."""
    import DMRIMicroLib as dm

    tissue = _tissue.freewater(hcp(), n, np.random.default_rng(1))
    scan = synthetic(tissue.signal, hcp(), None, 0)
    # without noise our prior must not count: say how little there is
    maps = dm.fit(scan, "freewater", device="cpu", sigma=1e-4 * S0)
    theirs = _dipy.free_water(scan.voxels(scan.mask).astype(np.float64), scan.acquisition)
    out = {"voxels": n}
    for name, truth in tissue.truth.items():
        ours = np.asarray(maps[name]).ravel()
        out[name] = {
            "ours, median error": rounded(np.median(np.abs(ours - truth)), 3),
            "dipy, median error": rounded(np.median(np.abs(theirs[name] - truth)), 3),
            "ours, p99": rounded(np.percentile(np.abs(ours - truth), 99), 3),
            "dipy, p99": rounded(np.percentile(np.abs(theirs[name] - truth), 99), 3),
        }
    return out


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--name", default="oracles", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.name, options.fresh)
    if not results.has("signals, largest difference"):
        value = {"noddi": _signals.noddi(), **_signals.means()}
        results.put("signals, largest difference", value=value)
    scan = example()
    for model, count in VOXELS.items():
        if not results.has("dipy, real scan", model):
            value = compare(model, chosen(scan, count))
            results.put("dipy, real scan", model, value=value)
    if not results.has("free water, noise-free"):
        results.put("free water, noise-free", value=noise_free())
    print(results.file.read_text())


if __name__ == "__main__":
    main()
