"""3 T to 7 T on simulated pairs that no training saw: the tables of Zhu et al. (MICCAI 2024).

`python3 run.py bench rish_ldm NAME=WEIGHTS ...` writes benchmarks/results/rish_ldm.json; names are
free, e.g. ldm=run/rish-ldm-1.0.0.safetensors, "ldm, 7 T from scratch"=..., cnn=... Interpolation is
always among them. Each pair is one piece of one head in the Human Connectome Project's two
scanners, b = 1000 s/mm2; each method is asked through `DMRIMicroLib.enhance`, and its scan compared
with that of the 7 T scanner, as measured and free of noise, on its grid:

- NMSE and SSIM (3-D) of the RISH features of orders 0, 2, 4 and of FA, mean and standard deviation
  over pairs, within the brain;
- the same without super-resolution: enhanced on the 3 T grid, then interpolated (B-splines);
- seconds of a pair; and identities: what "interpolate" changes of a scan whose grid is kept.

`--pairs` and `--patch` tell how many pairs of how many voxels, `--anatomies` names the heads,
`--seed` is that of the trainings.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from _common import Results, clock, rounded

PLAIN = "interpolate"
METRICS = ("RISH_L0", "RISH_L2", "RISH_L4", "FA")
SHARPENED, WITHOUT = "with super-resolution", "without super-resolution"

SSIM_SIGMA, SSIM_K = 1.5, (0.01, 0.03)
"""Window [voxels] and constants of Z. Wang et al., IEEE Trans. Image Process. 13 (2004) 600-612."""


def pair(heads: list, seed: int, number: int, patch: int):
    """Return a 3 T scan, and the 7 T scan as measured and free of noise."""
    import torch

    from DMRIMicroLib.brain.simulate import generator_for
    from DMRIMicroLib.rish.data import TEST
    from DMRIMicroLib.training.pairs import PairConfig, draw_pair
    from DMRIMicroLib.training.rish_pairs import shell_machine

    machines = [shell_machine(name, 1000.0) for name in ("hcp3t", "hcp7t")]
    config = PairConfig(patch=(patch,) * 3, first=machines[0], second=machines[1])
    generator = generator_for(seed + TEST, f"RISH pair {number}")
    low, high = draw_pair(heads, generator, config, torch.device("cpu"))
    return scan_of(low, low.signal), scan_of(high, high.signal), scan_of(high, high.clean)


def scan_of(batch, signal):
    """Turn the one subject of a batch into a scan."""
    from DMRIMicroLib.scan import Scan

    data = np.ascontiguousarray(np.moveaxis(signal[0].numpy(), 0, -1))
    return Scan(data, batch.affine[0].numpy(), batch.acquisition, batch.mask[0].numpy())


def images(scan) -> np.ndarray:
    """Return what is compared: (4, x, y, z)."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.rish.data import look_at

    rish = look_at(scan).harmonics.rish().numpy()
    fa = np.nan_to_num(dm.fit(scan, "dti")["FA"].data)
    return np.concatenate([rish, fa[None]]).astype(np.float64)


def nmse(said: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Squared errors over squared truth, both summed over a mask."""
    return float(((said - truth)[mask] ** 2).sum() / (truth[mask] ** 2).sum())


def ssim(said: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity in 3-D, mean over a mask; the range is that of the truth there."""
    from scipy.ndimage import gaussian_filter

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, SSIM_SIGMA, truncate=3.5)

    extent = float(truth[mask].max() - truth[mask].min())
    one, two = ((k * extent) ** 2 for k in SSIM_K)
    a, b = said * mask, truth * mask
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    index = (2 * mean_a * mean_b + one) * (2 * both + two)
    index /= (mean_a**2 + mean_b**2 + one) * (var_a + var_b + two)
    return float(index[mask].mean())


def enhanced(scan, weights: str | None, target, way: str):
    """Enhance a scan on the grid of the 7 T scan, with or without super-resolution."""
    import DMRIMicroLib as dm

    method = "auto" if weights else PLAIN
    if way == SHARPENED:
        return dm.enhance(scan, method, "7T", weights=weights).scan
    return finer(dm.enhance(scan, method, "keep", weights=weights).scan, target)


def finer(scan, target):
    """Bring a scan to the finer grid about the same middle by cubic B-splines."""
    import torch

    from DMRIMicroLib.rish.grid import resized
    from DMRIMicroLib.scan import Scan

    factors = tuple(a / b for a, b in zip(scan.voxel_size, target.voxel_size, strict=True))
    data = torch.from_numpy(np.moveaxis(np.asarray(scan.signal), -1, 0).copy())
    made = np.moveaxis(resized(data, factors, target.shape).numpy(), 0, -1)
    return Scan(made.clip(min=0), target.affine, scan.acquisition, target.mask)


def score(said: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict:
    """NMSE and SSIM of each metric."""
    out = {}
    for name, a, b in zip(METRICS, said, truth, strict=True):
        out[name] = {"NMSE": nmse(a, b, mask), "SSIM": ssim(a, b, mask)}
    return out


def summary(rows: list[dict]) -> dict:
    """Mean and standard deviation over pairs of the same nested numbers."""
    if isinstance(rows[0], dict):
        return {key: summary([row[key] for row in rows]) for key in rows[0]}
    spread = float(np.std(rows, ddof=1)) if len(rows) > 1 else 0.0
    return {"mean": rounded(float(np.mean(rows))), "sd": rounded(spread)}


def identity(scan) -> float:
    """Largest change that a method that changes nothing makes to a scan whose grid is kept."""
    import DMRIMicroLib as dm

    made = dm.enhance(scan, PLAIN, "keep").scan
    mask = np.asarray(scan.mask)
    before, after = (np.asarray(s.signal)[mask] for s in (scan, made))
    return float(np.abs(after - before).max() / before.max())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="*", help="NAME=FILE")
    parser.add_argument("--pairs", type=int, default=17)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--anatomies", default="small")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    from DMRIMicroLib.brain.ownscan import open_anatomy

    heads = [open_anatomy(name) for name in given.anatomies.split(",")]
    methods: dict[str, str | None] = {PLAIN: None}
    methods |= dict(text.split("=", 1) for text in given.weights)
    results = Results("rish_ldm", fresh=True)
    rows: dict = {}
    for number in range(given.pairs):
        low, high, clean = pair(heads, given.seed, number, given.patch)
        mask = np.asarray(high.mask)
        truths = {"as measured": images(high), "free of noise": images(clean)}
        for name, weights in methods.items():
            for way in (SHARPENED, WITHOUT):
                began = clock()
                made = enhanced(low, weights, high, way)
                wall, cpu = (clock() - began).tolist()
                said = images(made)
                told = {key: score(said, truth, mask) for key, truth in truths.items()}
                told["time [s]"] = {"wall": wall, "CPU": cpu}
                rows.setdefault(way, {}).setdefault(name, []).append(told)
                results.put(way, name, value=summary(rows[way][name]))
        results.put("pairs", value=number + 1)
        results.put("identity", str(number), value=identity(low))


if __name__ == "__main__":
    main(sys.argv[1:])
