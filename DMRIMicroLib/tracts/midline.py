"""The plane between the halves of a brain, and what lies opposite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from ..brain.register import Image, sample, world
from ..errors import InputError

SMOOTHING = 4.0
"""Standard deviation of the images that are compared [mm]: halves differ in their folds."""

AFFECTED = 0.05
"""Places to whose smoothed image the lesion adds more than this share are left out."""

POINTS = 8_000
"""Voxels that are compared."""

SIDES, TILTS = (-3.3, 0.3, 3.9), (-7.7, 0.3, 8.3)
"""Offsets [mm] and angles [degrees] at which the search starts: none lets a voxel fall onto another
exactly, which looks more alike than it is."""

FIRST_STEPS = (4.0, 4.0, 4.0)
"""Of the search: offset [mm] and angles [degrees]."""

STEEPEST = 30.0
"""A plane tilted more than this [degrees] from the sagittal is no midline."""


@dataclass(frozen=True)
class Midline:
    """A plane: points p with (p - point) normal = 0, RAS millimetres.

    Attributes
    ----------
    normal : (3,) array
        Unit vector to the right.
    point : (3,) array
    likeness : float
        Correlation of the image with its mirror image, 1 if perfect.
    """

    normal: NDArray[np.float64]
    point: NDArray[np.float64]
    likeness: float

    def mirrored(self, points: NDArray) -> NDArray[np.float64]:
        """Reflect points: (..., 3) -> (..., 3)."""
        side = (points - self.point) @ self.normal
        return points - 2 * side[..., None] * self.normal


def find_midline(
    image: NDArray, mask: NDArray[np.bool_], affine: NDArray, leave_out: NDArray[np.bool_]
) -> Midline:
    """Find the plane about which an image is most like its mirror image.

    Parameters
    ----------
    image : (x, y, z) array
        E.g. FA or MD.
    mask : (x, y, z) bool array
        The brain.
    affine : (4, 4) array
    leave_out : (x, y, z) bool array
        The lesion, which has no counterpart.
    """
    inside = mask & np.isfinite(image) & ~leave_out
    if not inside.any():
        raise InputError("there is no brain outside the lesion", "Check the mask and the lesion.")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # smoothed across the edge of the brain, which is symmetric too: nothing jumps in the search
    blurred, sick = (
        gaussian_filter(part.astype(np.float32), SMOOTHING / spacing)
        for part in (np.where(inside, image, 0), leave_out)
    )
    layers = Image(np.stack([blurred, sick]), affine)
    healthy = mask & (sick < AFFECTED)
    points, here = world(affine, mask.shape)[healthy], blurred[healthy]
    every = max(1, len(points) // POINTS)
    points, here = points[::every], here[::every]
    if not len(points):
        raise InputError("there is no brain beside the lesion", "Check the mask and the lesion.")
    middle = points.mean(0)

    def unlike(place: NDArray) -> float:
        there, ill = sample(layers, _plane(place, middle).mirrored(points))
        use = ill < AFFECTED
        return -float(np.corrcoef(here[use], there[use])[0, 1]) if use.any() else 0.0

    starts = [(side, yaw, roll) for side in SIDES for yaw in TILTS for roll in TILTS]
    best = min(starts, key=lambda start: unlike(np.array(start)))
    simplex = np.array(best) + np.vstack([np.zeros(3), np.diag(FIRST_STEPS)])
    options = {"xatol": 0.02, "fatol": 1e-6, "initial_simplex": simplex}
    found = minimize(unlike, best, method="Nelder-Mead", options=options)
    plane = _plane(found.x, middle)
    tilt = np.rad2deg(np.arccos(min(1.0, abs(plane.normal[0]))))
    if tilt > STEEPEST:
        raise InputError(
            f"no midline was found (the best plane is tilted by {tilt:.0f} degrees)",
            "Check the orientation in the header, or leave out the contralateral side.",
        )
    return Midline(plane.normal, plane.point, -float(found.fun))


def _plane(place: NDArray, middle: NDArray) -> Midline:
    """Return the plane of an offset [mm] and two angles [degrees] from the sagittal one."""
    offset, yaw, roll = place
    yaw, roll = np.deg2rad([yaw, roll])
    normal = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw), np.sin(roll) * np.cos(yaw)])
    return Midline(normal, middle + offset * normal, float("nan"))
