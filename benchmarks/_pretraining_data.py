"""Scans of `pretraining`'s table: slabs of digital brains of two scanners, and the real slices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import _sparse
import numpy as np
from _common import HERE

CACHE = HERE / "cache" / "pretraining"

METRICS = ("FA", "NDI", "ODI", "MK")
MODELS = ("dti", "noddi", "dki")

SEED = 80_100_000
"""Of the digital brains: the auxiliary, the target's and those of the test follow each other."""

AUXILIARY, TEST = 4, 3
"""Subjects; of target subjects there are as many as the longest row wants."""

SLICES = 4
"""Of the target's slices, around the middle of a digital brain: the slab that is kept."""

EDGE = 2
"""More are rendered on both sides, so that what moves into the slab is tissue, too."""

VOXEL = 2.5
"""Of the target [mm]; the auxiliary scans have half of it."""

GOOD = {1000.0: 30, 2000.0: 30, 3000.0: 30}
"""Directions of the auxiliary scans, 6 b0 volumes (of the HCP's 90 a shell: for the time)."""

SPARSE = {1000.0: 15, 2000.0: 15}
"""Directions of the target's short scans; one b0 volume."""


def files_of(folder: Path, count: int | None = None) -> list:
    """Return the scans of the first subjects of a data set."""
    from DMRIMicroLib.cohort.dataset import Dataset

    return list(Dataset.open(folder).scans())[:count]


def write_subject(folder: Path, number: int, scan) -> None:
    """Write a scan with its mask as a subject of a raw data set."""
    import nibabel as nib

    from DMRIMicroLib.files import staged
    from DMRIMicroLib.io import nifti

    stem = f"sub-{number:02d}"
    with staged(folder / stem / "dwi") as stage:
        nifti.save(scan, stage / f"{stem}_dwi.nii.gz")
        mask = nib.Nifti1Image(scan.mask.astype(np.uint8), scan.affine)
        nib.save(mask, stage / f"{stem}_desc-brain_mask.nii.gz")


def shortened(scan):
    """Take the target's short scan out of a full one."""
    return scan.select(scan.acquisition.subsample(SPARSE, b0=1))


def head_of(seed: int, tested: bool):
    """Open a head: those of the test are others than those of the trainings, where there are."""
    from DMRIMicroLib.brain.anatomy import available
    from DMRIMicroLib.brain.ownscan import open_anatomy

    names = [name for name in available() if name != "small"] or ["small"]
    apart = [name for name in names if name.startswith("sri24")]
    rest = [name for name in names if name not in apart]
    chosen = (apart if tested else rest) or names
    return open_anatomy(chosen[seed % len(chosen)])


def slab(seed: int, target: bool, tested: bool = False):
    """Simulate the middle of a brain; return the scan, and of a test the truth of each metric."""
    import torch

    from DMRIMicroLib.brain.machines import SCANNERS
    from DMRIMicroLib.brain.phantom import SubjectConfig, draw_subject, render
    from DMRIMicroLib.brain.protocols import named
    from DMRIMicroLib.brain.scanner import scan as measured
    from DMRIMicroLib.brain.simulate import fine_grid, generator_for
    from DMRIMicroLib.brain.truth import truth

    finer, ratio = 2, 1 if target else 2
    scanner = SCANNERS["clinical1.5t" if target else "hcp3t"]
    scanner = replace(scanner, voxel=(VOXEL / ratio,) * 3, gap=0.0)
    acq = named("b1k_b2k" if target else "hcp3t")
    acq = acq if target else acq.subset(acq.subsample(GOOD, b0=6))
    head, person = head_of(seed, tested), draw_subject(generator_for(seed, "s"), SubjectConfig())
    affine, shape = fine_grid(head, scanner, finer, person)
    kept, count = SLICES * ratio, min(shape[2], finer * ratio * (SLICES + 2 * EDGE))
    first = (shape[2] - count) // (2 * finer) * finer
    affine = affine.clone()
    affine[:3, 3] += first * affine[:3, 2]
    volume = render(head, person, affine, (*shape[:2], count), torch.device("cpu"))
    whole = measured(volume, acq, scanner, generator_for(seed, "scanner"))
    low = (whole.shape[2] - kept) // 2
    at = slice(low, low + kept)
    moved = whole.affine.copy()
    moved[:3, 3] += low * moved[:3, 2]
    part = {"signal": whole.signal[:, :, at], "mask": whole.mask[:, :, at], "affine": moved}
    found = replace(whole, **part)
    if not tested:
        return found, {}
    maps = truth(volume, acq, scanner, list(MODELS), "cpu")
    told = {}
    for name in METRICS:
        good = maps.flags[maps[name].model][:, :, at] == 1
        told[name] = np.where(good, np.asarray(maps[name].data)[:, :, at], np.nan)
    return found, told


def brains(count: int, go_on: Callable[[], None]) -> tuple[Path, list]:
    """Make the digital brains that are missing; return their folder, and what is tested on.

    Parameters
    ----------
    count : int
        Target subjects.
    go_on : callable
        Called before each brain; it may end it all.
    """
    folder = CACHE / "digital"
    for name, subjects, seed in (
        ("auxiliary", AUXILIARY, 0),
        ("target", count, 100),
        ("test", TEST, 200),
    ):
        for k in range(subjects):
            if (folder / name / f"sub-{k:02d}" / "dwi").exists():
                continue
            go_on()
            scan, truth = slab(SEED + seed + k, name != "auxiliary", name == "test")
            if truth:
                (folder / "truth").mkdir(parents=True, exist_ok=True)
                np.savez_compressed(folder / "truth" / f"{k}.npz", **truth)
            write_subject(folder / name, k, scan)
            print(f"{name} {k}", file=sys.stderr, flush=True)
    tests = []
    for k, one in enumerate(files_of(folder / "test", TEST)):
        with np.load(folder / "truth" / f"{k}.npz") as truth:
            tests.append((shortened(one.load()), dict(truth)))
    return folder, tests


def slices(train: int) -> tuple[Path, list]:
    """Write one slice of the example scan to learn from; return its folder, and the other's test.

    The truth of the test are fits to the volumes that the network does not see: their noise is
    not its own.
    """
    import DMRIMicroLib as dm

    whole = _sparse.scan()
    folder, test = CACHE / f"real {train}", slice(1 - train, 2 - train)
    scan = replace(whole, signal=whole.signal[:, :, test], mask=whole.mask[:, :, test])
    seen = scan.acquisition.subsample(SPARSE, b0=1)
    other = scan.select(np.setdiff1d(np.arange(len(scan.acquisition)), seen))
    maps = dm.fit(other, list(MODELS))
    truth = {}
    for name in METRICS:
        good = maps.flags[maps[name].model] == 1
        truth[name] = np.where(good, maps[name].data, np.nan)
    if not (folder / "target" / "sub-00" / "dwi").exists():
        write_subject(folder / "target", 0, halves(whole, train))
    return folder, [(scan.select(seen), truth)]


def halves(scan, level: int):
    """Lay the front and the back half of a slice on each other: something has to be held out."""
    middle = scan.shape[1] // 2
    parts = [slice(0, middle), slice(middle, 2 * middle)]
    signal = np.stack([scan.signal[:, p, level] for p in parts], 2)
    return replace(scan, signal=signal, mask=np.stack([scan.mask[:, p, level] for p in parts], 2))
