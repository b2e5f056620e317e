"""Maps to MRML nodes: geometry, unit, colours, window, provenance, place in the hierarchy."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from . import flags
from .background import Steps, at_once
from .geometry import remember_axes
from .hierarchy import file_nodes
from .nodes import unique_name

PROVENANCE = "DMRIMicro.provenance"
METRIC = "DMRIMicro.metric"
DEVIATION_OF = "DMRIMicro.standard_deviation_of"
UNIT = "DMRIMicro.unit"
PRIOR_DRIVEN = "DMRIMicro.prior_driven"
"""Node attributes; a map has `METRIC`, its standard deviation `DEVIATION_OF` instead. Nodes of a
metric that the acquisition by itself does not determine have `PRIOR_DRIVEN`: what it lacks."""

SCAN = "DMRIMicro.scan"
"""Node reference: the diffusion volume that a node was made of."""

PRIOR_FOLDER = "prior-driven"
"""Name of the folder of such nodes."""

VOLUMES = {"scalar": "Scalar", "vector": "Vector", "tensor": "DiffusionTensor"}
"""Node classes by kind of metric, without vtkMRML and VolumeNode."""

SIX_TO_NINE = (0, 3, 4, 3, 1, 5, 4, 5, 2)
"""xx, yy, zz, xy, xz, yz as the nine values of a 3x3 tensor, row by row."""

COLOUR_WINDOW = (0.0, 255.0)
"""Of a tensor, which is shown as colours by direction."""

GREY = "vtkMRMLColorTableNodeGrey"

COLOURS = {
    "gray": (GREY,),
    "viridis": ("vtkMRMLColorTableNodeFileViridis.txt", "vtkMRMLColorTableNodeCool1"),
    "cividis": ("vtkMRMLColorTableNodeFileCividis.txt", "vtkMRMLColorTableNodeCool1"),
    "plasma": ("vtkMRMLColorTableNodeFilePlasma.txt", "vtkMRMLColorTableNodeIron"),
    "inferno": ("vtkMRMLColorTableNodeFileInferno.txt", "vtkMRMLColorTableNodeIron"),
    "magma": ("vtkMRMLColorTableNodeFileMagma.txt", "vtkMRMLColorTableNodeIron"),
    "hot": ("vtkMRMLColorTableNodeIron",),
    "jet": ("vtkMRMLColorTableNodeRainbow",),
    "coolwarm": ("vtkMRMLColorTableNodeFileColdToHotRainbow.txt", "vtkMRMLColorTableNodefMRI"),
}
"""Colour nodes for a Matplotlib name, best first. The file tables are missing from some scenes."""

UCUM = {
    "mm2/s": ("mm2/s", "square millimeter per second"),
    "um2/ms": ("um2/ms", "square micrometer per millisecond"),
    "um": ("um", "micrometer"),
    "1/mm": ("mm-1", "per millimeter"),
    "1/mm2": ("mm-2", "per square millimeter"),
    "1/mm3": ("mm-3", "per cubic millimeter"),
    "": ("1", "no units"),
}
"""Our units in the Unified Code for Units of Measure, and in words."""


def show_maps(maps, scan_name: str, scan_id: str = "") -> list:
    """Add a node for every map, in a subject-hierarchy folder; on failure add nothing.

    Parameters
    ----------
    maps : DMRIMicroLib.MapSet
        What a fit gave, in world coordinates.
    scan_name : str
        Beginning of the node names: ``"<scan> FA"``.
    scan_id : str
        Of the diffusion volume's node, which the new ones refer to (`scan_of`).

    Returns
    -------
    list of vtkMRMLVolumeNode
        Scalar, vector or tensor volumes; a standard deviation follows its map as
        ``"<scan> FA SD"``. After the maps of a model that has flagged voxels, a label map
        ``"<scan> dti flags"``, whose description says what the numbers mean. The nodes of several
        models lie in a folder each, prior-driven ones in a folder within.
    """
    return at_once(showing_maps(maps, scan_name, scan_id))


def showing_maps(maps, scan_name: str, scan_id: str = "") -> Steps:
    """Do as `show_maps`, node by node; given up, add nothing."""
    shown: dict[str, list] = {item.model: [] for item in maps.values()}
    added: list = []  # all that is new in the scene, to be taken back on failure
    try:
        for model, nodes in shown.items():
            yield from _show_model(maps, model, scan_name, scan_id, nodes, added)
        yield from _file_all(scan_name, shown)
    except BaseException:
        for node in added:
            remove(node)
        raise
    added = [node for nodes in shown.values() for node in nodes]
    return [node for node in added if slicer.mrmlScene.IsNodePresent(node)]


def mark_scan(node, scan_id: str) -> None:
    """Let a node refer to the diffusion volume that it was made of, if that is still there."""
    if scan_id and slicer.mrmlScene.GetNodeByID(scan_id) is not None:
        node.SetNodeReferenceID(SCAN, scan_id)


def scan_of(node):
    """Return the diffusion volume that a node was made of; None if nobody knows, or it is gone."""
    return node.GetNodeReference(SCAN)


def colour_node_id(colormap: str) -> str:
    """Return the colour node of this scene for a Matplotlib name; grey where there is none.

    Slicer answers an unknown id with None and then shows nothing, so each candidate is looked up.
    """
    reverse = colormap.endswith("_r")
    for candidate in () if reverse else COLOURS.get(colormap, ()):
        if slicer.mrmlScene.GetNodeByID(candidate) is not None:
            return candidate
    return GREY


def _show_model(maps, model: str, scan_name: str, scan_id: str, nodes: list, added: list) -> Steps:
    """Add the nodes of one model to the scene, to `nodes` and to `added`."""

    def new(cls: str, name: str):
        node = slicer.mrmlScene.AddNewNodeByClass(cls, unique_name(f"{scan_name} {name}"))
        added.append(node)  # before anything can fail, so that it is removed then
        nodes.append(node)
        mark_scan(node, scan_id)
        return node

    for name, item in maps.items():
        if item.model == model:
            yield from _show_map(new, name, item, maps)
    if model in maps.flags and flags.worth_a_node(maps.flags[model]):
        colours = flags.known_colours()
        if colours is None:
            colours = flags.new_colours()
            added.append(colours)
        node = new("vtkMRMLLabelMapVolumeNode", f"{model} flags")
        flags.fill(node, model, maps.flags[model], maps.affine)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
        yield


def _show_map(new: Callable, name: str, item, maps) -> Steps:
    """Add a map, and its standard deviation if there is one."""
    array = yield partial(_in_order, item.data, item.metric.kind)
    node = new(f"vtkMRML{VOLUMES[item.metric.kind]}VolumeNode", name)
    windows = {"scalar": item.metric.window, "tensor": COLOUR_WINDOW}
    _fill(node, array, item, maps, windows.get(item.metric.kind))
    node.SetAttribute(METRIC, item.metric.name)
    node.SetDescription(item.metric.title + _leans(node))
    if item.metric.kind == "scalar":
        node.GetDisplayNode().SetAndObserveColorNodeID(colour_node_id(item.metric.colormap))
    if item.metric.kind == "scalar" and item.uncertainty is not None:
        yield
        node = new("vtkMRMLScalarVolumeNode", f"{name} SD")
        _fill(node, _in_order(item.uncertainty, item.metric.kind), item, maps, None)
        node.SetAttribute(DEVIATION_OF, item.metric.name)
        node.SetDescription(f"Standard deviation of: {item.metric.title}{_leans(node)}")
        # its spread is not known beforehand: Slicer's automatic window
        node.GetDisplayNode().SetAndObserveColorNodeID(GREY)
    yield


def _in_order(data: NDArray, kind: str) -> NDArray[np.float32]:
    """Return values in Slicer's order: (k, j, i), or with what a voxel holds behind."""
    if kind == "tensor":
        data = data[..., SIX_TO_NINE]
    array = data.transpose(2, 1, 0, *range(3, data.ndim))
    return np.ascontiguousarray(array, dtype=np.float32)


def _fill(node, array: NDArray[np.float32], item, maps, window: tuple[float, float] | None) -> None:
    """Give a node its values, in Slicer's order, and its place, unit, provenance and window."""
    kind = item.metric.kind
    node.CreateDefaultDisplayNodes()
    if window is not None:  # before the values: a window by itself takes time, of a tensor 0.13 s
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevelMinMax(*window)
    if kind == "tensor":
        _set_tensors(node, array)
    else:
        slicer.util.updateVolumeFromArray(node, array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(maps.affine))
    if kind == "tensor":
        remember_axes(node)
    node.SetAttribute(UNIT, item.unit)
    node.SetAttribute(
        PROVENANCE,
        json.dumps({item.model: maps.provenance.get(item.model, {})}, ensure_ascii=False),
    )
    lacks = maps.provenance.get(item.model, {}).get("prior_driven", {}).get(item.metric.name)
    if lacks:
        node.SetAttribute(PRIOR_DRIVEN, "; ".join(lacks))
    if kind != "vector":
        node.SetVoxelValueUnits(_coded_unit(item.unit))


def _leans(node) -> str:
    """Say of a node of a prior-driven metric that it is one."""
    lacks = node.GetAttribute(PRIOR_DRIVEN)
    if not lacks:
        return ""
    return (
        ". Prior-driven: this acquisition by itself does not determine it, the map leans on what "
        f"tissue usually looks like; a fit would need {lacks}"
    )


def _set_tensors(node, nine: NDArray[np.float32]) -> None:
    """Store (k, j, i, 9) RAS tensors; the display turns them by the frame: hence identity."""
    image = vtk.vtkImageData()
    image.SetDimensions(*nine.shape[2::-1])
    image.GetPointData().SetTensors(numpy_to_vtk(nine.reshape(-1, 9), deep=1))
    node.SetAndObserveImageData(image)
    node.SetMeasurementFrameMatrix(slicer.util.vtkMatrixFromArray(np.eye(4)))


def _coded_unit(unit: str):
    code, meaning = UCUM.get(unit, (unit, unit))
    entry = slicer.vtkCodedEntry()
    entry.SetValueSchemeMeaning(code, "UCUM", meaning)
    return entry


def _file_all(scan_name: str, shown: dict[str, list]) -> Steps:
    """Put the nodes into the scan's folder, those of several models into a folder each."""
    for model, nodes in shown.items():
        folders = [] if len(shown) == 1 else [model]
        for node in nodes:
            leans = node.GetAttribute(PRIOR_DRIVEN) is not None
            file_nodes([node], scan_name, *folders, *([PRIOR_FOLDER] if leans else []))
            yield


def remove(node) -> None:
    """Take a node out of the scene, and what shows it."""
    if not slicer.mrmlScene.IsNodePresent(node):
        return
    shown = node.GetNumberOfDisplayNodes() if node.IsA("vtkMRMLDisplayableNode") else 0
    gone = [node.GetNthDisplayNode(k) for k in range(shown)]
    # of glyphs in slices, which a tensor volume has
    properties = "GetDiffusionTensorDisplayPropertiesNode"
    gone += [getattr(display, properties)() for display in gone if hasattr(display, properties)]
    for one in (*gone, node):
        if one is not None and slicer.mrmlScene.IsNodePresent(one):
            slicer.mrmlScene.RemoveNode(one)
