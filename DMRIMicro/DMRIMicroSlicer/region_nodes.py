"""Regions and parcellations from label maps, segmentations and boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.masking import onto_grid

from .geometry import parent_matrix, world_affine
from .masks import VOLUMES, labelled, segments
from .words import _

if TYPE_CHECKING:
    from DMRIMicroLib.tracts.regions import Region

NAMED = 3
"""So many segments that make a region together are named with it."""

BOX, SEGMENTATION = "vtkMRMLMarkupsROINode", "vtkMRMLSegmentationNode"

FINE, MOST = 1.0, 100
"""A box becomes voxels of about this edge [mm], at most so many along each side."""


def regions_from(given: Any) -> list:
    """Return regions of what a user gives for them; see `regions_later`."""
    return [region() for region in regions_later(given)]


def regions_later(given: Any) -> list[Callable[[], Region]]:
    """Read what a user gives for regions; return what makes them of it, in any thread.

    Parameters
    ----------
    given : node, (node, str) or sequence of these, optional
        A label map, a segmentation (or one segment of it, by its identifier), or a box.
    """
    if given is None:
        return []
    if _is_node(given) or (isinstance(given, tuple) and isinstance(given[-1], str)):
        given = [given]
    return [region_later(one) for one in given]


def region_from(given: Any) -> Region:
    """Return one region; see `regions_later`."""
    return region_later(given)()


def region_later(given: Any) -> Callable[[], Region]:
    """Read one region; see `regions_later`."""
    from DMRIMicroLib.tracts.regions import Region

    node, segment = given if isinstance(given, tuple) else (given, None)
    if node is not None and node.IsA(BOX):
        return _box(node)
    name = "" if node is None else node.GetName()
    if node is not None and node.IsA(SEGMENTATION):
        layers, parent = _layers(node, segment), parent_matrix(node)
        called = _of_segments(name, layers) if segment is None else f"{name}:{layers[0][2]}"

        def together() -> Region:
            labels, affine = _together(layers)
            return Region(labels > 0, parent @ affine, called)

        return together
    data, affine = _label_map(node)
    return lambda: Region(data > 0, affine, name)


def labels_from(node, segment: str | None = None) -> tuple[NDArray, NDArray, dict[int, str]]:
    """Return labels (i, j, k), their affine to world, and the names that the scene has for them.

    Of segments that overlap, the later one counts.
    """
    if node is not None and node.IsA(SEGMENTATION):
        layers = _layers(node, segment)
        labels, affine = _together(layers)
        names = {number: name for number, (*_, name) in enumerate(layers, start=1)}
        return labels, parent_matrix(node) @ affine, names
    data, affine = _label_map(node)
    return data, affine, _called(node, [int(v) for v in np.unique(data) if v > 0])


def _label_map(node) -> tuple[NDArray, NDArray]:
    """Return the labels (i, j, k) of a volume, and its affine to world."""
    if node is None or node.GetClassName() not in VOLUMES:
        kind = _("nothing") if node is None else f"'{node.GetName()}' ({node.GetClassName()})"
        raise InputError(
            _("{kind} cannot be a region").format(kind=kind),
            _("Choose a label map, a segmentation or a box (ROI)."),
        )
    data = labelled(node)
    if not (data > 0).any():
        raise InputError(
            _("'{node}' has no label above 0").format(node=node.GetName()),
            _("Draw something in it."),
        )
    return data, world_affine(node)


def _called(node, numbers: Sequence[int]) -> dict[int, str]:
    """Names of labels in the colour table of a label map, if it has one."""
    display = node.GetDisplayNode()
    table = None if display is None else display.GetColorNode()
    if table is None or not node.IsA("vtkMRMLLabelMapVolumeNode"):
        return {}
    known = table.GetNumberOfColors()
    names = {n: table.GetColorName(n) for n in numbers if n < known}
    return {n: name for n, name in names.items() if name and name != "(none)"}


def _of_segments(name: str, layers: Sequence[tuple[NDArray, NDArray, str]]) -> str:
    """Name a region after its segmentation, and say so if that is more than one segment."""
    if len(layers) == 1:
        return name
    parts = " + ".join(called for *_, called in layers)
    return f"{name} ({parts if len(layers) <= NAMED else f'{len(layers)} segments'})"


def _layers(node, segment: str | None) -> list[tuple[NDArray, NDArray, str]]:
    """Return the segments that hold something."""
    layers = [layer for layer in segments(node, segment) if layer[0].any()]
    if not layers:
        raise InputError(
            _("the segmentation '{node}' is empty").format(node=node.GetName()),
            _("Draw something in it."),
        )
    return layers


def _together(layers: Sequence[tuple[NDArray, NDArray, str]]) -> tuple[NDArray, NDArray]:
    """Put segments, each on a grid of its own, on one that holds them all: labels, affine."""
    affine, shape = _around([(inside.shape, matrix) for inside, matrix, _ in layers])
    labels = np.zeros(shape, dtype=np.int16)
    for number, (inside, matrix, _name) in enumerate(layers, start=1):
        labels[onto_grid(inside, matrix, shape, affine)] = number
    return labels, affine


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


def _box(node) -> Callable[[], Region]:
    """Read a box; return what makes its inside a region of small voxels along its sides."""
    from DMRIMicroLib.tracts.regions import Region

    size = np.array(node.GetSize(), dtype=float)
    to_world = slicer.util.arrayFromVTKMatrix(node.GetObjectToWorldMatrix())
    if not (size > 0).all():
        raise InputError(
            _("the box '{node}' is empty").format(node=node.GetName()), _("Place and size it.")
        )
    count = np.clip(np.ceil(size / FINE), 1, MOST).astype(int)
    edge = size / count
    inner = np.diag([*edge, 1.0])
    inner[:3, 3] = (edge - size) / 2
    name = node.GetName()
    return lambda: Region(np.ones(count, dtype=bool), to_world @ inner, name)


def _is_node(given: Any) -> bool:
    return hasattr(given, "GetClassName")
