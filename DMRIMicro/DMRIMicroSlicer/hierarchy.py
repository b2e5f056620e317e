"""Places in the subject hierarchy: what is made of a scan lies in the scan's folder."""

from __future__ import annotations

from collections.abc import Iterable

import slicer


def file_nodes(nodes: Iterable, scan_name: str, *folders: str) -> None:
    """Put nodes into the folder of a scan, or into one of its folders; new ones where needed.

    Parameters
    ----------
    nodes : iterable of vtkMRMLNode
        Those that the user has removed meanwhile are left out.
    scan_name : str
    *folders : str
        Names from the scan's folder down.
    """
    hierarchy = _hierarchy()
    place = hierarchy.GetSceneItemID()
    for name in (f"{scan_name} microstructure", *folders):
        place = hierarchy.GetItemChildWithName(place, name) or hierarchy.CreateFolderItem(
            place, name
        )
    for node in nodes:
        _put(hierarchy, node, place)


def file_beside(nodes: Iterable, other) -> None:
    """Put nodes where another one lies; at the top if that is gone (None) or has no place."""
    hierarchy = _hierarchy()
    item = 0 if other is None else hierarchy.GetItemByDataNode(other)
    place = hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()
    for node in nodes:
        _put(hierarchy, node, place)


def _put(hierarchy, node, place: int) -> None:
    if slicer.mrmlScene.IsNodePresent(node):
        # without the application nobody makes the items
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(place, node)
        hierarchy.SetItemParent(item, place)


def _hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
