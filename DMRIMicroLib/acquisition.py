"""The diffusion acquisition: b-values, directions, timing; its shells; sub-sampling; what it allows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

B0_THRESHOLD = 50.0
"""Volumes with b up to this value [s/mm2] count as not diffusion-weighted."""

SHELL_TOLERANCE = 80.0
"""b-values closer than this [s/mm2] chain into one shell (MRtrix3 uses the same width)."""

UNIT_TOLERANCE = 0.02
"""How far from 1 the length of a direction may be and still be taken for rounding."""

B_LIMIT = 1e5
"""No diffusion scan of a living brain has a b-value above this [s/mm2]."""

SAME_DIRECTION = np.cos(np.deg2rad(1.0))
"""|cosine| above which two gradients (or a gradient and its opposite) are one direction."""


@dataclass(frozen=True)
class Shell:
    """Volumes that share a b-value.

    Attributes
    ----------
    b : float
        Mean b-value [s/mm2].
    indices : tuple of int
        The volumes, in scan order.
    directions : int
        Number of distinct directions, opposite ones counted once.
    """

    b: float
    indices: tuple[int, ...]
    directions: int

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, eq=False)
class Acquisition:
    """How each volume of a scan was weighted.

    Parameters
    ----------
    bvals : (m,) array-like
        b-values [s/mm2].
    bvecs : (m, 3) array-like
        Gradient directions, unit vectors in RAS world coordinates; any vector for a b0 volume.
    delta, Delta, TE : float, optional
        Gradient duration, gradient separation and echo time [ms].
    b0_threshold : float
        Volumes with b up to this value count as b0 [s/mm2].

    Raises
    ------
    InputError
        If counts differ, a value is not finite or negative, or a direction is not a unit vector.
    """

    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    delta: float | None = None
    Delta: float | None = None
    TE: float | None = None
    b0_threshold: float = field(default=B0_THRESHOLD, kw_only=True)

    def __post_init__(self) -> None:
        b = check_bvals(self.bvals)
        g = check_bvecs(self.bvecs, b, b0_threshold=self.b0_threshold)
        for array in (b, g):
            array.setflags(write=False)
        object.__setattr__(self, "bvals", b)
        object.__setattr__(self, "bvecs", g)
        for name in ("delta", "Delta", "TE"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value} ms", "Give a positive time in ms, or leave it out.")

    def __len__(self) -> int:
        return len(self.bvals)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Acquisition) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of everything that the acquisition says."""
        told = hashlib.sha256(self.bvals.tobytes() + self.bvecs.tobytes())
        told.update(repr((self.delta, self.Delta, self.TE, float(self.b0_threshold))).encode())
        return told.hexdigest()

    @cached_property
    def is_b0(self) -> NDArray[np.bool_]:
        """(m,) True for volumes without diffusion weighting."""
        return self.bvals <= self.b0_threshold

    @cached_property
    def shells(self) -> tuple[Shell, ...]:
        """Diffusion-weighted shells by rising b, b0 left out.

        Sorted b-values are cut wherever two neighbours are further apart than `SHELL_TOLERANCE`,
        so b-values that jitter around a shell stay together.
        """
        weighted = np.flatnonzero(~self.is_b0)
        if not len(weighted):
            return ()
        order = weighted[np.argsort(self.bvals[weighted], kind="stable")]
        cuts = np.flatnonzero(np.diff(self.bvals[order]) > SHELL_TOLERANCE) + 1
        return tuple(
            Shell(
                b=float(self.bvals[group].mean()),
                indices=tuple(sorted(int(i) for i in group)),
                directions=count_directions(self.bvecs[group]),
            )
            for group in np.split(order, cuts)
        )

    def shell(self, b: float) -> Shell:
        """Return the shell nearest to `b` [s/mm2]; an InputError if none is within a quarter of it."""
        near = min(self.shells, key=lambda s: abs(s.b - b), default=None)
        if near is None or abs(near.b - b) > max(SHELL_TOLERANCE, b / 4):
            raise InputError(f"there is no shell at b = {b:g} s/mm2", f"This scan has {self.describe()}.")
        return near

    def describe(self) -> str:
        """One line: '13 b0, 30 x b1000, 60 x b2000'."""
        parts = [f"{int(self.is_b0.sum())} b0"]
        parts += [f"{len(s)} x b{round(s.b)}" for s in self.shells]
        return ", ".join(parts)

    def subset(self, volumes: Sequence[int] | NDArray) -> Acquisition:
        """Return the acquisition of some volumes, in the order given."""
        index = np.asarray(volumes)
        if np.array_equal(index, np.arange(len(self))):
            return self
        return replace(self, bvals=self.bvals[index], bvecs=self.bvecs[index])

    def subsample(self, directions: Mapping[float, int], b0: int = 1, start: int = 0) -> NDArray[np.intp]:
        """Choose volumes whose directions are well spread.

        Parameters
        ----------
        directions : mapping of b [s/mm2] to number of volumes
            What to keep of each shell, e.g. ``{1000: 6, 2000: 6}``.
        b0 : int
            Number of b0 volumes, the first ones.
        start : int
            The first direction of each shell: another start gives another subset.

        Returns
        -------
        (k,) int array
            Volume numbers in scan order, for `subset` and `Scan.select`.

        Notes
        -----
        Greedy choice, then exchanges, on the electrostatic energy of the directions and their
        opposites (D. K. Jones et al., Magn. Reson. Med. 42 (1999) 515-525); charges of other
        shells count half, so that shells do not repeat each other's directions.
        """
        baselines = np.flatnonzero(self.is_b0)
        if b0 > len(baselines):
            raise InputError(f"{b0} b0 volumes asked for, the scan has {len(baselines)}", "Ask for fewer.")
        chosen: list[int] = []
        for b, count in directions.items():
            shell = self.shell(b)
            if count > len(shell):
                raise InputError(f"{count} volumes asked for at b = {b:g}, the shell has {len(shell)}", "Ask for fewer.")
            chosen += _spread(self.bvecs, np.array(shell.indices), count, chosen, start)
        return np.sort(np.concatenate([baselines[:b0], np.array(chosen, dtype=np.intp)]))


@dataclass(frozen=True)
class Needs:
    """What an acquisition must have for a metric to be identifiable.

    Attributes
    ----------
    volumes : int
        Number of unknowns per voxel.
    shells : int
        Number of distinct non-zero b-values.
    directions : int
        Distinct directions, over the whole acquisition.
    b_max : float
        Highest b-value that is at least needed [s/mm2].
    timing : bool
        Whether delta and Delta must be known.
    """

    volumes: int = 1
    shells: int = 1
    directions: int = 1
    b_max: float = 0.0
    timing: bool = False

    def missing(self, acquisition: Acquisition) -> tuple[str, ...]:
        """Say what `acquisition` lacks; empty if nothing."""
        lacks = []
        shells, weighted = acquisition.shells, ~acquisition.is_b0
        if len(acquisition) < self.volumes:
            lacks.append(f"{self.volumes} volumes (there are {len(acquisition)})")
        if len(shells) < self.shells:
            have = ", ".join(f"b{round(s.b)}" for s in shells) or "none"
            lacks.append(f"{self.shells} non-zero shells (there are {len(shells)}: {have})")
        if (count := count_directions(acquisition.bvecs[weighted])) < self.directions:
            lacks.append(f"{self.directions} distinct directions (there are {count})")
        if self.b_max and (not shells or shells[-1].b < self.b_max - SHELL_TOLERANCE):
            lacks.append(f"a shell of b >= {self.b_max:g} s/mm2")
        if self.timing and (acquisition.delta is None or acquisition.Delta is None):
            lacks.append("the gradient timing (delta and Delta)")
        return tuple(lacks)


def check_bvals(bvals: ArrayLike, *, file: object = None) -> NDArray[np.float64]:
    """Return b-values as a fresh (m,) float64 array, or say which one is wrong."""
    b = np.array(bvals, dtype=np.float64)
    if b.ndim != 1 or not len(b):
        raise InputError(f"b-values have shape {b.shape}, expected (m,)", "Give one b-value a volume.", file=file)
    bad = np.flatnonzero(~np.isfinite(b) | (b < 0))
    if len(bad):
        raise InputError(
            f"b-value of volume {bad[0]} is {b[bad[0]]:g}",
            "Every b-value must be a finite number of s/mm2, 0 or more.",
            file=file,
        )
    return b


def check_bvecs(
    bvecs: ArrayLike, bvals: NDArray, *, b0_threshold: float = B0_THRESHOLD, file: object = None
) -> NDArray[np.float64]:
    """Return directions as a fresh (m, 3) float64 array of unit (b0: unit or zero) vectors."""
    g = np.array(bvecs, dtype=np.float64)
    if g.ndim != 2 or g.shape[1] != 3:
        raise InputError(f"directions have shape {g.shape}, expected (m, 3)", "Give x, y, z a volume.", file=file)
    if len(g) != len(bvals):
        raise InputError(
            f"there are {len(g)} b-vectors and {len(bvals)} b-values",
            "Both need one entry a volume: check that the files belong together.",
            file=file,
        )
    bad = np.flatnonzero(~np.isfinite(g).all(axis=1) & (bvals > b0_threshold))
    if len(bad):
        raise InputError(
            f"b-vector of volume {bad[0]} is {g[bad[0]].tolist()} at b = {bvals[bad[0]]:g}",
            "Correct it, or leave the volume out (--exclude).",
            file=file,
        )
    g = np.nan_to_num(g)  # some converters write NaN directions for b0 volumes
    length = np.linalg.norm(g, axis=1)
    zero = np.flatnonzero((length < 1e-3) & (bvals > b0_threshold))
    if len(zero):
        volumes = ",".join(map(str, zero))
        raise InputError(
            f"b-vector of volume {zero[0]} is zero at b = {bvals[zero[0]]:g}",
            f"If these are trace images made by the scanner, leave them out: --exclude {volumes}.",
            file=file,
        )
    off = np.flatnonzero((np.abs(length - 1) > UNIT_TOLERANCE) & (bvals > b0_threshold))
    if len(off):
        raise InputError(
            f"b-vector of volume {off[0]} has length {length[off[0]]:.4g}, expected 1",
            "Normalise the b-vectors; if their length encodes b, give the true b-values with unit vectors.",
            file=file,
        )
    return g / np.where(length < 1e-3, 1, length)[:, None] * (length >= 1e-3)[:, None]


def to_s_per_mm2(bvals: NDArray, *, file: object = None) -> tuple[NDArray[np.float64], str | None]:
    """Recognise b-values in ms/um2 or s/m2 and convert them; the second value says so, if done."""
    top = float(np.max(bvals, initial=0.0))
    if top == 0:
        raise InputError("all b-values are 0", "This is not a diffusion scan, or the wrong file.", file=file)
    if top <= B0_THRESHOLD:
        return bvals * 1e3, f"b-values up to {top:g} were read as ms/um2 and multiplied by 1000"
    if top <= B_LIMIT:
        return bvals, None
    if 100 <= top / 1e6 <= B_LIMIT:
        return bvals / 1e6, f"b-values up to {top:g} were read as s/m2 and divided by 1e6"
    raise InputError(
        f"highest b-value is {top:g}", "Give b-values in s/mm2 (typically 0 to 10000).", file=file
    )


def count_directions(bvecs: NDArray) -> int:
    """Count the distinct axes among unit vectors: (k, 3) -> int."""
    axes = bvecs[np.any(bvecs, axis=1)]
    same = np.abs(axes @ axes.T) > SAME_DIRECTION
    left, count = np.ones(len(axes), dtype=bool), 0
    for k in range(len(axes)):
        if left[k]:
            count += 1
            left &= ~same[k]
    return count


def _spread(g: NDArray, candidates: NDArray, count: int, taken: list[int], start: int) -> list[int]:
    """Pick `count` of the candidate volumes by electrostatic energy, given volumes already taken."""
    if count == 0:
        return []
    u = g[candidates]
    gap = np.maximum(1 - np.abs(u @ u.T), 1e-6)  # opposite directions are the same axis
    pair = 1 / gap
    np.fill_diagonal(pair, 0)
    outside = (0.5 / np.maximum(1 - np.abs(u @ g[taken].T), 1e-3)).sum(axis=1) if taken else np.zeros(len(u))
    picked = [start % len(u)]
    while len(picked) < count:
        cost = pair[:, picked].sum(axis=1) + outside
        cost[picked] = np.inf
        picked.append(int(np.argmin(cost)))
    for _ in range(10 * count):  # exchange the worst while that lowers the energy
        cost = pair[:, picked].sum(axis=1) + outside
        worst = max(range(count), key=lambda k: cost[picked[k]])
        rest = picked[:worst] + picked[worst + 1 :]
        trial = pair[:, rest].sum(axis=1) + outside
        trial[rest] = np.inf
        best = int(np.argmin(trial))
        if trial[best] >= trial[picked[worst]] - 1e-12:
            break
        picked[worst] = best
    return [int(candidates[k]) for k in picked]
