"""Pictures of where PIGMENT is furthest from the truth."""

from __future__ import annotations

from pathlib import Path

import _lesions
import numpy as np

WINDOWS = {"FA": (0.0, 0.8), "MD": (0.0, 2.5e-3), "NDI": (0.0, 1.0)}
SPAN = 6.0
"""Differences are shown up to so many standard deviations."""

WORST = 3
DPI = 70


def healthy(files: list, kept: dict, wide: float, file: Path) -> None:
    """Draw, for each of three metrics, the brain with the most false alarms."""
    from DMRIMicroLib.training.pool import METRICS, load_slice

    rows = []
    for name in _lesions.CONTRASTS:
        k, worst = METRICS.index(name), None
        for number, path in enumerate(files):
            item, told = load_slice(path), kept[f"sparse {number}"].get(name)
            at = item.known[k].numpy()
            if told is None or not at.any() or bool((item.volume.lesion > 0).any()):
                continue
            z = np.where(at, (told.value - item.labels[k].numpy()) / np.maximum(told.sd, 1e-9), 0)
            share = float((np.abs(z[at]) > wide).mean())
            if worst is None or share > worst[0]:
                worst = share, number, item.labels[k].numpy() * at, told.value * at, told.sd * at, z
        if worst is not None:
            share, number, truth, value, sd, z = worst
            title = f"{name}, brain {number}, {100 * share:.2f} % beyond {wide:g} sd"
            rows.append((title, name, {"truth": truth, "pigment": value}, sd, z, None))
    _draw(rows, file)


def lesions(cases: list, file: Path) -> None:
    """Draw the lesions whose contrast is furthest from the truth's, relative to it."""
    ranked = []
    for title, case, found, told in cases:
        for name, true in told["truth"].items():
            error = abs(told["pigment"][name] - true) / max(abs(true), 1e-9)
            ranked.append((error, title, name, case, found, told))
    rows = []
    for _, title, name, case, found, told in sorted(ranked, key=lambda r: -r[0])[:WORST]:
        own, inside = found["pigment"][name], case.item.mask.numpy()
        z = (own.value - found["truth"][name].value) / np.maximum(own.sd, 1e-9)
        shown = {m: found[m][name].value * inside for m in ("truth", "pigment", "codebook", "fits")}
        numbers = ", ".join(f"{m} {told[m][name]:.3g}" for m in shown)
        head = f"{title}, {name}: contrast {numbers}"
        rows.append((head, name, shown, own.sd * inside, z * inside, case.lesion))
    _draw(rows, file)


def _draw(rows: list, file: Path) -> None:
    """One row a case: maps, standard deviation, difference in standard deviations."""
    from matplotlib.figure import Figure

    if not rows:
        return
    columns = max(len(row[2]) for row in rows) + 2
    figure = Figure(figsize=(3.0 * columns, 3.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for panel in axes.ravel():
        panel.axis("off")
    for line, (title, name, maps, sd, z, outline) in zip(axes, rows, strict=True):
        low, high = WINDOWS[name]
        panels = [(m, v, "gray", low, high) for m, v in maps.items()]
        panels.append(("sd", sd, "gray", 0.0, (high - low) / 4))
        panels.append(("(pigment - truth) / sd", z, "RdBu_r", -SPAN, SPAN))
        for panel, (label, values, colours, least, most) in zip(line, panels, strict=False):
            panel.imshow(values.T[::-1], cmap=colours, vmin=least, vmax=most)
            if outline is not None:
                panel.contour(outline.T[::-1], [0.5], colors="tab:orange", linewidths=0.8)
            panel.set_title(f"\n{label}", fontsize=9)
        line[0].set_title(f"{title}\n", fontsize=9, loc="left").set_in_layout(False)
    figure.savefig(file, dpi=DPI)
