"""Maps to MRML nodes: geometry, unit, colours, window, provenance, place in the hierarchy."""

from __future__ import annotations

import json

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from .nodes import unique_name

PROVENANCE = "DMRIMicro.provenance"
METRIC = "DMRIMicro.metric"
UNIT = "DMRIMicro.unit"

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
    "": ("1", "no units"),
}


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
        Scalar, vector or tensor volumes; an uncertainty follows its map as ``"<scan> FA SD"``.
    """
    nodes: list = []
    try:
        for name, item in maps.items():
            _add(nodes, item.data, f"{scan_name} {name}", item, maps)
            if item.uncertainty is not None and item.metric.kind == "scalar":
                _add(nodes, item.uncertainty, f"{scan_name} {name} SD", item, maps)
        _file_under(f"{scan_name} microstructure", nodes)
    except BaseException:
        for node in nodes:
            _remove(node)
        raise
    return nodes


def colour_node_id(colormap: str) -> str:
    """Return the colour node of this scene for a Matplotlib name; grey where there is none.

    Slicer answers an unknown id with None and then shows nothing, so each candidate is looked up.
    """
    reverse = colormap.endswith("_r")
    for candidate in () if reverse else COLOURS.get(colormap, ()):
        if slicer.mrmlScene.GetNodeByID(candidate) is not None:
            return candidate
    return GREY


def _add(nodes: list, data: NDArray, name: str, item, maps) -> None:
    kind = item.metric.kind
    cls = {"scalar": "Scalar", "vector": "Vector", "tensor": "DiffusionTensor"}[kind]
    node = slicer.mrmlScene.AddNewNodeByClass(f"vtkMRML{cls}VolumeNode", unique_name(name))
    nodes.append(node)  # before anything can fail, so that it is removed then
    if kind == "tensor":
        _set_tensors(node, data)
    else:
        array = data.transpose(2, 1, 0, *range(3, data.ndim))
        slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array, dtype=np.float32))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(maps.affine))
    node.SetAttribute(METRIC, item.metric.name)
    node.SetAttribute(UNIT, item.unit)
    node.SetAttribute(
        PROVENANCE,
        json.dumps({item.model: maps.provenance.get(item.model, {})}, ensure_ascii=False),
    )
    node.SetDescription(item.metric.title)
    if kind != "vector":
        node.SetVoxelValueUnits(_coded_unit(item.unit))
    node.CreateDefaultDisplayNodes()
    if kind == "scalar":
        _display(node, item.metric, is_map=data is item.data)


def _display(node, metric, *, is_map: bool) -> None:
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(colour_node_id(metric.colormap) if is_map else GREY)
    if is_map:  # the spread of an uncertainty is not known beforehand: Slicer's automatic window
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


def _file_under(folder_name: str, nodes: list) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    top = hierarchy.GetSceneItemID()
    folder = hierarchy.GetItemChildWithName(top, folder_name) or hierarchy.CreateFolderItem(
        top, folder_name
    )
    for node in nodes:
        # without the application nobody makes the items
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(folder, node)
        hierarchy.SetItemParent(item, folder)


def _remove(node) -> None:
    display = node.GetDisplayNode()
    if display is not None:
        slicer.mrmlScene.RemoveNode(display)
    slicer.mrmlScene.RemoveNode(node)
