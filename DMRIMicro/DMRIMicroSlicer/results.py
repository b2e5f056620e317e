"""Maps to MRML nodes: geometry, unit, colours, window, provenance, place in the hierarchy."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from . import flags
from .nodes import unique_name

PROVENANCE = "DMRIMicro.provenance"
METRIC = "DMRIMicro.metric"
DEVIATION_OF = "DMRIMicro.standard_deviation_of"
UNIT = "DMRIMicro.unit"
PRIOR_DRIVEN = "DMRIMicro.prior_driven"
"""Node attributes; a map has `METRIC`, its standard deviation `DEVIATION_OF` instead. Nodes of a
metric that the acquisition by itself does not determine have `PRIOR_DRIVEN`: what it lacks."""

PRIOR_FOLDER = "prior-driven"
"""Name of the folder of such nodes."""

VOLUMES = {"scalar": "Scalar", "vector": "Vector", "tensor": "DiffusionTensor"}
"""Node classes by kind of metric, without vtkMRML and VolumeNode."""

SIX_TO_NINE = (0, 3, 4, 3, 1, 5, 4, 5, 2)
"""xx, yy, zz, xy, xz, yz as the nine values of a 3x3 tensor, row by row."""

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


def show_maps(maps, scan_name: str) -> list:
    """Add a node for every map, in a subject-hierarchy folder; on failure add nothing.

    Parameters
    ----------
    maps : DMRIMicroLib.MapSet
        What a fit gave, in world coordinates.
    scan_name : str
        Beginning of the node names: ``"<scan> FA"``.

    Returns
    -------
    list of vtkMRMLVolumeNode
        Scalar, vector or tensor volumes; a standard deviation follows its map as
        ``"<scan> FA SD"``. After the maps of a model that has flagged voxels, a label map
        ``"<scan> dti flags"``, whose description says what the numbers mean. The nodes of several
        models lie in a folder each, prior-driven ones in a folder within.
    """
    shown: dict[str, list] = {item.model: [] for item in maps.values()}
    added: list = []  # all that is new in the scene, to be taken back on failure
    try:
        for model, nodes in shown.items():
            _show_model(maps, model, scan_name, nodes, added)
        _file_all(scan_name, shown)
    except BaseException:
        for node in added:
            remove(node)
        raise
    return [node for nodes in shown.values() for node in nodes]


def colour_node_id(colormap: str) -> str:
    """Return the colour node of this scene for a Matplotlib name; grey where there is none.

    Slicer answers an unknown id with None and then shows nothing, so each candidate is looked up.
    """
    reverse = colormap.endswith("_r")
    for candidate in () if reverse else COLOURS.get(colormap, ()):
        if slicer.mrmlScene.GetNodeByID(candidate) is not None:
            return candidate
    return GREY


def _show_model(maps, model: str, scan_name: str, nodes: list, added: list) -> None:
    """Add the nodes of one model to the scene, to `nodes` and to `added`."""

    def new(cls: str, name: str):
        node = slicer.mrmlScene.AddNewNodeByClass(cls, unique_name(f"{scan_name} {name}"))
        added.append(node)  # before anything can fail, so that it is removed then
        nodes.append(node)
        return node

    for name, item in maps.items():
        if item.model == model:
            _show_map(new, name, item, maps)
    if model in maps.flags and flags.worth_a_node(maps.flags[model]):
        colours = flags.known_colours()
        if colours is None:
            colours = flags.new_colours()
            added.append(colours)
        node = new("vtkMRMLLabelMapVolumeNode", f"{model} flags")
        flags.fill(node, model, maps.flags[model], maps.affine)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())


def _show_map(new: Callable, name: str, item, maps) -> None:
    """Add a map, and its standard deviation if there is one."""
    node = new(f"vtkMRML{VOLUMES[item.metric.kind]}VolumeNode", name)
    _fill(node, item.data, item, maps)
    node.SetAttribute(METRIC, item.metric.name)
    node.SetDescription(item.metric.title + _leans(node))
    if item.metric.kind == "scalar":
        _display(node, item.metric)
    if item.metric.kind == "scalar" and item.uncertainty is not None:
        node = new("vtkMRMLScalarVolumeNode", f"{name} SD")
        _fill(node, item.uncertainty, item, maps)
        node.SetAttribute(DEVIATION_OF, item.metric.name)
        node.SetDescription(f"Standard deviation of: {item.metric.title}{_leans(node)}")
        # its spread is not known beforehand: Slicer's automatic window
        node.GetDisplayNode().SetAndObserveColorNodeID(GREY)


def _fill(node, data: NDArray, item, maps) -> None:
    """Give a node its values, place, unit and provenance."""
    kind = item.metric.kind
    if kind == "tensor":
        _set_tensors(node, data)
    else:
        array = data.transpose(2, 1, 0, *range(3, data.ndim))
        slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array, dtype=np.float32))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(maps.affine))
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
    node.CreateDefaultDisplayNodes()


def _leans(node) -> str:
    """Say of a node of a prior-driven metric that it is one."""
    lacks = node.GetAttribute(PRIOR_DRIVEN)
    if not lacks:
        return ""
    return (
        ". Prior-driven: this acquisition by itself does not determine it, the map leans on what "
        f"tissue usually looks like; a fit would need {lacks}"
    )


def _display(node, metric) -> None:
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(colour_node_id(metric.colormap))
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*metric.window)


def _set_tensors(node, data: NDArray) -> None:
    """Store (x, y, z, 6) RAS tensors; the display turns them by the frame: hence identity."""
    image = vtk.vtkImageData()
    image.SetDimensions(*data.shape[:3])
    nine = data.transpose(2, 1, 0, 3)[..., SIX_TO_NINE].reshape(-1, 9)
    image.GetPointData().SetTensors(
        numpy_to_vtk(np.ascontiguousarray(nine, dtype=np.float32), deep=1)
    )
    node.SetAndObserveImageData(image)
    node.SetMeasurementFrameMatrix(slicer.util.vtkMatrixFromArray(np.eye(4)))


def _coded_unit(unit: str):
    code, meaning = UCUM.get(unit, (unit, unit))
    entry = slicer.vtkCodedEntry()
    entry.SetValueSchemeMeaning(code, "UCUM", meaning)
    return entry


def _file_all(scan_name: str, shown: dict[str, list]) -> None:
    """Put the nodes into the scan's folder, those of several models into a folder each."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    top = _folder(hierarchy, hierarchy.GetSceneItemID(), f"{scan_name} microstructure")
    for model, nodes in shown.items():
        folder = top if len(shown) == 1 else _folder(hierarchy, top, model)
        for node in nodes:
            prior_driven = node.GetAttribute(PRIOR_DRIVEN) is not None
            place = _folder(hierarchy, folder, PRIOR_FOLDER) if prior_driven else folder
            # without the application nobody makes the items
            item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(place, node)
            hierarchy.SetItemParent(item, place)


def _folder(hierarchy, parent: int, name: str) -> int:
    """Return the folder of that name under `parent`, a new one if there is none."""
    return hierarchy.GetItemChildWithName(parent, name) or hierarchy.CreateFolderItem(parent, name)


def remove(node) -> None:
    """Take a node out of the scene, and its display node."""
    display = node.GetDisplayNode() if node.IsA("vtkMRMLDisplayableNode") else None
    if display is not None:
        slicer.mrmlScene.RemoveNode(display)
    slicer.mrmlScene.RemoveNode(node)
