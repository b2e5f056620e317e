"""Brain masks: estimated from the scan, or brought onto its grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .scan import Scan

SAME_GRID = 1e-3
"""Affines closer than this [mm] are one grid."""

ROUNDING = 1e-4
"""Voxel coordinates this far below a half still round up: affines in files are float32."""


def brain_mask(scan: Scan) -> Scan:
    """Return the scan with a mask: its own, or dipy's median_otsu of the b0 image.

    Raises
    ------
    InputError
        If no brain is found.
    """
    if scan.mask is not None:
        return scan
    from dipy.segment.mask import median_otsu

    b0 = np.nan_to_num(scan.b0, posinf=0.0, neginf=0.0)
    # a radius of 4 voxels of 2 mm, dipy's default, would erase coarse or two-slice scans
    radius = int(np.clip(round(8 / max(scan.voxel_size)), 1, 4))
    mask = b0 > 0
    if b0.max() > b0.min():
        with np.errstate(all="ignore"):  # dipy divides by empty histogram bins
            mask &= median_otsu(b0, median_radius=radius, numpass=4)[1]
    if not mask.any():
        raise InputError(
            "no brain was found in the b0 image",
            "Give a mask (--mask).",
            file=scan.source,
        )
    return scan.with_mask(mask).with_notes(
        f"no mask was given: estimated with dipy's median_otsu (radius {radius}), "
        f"{int(mask.sum())} voxels"
    )


def onto_grid(
    mask: NDArray, affine: NDArray, shape: tuple[int, ...], target: NDArray, *, file: object = None
) -> NDArray[np.bool_]:
    """Bring a mask onto a scan's grid by its affine, nearest neighbour.

    Parameters
    ----------
    mask : (i, j, k) array
        Inside where > 0.
    affine : (4, 4) array
        Of the mask, voxel indices to RAS mm.
    shape, target : (3,) ints and (4, 4) array
        Grid of the scan.

    Raises
    ------
    InputError
        If the mask is empty or does not overlap the scan.
    """
    mask = np.asarray(mask)
    if mask.ndim == 4 and mask.shape[3] == 1:
        mask = mask[..., 0]
    if mask.ndim != 3:
        raise InputError(
            f"the mask has {mask.ndim} dimensions, expected 3", "Give a 3-D mask.", file=file
        )
    if mask.dtype.kind not in "biuf":
        raise InputError(f"the mask holds {mask.dtype} values", "Give numbers.", file=file)
    inside = np.nan_to_num(mask) > 0
    if not inside.any():
        raise InputError(
            "the mask is empty", "Give a mask with voxels in it, or none at all.", file=file
        )
    if mask.shape == tuple(shape) and np.allclose(affine, target, atol=SAME_GRID):
        return inside
    # scipy's affine_transform would drop what lies half a voxel beyond the outermost centres
    to_mask = np.linalg.inv(affine) @ target
    out = np.zeros(shape, dtype=bool)
    plane = np.indices((shape[1], shape[2])).reshape(2, -1)
    for i in range(shape[0]):  # a plane at a time bounds the memory
        index = to_mask[:3, :3] @ np.vstack([np.full(plane.shape[1], i), plane]) + to_mask[:3, 3:]
        nearest = np.floor(index + 0.5 + ROUNDING).astype(int)
        within = ((nearest >= 0) & (nearest < np.array(mask.shape)[:, None])).all(axis=0)
        out[i].ravel()[within] = inside[tuple(nearest[:, within])]
    if not out.any():
        raise InputError(
            "the mask does not overlap the scan (grids compared by their affines)",
            "Give a mask that was made for this scan.",
            file=file,
        )
    return out
