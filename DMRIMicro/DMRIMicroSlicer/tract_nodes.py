"""Seeds and streamlines as model nodes, in both directions; positions are RAS throughout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from DMRIMicroLib.errors import InputError

from .background import Steps
from .geometry import parent_matrix
from .map_nodes import Look
from .nodes import unique_name
from .results import GREY, PROVENANCE, remove
from .words import _

MODEL, BUNDLE, POINTS = (
    "vtkMRMLModelNode",
    "vtkMRMLFiberBundleNode",
    "vtkMRMLMarkupsFiducialNode",
)
"""Node classes: streamlines are SlicerDMRI's bundles where that is installed, models elsewhere."""

GRID = "DMRIMicro.grid"
"""Node attribute: affine and shape of the image that streamlines were tracked in."""

DIRECTION = "direction"
"""Name of the colours by direction: red left-right, green front-back, blue up-down."""

SEED_COLOUR = (1.0, 0.85, 0.2)
LINE_COLOUR = (0.85, 0.85, 0.85)

WIDTH, SEED_SIZE = 2.0, 3.0
"""Of lines and points on the screen [pixels]."""


def show_seeds(seeds, name: str):
    """Add seeds as a model of points; on failure add nothing."""
    points = np.asarray(seeds, dtype=np.float64)
    data = vtk.vtkPolyData()
    data.SetPoints(_points(points))
    data.SetVerts(_cells(np.arange(len(points) + 1), np.arange(len(points))))
    node = _add(MODEL, data, name, {"seeds": getattr(seeds, "provenance", {})})
    display = node.GetDisplayNode()
    display.SetColor(*SEED_COLOUR)
    display.SetPointSize(SEED_SIZE)
    return node


def showing_lines(lines, name: str, look: Look | None = None, colour_by: str = DIRECTION) -> Steps:
    """Add streamlines as a node, which the steps end in; on failure add nothing.

    Parameters
    ----------
    lines : Tractogram
    name : str
    look : Look, optional
        Colours and window of the map that `colour_by` names.
    colour_by : str
        "direction", the name of values along the lines, or "" for one colour.
    """
    known = (DIRECTION, *lines.per_point)
    if colour_by and colour_by not in known:
        raise InputError(
            _("there are no values {colour_by!r} along the lines").format(colour_by=colour_by),
            _("There are {known}.").format(known=", ".join(known)),
        )
    points, ends, values = yield partial(_plain, lines)
    data = vtk.vtkPolyData()
    data.SetPoints(_points(points))
    yield
    data.SetLines(_cells(ends, np.arange(len(points))))
    for key, column in values.items():
        yield
        data.GetPointData().AddArray(_array(key, column))
    yield
    cls = BUNDLE if hasattr(slicer, BUNDLE) else MODEL
    node = _add(cls, data, name, {"tracts": lines.provenance})
    grid = {"affine": np.asarray(lines.affine).tolist(), "shape": [int(n) for n in lines.shape]}
    node.SetAttribute(GRID, json.dumps(grid))
    colour(node, colour_by, look)
    return node


def _plain(lines) -> tuple[NDArray, NDArray, dict[str, NDArray]]:
    """Return (n, 3) points of all lines, where lines end in them, and values of every point."""
    points = lines.points
    ends = np.cumsum([0, *(len(line) for line in lines.streamlines)])
    values = {DIRECTION: np.rint(255 * _directions(points, ends)).astype(np.uint8)}
    for key, held in lines.per_point.items():
        flat = np.concatenate([np.empty((0, 1), np.float32), *held]).ravel()
        values[key] = flat.astype(np.float32)
    return np.ascontiguousarray(points, dtype=np.float32), ends, values


def colour(node, colour_by: str, look: Look | None = None) -> None:
    """Colour streamlines by direction, by values along them, or all alike ("")."""
    for k in range(node.GetNumberOfDisplayNodes()):  # a bundle has lines, tubes and glyphs
        display = node.GetNthDisplayNode(k)
        if hasattr(display, "SetColorModeToScalar"):
            display.SetColorModeToScalar()
        display.SetScalarVisibility(bool(colour_by))
        display.SetColor(*LINE_COLOUR)
        display.SetLineWidth(WIDTH)
        if not colour_by:
            continue
        display.SetActiveScalar(colour_by, vtk.vtkAssignAttribute.POINT_DATA)
        if colour_by == DIRECTION:
            display.SetScalarRangeFlag(display.UseDirectMapping)
            continue
        display.SetAndObserveColorNodeID(look.colours if look else GREY)
        display.SetScalarRangeFlag(
            display.UseManualScalarRange if look else display.UseDataScalarRange
        )
        if look:
            display.SetScalarRange(*look.window)


def lines_from_node(node):
    """Make a tractogram of a node with lines, in world coordinates, with its values per point."""
    return lines_later(node)()


def lines_later(node) -> Callable:
    """Read a node; return what does the rest of `lines_from_node`, in any thread."""
    from nibabel.streamlines import ArraySequence

    from DMRIMicroLib.tracts.storage import NO_GRID
    from DMRIMicroLib.tracts.tractogram import Tractogram

    if node is None or not (node.IsA(MODEL) or node.IsA(BUNDLE)):
        raise InputError(
            _("a model or fibre bundle with lines is expected, got {what}").format(
                what=_("nothing") if node is None else f"'{node.GetName()}'"
            ),
            _("Track fibres first, or load a file of them."),
        )
    data, grid = node.GetPolyData(), node.GetAttribute(GRID)
    if data is None or not (data.GetNumberOfLines() or grid):  # our own may have found none
        raise InputError(
            _("'{node}' has no lines").format(node=node.GetName()),
            _("Track fibres, or choose another one."),
        )
    cells = data.GetLines()
    ends = vtk_to_numpy(cells.GetOffsetsArray())
    order = vtk_to_numpy(cells.GetConnectivityArray())
    points, matrix = vtk_to_numpy(data.GetPoints().GetData()), parent_matrix(node)
    columns = _columns(data)
    affine, shape = NO_GRID
    if grid:
        told = json.loads(grid)
        affine, shape = matrix @ np.array(told["affine"]), tuple(told["shape"])
    made = json.loads(node.GetAttribute(PROVENANCE) or "{}").get("tracts", {})

    def split(rows: NDArray):
        some = len(ends) > 1
        return ArraySequence(np.split(rows[order].astype(np.float32), ends[1:-1]) if some else [])

    def lines() -> Tractogram:
        values = {name: split(column) for name, column in columns.items()}
        world = split(_to_world(matrix, points))
        return Tractogram(world, affine, shape, values, provenance=made)

    return lines


def _columns(data) -> dict[str, NDArray]:
    """Return the named values of every point, one number each: (n, 1)."""
    found = {}
    for k in range(data.GetPointData().GetNumberOfArrays()):
        array = data.GetPointData().GetArray(k)
        if array is not None and array.GetNumberOfComponents() == 1 and array.GetName():
            found[array.GetName()] = vtk_to_numpy(array)[:, None]
    return found


def bundles_of_scene() -> list:
    """Return the nodes that hold streamlines: those of this module, and SlicerDMRI's bundles."""
    models = slicer.util.getNodesByClass(MODEL)
    return [node for node in models if node.IsA(BUNDLE) or node.GetAttribute(GRID)]


def points_from_node(node) -> NDArray[np.float64]:
    """Return points of a list of control points, or of a model of seeds: (n, 3) RAS mm."""
    if node.IsA(POINTS):
        found = np.zeros((node.GetNumberOfControlPoints(), 3))
        for k, row in enumerate(found):
            node.GetNthControlPointPositionWorld(k, row)
    elif node.IsA(MODEL) and node.GetPolyData() is not None:
        points = node.GetPolyData().GetPoints()
        held = np.empty((0, 3)) if points is None else vtk_to_numpy(points.GetData())
        found = _to_world(parent_matrix(node), held)
    else:
        raise InputError(
            _("'{node}' ({kind}) holds no seeds").format(
                node=node.GetName(), kind=node.GetClassName()
            ),
            _("Give a rule, seeds of this module, or a list of points."),
        )
    if not len(found):
        raise InputError(_("'{node}' has no points").format(node=node.GetName()), _("Place some."))
    return found


def _add(cls: str, data, name: str, provenance: Mapping[str, Any]):
    """Add a node with geometry, shown, with its provenance."""
    node = slicer.mrmlScene.AddNewNodeByClass(cls, unique_name(name))
    try:
        node.SetAndObservePolyData(data)
        node.CreateDefaultDisplayNodes()
        node.SetAttribute(PROVENANCE, json.dumps(provenance, ensure_ascii=False))
    except BaseException:
        remove(node)
        raise
    return node


def _directions(points: NDArray, ends: Sequence[int]) -> NDArray[np.float64]:
    """Colour of each point: |x|, |y|, |z| of the way that its line runs there, (n, 3)."""
    onward = np.zeros_like(points)
    onward[:-1] = np.diff(points, axis=0)
    last = np.asarray(ends[1:]) - 1
    several = last > np.asarray(ends[:-1])
    onward[last] = 0  # the last point of a line leads nowhere
    back = np.roll(onward, 1, axis=0)
    back[np.asarray(ends[:-1])[several]] = 0
    way = np.abs(onward + back)
    return way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-12)


def _to_world(matrix: NDArray, points: NDArray) -> NDArray[np.float64]:
    return points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def _points(points: NDArray):
    made = vtk.vtkPoints()
    made.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=np.float32), deep=1))
    return made


def _cells(ends: NDArray, order: NDArray):
    cells = vtk.vtkCellArray()
    offsets, members = (np.ascontiguousarray(a, dtype=np.int64) for a in (ends, order))
    cells.SetData(
        numpy_to_vtkIdTypeArray(offsets, deep=1), numpy_to_vtkIdTypeArray(members, deep=1)
    )
    return cells


def _array(name: str, values: NDArray):
    array = numpy_to_vtk(np.ascontiguousarray(values), deep=1)
    array.SetName(name)
    return array
