"""Maps of all metrics on the real slices, and what becomes of voxels that no model is made for.

`python3 run.py bench pictures` writes benchmarks/results/metrics.png, one panel a metric (the two
slices beside each other, windows and colours as declared), and pictures.json: median and range of
every metric by tissue, and, for voxels at the edge, in fluid, without signal, with drop-outs, of
noise alone or with values that are not numbers, whether everything is finite and within range or
flagged. The benchmark fails if it is not.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import replace

import numpy as np
from _common import RESULTS, S0, Results, example, rounded
from PIL import Image
from scipy.ndimage import binary_dilation

COLUMNS, DPI, COLOURS = 6, 70, 64
"""Panels in a row; pixels an inch; colours of the picture's palette, to keep it small."""

FLUID = 0.8
"""Fraction of free water from which a voxel of the real scan counts as fluid."""

EDGE = 2
"""Voxels outside the mask that are fitted too."""

EACH = 64
"""Voxels of every artificial kind."""


def draw(maps, file) -> None:
    """Draw every scalar map that is promised, in one figure."""
    from matplotlib.figure import Figure

    from DMRIMicroLib.report.slices import axial_tiles, mosaic

    scalars = [m for m in maps.values() if m.metric.kind == "scalar"]
    rows = -(-len(scalars) // COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS, 2.1 * rows), facecolor="black", layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for panel in axes:
        panel.axis("off")
    for panel, item in zip(axes, scalars, strict=False):
        tiles, aspect = axial_tiles(item.data, maps.flags[item.model] > 0, maps.affine)
        low, high = item.metric.window
        shown = panel.imshow(
            mosaic(tiles, 2), cmap=item.metric.colormap, vmin=low, vmax=high, aspect=aspect
        )
        unit = f" [{item.unit}]" if item.unit else ""
        panel.set_title(f"{item.metric.name}{unit}", color="white", fontsize=10)
        bar = figure.colorbar(shown, ax=panel, shrink=0.8)
        bar.ax.tick_params(labelsize=7, colors="white")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, facecolor="black")
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(file, optimize=True)


def tissues(maps, scan) -> dict:
    """Median and middle 90 % of every metric in white matter, grey matter and fluid."""
    fa, water = np.asarray(maps["FA"]), np.asarray(maps["FWF"])
    classes = {
        "FA > 0.45": scan.mask & (fa > 0.45),
        "FA < 0.2, FWF < 0.2": scan.mask & (fa < 0.2) & (water < 0.2),
        f"FWF > {FLUID}": scan.mask & (water > FLUID),
    }
    out = {}
    for label, where in classes.items():
        rows = {"voxels": int(where.sum())}
        for name, item in maps.items():
            if item.metric.kind == "scalar":
                values = item.data[where & (maps.flags[item.model] > 0)]
                rows[name] = [rounded(v, 3) for v in np.percentile(values, [5, 50, 95])]
        out[label] = rows
    return out


def strange(scan) -> dict[str, np.ndarray]:
    """Signals that no tissue gives: kind -> (EACH, m)."""
    acq, rng = scan.acquisition, np.random.default_rng(0)
    shape = (EACH, len(acq))
    noise = np.hypot(*rng.normal(0, S0 / 30, (2, *shape)))
    b = acq.bvals / 1e3
    fluid = S0 * np.exp(-3 * b) * np.ones(shape)
    tissue = S0 * np.exp(-0.8 * b) * np.ones(shape)
    holes = np.where(rng.random(shape) < 0.3, 0, tissue)
    only_b0 = np.where(acq.is_b0, tissue, 0)
    no_b0 = np.where(acq.is_b0, 0, tissue)
    rising = S0 * np.exp(0.5 * b) * np.ones(shape)
    broken = np.where(rng.random(shape) < 0.1, np.nan, tissue)
    broken[:, 1::40] = np.inf
    return {
        "zero": np.zeros(shape),
        "constant": np.full(shape, S0),
        "noise alone": noise,
        "pure water": fluid,
        "pure water with noise": np.hypot(fluid + noise - noise.mean(), noise),
        "faster than water": S0 * np.exp(-6 * b) * np.ones(shape),
        "30 % of the samples zero": holes,
        "only b0": only_b0,
        "no b0": no_b0,
        "rising with b": rising,
        "not numbers": broken,
        "negative": -tissue,
        "tiny": 1e-12 * tissue,
        "huge": 1e12 * tissue,
        "random": rng.uniform(0, S0, shape),
    }


def check(maps, where: np.ndarray) -> dict:
    """Count answers, flags, and values that are neither finite and in range nor flagged."""
    from DMRIMicroLib.maps import Flag

    out: dict = {"voxels": int(where.sum())}
    for model, flags in maps.flags.items():
        inside = flags[where]
        row = {f.name.lower(): int((inside == f).sum()) for f in Flag if (inside == f).any()}
        wrong = 0
        for item in maps.values():
            if item.model != model:
                continue
            metric = item.metric
            for data in (item.data, item.uncertainty):
                if data is not None:
                    wrong += int((~np.isfinite(data[where])).sum())
            if metric.kind == "scalar":
                slack = 1e-4 * (metric.high - metric.low)
                answered = item.data[where][inside > 0]
                outside = (answered < metric.low - slack) | (answered > metric.high + slack)
                wrong += int(outside.sum())
        out[model] = {**row, "wrong": wrong}
    return out


def extremes(scan, maps) -> dict:
    """Check fluid, edges and artificial signals."""
    import DMRIMicroLib as dm

    out = {"fluid": check(maps, scan.mask & (np.asarray(maps["FWF"]) > FLUID))}
    wide = binary_dilation(scan.mask, iterations=EDGE)
    around = scan.with_mask(wide)
    edge = dm.fit(around, "all", device="cpu", uncertainty=True)
    out["outside the brain"] = check(edge, wide & ~scan.mask)
    kinds = strange(scan)
    real = scan.voxels(scan.mask)[:EACH]
    signal = np.concatenate([real, *kinds.values()]).astype(np.float32)[:, None, None]
    noise = scan.noise
    made = replace(
        scan,
        signal=signal,
        mask=np.ones(signal.shape[:3], bool),
        measured_noise=replace(noise, map=None),
    )
    found = dm.fit(made, "all", device="cpu", uncertainty=True)
    for k, kind in enumerate(["real beside them", *kinds]):
        where = np.zeros(made.shape, bool)
        where[k * EACH : (k + 1) * EACH] = True
        out[kind] = check(found, where)
    return out


def main() -> None:
    import torch

    import DMRIMicroLib as dm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="pictures", help="of the file under results/")
    parser.add_argument("--png", default=str(RESULTS / "metrics.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results, scan = Results(options.name, fresh=True), example()
    maps = dm.fit(scan, "all", device="cpu", uncertainty=True)
    draw(maps, options.png)
    results.put("5th, 50th and 95th percentile", value=tissues(maps, scan))
    found = extremes(scan, maps)
    results.put("extremes", value=found)
    wrong = [
        f"{kind}, {model}: {row['wrong']}"
        for kind, rows in found.items()
        for model, row in rows.items()
        if model != "voxels" and row["wrong"]
    ]
    print(results.file.read_text())
    if wrong:
        sys.exit(f"Values that are neither finite and in range nor flagged: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
