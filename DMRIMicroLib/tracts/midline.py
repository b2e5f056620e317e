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

POINTS = 20_000
"""Voxels that are compared."""

TILTS = (-8.0, 0.0, 8.0)
"""Starting angles of the search [degrees]."""

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
    # smoothed within the brain, so that its edge does not count as dark tissue
    values, weight = (
        gaussian_filter(np.where(inside, part, 0).astype(float), SMOOTHING / spacing)
        for part in (image, 1.0)
    )
    smooth = np.where(weight > 0.1, values / np.maximum(weight, 0.1), 0)
    layers = Image(np.stack([smooth * inside, inside, leave_out]), affine)
    points = world(affine, mask.shape)[inside]
    here = smooth[inside]
    every = max(1, len(points) // POINTS)
    points, here = points[::every], here[::every]
    middle = points.mean(0)

    def unlike(place: NDArray) -> float:
        plane = _plane(place, middle)
        value, known, sick = sample(layers, plane.mirrored(points))
        # a mirror image that misses the brain is as unlike as can be; the lesion does not count
        there = np.where(known > 0.5, value / np.maximum(known, 0.5), 0)
        use = sick < 0.1
        return -float(np.corrcoef(here[use], there[use])[0, 1])

    starts = [(0.0, yaw, roll) for yaw in TILTS for roll in TILTS]
    best = min(starts, key=lambda start: unlike(np.array(start)))
    found = minimize(unlike, best, method="Nelder-Mead", options={"xatol": 0.02, "fatol": 1e-6})
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
