"""A headless MRML scene for tests, with synthetic scans. Slicer is imported on first use only."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

TENSOR = np.array([[1.5, 0.2, 0.1], [0.2, 0.5, 0.05], [0.1, 0.05, 0.4]]) * 1e-3
"""The tensor of every voxel in `scan`, RAS [mm2/s]."""


@cache
def boot() -> SimpleNamespace:
    """Make the scene, its logics and the module's package importable; once per process."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    import vtk

    for folder in (ROOT, ROOT / "DMRIMicro"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    scene, application = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetTemporaryPath(tempfile.gettempdir())
    colours = application.GetColorLogic()
    colours.SetMRMLScene(scene)
    colours.AddDefaultColorNodes()
    application.SetModuleLogic("Colors", colours)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    logics = {}
    for name, cls in {
        "Volumes": "vtkSlicerVolumesLogic",
        "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    }.items():
        logics[name] = getattr(slicer, cls)()
        logics[name].SetMRMLApplicationLogic(application)
        logics[name].SetMRMLScene(scene)
        application.SetModuleLogic(name, logics[name])
    vtk.vtkObject.GlobalWarningDisplayOn()  # the colour logic switches it off
    slicer.mrmlScene = scene
    slicer.modules = SimpleNamespace(
        **{n.lower(): SimpleNamespace(logic=lambda v=v: v) for n, v in logics.items()}
    )
    return SimpleNamespace(
        slicer=slicer,
        scene=scene,
        application=application,
        volumes=logics["Volumes"],
        colours=colours,
    )


@contextmanager
def clean_scene():
    """Give the booted scene; afterwards, remove what was added and fail on VTK errors (trap 13).

    Where the scene was saved is forgotten, too: pages of other tests would land there.
    """
    booted = boot()
    url = booted.scene.GetURL()
    before = {booted.scene.GetNthNode(i).GetID() for i in range(booted.scene.GetNumberOfNodes())}
    with vtk_errors() as errors:
        yield booted
        hierarchy = booted.scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
        if (
            hierarchy is not None
        ):  # in the desktop a plugin drops the items of nodes that go; here nobody does
            booted.scene.RemoveNode(hierarchy)
        for node in [booted.scene.GetNthNode(i) for i in range(booted.scene.GetNumberOfNodes())]:
            if node.GetID() not in before:
                booted.scene.RemoveNode(node)
        booted.scene.SetURL(url or "")
    assert not errors, f"VTK reported: {errors}"


@contextmanager
def vtk_errors():
    """Collect what VTK would only print on stderr."""
    import vtk

    found: list[str] = []

    window = vtk.vtkOutputWindow()
    former = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(window)

    @vtk.calldata_type(vtk.VTK_STRING)
    def told(_caller, _event, text) -> None:
        found.append(text)

    window.AddObserver(vtk.vtkCommand.ErrorEvent, told)
    try:
        yield found
    finally:
        vtk.vtkOutputWindow.SetInstance(former)


def affine(sign: int = 1, oblique: bool = True) -> np.ndarray:
    """Return a voxel-to-RAS matrix of either handedness, with unequal spacing."""
    a, b = np.deg2rad([20, -15]) if oblique else (0, 0)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    out = np.eye(4)
    out[:3, :3] = turn @ np.diag([2.0 * sign, 2.2, 2.5])
    out[:3, 3] = (-7, 11, 5)
    return out


def scan(
    sign: int = 1, shape=(5, 6, 4), directions: int = 12, oblique: bool = True, name: str = "brain"
):
    """Return a scan of `TENSOR`: 2 b0, `directions` at b = 1000, brightness by voxel."""
    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.scan import Scan

    g = np.random.default_rng(3).normal(size=(directions, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    bvecs = np.vstack([np.zeros((2, 3)), g])
    bvals = np.r_[0.0, 0.0, np.full(directions, 1000.0)]
    brightness = 500 + np.arange(np.prod(shape), dtype=float).reshape(shape)
    signal = brightness[..., None] * np.exp(-bvals * np.einsum("mi,ij,mj->m", bvecs, TENSOR, bvecs))
    return Scan(
        signal.astype(np.float32), affine(sign, oblique), Acquisition(bvals, bvecs), name=name
    )


def two_shells(name: str = "shells"):
    """Return a scan of `TENSOR` with 2 b0, 20 directions at b = 1000 and 20 at b = 2000."""
    from phantom import protocol, tensor_signal

    from DMRIMicroLib.scan import Scan

    acquisition = protocol({1000.0: 20, 2000.0: 20})
    tensors = np.broadcast_to(TENSOR, (4, 4, 3, 3, 3))
    signal = tensor_signal(acquisition, tensors, 1000.0).astype(np.float32)
    return Scan(signal, affine(), acquisition, np.ones((4, 4, 3), bool), name)


def positions(matrix: np.ndarray, shape) -> np.ndarray:
    """Return the world position of every voxel: (x, y, z, 3)."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape[:3]], indexing="ij"), axis=-1)
    return index @ matrix[:3, :3].T + matrix[:3, 3]


def value_by_position(array: np.ndarray, matrix: np.ndarray) -> dict:
    """Return rounded world position -> value: equal for two orders of the same image."""
    where = np.round(positions(matrix, array.shape), 3).reshape(-1, 3) + 0.0
    return dict(zip(map(tuple, where), array.reshape(len(where), -1).tolist(), strict=True))


def volume_node(
    array: np.ndarray,
    matrix: np.ndarray,
    cls: str = "vtkMRMLLabelMapVolumeNode",
    name: str = "volume",
):
    """Add an (x, y, z) array as a volume node."""
    slicer = boot().slicer
    node = slicer.mrmlScene.AddNewNodeByClass(cls, name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.transpose(2, 1, 0)))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node


def linear_transform(matrix: np.ndarray, *nodes):
    """Add a linear transform and put nodes under it."""
    slicer = boot().slicer
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def save_nrrd(node, path: Path) -> Path:
    """Write a DWI node with Slicer's own writer."""
    slicer = boot().slicer
    storage = slicer.vtkMRMLNRRDStorageNode()
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(node) == 1
    return path


def load_nrrd(path: Path, name: str = "loaded"):
    """Read a volume the way slicer.util.loadVolume does underneath."""
    return boot().volumes.AddArchetypeVolume(str(path), name, 0)


def run_python(code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh process with the scene booted: for what aborts the whole process."""
    folder = str(ROOT / "Testing")
    preamble = (
        f"import sys; sys.path.insert(0, {folder!r})\nimport slicer_scene as ss\nb = ss.boot()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", preamble + code], capture_output=True, text=True, timeout=60
    )


def count_nodes() -> int:
    """Count the nodes in the scene."""
    return boot().scene.GetNumberOfNodes()


SIGNS = list(itertools.product((1, -1), (True, False)))
"""Handedness and obliqueness of the affines to try."""
