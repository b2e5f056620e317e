"""Diffusion nodes become scans and scans become diffusion nodes, by position and not by index."""

from __future__ import annotations

import numpy as np
import pytest
import slicer_scene as ss


@pytest.fixture
def scene():
    with ss.clean_scene() as booted:
        yield booted


@pytest.fixture
def nodes(scene):
    from DMRIMicroSlicer import nodes

    return nodes


@pytest.mark.parametrize(("sign", "oblique"), ss.SIGNS)
def test_scan_to_node_and_back_is_the_same(nodes, sign, oblique):
    scan = ss.scan(sign, oblique=oblique)
    back = nodes.scan_from_node(nodes.node_from_scan(scan))
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-9)
    np.testing.assert_allclose(back.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-12)
    np.testing.assert_array_equal(back.acquisition.bvals, scan.acquisition.bvals)
    np.testing.assert_array_equal(back.signal, scan.signal)
    assert back.name == "brain"


@pytest.mark.parametrize(("sign", "oblique"), ss.SIGNS)
def test_nrrd_written_by_slicer_reads_back(nodes, tmp_path, sign, oblique):
    scan = ss.scan(sign, oblique=oblique)
    file = ss.save_nrrd(nodes.node_from_scan(scan), tmp_path / "dwi.nrrd")
    back = nodes.scan_from_node(ss.load_nrrd(file))
    np.testing.assert_allclose(back.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-6)
    np.testing.assert_allclose(back.acquisition.bvals, scan.acquisition.bvals, atol=1e-2)
    assert_same_image(back, scan)


@pytest.mark.parametrize("sign", [1, -1])
def test_our_own_reader_agrees_with_slicer_on_its_nrrd(nodes, tmp_path, sign):
    from DMRIMicroLib.io import load

    scan = ss.scan(sign)
    ours = load(ss.save_nrrd(nodes.node_from_scan(scan), tmp_path / "dwi.nrrd"))
    np.testing.assert_allclose(ours.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-6)
    np.testing.assert_allclose(ours.acquisition.bvals, scan.acquisition.bvals, atol=1e-2)
    assert_same_image(ours, scan)


@pytest.mark.parametrize("sign", [1, -1])
def test_nifti_import_gives_the_same_world(nodes, tmp_path, sign):
    from DMRIMicroSlicer.logic import DMRIMicroLogic

    from DMRIMicroLib.io import nifti

    scan = ss.scan(sign)
    file = nifti.save(scan, tmp_path / "dwi.nii.gz")
    back = nodes.scan_from_node(DMRIMicroLogic().importNifti(str(file)))
    np.testing.assert_allclose(back.acquisition.bvecs, scan.acquisition.bvecs, atol=1e-6)
    np.testing.assert_allclose(back.acquisition.bvals, scan.acquisition.bvals, atol=1e-6)
    assert_same_image(back, scan)


def weak_b0s(threshold: float = 50):
    """Return a scan whose b0 volumes are weakly weighted, with directions."""
    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.scan import Scan

    scan = ss.scan()
    bvals, bvecs = scan.acquisition.bvals.copy(), scan.acquisition.bvecs.copy()
    bvals[:2], bvecs[:2] = (0, threshold - 5), (0, 0.6, 0.8)
    acquisition = Acquisition(bvals, bvecs, b0_threshold=threshold)
    return Scan(scan.signal, scan.affine, acquisition, name="weak")


@pytest.mark.parametrize("threshold", [50, 205])
def test_weak_weighting_keeps_direction_and_threshold(nodes, threshold):
    node = nodes.node_from_scan(weak_b0s(threshold))
    back = nodes.acquisition_from_node(node)
    np.testing.assert_allclose(back.bvecs[:2], [(0, 0, 0), (0, 0.6, 0.8)], atol=1e-12)
    assert back.b0_threshold == threshold
    assert back.describe() == "2 b0, 12 x b1000"
    assert (node.GetAttribute("DMRIMicro.b0_threshold") is None) == (threshold == 50)
    nodes.node_from_scan(ss.scan(), node=node)
    assert nodes.acquisition_from_node(node).b0_threshold == 50


def test_timing_is_kept_with_the_node(nodes):
    from DMRIMicroSlicer import attributes

    node = nodes.node_from_scan(ss.scan())
    attributes.write(node, delta=16.2, Delta=26.5, TE=60)
    found = nodes.scan_from_node(node).acquisition
    assert (found.delta, found.Delta, found.TE) == (16.2, 26.5, 60)
    again = nodes.node_from_scan(nodes.scan_from_node(node))
    assert nodes.acquisition_from_node(again).Delta == 26.5
    nodes.node_from_scan(ss.scan(), node=node)  # another scan takes its place
    assert nodes.acquisition_from_node(node).delta is None
    attributes.write(node, delta=16.2)
    node.SetAttribute("DMRIMicro.delta", "a few")  # by hand
    assert nodes.acquisition_from_node(node).delta is None
    with pytest.raises(TypeError, match="no attribute 'tau'"):
        attributes.write(node, tau=1)


def test_weak_weighting_survives_slicers_file(nodes, tmp_path):
    node = nodes.node_from_scan(weak_b0s())
    back = nodes.acquisition_from_node(ss.load_nrrd(ss.save_nrrd(node, tmp_path / "weak.nrrd")))
    np.testing.assert_allclose(back.bvecs[1], (0, 0.6, 0.8), atol=1e-6)
    assert back.bvals[1] == pytest.approx(45, abs=0.01)


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "ms/um2"), (1e6, "s/m2")])
def test_b_values_in_other_units_are_recognised_and_told(scene, nodes, factor, unit):
    from vtk.util.numpy_support import numpy_to_vtk

    node = nodes.node_from_scan(ss.scan())
    node.SetBValues(numpy_to_vtk(ss.scan().acquisition.bvals * factor, deep=1))
    found = nodes.scan_from_node(node)
    np.testing.assert_allclose(found.acquisition.bvals, ss.scan().acquisition.bvals)
    assert f"were read as {unit}" in found.notes[0]


def test_measurement_frame_turns_gradients(scene, nodes):
    scan = ss.scan()
    node = nodes.node_from_scan(scan)
    frame = np.eye(4)
    frame[:3, :3] = ss.affine()[:3, :3] / np.linalg.norm(ss.affine()[:3, :3], axis=0)
    node.SetMeasurementFrameMatrix(scene.slicer.util.vtkMatrixFromArray(frame))
    turned = nodes.acquisition_from_node(node).bvecs
    np.testing.assert_allclose(turned, scan.acquisition.bvecs @ frame[:3, :3].T, atol=1e-9)


def test_linear_transform_moves_positions_and_gradients(nodes):
    scan = ss.scan()
    node = nodes.node_from_scan(scan)
    move = np.eye(4)
    move[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    move[:3, 3] = (1, 2, 3)
    ss.linear_transform(move, node)
    moved = nodes.scan_from_node(node)
    np.testing.assert_allclose(moved.affine, move @ scan.affine, atol=1e-9)
    np.testing.assert_allclose(
        moved.acquisition.bvecs, scan.acquisition.bvecs @ move[:3, :3].T, atol=1e-9
    )
    assert "was applied" in moved.notes[0]
    assert "not rigid" not in moved.notes[0]


def test_scaling_transform_keeps_unit_gradients_and_says_so(nodes):
    node = nodes.node_from_scan(ss.scan())
    ss.linear_transform(np.diag([1.2, 0.9, 1, 1]), node)
    moved = nodes.scan_from_node(node)
    np.testing.assert_allclose(moved.acquisition.bvecs, ss.scan().acquisition.bvecs, atol=1e-9)
    assert "not rigid" in moved.notes[0]


def test_warped_scan_is_refused(scene, nodes):
    import vtk

    from DMRIMicroLib.errors import InputError

    node = nodes.node_from_scan(ss.scan())
    warp = scene.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    thin = vtk.vtkThinPlateSplineTransform()
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for k, p in enumerate([(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 9)]):
        points[0].InsertNextPoint(p)
        points[1].InsertNextPoint(np.array(p) + k)
    thin.SetSourceLandmarks(points[0])
    thin.SetTargetLandmarks(points[1])
    warp.SetAndObserveTransformToParent(thin)
    node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="non-linear transform 'warp'"):
        nodes.scan_from_node(node)


@pytest.mark.parametrize("given", [None, "vtkMRMLScalarVolumeNode"])
def test_other_nodes_are_refused_in_words(scene, nodes, given):
    from DMRIMicroLib.errors import InputError

    node = given and scene.scene.AddNewNodeByClass(given, "t1")
    with pytest.raises(InputError, match="diffusion-weighted volume is expected"):
        nodes.scan_from_node(node)


def test_failure_leaves_no_node(nodes, monkeypatch):
    def refuse(*_):
        raise RuntimeError

    before = ss.count_nodes()
    monkeypatch.setattr(nodes, "_read_back", refuse)
    with pytest.raises(RuntimeError):
        nodes.node_from_scan(ss.scan())
    assert ss.count_nodes() == before


@pytest.mark.parametrize("sign", [1, -1])
def test_mask_on_another_grid_lands_at_its_place(nodes, sign):
    scan = ss.scan()
    grid = ss.affine(sign, oblique=False)
    grid[:3, :3] /= 2.5
    grid[:3, 3] = (-30 if sign > 0 else 30, -5, -5)
    shape = (60, 50, 40)
    inside = ss.positions(grid, shape)[..., 2] > 9
    node = nodes.node_from_scan(scan)
    found = nodes.scan_from_node(node, ss.volume_node(inside.astype(np.uint8), grid)).mask
    expected = ss.positions(scan.affine, scan.shape)[..., 2] > 9
    height = ss.positions(scan.affine, scan.shape)[..., 2]
    sure = np.abs(height - 9) > 1  # a voxel of the mask
    np.testing.assert_array_equal(found[sure], expected[sure])
    assert 0 < found.sum() < found.size


def test_mask_under_its_own_transform_moves(nodes):
    scan = ss.scan()
    mask = np.zeros(scan.shape, np.uint8)
    mask[2, 3, 1] = 1
    node = ss.volume_node(mask, scan.affine)
    move = np.eye(4)
    move[:3, 3] = scan.affine[:3, 0]  # one voxel along i
    ss.linear_transform(move, node)
    found = nodes.scan_from_node(nodes.node_from_scan(scan), node).mask
    assert np.argwhere(found).tolist() == [[3, 3, 1]]


@pytest.mark.parametrize("sign", [1, -1])
def test_segments_of_a_segmentation(scene, nodes, sign):
    slicer = scene.slicer
    scan = ss.scan()
    labels = np.zeros(scan.shape, np.uint8)
    labels[1:3, 2:5, 1:3], labels[4, 5, 3] = 1, 2
    # the same image in another order of voxels
    order = np.diag([sign, 1, 1, 1]).astype(float)
    order[0, 3] = 0 if sign > 0 else scan.shape[0] - 1
    labelmap = ss.volume_node(labels[::sign], scan.affine @ order)
    segmentation = scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "seg")
    assert slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(
        labelmap, segmentation
    )
    node = nodes.node_from_scan(scan)
    np.testing.assert_array_equal(nodes.scan_from_node(node, segmentation).mask, labels > 0)
    second = segmentation.GetSegmentation().GetNthSegmentID(1)
    np.testing.assert_array_equal(
        nodes.scan_from_node(node, segmentation, second).mask, labels == 2
    )


def test_unusable_masks_are_refused_in_words(nodes):
    from DMRIMicroLib.errors import InputError

    scan = ss.scan()
    node = nodes.node_from_scan(scan)
    far = scan.affine.copy()
    far[:3, 3] += 500
    with pytest.raises(InputError, match="covers no voxel"):
        nodes.scan_from_node(node, ss.volume_node(np.ones(scan.shape, np.uint8), far))
    with pytest.raises(InputError, match="cannot be a mask"):
        nodes.scan_from_node(node, node)


def assert_same_image(found, expected) -> None:
    indices = np.arange(len(expected.acquisition))
    a = ss.value_by_position(found.volumes(indices), found.affine)
    b = ss.value_by_position(expected.volumes(indices), expected.affine)
    assert a.keys() == b.keys()
    np.testing.assert_allclose([a[k] for k in b], list(b.values()), rtol=1e-6)
