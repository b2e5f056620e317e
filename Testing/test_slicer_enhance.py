"""Enhancement in the Slicer module: a diffusion node in, one on a finer grid out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer_scene as ss
from test_slicer_logic import Heard, emptied, full_mask, temporary, wait  # noqa: F401

PLAIN = {"method": "interpolate", "device": "cpu"}


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """Let the library come without weights."""
    ss.boot()
    from DMRIMicroLib.weights import store

    monkeypatch.setattr(store, "SHIPPED", tmp_path)


@pytest.fixture
def logic():
    with ss.clean_scene():
        from DMRIMicroSlicer.logic import DMRIMicroLogic

        yield DMRIMicroLogic()


def scan_node(sign: int = 1, oblique: bool = True):
    from DMRIMicroSlicer.nodes import node_from_scan

    return node_from_scan(ss.scan(sign, directions=20, oblique=oblique))


def tensor_of(node) -> np.ndarray:
    """Return the tensor [mm2/s, RAS] in the middle of a diffusion node: (3, 3)."""
    from DMRIMicroSlicer.nodes import scan_from_node

    scan = scan_from_node(node)
    signal = scan.volumes(range(len(scan.acquisition)))[tuple(n // 2 for n in scan.shape)]
    x, y, z = scan.acquisition.bvecs.T
    design = -scan.acquisition.bvals[:, None] * np.stack(
        [x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1
    )
    columns = np.c_[design, np.ones(len(design))]
    xx, yy, zz, xy, xz, yz, _ = np.linalg.lstsq(columns, np.log(signal), rcond=None)[0]
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def middle(node) -> np.ndarray:
    """Return the middle of a volume in the world [mm]."""
    from DMRIMicroSlicer.geometry import world_affine

    half = (np.array(node.GetImageData().GetDimensions()) - 1) / 2
    return world_affine(node) @ [*half, 1]


def test_a_finer_volume_lies_where_the_scan_did(logic):
    from DMRIMicroSlicer.geometry import world_affine
    from DMRIMicroSlicer.nodes import acquisition_from_node

    for sign, oblique in ss.SIGNS:
        dwi = scan_node(sign, oblique)
        (node,) = logic.enhance(dwi, resolution=1.1, maskNode=full_mask(sign, oblique), **PLAIN)
        assert node.GetClassName() == "vtkMRMLDiffusionWeightedVolumeNode"
        assert node.GetName() == f"{dwi.GetName()} enhanced"
        np.testing.assert_allclose(node.GetSpacing(), 1.1, atol=1e-6)
        np.testing.assert_allclose(middle(node), middle(dwi), atol=1e-6)
        directions = [world_affine(n)[:3, :3] / n.GetSpacing() for n in (node, dwi)]
        np.testing.assert_allclose(*directions, atol=1e-6)
        assert acquisition_from_node(node) == acquisition_from_node(dwi)
        np.testing.assert_allclose(tensor_of(node), ss.TENSOR, atol=2e-6)


def full_mask(sign: int = 1, oblique: bool = True):  # noqa: F811 - of any handedness
    scan = ss.scan(sign, oblique=oblique)
    return ss.volume_node(np.ones(scan.shape, np.uint8), scan.affine)


def test_a_transform_moves_the_volume_and_turns_the_gradients(logic):
    dwi, mask = scan_node(), full_mask()
    move = np.eye(4)
    move[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    move[:3, 3] = (10, 20, 30)
    ss.linear_transform(move, dwi, mask)
    turned = move[:3, :3] @ ss.TENSOR @ move[:3, :3].T
    (node,) = logic.enhance(dwi, resolution=1.1, maskNode=mask, **PLAIN)
    assert node.GetParentTransformNode() is None
    np.testing.assert_allclose(middle(node), middle(dwi), atol=1e-6)
    np.testing.assert_allclose(tensor_of(node), turned, atol=2e-6)
    assert "was applied to positions and gradients" in node.GetAttribute("DMRIMicro.provenance")


def test_a_shift_that_was_hardened_stays(logic):
    dwi, mask = scan_node(-1), full_mask(-1)
    move = np.eye(4)
    move[:3, 3] = (10, 20, 30)
    ss.linear_transform(move, dwi, mask)
    before = middle(dwi)
    dwi.HardenTransform()
    (node,) = logic.enhance(dwi, resolution="keep", maskNode=mask, **PLAIN)
    np.testing.assert_allclose(middle(node), before, atol=1e-6)
    np.testing.assert_allclose(tensor_of(node), ss.TENSOR, atol=2e-6)


def test_gradients_of_a_scan_that_was_turned_for_good_are_refused(logic):
    from DMRIMicroSlicer.nodes import acquisition_from_node

    from DMRIMicroLib import InputError

    dwi = scan_node(-1)
    move = np.eye(4)
    move[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    ss.linear_transform(move, dwi)
    acquisition_from_node(dwi)
    dwi.HardenTransform()
    with pytest.raises(InputError, match="transform that was hardened"):
        acquisition_from_node(dwi)


def test_maps_of_an_enhanced_scan_say_that_they_are_no_measurement(logic):
    from DMRIMicroSlicer.nodes import scan_from_node

    dwi = scan_node()
    assert scan_from_node(dwi).notes == ()
    (node,) = logic.enhance(dwi, resolution="keep", maskNode=full_mask(), **PLAIN)
    assert "the scan was interpolated" in scan_from_node(node).notes[-1]
    node.SetAttribute("DMRIMicro.enhanced_by", "gan")
    assert "made 7 T-like by a network (gan)" in scan_from_node(node).notes[-1]
    assert "no measurement" in scan_from_node(node).notes[-1]


def test_the_node_tells_how_it_was_made_and_lies_beside_the_scan(logic):
    slicer = ss.boot().slicer
    dwi = scan_node()
    dwi.SetAttribute("DMRIMicro.TE", "61.5")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, dwi)
    (node,) = logic.enhance(dwi, maskNode=full_mask(), **PLAIN)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    made = json.loads(node.GetAttribute("DMRIMicro.provenance"))["enhance"]
    assert (made["method"], made["scan"]["name"]) == ("interpolate", "brain")
    assert node.GetAttribute("DMRIMicro.enhanced_by") == "interpolate"
    assert "no network has changed it" in node.GetDescription()
    assert node.GetAttribute("DMRIMicro.TE") == "61.5"
    np.testing.assert_allclose(node.GetSpacing(), 1.05, atol=1e-6)


def test_several_draws_give_an_uncertainty_volume(logic, monkeypatch):
    import torch

    from DMRIMicroLib.rish import table

    def features(low, noise):
        return low if noise is None else low + 0.05 * noise((1, *low.shape))[0]

    method = table.Method("fake", features, random=True)
    monkeypatch.setitem(table.METHODS, "fake", lambda weights, device: method)
    torch.set_num_threads(1)
    dwi = scan_node()
    node, sd = logic.enhance(dwi, "fake", "keep", 3, full_mask(), device="cpu")
    assert sd.GetName() == "brain enhanced SD"
    assert sd.GetClassName() == "vtkMRMLScalarVolumeNode"
    assert "over 3 draws" in sd.GetDescription()
    assert "learned from pairs of scans" in node.GetDescription()
    values = ss.boot().slicer.util.arrayFromVolume(sd)
    assert values.shape == (4, 6, 5)
    assert (values > 0).mean() > 0.9
    assert len(logic.enhance(dwi, "fake", "keep", 1, full_mask(), device="cpu")) == 1


def read_bundle(slicer, file, cache):
    """Read a saved scene into a scene of its own."""
    scene, application = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetTemporaryPath(str(cache))
    remote, manager = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    remote.SetMRMLApplicationLogic(application)
    remote.GetCacheManager().SetRemoteCacheDirectory(str(cache / "cache"))
    remote.SetMRMLScene(scene)
    remote.AddDataIOToScene()
    manager.SetMRMLApplicationLogic(application)
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    assert scene.ReadFromMRB(str(file), True)
    return scene


def test_it_survives_a_saved_scene(logic, tmp_path):
    from DMRIMicroSlicer.nodes import acquisition_from_node

    slicer = ss.boot().slicer
    dwi = scan_node(-1)
    (node,) = logic.enhance(dwi, resolution="keep", maskNode=full_mask(-1), **PLAIN)
    before, tensor = acquisition_from_node(node), tensor_of(node)
    node.AddDefaultStorageNode()
    bundle = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(bundle))
    other = read_bundle(slicer, bundle, tmp_path)
    again = other.GetFirstNodeByName("brain enhanced")
    found = acquisition_from_node(again)
    np.testing.assert_allclose(found.bvals, before.bvals, atol=0.01)
    np.testing.assert_allclose(found.bvecs, before.bvecs, atol=1e-5)
    np.testing.assert_allclose(tensor_of(again), tensor, atol=2e-6)
    assert again.GetAttribute("DMRIMicro.enhanced_by") == "interpolate"


def test_the_worker_gives_the_same_volume(logic, temporary):  # noqa: F811
    dwi, heard, notes = scan_node(), Heard(), []
    ss.linear_transform(np.diag([1.0, 1, 1, 1]), dwi)
    job = logic.startEnhance(
        dwi, resolution=1.1, samples=2, maskNode=full_mask(), **PLAIN,
        onProgress=lambda *told: heard.progress.append(told),
        onDone=heard.done.append, onError=heard.errors.append, onNote=notes.append,
    )  # fmt: skip
    assert wait(job, 300) == "done", heard.errors
    assert heard.progress[-1][0] == 1
    ((there,),) = heard.done
    (here,) = logic.enhance(dwi, resolution=1.1, maskNode=full_mask(), **PLAIN)
    util = ss.boot().slicer.util
    np.testing.assert_allclose(util.arrayFromVolume(there), util.arrayFromVolume(here), rtol=1e-4)
    np.testing.assert_allclose(tensor_of(there), ss.TENSOR, atol=2e-6)
    assert any("was applied to positions" in note for note in notes)
    assert any("has one answer: no samples were drawn" in note for note in notes)
    assert list(temporary.iterdir()) == []


def test_cancel_leaves_scene_and_disk_as_they_were(logic, temporary):  # noqa: F811
    dwi, mask = scan_node(), full_mask()
    before = ss.count_nodes()
    job = logic.startEnhance(dwi, maskNode=mask, **PLAIN)
    job.cancel()
    assert job.poll() == "cancelled"
    assert ss.count_nodes() == before
    assert emptied(temporary)


def test_what_cannot_run_says_so_in_words(logic, temporary):  # noqa: F811
    from DMRIMicroLib.errors import InputError

    dwi, mask = scan_node(), full_mask()
    before = ss.count_nodes()
    with pytest.raises(InputError, match="no method has trained weights here"):
        logic.enhance(dwi, maskNode=mask, device="cpu")
    with pytest.raises(InputError, match="the resolution is 'fine'"):
        logic.enhance(dwi, resolution="fine", maskNode=mask, **PLAIN)
    with pytest.raises(TypeError, match="the enhancement has no option 'robust'"):
        logic.startEnhance(dwi, robust=True)
    with pytest.raises(InputError, match="a diffusion-weighted volume is expected"):
        logic.startEnhance(mask)
    heard = Heard()
    job = logic.startEnhance(
        dwi, "ldm", maskNode=mask, weights="none.safetensors", onError=heard.errors.append
    )
    assert wait(job, 300) == "failed"
    assert "none.safetensors" in heard.errors[0]
    assert ss.count_nodes() == before
    assert list(temporary.iterdir()) == []


def test_a_failure_late_takes_everything_back(logic, monkeypatch):
    from DMRIMicroSlicer import enhance_nodes

    def refuse(*_):
        raise RuntimeError("no")

    dwi, mask = scan_node(), full_mask()
    monkeypatch.setattr(enhance_nodes, "file_beside", refuse)
    before = ss.count_nodes()
    with pytest.raises(RuntimeError):
        logic.enhance(dwi, resolution="keep", maskNode=mask, **PLAIN)
    assert ss.count_nodes() == before


def test_a_node_without_noise_floor_is_fitted_as_such_here_and_in_the_worker(logic, tmp_path):
    from DMRIMicroSlicer.attributes import UNLIFTED
    from DMRIMicroSlicer.background import at_once
    from DMRIMicroSlicer.enhance_nodes import Made, Source, showing
    from DMRIMicroSlicer.nodes import scan_from_node

    from DMRIMicroLib.io import load, nifti

    dwi = scan_node()
    assert scan_from_node(dwi).lifted
    (same,) = logic.enhance(dwi, resolution="keep", **PLAIN)
    assert same.GetAttribute(UNLIFTED) is None
    told = json.loads(same.GetAttribute("DMRIMicro.provenance"))["enhance"]
    scan = scan_from_node(dwi)
    made = Made(np.asarray(scan.signal), scan.affine, None, told | {"noise_floor": "removed"})
    (node,) = at_once(showing(made, Source.of(dwi, scan)))
    assert not scan_from_node(node).lifted
    assert not load(nifti.save(scan_from_node(node), tmp_path / "worker.nii.gz")).lifted
