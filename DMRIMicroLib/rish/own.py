"""Pairs of one's own scans: patches of subjects who were scanned at 3 T and at 7 T."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..acquisition import SHELL_TOLERANCE, Acquisition
from ..errors import Cancelled, InputError
from ..files import staged
from ..io.bids import ScanFiles, layout_of, sessions_of, subjects
from ..masking import brain_mask, onto_grid
from ..scan import Scan
from .data import SUBJECT, SUFFIX, Look, Pair, load_pair, paired, pairs_in, remember, save_pair
from .features import ORDER, order_of
from .grid import edges_of, regridded
from .units import Setting

SESSIONS = ("3T", "7T")
"""Labels of the sessions in a data set of pairs."""

BRAIN = 0.4
"""Least share of brain in a patch."""

OVERLAP = 0.7
"""Dice coefficient of two brain masks below which the scans were not registered (chosen)."""

CUBIC = 0.01
"""Relative difference of edges of a voxel, and of voxels of two scans, that does not count."""

STOPPED = "Stopped; the pairs of the subjects that were done stay."


def look_at(scan: Scan, setting: Setting | None = None) -> Look:
    """Fit harmonics to the shell of a scan that networks look at, as `setting` says."""
    setting = setting or Setting()
    scan = brain_mask(scan)
    shell = scan.acquisition.shell(setting.b)
    volumes = np.sort(np.r_[np.flatnonzero(scan.acquisition.is_b0), shell.indices])
    read = np.nan_to_num(scan.volumes(volumes), posinf=0.0, neginf=0.0)
    signal = torch.from_numpy(np.ascontiguousarray(np.moveaxis(read, -1, 0)))
    mask, part = torch.from_numpy(np.array(scan.mask)), scan.acquisition.subset(volumes)
    return Look.of(signal, part, mask, scan.affine, setting.b, setting.quiet)


def patches(first: Look, second: Look, patch: int) -> Iterator[Pair]:
    """Cut two looks at one head, in one space, into pairs of patches that do not overlap."""
    seen = onto_grid(second.mask.numpy(), second.affine, tuple(first.mask.shape), first.affine)
    own = first.mask.numpy()
    dice = 2 * float((seen & own).sum()) / float(seen.sum() + own.sum())
    if dice < OVERLAP:
        raise InputError(
            f"the brains of the two scans overlap by {dice:.2f} only (Dice)",
            "Register the 7 T scan to the 3 T scan first.",
        )
    edge = float(np.prod(edges_of(second.affine))) ** (1 / 3)
    corners = np.argwhere(own).min(0)
    for start in np.ndindex(*(-(-(np.argwhere(own).max(0) + 1 - corners) // patch))):
        corner = corners + patch * np.array(start)
        box = tuple(slice(int(c), int(c) + patch) for c in corner)
        if float(own[box].sum()) < BRAIN * patch**3:
            continue
        affine = first.affine.copy()
        affine[:3, 3] += first.affine[:3, :3] @ corner
        shape = (patch,) * 3
        fine_affine, fine_shape, _ = regridded(affine, shape, edge)
        yield paired(first, second, (affine, shape), (fine_affine, fine_shape))


def from_bids(
    source: Path,
    folder: Path,
    patch: int = 32,
    setting: Setting | None = None,
    progress: Callable[[float, str], None] = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Make patches of one's own paired scans, what is there already left as it is.

    Parameters
    ----------
    source : path
        BIDS data set with ``sub-*/ses-3T/dwi`` and ``sub-*/ses-7T/dwi``, or the HCP's layout with
        ``*/T1w/Diffusion`` and ``*/T1w/Diffusion_7T``; preprocessed, both in one space: the 7 T
        scan registered to the 3 T scan.
    folder : path
        For the patches.
    patch : int
        Voxels of the 3 T scan along each edge.
    setting : Setting, optional
        Its shell is taken, and every other one that both scans have; noise is taken out of the 3 T
        scan's features (`Setting.quiet`) if left out.
    progress, cancelled
        As of `fitting.fit`; patches that are whole stay.

    Returns
    -------
    list of path
        Subject by subject, so that those held out (`split`) are of the last ones.
    """
    setting = setting or Setting(quiet=True)
    both = both_of(source)
    origin = {"of": source.name, "patch": patch, "b": setting.b, "quiet": setting.quiet}
    remember(folder, {"source": "own scans", **origin})
    for number, (label, files) in enumerate(both.items()):
        progress(number / len(both), f"sub-{label}")
        if cancelled():
            raise Cancelled(STOPPED)
        if not (folder / SUBJECT.format(label)).exists():
            _make(folder, label, files, patch, setting, cancelled)
    progress(1.0, "Done")
    return pairs_in(folder)


def both_of(source: Path) -> dict[str, tuple[ScanFiles, ...]]:
    """Return the two scans of every subject of a data set who has both, by label."""
    layout = layout_of(source)
    every = {s: sessions_of(source, layout, s, SESSIONS) for s in subjects(source, layout)}
    found = {label: files for label, files in every.items() if files}
    if not found:
        raise InputError(
            f"no subject has the sessions {' and '.join(f'ses-{s}' for s in SESSIONS)}",
            "Name them so, each with a dwi folder; or give the HCP's layout, T1w/Diffusion and "
            "T1w/Diffusion_7T.",
            file=source,
        )
    return found


def shared(first: Acquisition, second: Acquisition, b: float) -> list[float]:
    """Return b-values of which both scans tell all coefficients: b, and every other one [s/mm2]."""
    out = [b]
    for shell in first.shells:
        near = [s for s in second.shells if abs(s.b - shell.b) <= SHELL_TOLERANCE]
        able = all(order_of(s, ORDER) == ORDER for s in (shell, *near))
        if near and able and all(abs(shell.b - known) > SHELL_TOLERANCE for known in out):
            out.append(shell.b)
    return out


def _make(
    folder: Path,
    label: str,
    both: Sequence[ScanFiles],
    patch: int,
    setting: Setting,
    cancelled: Callable[[], bool],
) -> None:
    """Write the pairs of a subject, and last that they are all there."""
    scans = [brain_mask(cubic(files.load(), files.image)) for files in both]
    edges = [edges_of(scan.affine)[0] for scan in scans]
    for there in sorted(folder.glob(f"pair-*{SUFFIX}"))[:1]:
        before = load_pair(there).edges
        if any(abs(a / b - 1) > CUBIC for a, b in zip(edges, before, strict=True)):
            raise InputError(
                f"the voxels of sub-{label} differ from those of the pairs that are there, "
                f"{before[0]:.3g} mm at 3 T and {before[1]:.3g} mm at 7 T",
                "Make pairs of scans with the same voxels only; of others in another folder.",
                file=both[0].image,
            )
    count = 0
    for b in shared(*(scan.acquisition for scan in scans), setting.b):
        first, second = (
            look_at(scan, replace(setting, b=b, quiet=quiet))
            for scan, quiet in zip(scans, (setting.quiet, False), strict=True)
        )
        for pair in patches(first, second, patch):
            if cancelled():
                raise Cancelled(STOPPED)
            save_pair(pair, folder / f"pair-{label}-{count:05d}{SUFFIX}")
            count += 1
    done = SUBJECT.format(label)
    with staged(folder) as stage:
        (stage / done).write_text(json.dumps({"patches": count}) + "\n", encoding="utf-8")


def cubic(scan: Scan, file: Path | None = None) -> Scan:
    """Return a scan whose voxels are cubes; refuse others: patches are turned and mirrored."""
    edges = edges_of(scan.affine)
    if max(edges) > min(edges) * (1 + CUBIC):
        raise InputError(
            f"its voxels are no cubes: {' x '.join(f'{v:.3g}' for v in edges)} mm",
            "Resample the scan to cubes first, or leave the subject out.",
            file=file,
        )
    return scan
