"""Regions and parcellations from label maps, segmentations and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.masking import onto_grid

from .geometry import parent_matrix, world_affine
from .masks import VOLUMES, labelled, segments

BOX = "vtkMRMLMarkupsROINode"

FINE, MOST = 1.0, 100
"""A box becomes voxels of about this edge [mm], at most so many along each side."""


def regions_from(given: Any) -> list:
    """Return regions of what a user gives for them.

    Parameters
    ----------
    given : node, (node, str) or sequence of these, optional
        A label map, a segmentation (or one segment of it, by its identifier), or a box.
    """
    if given is None:
        return []
    if _is_node(given) or (isinstance(given, tuple) and isinstance(given[-1], str)):
        given = [given]
    return [region_from(one) for one in given]


def region_from(given: Any):
    """Return one region; see `regions_from`."""
    from DMRIMicroLib.tracts.regions import Region

    node, segment = given if isinstance(given, tuple) else (given, None)
    if node.IsA(BOX):
        return _box(node)
    labels, affine, names = labels_from(node, segment)
    called = node.GetName() if segment is None else f"{node.GetName()}:{next(iter(names.values()))}"
    return Region(labels > 0, affine, called)


def labels_from(node, segment: str | None = None) -> tuple[NDArray, NDArray, dict[int, str]]:
    """Return labels (i, j, k), their affine to world, and the names that the scene has for them.

    Of segments that overlap, the later one counts.
    """
    if node is not None and node.IsA("vtkMRMLSegmentationNode"):
        return _of_segments(node, segment)
    if node is None or node.GetClassName() not in VOLUMES:
        kind = "nothing" if node is None else f"'{node.GetName()}' ({node.GetClassName()})"
        raise InputError(
            f"{kind} cannot be a region", "Choose a label map, a segmentation or a box (ROI)."
        )
    data = labelled(node)
    numbers = [int(v) for v in np.unique(data) if v > 0]
    if not numbers:
        raise InputError(f"'{node.GetName()}' has no label above 0", "Draw something in it.")
    return data, world_affine(node), _called(node, numbers)


def _called(node, numbers: Sequence[int]) -> dict[int, str]:
    """Names of labels in the colour table of a label map, if it has one."""
    display = node.GetDisplayNode()
    table = None if display is None else display.GetColorNode()
    if table is None or not node.IsA("vtkMRMLLabelMapVolumeNode"):
        return {}
    known = table.GetNumberOfColors()
    names = {n: table.GetColorName(n) for n in numbers if n < known}
    return {n: name for n, name in names.items() if name and name != "(none)"}


def _of_segments(node, segment: str | None) -> tuple[NDArray, NDArray, dict[int, str]]:
    """Put segments, each on a grid of its own, on one that holds them all."""
    layers = [layer for layer in segments(node, segment) if layer[0].any()]
    if not layers:
        raise InputError(f"the segmentation '{node.GetName()}' is empty", "Draw something in it.")
    affine, shape = _around([(inside.shape, matrix) for inside, matrix, _ in layers])
    labels = np.zeros(shape, dtype=np.int16)
    for number, (inside, matrix, _) in enumerate(layers, start=1):
        labels[onto_grid(inside, matrix, shape, affine)] = number
    names = {number: name for number, (*_, name) in enumerate(layers, start=1)}
    return labels, parent_matrix(node) @ affine, names


def _around(grids: Sequence[tuple[tuple[int, ...], NDArray]]) -> tuple[NDArray, tuple[int, ...]]:
    """Return the first grid, made large enough to hold all others."""
    first = grids[0][1]
    corners = []
    for shape, matrix in grids:
        ends = np.array(list(product(*[(0, n - 1) for n in shape])))
        world = ends @ matrix[:3, :3].T + matrix[:3, 3]
        inverse = np.linalg.inv(first)
        corners.append(world @ inverse[:3, :3].T + inverse[:3, 3])
    every = np.concatenate(corners)
    low, high = np.floor(every.min(0) + 1e-3), np.ceil(every.max(0) - 1e-3)
    affine = first.copy()
    affine[:3, 3] = first[:3, :3] @ low + first[:3, 3]
    return affine, tuple(int(n) for n in high - low + 1)


def _box(node):
    """Return the inside of a box as a region of small voxels along its sides."""
    from DMRIMicroLib.tracts.regions import Region

    size = np.array(node.GetSize(), dtype=float)
    to_world = slicer.util.arrayFromVTKMatrix(node.GetObjectToWorldMatrix())
    if not (size > 0).all():
        raise InputError(f"the box '{node.GetName()}' is empty", "Place and size it.")
    count = np.clip(np.ceil(size / FINE), 1, MOST).astype(int)
    edge = size / count
    inner = np.diag([*edge, 1.0])
    inner[:3, 3] = (edge - size) / 2
    return Region(np.ones(count, dtype=bool), to_world @ inner, node.GetName())


def _is_node(given: Any) -> bool:
    return hasattr(given, "GetClassName")
