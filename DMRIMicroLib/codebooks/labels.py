"""Labels of voxels: read, held to a scan's grid, shared among the folds of a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..masking import SAME_GRID
from ..scan import Scan

FOLDS = 10
"""Of the cross-validation; fewer where there are fewer blocks."""

BLOCK = 8
"""Edge of the blocks that are left out together [voxels]: neighbours tell of each other."""

Targets = str | Path | NDArray


def labelled_voxels(
    scan: Scan, target: Targets, mask: Targets | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read the labels of a scan and where they are: (x, y, z) twice."""
    values, file = on_scan(scan, target, "target")
    values = np.asarray(values, dtype=np.float64)
    if mask is None:
        inside = ~np.isnan(values) & (values != 0)
    else:
        inside = np.nan_to_num(on_scan(scan, mask, "mask")[0]) > 0
    bad = int((~np.isfinite(values[inside])).sum())
    if bad:
        raise InputError(
            f"{bad} of {int(inside.sum())} labels are NaN or infinite",
            "Leave these voxels out of the mask, or repair the map.",
            file=file,
        )
    return values, inside


def on_scan(scan: Scan, image: Targets, what: str) -> tuple[NDArray, Path | None]:
    """Return an image that lies on a scan's grid, and its file; InputError if it does not."""
    if isinstance(image, str | Path):
        from ..io.nifti import read_volume

        data, affine = read_volume(image)
        file, same = Path(image), np.allclose(affine, scan.affine, atol=SAME_GRID)
    else:
        data, file, same = np.asarray(image), None, True
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.shape != scan.shape or not same:
        raise InputError(
            f"the {what} has shape {data.shape}"
            + ("" if same else " and another affine")
            + f", the scan {scan.name} {scan.shape}",
            "Bring it onto the scan's grid.",
            file=file,
        )
    return data, file


def fold_of(blocks: Tensor) -> Tensor:
    """Share voxels among folds by blocks: (n, 4) scan and place -> (n,).

    Blocks are halved until there are enough of them.
    """
    edge = BLOCK
    while True:
        places = torch.cat([blocks[:, :1], blocks[:, 1:] // edge], 1)
        found, which, size = torch.unique(places, dim=0, return_inverse=True, return_counts=True)
        if len(found) >= 2 * FOLDS or edge == 1:
            break
        edge //= 2
    fold, held = torch.zeros(len(found), dtype=torch.long), [0] * FOLDS
    for block in size.argsort(descending=True, stable=True).tolist():  # the largest first
        smallest = held.index(min(held))
        fold[block] = smallest
        held[smallest] += int(size[block])
    return fold[which]


def matched(given: Any, count: int, what: str) -> list[Any]:
    """Return as many images as there are scans."""
    if given is None:
        return [None] * count
    single = isinstance(given, str | Path) or getattr(given, "ndim", 0) >= 3
    every = [given] if single else list(given)
    if len(every) != count:
        raise InputError(f"there are {count} scans and {len(every)} {what}", "Give one for each.")
    return every
