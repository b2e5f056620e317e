"""Maps become nodes that show what they are and where they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer_scene as ss

SHAPE = (5, 6, 4)


@pytest.fixture
def scene():
    with ss.clean_scene() as booted:
        yield booted


def map_set(sign: int = 1, only: str | None = None):
    """Return maps with a different value in every voxel."""
    from DMRIMicroLib.maps import Map, MapSet, Metric

    count = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    six = ss.TENSOR[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    maps = {
        "FA": Map(
            Metric("FA", "Fractional anisotropy", colormap="viridis"),
            "dti",
            count / 1000,
            count / 5000,
        ),
        "MD": Map(Metric("MD", "Mean diffusivity", "mm2/s", window=(0, 2e-3)), "dti", count * 1e-6),
        "V1": Map(
            Metric("V1", "Direction", kind="vector"),
            "dti",
            np.stack([count, -count, 2 * count], -1),
        ),
        "tensor": Map(
            Metric("tensor", "Tensor", "mm2/s", kind="tensor"),
            "dti",
            (six * (1 + count[..., None])).astype("f4"),
        ),
    }
    maps = {k: v for k, v in maps.items() if only in (None, k)}
    return MapSet(
        maps,
        ss.affine(sign),
        np.ones(SHAPE, bool),
        {"dti": {"version": "1", "scan": {"name": "é"}}},
    )


def show(maps):
    """Show maps of the scan 'brain'."""
    from DMRIMicroSlicer.results import show_maps

    return show_maps(maps, "brain")


@pytest.mark.parametrize("sign", [1, -1])
def test_values_lie_where_the_scan_was(scene, sign):
    maps = map_set(sign)
    node = show(maps)[0]
    matrix = scene.slicer.util.arrayFromVTKMatrix(ijk_to_ras(node))
    array = scene.slicer.util.arrayFromVolume(node).transpose(2, 1, 0)
    assert ss.value_by_position(array, matrix) == ss.value_by_position(maps["FA"].data, maps.affine)


def test_names_units_windows_and_colours(scene):
    nodes = {node.GetName(): node for node in show(map_set())}
    assert list(nodes) == ["brain FA", "brain FA SD", "brain MD", "brain V1", "brain tensor"]
    md = nodes["brain MD"]
    assert md.GetAttribute("DMRIMicro.unit") == md.GetVoxelValueUnits().GetCodeValue() == "mm2/s"
    assert md.GetDescription() == "Mean diffusivity"
    display = md.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx((0, 2e-3))
    assert display.GetAutoWindowLevel() == 0
    assert display.GetColorNode().GetName() == "Grey"
    assert nodes["brain FA"].GetDisplayNode().GetColorNode() is not None


@pytest.mark.parametrize(
    ("unit", "code", "words"),
    [
        ("mm2/s", "mm2/s", "square millimeter per second"),
        ("um2/ms", "um2/ms", "square micrometer per millisecond"),
        ("um", "um", "micrometer"),
        ("1/mm", "mm-1", "per millimeter"),
        ("1/mm2", "mm-2", "per square millimeter"),
        ("1/mm3", "mm-3", "per cubic millimeter"),
        ("", "1", "no units"),
    ],
)
def test_units_are_coded_as_ucum_has_them(scene, unit, code, words):
    from DMRIMicroLib.maps import Map, Metric

    maps = map_set(only="FA")
    maps.maps["FA"] = Map(Metric("FA", "x", unit), "dti", maps["FA"].data)
    (node,) = show(maps)
    coded = node.GetVoxelValueUnits()
    assert (coded.GetCodeValue(), coded.GetCodeMeaning()) == (code, words)
    assert coded.GetCodingSchemeDesignator() == "UCUM"


def test_every_unit_of_the_registry_has_a_code():
    ss.boot()
    from DMRIMicroSlicer.results import UCUM

    from DMRIMicroLib.models import METRICS

    assert {metric.unit for metric in METRICS.values()} <= set(UCUM)


def test_a_standard_deviation_is_not_taken_for_its_map(scene):
    nodes = {node.GetName(): node for node in show(map_set(only="FA"))}
    deviation = nodes["brain FA SD"]
    assert nodes["brain FA"].GetAttribute("DMRIMicro.metric") == "FA"
    assert deviation.GetAttribute("DMRIMicro.metric") is None
    assert deviation.GetAttribute("DMRIMicro.standard_deviation_of") == "FA"
    assert deviation.GetDescription() == "Standard deviation of: Fractional anisotropy"
    assert deviation.GetDisplayNode().GetAutoWindowLevel() == 1


def flagged(*flags: int):
    """Return FA with these flags in the first voxels along x, good ones elsewhere."""
    maps = map_set(only="FA")
    maps.flags["dti"] = np.ones(SHAPE, np.uint8)
    maps.flags["dti"][: len(flags), 0, 0] = flags
    return maps


def test_flags_become_a_label_map_that_says_what_its_numbers_mean(scene):
    nodes = show(flagged(0, 2, 3, 4))
    assert [n.GetName() for n in nodes] == ["brain FA", "brain FA SD", "brain dti flags"]
    node = nodes[-1]
    assert node.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    assert list(scene.slicer.util.arrayFromVolume(node)[0, 0]) == [0, 2, 3, 4, 1]
    np.testing.assert_allclose(
        scene.slicer.util.arrayFromVTKMatrix(ijk_to_ras(node)), ss.affine(1), atol=1e-12
    )
    assert node.GetDescription().startswith("0: no answer; 1: good; 2: ")
    assert node.GetAttribute("DMRIMicro.flags_of") == "dti"
    colours = node.GetDisplayNode().GetColorNode()
    names = [colours.GetColorName(k) for k in range(5)]
    assert names == ["empty", "good", "not converged", "out of range", "undetermined"]
    rgba = [0.0] * 4
    seen = []
    for k in range(5):
        colours.GetColor(k, rgba)
        seen.append(rgba[3])
    assert seen == [0, 0, 1, 1, 1]  # the maps show through where there is nothing to say


@pytest.mark.parametrize("flags", [(), (0, 0)])
def test_nothing_is_added_for_flags_that_tell_nothing(scene, flags):
    assert [n.GetName() for n in show(flagged(*flags))] == ["brain FA", "brain FA SD"]


def test_flags_share_one_table_of_colours(scene):
    first, second = show(flagged(2))[-1], show(flagged(3))[-1]
    assert second.GetName() != first.GetName()
    assert first.GetDisplayNode().GetColorNodeID() == second.GetDisplayNode().GetColorNodeID()


def test_maps_of_several_models_lie_in_a_folder_each(scene):
    from dataclasses import replace

    maps = map_set(only="MD")
    other = replace(maps["MD"], metric=replace(maps["MD"].metric, name="NDI"), model="noddi")
    maps.maps["NDI"] = other
    maps.flags["noddi"] = np.full(SHAPE, 4, np.uint8)
    hierarchy = scene.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.scene)

    def path(node) -> list[str]:
        item, names = hierarchy.GetItemByDataNode(node), []
        while (item := hierarchy.GetItemParent(item)) != hierarchy.GetSceneItemID():
            names.insert(0, hierarchy.GetItemName(item))
        return names

    where = {node.GetName(): path(node) for node in show(maps)}
    assert where == {
        "brain MD": ["brain microstructure", "dti"],
        "brain NDI": ["brain microstructure", "noddi"],
        "brain noddi flags": ["brain microstructure", "noddi"],
    }
    (alone,) = show(map_set(only="MD"))
    assert path(alone) == ["brain microstructure"]


def test_notes_that_hold_for_several_models_are_told_once():
    ss.boot()
    from DMRIMicroSlicer.notes import fit_notes

    from DMRIMicroLib.maps import MapSet

    def made(**voxels):
        return {"notes": ["the scan says so"], "voxels": {"fitted": 9, "left_out": 1, **voxels}}

    provenance = {"dti": made(), "dki": made(out_of_range=2)}
    told = fit_notes(MapSet({}, np.eye(4), np.ones((1, 1, 1), bool), provenance))
    assert told == [
        "the scan says so",
        "dti, dki: fitted in 9 voxels",
        "dti, dki: 1 voxels of the mask have no usable signal and stay empty",
        "dki: 2 voxels have a metric beyond its valid range, set to the limit (see the flags)",
    ]


def test_provenance_travels_with_the_node(scene):
    node = show(map_set())[0]
    assert json.loads(node.GetAttribute("DMRIMicro.provenance"))["dti"]["scan"] == {"name": "é"}


def test_tensors_are_ras_symmetric_and_in_an_identity_frame(scene):
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    (node,) = show(map_set(only="tensor"))
    frame = vtk.vtkMatrix4x4()
    node.GetMeasurementFrameMatrix(frame)
    np.testing.assert_array_equal(scene.slicer.util.arrayFromVTKMatrix(frame), np.eye(4))
    stored = vtk_to_numpy(node.GetImageData().GetPointData().GetTensors()).reshape(4, 6, 5, 3, 3)
    count = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    np.testing.assert_allclose(stored[3, 5, 4], ss.TENSOR * (1 + count[4, 5, 3]), rtol=1e-6)
    np.testing.assert_allclose(stored[2, 0, 1], ss.TENSOR * (1 + count[1, 0, 2]), rtol=1e-6)


def test_tensor_node_survives_slicers_own_file(scene, tmp_path):
    from vtk.util.numpy_support import vtk_to_numpy

    (node,) = show(map_set(-1, only="tensor"))
    loaded = ss.load_nrrd(ss.save_nrrd(node, tmp_path / "tensor.nrrd"))
    assert loaded.GetClassName() == "vtkMRMLDiffusionTensorVolumeNode"
    found = (
        vtk_to_numpy(loaded.GetImageData().GetPointData().GetTensors()).reshape(-1, 9).astype(float)
    )
    import vtk

    frame = vtk.vtkMatrix4x4()
    loaded.GetMeasurementFrameMatrix(frame)
    turn = scene.slicer.util.arrayFromVTKMatrix(frame)[:3, :3]
    world = turn @ found.reshape(-1, 3, 3) @ turn.T
    shape = loaded.GetImageData().GetDimensions()
    matrix = scene.slicer.util.arrayFromVTKMatrix(ijk_to_ras(loaded))
    got = ss.value_by_position(world.reshape(*shape[::-1], 9).transpose(2, 1, 0, 3), matrix)
    nine = map_set(-1)["tensor"].data[..., [0, 3, 4, 3, 1, 5, 4, 5, 2]]
    expected = ss.value_by_position(nine, ss.affine(-1))
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(
        [got[k] for k in expected], list(expected.values()), rtol=1e-4, atol=1e-9
    )


def test_a_second_run_keeps_the_first_and_shares_the_folder(scene):
    first, second = show(map_set(only="MD")), show(map_set(only="MD"))
    assert first[0].GetName() == "brain MD"
    assert second[0].GetName() != "brain MD"
    hierarchy = scene.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.scene)
    parents = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)) for n in first + second}
    assert len(parents) == 1


def test_failure_late_takes_back_the_flags_and_their_colours(scene, monkeypatch):
    from DMRIMicroSlicer import results

    scene.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.scene)
    before = ss.count_nodes()

    def fail(*_):
        raise RuntimeError("full")

    monkeypatch.setattr(results, "_file_all", fail)
    with pytest.raises(RuntimeError, match="full"):
        show(flagged(2))
    assert ss.count_nodes() == before


def test_failure_leaves_the_scene_as_it_was(scene, monkeypatch):
    from DMRIMicroSlicer import results

    scene.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.scene)
    before = ss.count_nodes()

    def fail(*_):
        raise RuntimeError("full")

    monkeypatch.setattr(results, "_set_tensors", fail)
    with pytest.raises(RuntimeError, match="full"):
        show(map_set())
    assert ss.count_nodes() == before


def ijk_to_ras(node):
    """Return the node's matrix."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix
