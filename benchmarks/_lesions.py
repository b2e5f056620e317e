"""Simulated slices through lesions that no training saw, and how methods see the lesions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import _brain
import numpy as np
from scipy import ndimage

PROTOCOL = ({1000.0: 6, 2000.0: 6}, 1)
"""Thirteen volumes."""

CONTRASTS = ("FA", "MD", "NDI")

FIELD, EDGE, TE, TR = 3.0, 2.0, 80.0, 6.0
"""Of the slices: field strength [T], edge of a cubic voxel [mm], echo time [ms], repetition [s]."""

COARSE = 4.0
"""Grid on which the lesion is looked for [mm]."""

AREA = 200.0
"""Least area of a lesion in the slice [mm2]."""

TRIES = 40
MARGIN = 16.0
"""Around the head [mm]: the deformed one may be larger."""

FINER = (2, 2, 2)
NEAR, FAR = 1, 4
"""The surround: from so many voxels beyond the lesion to so many."""

UNSEEN = {
    "lymphoma": (
        "stroke_subacute",
        (0.1, 0.3),
        {"neurite": 0.03, "soma": 0.45, "extra": 0.47, "free": 0.05},
        {"d_extra_par": (0.75, 0.9), "d_extra_perp": (0.95, 1.15), "radius": (0.6, 0.8)},
    ),
    "abscess": (
        "stroke_chronic",
        (0.0, 0.1),
        {"soma": 0.2, "extra": 0.78, "dot": 0.02},
        {"d_extra_par": (0.3, 0.4), "d_extra_perp": (0.45, 0.6)},
    ),
}
"""Lesions that the digital brain does not have, so that no training saw their kind: crowded small
cells, and pus (ranges chosen: ADC 0.5 to 0.8 and 0.4 to 0.7 um2/ms). Each is put in the place of a
kind that it has, with `Effect.keep`, `instead` and `factors`, and without order."""

FLUID = 1.5e-3
"""Surround has a true mean diffusivity below [mm2/s]."""


@dataclass(frozen=True, eq=False)
class Lesioned:
    """A slice and the voxels of its lesion and of the tissue around: (x, y) bool each."""

    item: object
    lesion: np.ndarray
    around: np.ndarray


@cache
def heads(anatomies: str) -> tuple:
    """Open the heads."""
    from DMRIMicroLib.brain.ownscan import open_anatomy
    from DMRIMicroLib.cli_train import heads as names

    return tuple(open_anatomy(name) for name in names(anatomies))


def lesioned(kind: str, number: int, anatomies: str, folder: Path = _brain.CACHE) -> Lesioned:
    """Return a slice through a lesion of a kind, made if it is not there."""
    from DMRIMicroLib.training.pool import load_slice, save_slice

    file = folder / "lesions" / f"{kind}-{_brain.SEED}-{number:03d}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_slice(_drawn(kind, number, anatomies), file)
    item = load_slice(file)
    share = lesion_share(item)
    inside = item.mask.numpy()
    lesion = (share >= 0.5) & inside
    reach = [ndimage.binary_dilation(share > 0, iterations=n) for n in (NEAR, FAR)]
    around = reach[1] & ~reach[0] & inside & (_truth(item, "MD") < FLUID)
    return Lesioned(item, lesion, around)


def lesion_share(item) -> np.ndarray:
    """Share of every voxel's pieces of tissue that are ill: (x, y)."""
    ill = np.zeros(tuple(item.volume.mask.shape))
    ill[item.volume.mask.numpy()] = item.volume.lesion.numpy() > 0
    x, y = item.mask.shape
    return ill.reshape(x, FINER[0], y, FINER[1], FINER[2]).mean((1, 3, 4))


def _truth(item, name: str) -> np.ndarray:
    from DMRIMicroLib.training.pool import METRICS

    return item.labels[METRICS.index(name)].numpy()


@contextmanager
def effect_of(kind: str) -> Iterator[str]:
    """Let a kind of `UNSEEN` take the place of another; yield the one that is to be drawn."""
    from DMRIMicroLib.brain.lesions import EFFECTS, ORDER, Effect

    if kind not in UNSEEN:
        yield kind
        return
    host, keep, instead, factors = UNSEEN[kind]
    before = EFFECTS[host]
    EFFECTS[host] = Effect(keep, instead, factors | {ORDER: (0.0, 0.2)}, "see UNSEEN")
    try:
        yield host
    finally:
        EFFECTS[host] = before


def _drawn(kind: str, number: int, anatomies: str):
    """Draw subjects until one has a lesion that is large enough; label its largest section."""
    with effect_of(kind) as host:
        return _drawn_as(host, kind, number, anatomies)


def _drawn_as(host: str, kind: str, number: int, anatomies: str):
    import torch

    from DMRIMicroLib.brain.machines import draw_scanner
    from DMRIMicroLib.brain.phantom import SubjectConfig, draw_subject, render
    from DMRIMicroLib.brain.simulate import generator_for
    from DMRIMicroLib.training.pool import Slice, label

    for attempt in range(TRIES):
        generator = generator_for(_brain.SEED, f"lesion {kind} {number} {attempt}")
        every = heads(anatomies)
        anatomy = every[int(torch.randint(len(every), (1,), generator=generator))]
        subject = draw_subject(generator, replace(SubjectConfig(), lesion=host))
        coarse = _grid(anatomy, COARSE)
        seen = render(anatomy, subject, coarse.affine, coarse.shape)
        ill = torch.zeros(coarse.shape)
        ill[seen.mask] = (seen.lesion > 0).float()
        area = ill.sum((0, 1)) * COARSE**2
        if area.max() < AREA:
            continue
        height = float(coarse.affine[2, 3] + COARSE * area.argmax())
        grid = _grid(anatomy, EDGE, height).refined(FINER)
        volume = render(anatomy, subject, grid.affine, grid.shape)
        machine = draw_scanner(generator)
        own = {"field": FIELD, "voxel": (EDGE,) * 3, "gap": 0.0, "TR": TR}
        scanner = replace(machine, **own).perfect(k_space=True)
        told = label(volume, scanner, TE)
        return Slice(volume, scanner, TE, *told, torch.eye(3))
    raise RuntimeError(f"no lesion of kind {kind} is large enough")


def _grid(anatomy, edge: float, height: float | None = None):
    """Axial grid over a head, or one slice of it at a height [mm]."""
    import torch

    from DMRIMicroLib.brain.grid import Grid

    inside = (anatomy.tissue.float().sum(0) > 0.5).nonzero()
    ends = torch.stack([inside.amin(0), inside.amax(0)]).double()
    corners = ends @ anatomy.affine[:3, :3].double().T + anatomy.affine[:3, 3]
    low, high = corners.amin(0) - MARGIN / 2, corners.amax(0) + MARGIN / 2
    affine = torch.diag(torch.tensor([edge, edge, edge, 1.0], dtype=torch.float64))
    affine[:3, 3] = low
    shape = ((high - low) / edge).ceil().int().tolist()
    if height is not None:
        affine[2, 3], shape[2] = height, 1
    return Grid(affine, tuple(shape))


def contrasts(case: Lesioned, maps: dict) -> dict[str, float]:
    """Mean in the lesion less mean around it, of a method's maps or of the truth (`labels`)."""
    from DMRIMicroLib.training.pool import METRICS

    out = {}
    for name in CONTRASTS:
        if name in maps:
            known = case.item.known[METRICS.index(name)].numpy()
            value = maps[name].value
            if (known & case.lesion).any() and (known & case.around).any():
                out[name] = float(value[known & case.lesion].mean())
                out[name] -= float(value[known & case.around].mean())
    return out


def labels(case: Lesioned) -> dict:
    """Return the truth as a method's maps are."""
    every = np.ones(case.lesion.shape, bool)
    return {name: _brain.Told(_truth(case.item, name), every) for name in CONTRASTS}
