"""Thirteen ways in which MRML goes wrong without a word, and how the module meets each."""

from __future__ import annotations

import gzip
import logging
import re

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


@pytest.mark.parametrize("sign", [1, -1])
def test_trap_01_a_mask_that_slicer_flipped_still_lands_right(nodes, tmp_path, sign):
    import nibabel as nib

    scan = ss.scan(sign)
    mask = np.zeros(scan.shape, np.uint8)
    mask[1, 2, 3] = mask[4, 0, 0] = 1
    nib.save(nib.Nifti1Image(mask, scan.affine), tmp_path / "mask.nii.gz")
    loaded = ss.boot().volumes.AddArchetypeVolume(str(tmp_path / "mask.nii.gz"), "mask", 1)
    array = ss.boot().slicer.util.arrayFromVolume(loaded).transpose(2, 1, 0)
    # the two archetype orders differ for one handedness: this is the trap
    assert (np.argwhere(array).tolist() == np.argwhere(mask).tolist()) == (sign > 0)
    found = nodes.scan_from_node(nodes.node_from_scan(scan), loaded).mask
    np.testing.assert_array_equal(found, mask > 0)


def test_trap_02_modality_without_b_value_aborts_so_we_never_write_it(nodes):
    node = nodes.node_from_scan(ss.scan())
    assert not [
        key for key in node.GetAttributeNames() if key.startswith("DWMRI_") or key == "modality"
    ]
    code = """
import numpy as np
n = b.scene.AddNewNodeByClass("vtkMRMLDiffusionWeightedVolumeNode", "x")
header = '''NRRD0005
type: float
dimension: 4
space: right-anterior-superior
sizes: 2 2 2 7
space directions: (1,0,0) (0,1,0) (0,0,1) none
space origin: (0,0,0)
kinds: space space space list
encoding: raw
endian: little
measurement frame: (1,0,0) (0,1,0) (0,0,1)
modality:=DWMRI

'''
import tempfile, os
f = os.path.join(tempfile.mkdtemp(), "x.nrrd")
open(f, "wb").write(header.encode() + np.zeros(56, "<f4").tobytes())
ss.load_nrrd(f)
print("survived")
"""
    done = ss.run_python(code)
    assert done.returncode != 0, "Slicer survives this now: the trap is gone"
    assert "survived" not in done.stdout


@pytest.mark.parametrize(("directions", "is_dwi"), [(5, True), (4, False)])
def test_trap_03_fewer_than_seven_volumes_are_announced(
    nodes, tmp_path, caplog, directions, is_dwi
):
    with caplog.at_level(logging.WARNING):
        node = nodes.node_from_scan(ss.scan(directions=directions))
    assert ("cannot save fewer than 7" in caplog.text) != is_dwi
    loaded = ss.load_nrrd(ss.save_nrrd(node, tmp_path / "few.nrrd"))
    assert (loaded.GetClassName() == nodes.DWI_CLASS) == is_dwi


def test_trap_04_attributes_of_an_earlier_file_are_cleared(nodes, tmp_path):
    node = ss.load_nrrd(
        ss.save_nrrd(nodes.node_from_scan(ss.scan(directions=9)), tmp_path / "many.nrrd")
    )
    node.SetAttribute("DWMRI_gradient_0010", "0 0 1")
    node.SetAttribute("DWMRI_b-value", "3000")
    fewer = nodes.scan_from_node(node).select([0, 2, 3, 4, 5, 6, 7])
    nodes.node_from_scan(fewer, node=node)
    again = nodes.scan_from_node(ss.load_nrrd(ss.save_nrrd(node, tmp_path / "few.nrrd")))
    assert again.acquisition.describe() == "1 b0, 6 x b1000"
    np.testing.assert_allclose(again.acquisition.bvecs, fewer.acquisition.bvecs, atol=1e-6)


def test_trap_05_gradients_that_slicer_would_drop_are_noticed(scene, nodes):
    from DMRIMicroLib.errors import InputError

    scan = ss.scan()
    raw = scan.acquisition.bvecs.copy()
    raw[5] *= 1 + 1e-4
    with ss.vtk_errors() as told:
        kept = kept_gradients(scene.scene.AddNewNodeByClass(nodes.DWI_CLASS, "x"), raw)
    assert not kept.any(), (
        "Slicer keeps some gradients now: the trap has changed"
    )  # one bad one loses all
    assert "length 0.0 or 1.0" in told[0]
    object.__setattr__(scan.acquisition, "bvecs", raw)
    with ss.vtk_errors(), pytest.raises(InputError, match="did not keep the gradients"):
        nodes.node_from_scan(scan)


def test_trap_05_gradients_of_text_precision_are_normalised(nodes):
    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.scan import Scan

    scan = ss.scan()
    rough = Acquisition(scan.acquisition.bvals, np.round(scan.acquisition.bvecs, 3))
    back = nodes.acquisition_from_node(nodes.node_from_scan(Scan(scan.signal, scan.affine, rough)))
    np.testing.assert_allclose(back.bvecs, rough.bvecs, atol=1e-12)


def test_trap_06_b_values_that_slicer_cannot_store_are_refused(scene, nodes):
    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.errors import InputError
    from DMRIMicroLib.scan import Scan

    flat = Scan(ss.scan().signal, ss.affine(), Acquisition(np.zeros(14), np.zeros((14, 3))))
    before = ss.count_nodes()
    with pytest.raises(InputError, match="no volume of this scan is diffusion-weighted"):
        nodes.node_from_scan(flat)
    assert ss.count_nodes() == before
    node = nodes.node_from_scan(ss.scan())
    node.SetBValue(3, float("nan"))
    with pytest.raises(InputError, match="b-value of volume 3 is nan"):
        nodes.scan_from_node(node)


def test_trap_06_several_shells_survive_the_file(nodes, tmp_path):
    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.scan import Scan

    scan = ss.scan()
    bvals = np.r_[0.0, 0.0, np.full(6, 700.0), np.full(6, 2850.0)]
    scan = Scan(scan.signal, scan.affine, Acquisition(bvals, scan.acquisition.bvecs))
    back = nodes.scan_from_node(
        ss.load_nrrd(ss.save_nrrd(nodes.node_from_scan(scan), tmp_path / "two.nrrd"))
    )
    np.testing.assert_allclose(back.acquisition.bvals, bvals, atol=0.01)


def test_trap_07_baselines_have_zero_vectors(scene, nodes):
    from vtk.util.numpy_support import vtk_to_numpy

    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.scan import Scan

    scan = ss.scan()
    bvecs = scan.acquisition.bvecs.copy()
    bvecs[:2] = (1, 0, 0)  # as many converters write
    bvals = scan.acquisition.bvals.copy()
    bvals[1] = 0.5
    node = nodes.node_from_scan(Scan(scan.signal, scan.affine, Acquisition(bvals, bvecs)))
    assert not vtk_to_numpy(node.GetDiffusionGradients())[:2].any()
    assert nodes.acquisition_from_node(node).is_b0.sum() == 2


def test_trap_08_the_nrrd_keeps_what_the_scene_file_garbles(scene, nodes, tmp_path):
    node = nodes.node_from_scan(ss.scan(), name="kept")
    ss.save_nrrd(node, tmp_path / "kept.nrrd")
    scene.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.scene.Commit()
    text = (tmp_path / "scene.mrml").read_text(errors="replace")
    line = next(part for part in text.split("<") if part.startswith("DiffusionWeightedVolume"))
    numbers = re.search(r'gradients="([^"]*)"', line)
    stored = np.array([float(v) for v in numbers.group(1).split()]) if numbers else np.zeros(0)
    true = ss.scan().acquisition.bvecs.ravel()
    assert stored.shape != true.shape or not np.allclose(stored, true, atol=1e-3), (
        "the trap is gone"
    )
    back = nodes.acquisition_from_node(ss.load_nrrd(tmp_path / "kept.nrrd"))
    np.testing.assert_allclose(back.bvecs.ravel(), true, atol=1e-6)


@pytest.mark.parametrize(
    "colormap", ["gray", "viridis", "magma", "hot", "viridis_r", "no such map"]
)
def test_trap_09_every_colour_map_finds_a_node_that_exists(scene, colormap):
    from DMRIMicroSlicer.results import colour_node_id

    assert scene.scene.GetNodeByID(colour_node_id(colormap)) is not None


def test_trap_10_nan_is_kept_on_the_way_to_a_scan(nodes, tmp_path):
    from DMRIMicroLib.scan import Scan

    scan = ss.scan()
    signal = scan.signal.copy()
    signal[0, 0, 0, 3], signal[1, 0, 0, 3] = np.nan, np.inf
    node = nodes.node_from_scan(Scan(signal, scan.affine, scan.acquisition))
    for found in (node, ss.load_nrrd(ss.save_nrrd(node, tmp_path / "nan.nrrd"))):
        back = nodes.scan_from_node(found).signal
        assert np.isnan(back[0, 0, 0, 3])
        assert np.isinf(back[1, 0, 0, 3])


def test_trap_10_our_import_keeps_the_nan_that_slicers_nifti_reader_zeroes(nodes, tmp_path):
    import nibabel as nib
    from DMRIMicroSlicer.logic import DMRIMicroLogic

    from DMRIMicroLib.io import nifti
    from DMRIMicroLib.scan import Scan

    scan = ss.scan()
    signal = scan.signal.copy()
    signal[0, 0, 0, 3] = np.nan
    file = nifti.save(Scan(signal, scan.affine, scan.acquisition), tmp_path / "dwi.nii.gz")
    assert np.isnan(
        nodes.scan_from_node(DMRIMicroLogic().importNifti(str(file))).signal[0, 0, 0, 3]
    )
    nib.save(nib.Nifti1Image(signal[..., 3], scan.affine), tmp_path / "one.nii.gz")
    assert gzip.open(tmp_path / "one.nii.gz").read(4)
    assert not np.isnan(
        ss.boot().slicer.util.arrayFromVolume(ss.load_nrrd(tmp_path / "one.nii.gz"))
    ).any()


def test_trap_11_results_get_their_place_in_the_hierarchy(scene):
    import test_slicer_results as results

    nodes = results.show(results.map_set())
    hierarchy = scene.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.scene)
    folders = {
        hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)))
        for n in nodes
    }
    assert folders == {"brain microstructure"}


def test_trap_12_tensors_are_stored_although_the_array_helper_refuses_them(scene):
    import test_slicer_results as results

    (node,) = results.show(results.map_set(only="tensor"))
    assert node.GetImageData().GetPointData().GetTensors().GetNumberOfTuples() == 5 * 6 * 4
    with pytest.raises(RuntimeError):
        scene.slicer.util.updateVolumeFromArray(node, np.zeros((4, 6, 5, 3, 3), np.float32))


def test_trap_13_a_vtk_error_fails_a_test():
    booted = ss.boot()
    with pytest.raises(AssertionError, match="VTK reported"), ss.clean_scene():
        booted.scene.AddNewNodeByClass("vtkMRMLDiffusionWeightedVolumeNode", "x").SetBValue(99, 1.0)


def kept_gradients(node, gradients: np.ndarray) -> np.ndarray:
    """Set gradients as they are and return what the node has made of them."""
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    node.SetNumberOfGradients(len(gradients))
    node.SetDiffusionGradients(numpy_to_vtk(np.ascontiguousarray(gradients), deep=1))
    return vtk_to_numpy(node.GetDiffusionGradients())
