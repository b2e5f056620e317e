"""From scans of a data set to slices on disk, scan by scan; what is done is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..acquisition import SHELL_TOLERANCE
from ..errors import InputError
from ..files import staged
from ..io.bids import ScanFiles
from ..scan import Scan
from ..signals.space import Space
from .describe import Described
from .dictionary import Dictionary, learn
from .down import downsampled
from .given import given_maps
from .held_out import parted, subjects_apart
from .qspace import Harmonics, Interpolator, Numbers, Propagator, Shore
from .slices import Source, fitted, make_slices
from .target import Target

SIGNALS = "signals"
"""Folder of the slices."""

LEARNED_FROM = 4000
"""Voxels that teach a dictionary, about."""

DENSE = 6
"""Weighted volumes that a scan to learn from has at least."""

WAYS = ("dictionary", "sh", "shore", "mapmri", "space")
"""Names of the ways from one scheme to another. The first is the usual one: in two slices of a real
scan it predicted volumes that it had not seen best, with normalised errors of 0.161 (b2000 from all
others; SH 0.170, SHORE 0.174, MAP-MRI 0.164, the signal space 0.164) and 0.170 (b2000 from 15 + 15;
0.179, 0.184, 0.230, 0.174): `benchmarks/pretraining.py`, 60 voxels a slice."""

Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class Plan:
    """What to make of scans.

    Attributes
    ----------
    target : Target
    space : Space
    way : str
        One of `WAYS`.
    maps : Path or None
        Data set of maps that are taken for the truth; None: the library's own fits.
    reading : dict
        delta, Delta, TE and b0_threshold of `io.load`, in place of what sidecars say.
    device : str
        Of the fits.
    seed : int
    """

    target: Target
    space: Space
    way: str = "dictionary"
    maps: Path | None = None
    reading: tuple[tuple[str, float], ...] = ()
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise InputError(f"there is no way {self.way!r}", f"Choose from: {', '.join(WAYS)}.")

    def check(self, one: ScanFiles) -> Scan:
        """Open a scan, and hold it and its maps to what they are needed for.

        Raises
        ------
        InputError
            If the scan has too few volumes, or if the target asks for higher b-values than it has:
            any way would answer, and none could know. If its maps are not there, or not usable.
        """
        scan = one.load(**dict(self.reading))
        acq = scan.acquisition
        if not acq.is_b0.any() or int((~acq.is_b0).sum()) < DENSE:
            raise InputError(
                f"has {acq.describe()}, too little to learn from",
                f"Leave it out, or give scans with b = 0 and {DENSE} directions.",
                file=one.image,
            )
        wanted = self.target.acquisition.bvals.max()
        if wanted > acq.bvals.max() + SHELL_TOLERANCE:
            raise InputError(
                f"the target's scheme has b up to {wanted:.0f} s/mm2, the scan up to "
                f"{acq.bvals.max():.0f}",
                "Leave the scan out, or give a scheme (--target-scheme) within its b-values.",
                file=one.image,
            )
        if self.maps is not None:
            given_maps(one, scan, self.maps)
        return scan

    def open(self, one: ScanFiles) -> Scan:
        """Read a scan, as coarse as the target."""
        return downsampled(self.check(one), self.target.voxel)


@dataclass(frozen=True)
class Prepared:
    """Slices of scans.

    Attributes
    ----------
    files : tuple of tuples of path
        Of every scan.
    subjects : tuple of str
        Of every scan. They are nowhere written down.
    described : dict
        For the card.
    """

    files: tuple[tuple[Path, ...], ...]
    subjects: tuple[str, ...]
    described: dict[str, Any]


def prepare(
    scans: Sequence[ScanFiles],
    plan: Plan,
    folder: Path,
    progress: Tell = lambda share, text: None,
    held_out: Sequence[str] = (),
) -> Prepared:
    """Make the slices that are missing.

    Parameters
    ----------
    scans : sequence of ScanFiles
    plan : Plan
    folder : path
        For the slices, under numbers in place of names.
    progress : callable
    held_out : sequence of str
        Labels of subjects, see `held_out.subjects_apart`: they do not teach the dictionary either.
    """
    described, files = Described(), []
    lent: list[Dictionary] = []
    apart = subjects_apart([one.subject for one in scans], held_out)
    for k, one in enumerate(scans):

        def tell(share: float, first: int = k) -> None:
            progress((first + share) / len(scans), f"Scan {first + 1} of {len(scans)}")

        tell(0.0)
        told = _told(folder, k) or _make(one, scans, apart, plan, folder, k, lent, tell)
        files.append(tuple(folder / SIGNALS / name for name in told["slices"]))
        described.add(told["acquisition"], tuple(told["voxel"]), len(files[-1]), told["snr"])
    return Prepared(tuple(files), tuple(one.subject for one in scans), described.told(scans))


def _make(
    one: ScanFiles,
    scans: Sequence[ScanFiles],
    apart: set[str],
    plan: Plan,
    folder: Path,
    number: int,
    lent: list[Dictionary],
    tell: Callable[[float], None],
) -> dict[str, Any]:
    """Make the slices of one scan, and say so in a file."""
    scan = plan.open(one)
    source = Source.of(scan, plan.space)
    if plan.way == "dictionary" and not lent:
        lent.append(_dictionary(scans, apart, plan, {number: source}))
    maps = fitted(source.scan, plan.device) if plan.maps is None else _given(one, source, plan)
    tell(0.5)
    made = make_slices(
        source,
        maps,
        plan.target.acquisition,
        way_of(plan, source, lent[0] if lent else None),
        folder / SIGNALS,
        f"scan-{number:04d}",
        lambda share: tell(0.5 + share / 2),
    )
    told = {
        "slices": [file.name for file in made],
        "acquisition": scan.acquisition.describe(),
        "voxel": [round(v, 2) for v in scan.voxel_size],
        "snr": round(1 / max(source.noise, 1e-6), 1),
    }
    with staged(folder / SIGNALS) as stage:
        (stage / _index(number)).write_text(json.dumps(told) + "\n", encoding="utf-8")
    return told


def way_of(plan: Plan, source: Source, dictionary: Dictionary | None) -> Interpolator:
    """Return the way from a scan's scheme to the target's."""
    if plan.way == "dictionary":
        assert dictionary is not None
        return dictionary.heard(source.noise)
    if plan.way == "space":
        return Numbers(plan.space, source.noise, source.stack.frame)
    return {"sh": Harmonics, "shore": Shore, "mapmri": Propagator}[plan.way]()


def _dictionary(
    scans: Sequence[ScanFiles], apart: set[str], plan: Plan, opened: dict[int, Source]
) -> Dictionary:
    """Learn from the scan with the most volumes: of files, only tables are read to find it.

    It learns nothing from what is held out: no subject `apart`, or no slice of those held out.
    """
    known = [k for k, one in enumerate(scans) if one.subject not in apart]
    if not known:
        raise InputError("every subject is held out", "Hold out fewer (--held-out).")
    sizes = {k: len(scans[k].load(**dict(plan.reading)).acquisition) for k in known}
    best = max(known, key=lambda k: (sizes[k], -k))
    source = opened.get(best) or Source.of(plan.open(scans[best]), plan.space)
    generator = torch.Generator().manual_seed(plan.seed)
    levels = source.slices if apart else parted(source.slices)[0]
    signal = source.sample(LEARNED_FROM, generator, levels or source.slices)
    return learn(signal, source.stack.acquisition, source.noise, seed=plan.seed)


def _given(one: ScanFiles, source: Source, plan: Plan):
    """Read the given maps: they lie on the scan's own grid, so that this is not made coarser."""
    assert plan.maps is not None
    return given_maps(one, source.scan, plan.maps)


def _index(number: int) -> str:
    return f"scan-{number:04d}.json"


def _told(folder: Path, number: int) -> dict[str, Any] | None:
    """Return what is said of a scan whose slices are there."""
    file = folder / SIGNALS / _index(number)
    if not file.exists():
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    return told if all((folder / SIGNALS / name).exists() for name in told["slices"]) else None
