"""What is made of a scan lies in the scan's folder of the subject hierarchy."""

from __future__ import annotations

import numpy as np
import slicer_scene as ss
import test_slicer_widget as widget
from test_slicer_logic import Heard, wait
from test_slicer_planning import lesion_at, opened, ready, tables  # noqa: F401
from test_slicer_tracts import SHAPE, bundle, logic  # noqa: F401
from test_slicer_widget import desktop, panel  # noqa: F401


def place(node) -> list[str]:
    """Return the names of the folders that a node lies in, from the top."""
    slicer = ss.boot().slicer
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, names = tree.GetItemByDataNode(node), []
    assert item, f"{node.GetName()} has no place"
    while (item := tree.GetItemParent(item)) != tree.GetSceneItemID():
        names.insert(0, tree.GetItemName(item))
    return names


FOLDER = ["head microstructure"]


def test_seeds_lines_and_tables_lie_where_the_maps_do(logic, tmp_path):  # noqa: F811
    nodes, middle, axis = bundle()
    assert place(nodes[0]) == FOLDER
    seeds = logic.seeds(nodes, count=20)
    lines = logic.tracts(nodes, seeds)
    assert place(seeds) == place(lines) == FOLDER
    profile = logic.profile(lines, nodes, "FA", points=10)
    assert len(profile) > 3
    assert [place(node) for node in profile] == [[*FOLDER, "head tracts profile"]] * len(profile)
    again = logic.profile(lines, nodes, "FA", points=10)
    assert place(again[-1]) == [*FOLDER, "head tracts profile_1"]
    plan, _ = logic.structuresAtRisk(lesion_at(middle, axis), lines, nodes, folder=tmp_path)
    assert [place(node) for node in plan] == [FOLDER] * 2


def test_a_connectome_lies_beside_the_lines(logic):  # noqa: F811
    nodes, _, _ = bundle()
    lines = logic.tracts(nodes, count=10)
    labels = np.ones(SHAPE, np.uint8)
    labels[:12] = 2
    parcels = ss.volume_node(labels, ss.affine(), name="parcels")
    assert place(logic.connectome(lines, parcels)) == FOLDER
    slicer = ss.boot().slicer
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    own = tree.CreateFolderItem(tree.GetSceneItemID(), "patient")
    tree.SetItemParent(tree.GetItemByDataNode(lines), own)
    assert place(logic.connectome(lines, parcels)) == ["patient"]


def test_lines_of_a_worker_lie_there_too(logic):  # noqa: F811
    nodes, _, _ = bundle()
    heard = Heard()
    job = logic.startTracts(nodes, count=10, onDone=heard.done.extend, onError=heard.errors.append)
    assert wait(job, 300) == "done", heard.errors
    assert place(heard.done[0]) == FOLDER


def test_tables_of_a_worker_lie_there_too(panel, desktop, opened):  # noqa: F811
    ready(panel)
    panel.ui.planApplyButton.click()
    widget.wait_for(desktop, lambda: panel.job is None, seconds=300)
    assert desktop.shown == []
    assert [place(table) for table in tables(desktop)] == [FOLDER] * 2
