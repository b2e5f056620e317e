"""The diffusion acquisition: weighting of each volume, shells, sub-sampling, what it allows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .table import B0_THRESHOLD, check_bvals, check_bvecs, count_directions, volume_numbers

SHELL_TOLERANCE = 80.0
"""b-values closer than this [s/mm2] chain into one shell (MRtrix3 uses the same width)."""

LEAST_TIME = {"delta": 0.5, "Delta": 0.5, "TE": 5.0}
"""Times [ms] below which a value was not given in ms: BIDS writes seconds, and no scanner is so
fast (a delta of 0.02 s is 20 ms)."""


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
        If counts differ, a value is not finite or negative, a direction is not a unit vector, or
        a time is not one in ms.
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
        self._check_timing()

    def _check_timing(self) -> None:
        for name, least in LEAST_TIME.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not (np.isfinite(value) and value > 0):
                raise InputError(
                    f"{name} is {value} ms", "Give a positive time in ms, or leave it out."
                )
            if value < least:
                raise InputError(
                    f"{name} is {value:g} ms, which is too short",
                    f"Give ms, not s: {value:g} s are {1e3 * value:g} ms.",
                )
        if self.delta is not None and self.Delta is not None and self.Delta < self.delta:
            raise InputError(
                f"Delta is {self.Delta:g} ms and delta {self.delta:g} ms",
                "Delta, from the start of one gradient to that of the other, cannot be shorter "
                "than delta, the duration of each: are they swapped?",
            )

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
        """Return the shell nearest to `b` [s/mm2]; InputError if none is within a quarter of it."""
        near = min(self.shells, key=lambda s: abs(s.b - b), default=None)
        if near is None or abs(near.b - b) > max(SHELL_TOLERANCE, b / 4):
            raise InputError(
                f"there is no shell at b = {b:g} s/mm2", f"This scan has {self.describe()}."
            )
        return near

    def describe(self) -> str:
        """One line: '13 b0, 30 x b1000, 60 x b2000'."""
        parts = [f"{int(self.is_b0.sum())} b0"]
        parts += [f"{len(s)} x b{round(s.b)}" for s in self.shells]
        return ", ".join(parts)

    def subset(self, volumes: Sequence[int] | NDArray) -> Acquisition:
        """Return the acquisition of some volumes, in the order given."""
        index = volume_numbers(volumes, len(self))
        if np.array_equal(index, np.arange(len(self))):
            return self
        return replace(self, bvals=self.bvals[index], bvecs=self.bvecs[index])

    def powder(self) -> Acquisition:
        """Return the acquisition of the spherical means: one b0 volume, one a shell by rising b.

        The b-value of a mean is the mean b-value; its direction is arbitrary.
        """
        bvals = [float(self.bvals[self.is_b0].mean()), *(shell.b for shell in self.shells)]
        return replace(self, bvals=np.array(bvals), bvecs=np.tile([0.0, 0, 1], (len(bvals), 1)))

    def subsample(
        self, directions: Mapping[float, int], b0: int = 1, start: int = 0
    ) -> NDArray[np.intp]:
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
            raise InputError(
                f"{b0} b0 volumes asked for, the scan has {len(baselines)}", "Ask for fewer."
            )
        chosen: list[int] = []
        for b, count in directions.items():
            shell = self.shell(b)
            if count > len(shell):
                raise InputError(
                    f"{count} volumes asked for at b = {b:g}, the shell has {len(shell)}",
                    "Ask for fewer.",
                )
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
    directions_per_shell : int
        Distinct directions that each of `shells` shells must have by itself.
    """

    volumes: int = 1
    shells: int = 1
    directions: int = 1
    b_max: float = 0.0
    timing: bool = False
    directions_per_shell: int = 1

    def missing(self, acquisition: Acquisition) -> tuple[str, ...]:
        """Say what `acquisition` lacks; empty if nothing."""
        lacks = []
        shells, weighted = acquisition.shells, ~acquisition.is_b0
        if weighted.all():
            lowest = acquisition.bvals.min()
            lacks.append(
                f"a b0 volume (there is no b0 volume: the lowest b-value is {lowest:g} s/mm2; if "
                f"such volumes are to serve as b0, with their b: --b0-threshold {lowest + 1:g})"
            )
        if len(acquisition) < self.volumes:
            lacks.append(f"{self.volumes} volumes (there are {len(acquisition)})")
        if len(shells) < self.shells:
            have = ", ".join(f"b{round(s.b)}" for s in shells) or "none"
            lacks.append(f"{self.shells} non-zero shells (there are {len(shells)}: {have})")
        full = sum(s.directions >= self.directions_per_shell for s in shells)
        if full < self.shells <= len(shells):
            have = ", ".join(f"b{round(s.b)}: {s.directions}" for s in shells)
            lacks.append(
                f"{self.directions_per_shell} distinct directions in each of {self.shells} "
                f"non-zero shells (there are {have})"
            )
        if (count := count_directions(acquisition.bvecs[weighted])) < self.directions:
            lacks.append(f"{self.directions} distinct directions (there are {count})")
        if self.b_max and (not shells or shells[-1].b < self.b_max - SHELL_TOLERANCE):
            lacks.append(f"a shell of b >= {self.b_max:g} s/mm2")
        if self.timing and (acquisition.delta is None or acquisition.Delta is None):
            lacks.append("the gradient timing (delta and Delta)")
        return tuple(lacks)


def _spread(g: NDArray, candidates: NDArray, count: int, taken: list[int], start: int) -> list[int]:
    """Pick `count` candidate volumes by electrostatic energy, given volumes already taken."""
    if count == 0:
        return []
    u = g[candidates]
    gap = np.maximum(1 - np.abs(u @ u.T), 1e-6)  # opposite directions are the same axis
    pair = 1 / gap
    np.fill_diagonal(pair, 0)
    outside = (
        (0.5 / np.maximum(1 - np.abs(u @ g[taken].T), 1e-3)).sum(axis=1)
        if taken
        else np.zeros(len(u))
    )
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
