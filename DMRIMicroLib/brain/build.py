"""Anatomies from public tissue maps, fibre orientations and bundles, in MNI space.

Every person whose fibres are known gives one anatomy for each atlas: tissue of the atlas, drawn to
that person's own white matter by the anisotropy, with the person's fibres. What several anatomies
need is worked out once, and only when one of them asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..errors import InputError
from . import bundles, sources
from .anatomy import SUFFIX, anatomy_folder, load_anatomy, save
from .assemble import FA_OF, FINE_BLUR, GRID, Person, assemble, atlas_tissue, grid
from .register import Image, Warp, register, sample, still, without_rim, world

COARSE = ((-90.0, -126.0, -72.0), (91, 109, 91), 2.0)
"""The grid that heads are registered on: finer costs minutes, and FA maps are coarser."""

SULCI_SHARP = 1.0
"""Like `assemble.SULCI` for SRI24, whose fluid is not washed out."""

ATLASES = ("icbm", "sri24")

REFERENCE = next(iter(sources.SUBJECTS))
"""The person whose fibres complete the others'."""

NAMES = tuple(f"{atlas}-{person}" for atlas in ATLASES for person in sources.SUBJECTS)
"""Every anatomy that can be built."""

EFFORT = {"bridge": 2.0, "tissue": 0.5, "labels": 1.5, "person": 3.0, "sri24": 3.0, "anatomy": 2.0}
"""Parts of the work and about how long each takes, relative to each other."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Built:
    """An anatomy's file, and how long it took [s]; None if it was there already."""

    name: str
    file: Path
    seconds: float | None


def build(
    source: str | Path,
    out: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    rebuild: bool = False,
    progress: Progress | None = None,
) -> list[Built]:
    """Build the anatomies that a folder of public data allows, those that are not there yet.

    Each appears whole or not at all, so that a run that was stopped can be taken up again.

    Parameters
    ----------
    source : path-like
        Folder with ``anatomy/`` and ``orientation/``; `sources` says what is in them.
    out : path-like, optional
        Where the files go; by default where `load_anatomy` looks.
    names : sequence of str, optional
        Of `NAMES`; default all.
    rebuild : bool
        Build those again that are there.
    progress : callable, optional
        Called with the share that is done, 0 to 1, and what is being done.

    Raises
    ------
    InputError
        If a name is unknown or a file is missing, before any work is done.
    """
    source, out = Path(source), Path(out) if out else anatomy_folder()
    wanted = list(NAMES if names is None else dict.fromkeys(names))
    if unknown := [n for n in wanted if n not in NAMES]:
        raise InputError(
            f"no anatomy can be built that is called {', '.join(unknown)}",
            f"Choose of {', '.join(NAMES)}.",
        )
    files = {name: out / f"{name}{SUFFIX}" for name in wanted}
    missing = [n for n in wanted if rebuild or not usable(files[n])]
    sources.check({REFERENCE, *(_parts(n)[1] for n in missing)} if missing else (), source)
    workshop = _Workshop(source, missing, progress or (lambda share, text: None))
    made = []
    for name in wanted:
        started = time.perf_counter()
        if name in missing:
            save(workshop.anatomy(name), files[name])
        seconds = time.perf_counter() - started if name in missing else None
        made.append(Built(name, files[name], seconds))
    return made


def usable(file: Path) -> bool:
    """Tell whether there is an anatomy that this version reads."""
    if not file.exists():
        return False
    try:
        load_anatomy(file)
    except InputError:
        return False
    return True


def _parts(name: str) -> tuple[str, str]:
    atlas, _, person = name.partition("-")
    return atlas, person


class _Workshop:
    """What the anatomies of a folder of data are made of, each part when it is first needed."""

    def __init__(self, source: Path, names: Sequence[str], progress: Progress) -> None:
        self.anatomies, self.orientation = source / "anatomy", source / "orientation"
        self.progress = progress
        people = {REFERENCE, *(_parts(n)[1] for n in names)}
        counts = {"bridge": 1, "labels": 1, "tissue": 1, "person": len(people)}
        counts |= {"sri24": any(_parts(n)[0] == "sri24" for n in names), "anatomy": len(names)}
        self.total = sum(EFFORT[part] * n for part, n in counts.items())
        self.done, self.under_way = 0.0, 0.0
        self.located = cache(self._located)

    def begin(self, part: str, text: str) -> None:
        """Tell that a part of the work begins, and that the one before it is done."""
        self.done, self.under_way = self.done + self.under_way, EFFORT[part]
        self.progress(min(self.done / self.total, 1.0), text)

    def anatomy(self, name: str):
        """Make one anatomy."""
        atlas, person = _parts(name)
        found, reference = self.located(person, atlas), self.located(REFERENCE, atlas)
        tissue, labels = self.tissue, self.labels
        if atlas == "sri24":
            tissue, to_mni = self.second
            moved = sample(Image(labels[0], to_mni.affine), to_mni.points, order=0)
            labels = moved.astype(np.uint8), labels[1]
        self.begin("anatomy", f"Putting {name} together")
        return assemble(name, tissue, found, reference, labels)

    @cached_property
    def template(self) -> Image:
        """Mean FA of MNI space on the grid of `COARSE`."""
        affine, shape = grid(COARSE)
        mean = sources.fa_template(self.orientation)
        blurred = Image(gaussian_filter(mean.data, FINE_BLUR), mean.affine)
        return Image(sample(blurred, world(affine, shape)), affine)

    @cached_property
    def icbm(self) -> Image:
        """ICBM152's tissue."""
        return sources.icbm(self.anatomies)

    @cached_property
    def bridge(self) -> Warp:
        """Where each voxel of ICBM152 lies in the FA template."""
        self.begin("bridge", "Registering ICBM152 to the FA template")
        return to_template(self.icbm, self.template)

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """ICBM152's tissue on the grid of anatomies."""
        self.begin("tissue", "Reading the tissue of ICBM152")
        return atlas_tissue(self.icbm, still(*grid(GRID)))

    @cached_property
    def labels(self) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Bundle labels in ICBM152's white matter."""
        white = self.tissue[0]
        self.begin("labels", "Following the bundles")
        folders = (self.orientation / name for name in sources.BUNDLE_FOLDERS)
        return bundles.label(bundles.bundle_files(*folders), grid(GRID)[0], white)

    @cached_property
    def second(self) -> tuple[NDArray, Warp]:
        """SRI24's tissue, and the warp from it to ICBM152's shape."""
        self.begin("sri24", "Registering SRI24 to ICBM152")
        return second_atlas(self.anatomies, self.icbm)

    def _located(self, person: str, atlas: str) -> Person:
        """Read a person's fibres and find where each voxel of an atlas lies in them."""
        if atlas == "sri24":
            through = self.located(person, "icbm")
            return replace(through, warp=through.warp.after(self.second[1]))
        bridge = self.bridge
        self.begin("person", f"Registering the fibres of {person}")
        read = sources.SUBJECTS[person](self.orientation)
        warp = register(self.template, without_rim(read.fa))
        return Person(read, warp.after(bridge))


def to_template(icbm: Image, template: Image) -> Warp:
    """Find where each voxel of ICBM152 lies in the FA template.

    Both are called MNI space, yet the corpus callosum of the one lies 4 mm above the other's. The
    tissue maps are made to look like FA first.
    """
    like_fa = sum(
        mean * gaussian_filter(tissue, FINE_BLUR)
        for tissue, (mean, _) in zip(icbm.data, (FA_OF[0], FA_OF[1], FA_OF[3]), strict=True)
    )
    coarse = sample(Image(like_fa, icbm.affine), world(template.affine, template.data.shape))
    return register(Image(coarse, template.affine), template, gentle=True)


def second_atlas(folder: Path, icbm: Image) -> tuple[NDArray, Warp]:
    """SRI24 tissue, brought to MNI space by an affine, and the warp from it to ICBM152's shape."""
    affine, shape = grid(COARSE)
    points = world(affine, shape)
    own = sources.sri24(folder)
    whites = [Image(gaussian_filter(i.data[0], FINE_BLUR), i.affine) for i in (icbm, own)]
    mni = Image(sample(whites[0], points), affine)
    to_sri24 = register(mni, whites[1], affine_only=True)
    to_mni = register(Image(sample(whites[1], to_sri24.points), affine), mni)
    fine = still(*grid(GRID))
    return atlas_tissue(own, to_sri24.after(fine), SULCI_SHARP), to_mni.after(fine)
