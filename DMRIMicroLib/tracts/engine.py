"""dipy's tracking on a field, a few seeds at a time so that it can be watched and stopped.

Deterministic: EuDX (E. Garyfallidis, Towards an accurate brain tractography, PhD thesis, Cambridge
2012), which averages the nearest axes of the eight voxels around a point by trilinear weights.
Probabilistic: a direction is drawn at every step from the interpolated distribution, within the
largest angle. Both take steps of Euler: on a circle of radius r, lines drift outwards by
step^2 / (2 r) a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .field import Field, turned_odf, voxel_frame
from .regions import nearest

DETERMINISTIC, PROBABILISTIC = "deterministic", "probabilistic"

MAX_ANGLE = {DETERMINISTIC: 45.0, PROBABILISTIC: 30.0}
"""Largest angle between steps [degrees]; draws wander, so that they are held tighter."""

STEP = 0.5
"""Length of a step as a share of the smallest voxel edge."""

STRENGTH = 0.01
"""Axes below this share of the strongest are not followed."""

TAIL = 0.1
"""Those below this share of the distribution's highest are not drawn (dipy's default)."""

INSIDE = 0.5
"""Lines end where the interpolated 0 or 1 of the voxels they may enter falls below this."""

FIRST_CHUNK, LARGEST_CHUNK = 64, 4096
"""Seeds at a time."""
QUICK, SLOW = 0.25, 1.0
"""Chunks grow while they take less than the one, and shrink when they take more than the other
[s]: a cancel is heard that soon."""

LEAST_RANDOM, SPAN = 500_000, 1_000_000
"""dipy seeds its generator with a few voxels times this number: a small one would give the same
random numbers to many lines."""


@dataclass(frozen=True)
class Steps:
    """How lines grow.

    Attributes
    ----------
    method : {"deterministic", "probabilistic"}
    step : float
        [mm]
    max_angle : float
        Between one step and the next [degrees].
    min_length, max_length : float
        Shorter and longer lines are left out [mm].
    threads : int
        CPU threads; 0 for all.
    """

    method: str
    step: float
    max_angle: float
    min_length: float
    max_length: float
    threads: int = 0

    @classmethod
    def checked(
        cls,
        affine: NDArray,
        method: str,
        step: float | None,
        max_angle: float | None,
        lengths: tuple[float, float],
        threads: int,
    ) -> Steps:
        """Check the numbers, and fill in those left out for voxels of this affine."""
        if method not in MAX_ANGLE:
            raise InputError(f"there is no method {method!r}", f"Give {' or '.join(MAX_ANGLE)}.")
        edge = float(np.linalg.norm(affine[:3, :3], axis=0).min())
        step = STEP * edge if step is None else step
        max_angle = MAX_ANGLE[method] if max_angle is None else max_angle
        if not 0 < step <= edge:
            raise InputError(
                f"the step is {step:g} mm", f"Give up to the voxel's edge, {edge:g} mm."
            )
        if not 0 < max_angle < 90:
            raise InputError(f"the largest angle is {max_angle:g} degrees", "Give 0 to 90.")
        if not 0 <= lengths[0] < lengths[1]:
            raise InputError(
                f"lines are to be {lengths[0]:g} to {lengths[1]:g} mm long", "Give a range."
            )
        return cls(method, step, max_angle, *lengths, threads)


def grow(
    field: Field,
    inside: NDArray[np.bool_],
    seeds: NDArray,
    steps: Steps,
    random: int,
    step_done: Callable[[float], None],
) -> Iterator[list[NDArray[np.float32]]]:
    """Grow lines from seeds: (n, 3) RAS mm -> chunks of lines (points, 3) in RAS mm.

    Parameters
    ----------
    field : Field
    inside : (x, y, z) bool array
        Voxels that lines may enter.
    seeds : (n, 3) array
    steps : Steps
    random : int
        Seed of the random numbers; the lines do not depend on the size of the chunks.
    step_done : callable
        Called with the finished share; an exception from it stops the work.
    """
    frame = voxel_frame(field.affine)
    starts, towards = first_directions(field, inside, seeds)
    track = _tracker(field, inside, frame, steps, random)
    done, size = 0, FIRST_CHUNK
    while done < len(starts):
        step_done(done / len(starts))
        began = time.perf_counter()
        part = slice(done, done + size)
        found = track(starts[part], np.ascontiguousarray(towards[part] @ frame))
        yield [line.astype(np.float32) for line in found if _long_enough(line, steps)]
        done += size
        took = time.perf_counter() - began
        if took < QUICK:
            size = min(2 * size, LARGEST_CHUNK)
        elif took > SLOW:
            size = max(size // 2, 1)
    step_done(1.0)


def first_directions(
    field: Field, inside: NDArray[np.bool_], seeds: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pair each seed with each axis of its voxel: (m, 3) positions, (m, 3) directions in RAS."""
    shape = inside.shape
    number = np.arange(1, inside.size + 1).reshape(shape)
    voxel = nearest(np.where(inside, number, 0), field.affine, seeds) - 1
    usable = voxel >= 0
    axes = field.axes.reshape(-1, *field.axes.shape[3:])[voxel[usable]]
    strong = field.strength.reshape(len(number.ravel()), -1)[voxel[usable]] > STRENGTH
    who, which = np.nonzero(strong)
    return np.ascontiguousarray(seeds[usable][who], dtype=np.float64), axes[who, which]


def _tracker(
    field: Field, inside: NDArray[np.bool_], frame: NDArray, steps: Steps, random: int
) -> Callable[[NDArray, NDArray], list[NDArray]]:
    """Return what tracks positions (m, 3) and directions (m, 3) in the frame of the voxels."""
    try:
        from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
        from dipy.tracking.tracker import eudx_tracking, probabilistic_tracking
    except ImportError as error:
        raise InputError(
            f"this dipy cannot track ({error})", 'Install a newer one: pip install "dipy>=1.12".'
        ) from error
    stop = ThresholdStoppingCriterion(inside.astype(np.float64), INSIDE)
    options: dict[str, Any] = {
        "step_size": steps.step,
        "max_angle": steps.max_angle,
        "min_len": 0,  # dipy rounds lengths to points; they are measured afterwards
        "max_len": int(np.ceil(steps.max_length)) + 1,
        "nbr_threads": steps.threads,
        "random_seed": LEAST_RANDOM + random % SPAN,
    }
    if steps.method == PROBABILISTIC:
        assert field.odf is not None
        options |= {"sh": turned_odf(field.odf, frame), "legacy": False, "pmf_threshold": TAIL}
        follow = probabilistic_tracking
    else:
        options |= {"pam": _as_peaks(field, frame), "pmf_threshold": STRENGTH}
        follow = eudx_tracking

    def track(positions: NDArray, directions: NDArray) -> list[NDArray]:
        return list(follow(positions, stop, field.affine, seed_directions=directions, **options))

    return track


def _as_peaks(field: Field, frame: NDArray) -> SimpleNamespace:
    """Hand axes to dipy, which keeps directions in a list and numbers in the voxels.

    Every axis of every voxel has a place of its own in the list, so that none is rounded.
    """
    some = field.strength > STRENGTH
    numbers = np.zeros(field.strength.shape, dtype=np.int32)
    numbers[some] = np.arange(1, int(some.sum()) + 1)
    # number 0 is of voxels without an axis, whose strength is 0
    listed = np.vstack([[1.0, 0, 0], field.axes[some] @ frame])
    return SimpleNamespace(
        peak_indices=numbers,
        peak_values=np.where(some, field.strength, 0.0),
        odf_vertices=np.ascontiguousarray(listed),
    )


def _long_enough(line: NDArray, steps: Steps) -> bool:
    # a step less than asked for: the last one overshoots the border, or does not
    length = steps.step * (len(line) - 1)
    return len(line) > 1 and steps.min_length <= length <= steps.max_length
