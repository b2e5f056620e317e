"""Enhanced real 3 T scans: pictures of RISH, FA and colour FA before and after, and repeat scans.

`python3 run.py bench rish_real [NAME=WEIGHTS]` writes benchmarks/results/rish_real_NAME.png and
rish_real.json, by the residual network that comes with the library where none is named. No truth
is known here: what is shown is what changes. Scans need 15 directions near b = 1000 s/mm2, which
two of the public scans have: two slices of 2 mm with 30 directions, which are no neighbours, so
that networks see there what no head has, and UIH's of 3.5 x 3.5 x 4.2 mm with 16, which was taken
twice, with phase encoding from either side. How alike the FA of both is, in the voxels that both
masks have, is told of the interpolated and of the enhanced ones; distortions along the phase
encoding differ, for every method alike.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from _bundles import DATA
from _common import RESULTS, Results, rounded
from _rish import ANISOTROPIC, degrees, tensors
from _rish_pairs import PLAIN
from PIL import Image

SLICES = "b1k_b2k/b1k_b2k_example_slices_24_38.nii.gz"
MASK = "b1k_b2k/b1k_b2k_example_slices_24_38_mask.nii.gz"
TWICE = [f"dcm_qa_uih/{n}_SaveBySlc.nii.gz" for n in ("6_dti_tra_dir16_PA", "9_dti_tra_dir16_AP")]
SCANS = {"2 mm, 30 directions": (SLICES, MASK), "UIH 3.5 mm, 16 directions": (TWICE[0], None)}

ROWS = ("RISH_L0", "RISH_L2", "RISH_L4", "FA", "colour FA")
FINER = 2.0
"""Edge of the voxels that are made of those of 3.5 x 3.5 x 4.2 mm [mm]."""

DPI, COLOURS = 75, 128
"""Pixels an inch; colours of the picture's palette, to keep it small."""


def opened(name: str, mask: str | None = None):
    """Return a scan in memory, with a mask."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.masking import brain_mask

    scan = dm.load(DATA / name, mask=mask and DATA / mask)
    return brain_mask(scan.select(np.arange(len(scan.acquisition))))


def looks(scan, weights: str | None, resolution: str | float) -> tuple[dict, dict]:
    """Return images before and after, on the same grid: interpolated, and enhanced."""
    import DMRIMicroLib as dm

    made = dm.enhance(scan, "auto", resolution, weights=weights)
    plain = dm.enhance(scan, PLAIN, resolution)
    before = tensors(plain.scan) | dict(zip(ROWS, made.before, strict=False))
    after = tensors(made.scan) | dict(zip(ROWS, made.after, strict=False))
    for maps in (before, after):
        maps["colour FA"] = np.abs(maps["V1"]) * maps["FA"][..., None]
        maps["mask"] = np.asarray(made.scan.mask)
    return before, after


def draw(pictures: dict[str, tuple[dict, dict]], file: Path) -> None:
    """Draw a slice of each scan, before and after, one row an image."""
    from matplotlib.figure import Figure

    figure = Figure(
        (3.2 * 2 * len(pictures), 3 * len(ROWS)), facecolor="black", layout="constrained"
    )
    axes = figure.subplots(len(ROWS), 2 * len(pictures), squeeze=False)
    for column, (name, both) in enumerate(pictures.items()):
        middle = int(both[0]["mask"].sum((0, 1)).argmax())
        where = both[0]["mask"][..., middle]
        for row, image in enumerate(ROWS):
            top = (
                1.0
                if "FA" in image
                else float(np.quantile(both[0][image][..., middle][where], 0.99))
            )
            for side, maps in enumerate(both):
                panel = axes[row, 2 * column + side]
                shown = np.flip(np.swapaxes(maps[image][:, :, middle], 0, 1), 0)
                panel.imshow(
                    shown.clip(0, 1) if "colour" in image else shown, "gray", vmin=0, vmax=top
                )
                panel.set_title(
                    f"{name}\n{image}, {('before', 'after')[side]}", color="white", fontsize=8
                )
                panel.axis("off")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, facecolor="black")
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(file, optimize=True)


def changed(before: dict, after: dict) -> dict:
    """Tell what enhancing changed: means of images, and the principal direction."""
    mask = before["mask"]
    out = {
        name: {
            "before": rounded(float(before[name][mask].mean())),
            "after": rounded(float(after[name][mask].mean())),
        }
        for name in (*ROWS[:4], "MD")
    }
    fibre = mask & (before["FA"] > ANISOTROPIC)
    angle = degrees(before["V1"][fibre], after["V1"][fibre])
    return out | {"V1 turned, median [degrees]": rounded(float(np.median(angle)))}


def alike(one: dict, other: dict) -> dict:
    """Correlation and mean absolute difference of FA of two scans of a head."""
    mask = one["mask"] & other["mask"]
    a, b = one["FA"][mask], other["FA"][mask]
    told = {
        "correlation of FA": float(np.corrcoef(a, b)[0, 1]),
        "difference of FA": float(np.abs(a - b).mean()),
    }
    return {name: rounded(value) for name, value in told.items()}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="*", help="NAME=FILE")
    given = parser.parse_args(arguments)
    results = Results("rish_real")
    for name, file in [text.split("=", 1) for text in given.weights] or [("residual", None)]:
        pictures = {}
        for label, (scan, mask) in SCANS.items():
            pictures[label] = looks(opened(scan, mask), file, "keep" if mask else FINER)
            results.put(name, label, value=changed(*pictures[label]))
        draw(pictures, RESULTS / f"rish_real_{name}.png")
        again = looks(opened(TWICE[1]), file, FINER)
        first = list(pictures.values())[1]
        for when, one, other in zip(("before", "after"), first, again, strict=True):
            results.put(name, "taken twice", when, value=alike(one, other))


if __name__ == "__main__":
    main(sys.argv[1:])
