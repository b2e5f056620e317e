"""From a map on any grid to axial slices as a radiologist sees them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

MAX_SLICES = 12
"""Tiles of a mosaic."""

EDGE_SHARE = 0.15
"""Slices with less than this share of the largest slice's mask are not shown: the mask's caps."""

MARGIN = 2
"""Voxels left around the mask."""


def canonical(data: NDArray, affine: NDArray) -> tuple[NDArray, NDArray]:
    """Bring (x, y, z, ...) into the nearest order of axes that runs right, anterior, superior."""
    plain = data.astype(np.uint8) if data.dtype == bool else data
    image = nib.as_closest_canonical(nib.Nifti1Image(plain, affine, dtype=plain.dtype))
    return np.asarray(image.dataobj), image.affine


def axial_tiles(
    data: NDArray, mask: NDArray, affine: NDArray, most: int = MAX_SLICES
) -> tuple[NDArray, float]:
    """Cut axial slices that span the mask, cropped to it, in radiological display.

    Parameters
    ----------
    data : (x, y, z) or (x, y, z, 3) array
        Values.
    mask : (x, y, z) bool array
        Where they mean something; elsewhere the tiles are NaN.
    affine : (4, 4) array
        Voxel indices to RAS mm.
    most : int
        Number of slices, at most.

    Returns
    -------
    tiles : (n, rows, columns) or (n, rows, columns, 3) float32 array
        From inferior to superior. Row 0 is anterior; column 0 is the patient's right, so that
        left stands on the right.
    aspect : float
        Height over width of a pixel.
    """
    inside, grid = canonical(mask, affine)
    values, _ = canonical(np.asarray(data, dtype=np.float32), affine)
    size = np.linalg.norm(grid[:3, :3], axis=0)
    inside = inside > 0
    outside = ~inside if values.ndim == 3 else np.broadcast_to(~inside[..., None], values.shape)
    values = np.where(outside, np.nan, values)
    ends = [(int(k.min()), int(k.max())) for k in np.nonzero(inside)[:2]]
    crop = tuple(slice(max(0, low - MARGIN), high + 1 + MARGIN) for low, high in ends)
    chosen = choose_slices(inside.sum(axis=(0, 1)), most)
    tiles = np.moveaxis(values[crop][:, :, chosen], 2, 0)
    # (n, x, y) -> (n, row from anterior, column from the patient's right)
    return np.swapaxes(tiles, 1, 2)[:, ::-1, ::-1], float(size[1] / size[0])


def choose_slices(areas: NDArray, most: int = MAX_SLICES) -> NDArray[np.intp]:
    """Spread slice numbers evenly over those with enough mask: (z,) voxel counts -> (n,)."""
    enough = np.flatnonzero(areas >= max(1, EDGE_SHARE * areas.max()))
    places = np.linspace(0, len(enough) - 1, min(most, len(enough)))
    return enough[np.round(places).astype(int)]


def mosaic(tiles: NDArray, columns: int) -> NDArray:
    """Lay (n, rows, columns, ...) tiles out in rows, superior last; empty places are NaN."""
    n, height, width, *rest = tiles.shape
    rows = -(-n // columns)
    sheet = np.full((rows * columns, height, width, *rest), np.nan, dtype=np.float32)
    sheet[:n] = tiles
    sheet = sheet.reshape(rows, columns, height, width, *rest)
    return np.swapaxes(sheet, 1, 2).reshape(rows * height, columns * width, *rest)
