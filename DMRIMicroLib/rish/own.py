"""Pairs of one's own scans: patches of subjects who were scanned at 3 T and at 7 T."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import Cancelled, InputError
from ..files import staged
from ..io.bids import ScanFiles, scans_of, subjects
from ..masking import brain_mask, onto_grid
from ..scan import Scan
from .data import SUBJECT, SUFFIX, Look, Pair, load_pair, paired, pairs_in, remember, save_pair
from .features import ORDER, harmonics
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
    """Fit harmonics to the shell of a scan that networks look at."""
    setting = setting or Setting()
    scan = brain_mask(scan)
    shell = scan.acquisition.shell(setting.b)
    volumes = np.sort(np.r_[np.flatnonzero(scan.acquisition.is_b0), shell.indices])
    signal = torch.from_numpy(np.nan_to_num(np.moveaxis(scan.volumes(volumes), -1, 0)))
    made = harmonics(signal, scan.acquisition.subset(volumes), setting.b, ORDER)
    return Look(made, torch.from_numpy(np.array(scan.mask)), scan.affine, setting.b)


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
        BIDS data set with ``sub-*/ses-3T/dwi`` and ``sub-*/ses-7T/dwi``, preprocessed, both in one
        space: the 7 T scan registered to the 3 T scan.
    folder : path
        For the patches.
    patch : int
        Voxels of the 3 T scan along each edge.
    setting : Setting, optional
        Which shell is taken.
    progress, cancelled
        As of `fitting.fit`; patches that are whole stay.

    Returns
    -------
    list of path
        Subject by subject, so that those held out (`split`) are of the last ones.
    """
    setting = setting or Setting()
    labels = [s for s in subjects(source, "bids") if _sessions(source, s)]
    if not labels:
        raise InputError(
            f"no subject has the sessions {' and '.join(f'ses-{s}' for s in SESSIONS)}",
            "Name them so; each with a dwi folder.",
            file=source,
        )
    remember(folder, {"source": "own scans", "of": source.name, "patch": patch, "b": setting.b})
    for number, label in enumerate(labels):
        progress(number / len(labels), f"sub-{label}")
        if cancelled():
            raise Cancelled(STOPPED)
        if not (folder / SUBJECT.format(label)).exists():
            _make(folder, label, _sessions(source, label), patch, setting, cancelled)
    progress(1.0, "Done")
    return pairs_in(folder)


def _make(
    folder: Path,
    label: str,
    both: Sequence[ScanFiles],
    patch: int,
    setting: Setting,
    cancelled: Callable[[], bool],
) -> None:
    """Write the pairs of a subject, and last that they are all there."""
    first, second = (look_at(cubic(files.load(), files.image), setting) for files in both)
    for there in sorted(folder.glob(f"pair-*{SUFFIX}"))[:1]:
        before, own = load_pair(there).edges, (edges_of(v.affine)[0] for v in (first, second))
        if any(abs(a / b - 1) > CUBIC for a, b in zip(own, before, strict=True)):
            raise InputError(
                f"the voxels of sub-{label} differ from those of the pairs that are there, "
                f"{before[0]:.3g} mm at 3 T and {before[1]:.3g} mm at 7 T",
                "Make pairs of scans with the same voxels only; of others in another folder.",
                file=both[0].image,
            )
    count = 0
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


def _sessions(source: Path, label: str) -> tuple[ScanFiles, ...]:
    """Return a subject's scans of both sessions, or none."""
    found: dict[str | None, ScanFiles] = {}
    for files in scans_of(source, "bids", label):
        if isinstance(files, InputError):
            raise files
        if files.session in SESSIONS:
            if files.session in found:
                raise InputError(
                    f"sub-{label} has two scans of ses-{files.session}",
                    "Put them together, or take one away.",
                    file=files.image,
                )
            found[files.session] = files
    return tuple(found[s] for s in SESSIONS) if len(found) == len(SESSIONS) else ()
