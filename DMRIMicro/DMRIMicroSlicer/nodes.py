"""Diffusion-weighted volume nodes and scans, in both directions.

Slicer keeps arrays as (k, j, i, volume), gradients in a measurement frame MF with g_RAS = MF g, and
the geometry in IJKToRAS. A `Scan` keeps (i, j, k, volume), gradients in RAS, and the same matrix as
its affine. Nothing is flipped on the way, whatever the sign of the determinant.
"""

from __future__ import annotations

import logging

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.scan import Scan
from DMRIMicroLib.table import check_bvals, to_s_per_mm2

from . import attributes
from .geometry import frame_matrix, parent_matrix, rotation, world_affine
from .masks import mask_from_node

DWI_CLASS = "vtkMRMLDiffusionWeightedVolumeNode"

NRRD_VOLUMES = 7
"""Slicer's DWI writer needs as many: 6 volumes come back as a tensor node, 4 as a vector node."""

UNIT = 1e-6
"""Gradients further than this from unit length are dropped by the node without a word."""

B_NEAR = 0.5
"""Agreement [s/mm2] asked of b-values that are read back."""

BASELINE_B = 1.0
"""Below this b-value [s/mm2] Slicer expects a zero vector."""


def scan_from_node(node, mask_node=None, segment_id: str | None = None) -> Scan:
    """Make a scan of a DWI node, in world coordinates.

    Parameters
    ----------
    node : vtkMRMLDiffusionWeightedVolumeNode
        Its parent transform, if any, must be linear and is applied to positions and gradients.
    mask_node : vtkMRMLScalarVolumeNode or vtkMRMLSegmentationNode, optional
        Where to fit; resampled to the scan's grid by its position, nearest neighbour.
    segment_id : str, optional
        The segment to use; by default all of them together.

    Returns
    -------
    Scan
        Its signal shares memory with the node: do not edit the volume while it is used.
    """
    acquisition, notes = _read_acquisition(node)
    signal = _array(node)
    if signal.shape[3] != len(acquisition):
        raise InputError(
            f"'{node.GetName()}' has {signal.shape[3]} volumes and {len(acquisition)} gradients",
            "Load the diffusion scan again; something has cut one of them.",
        )
    affine = world_affine(node)
    mask = (
        None
        if mask_node is None
        else mask_from_node(mask_node, affine, signal.shape[:3], segment_id)
    )
    notes += _transform_notes(node)
    return Scan(signal, affine, acquisition, mask=mask, name=node.GetName(), notes=notes)


def acquisition_from_node(node) -> Acquisition:
    """Read b-values [s/mm2] and gradients, turned into RAS world coordinates."""
    return _read_acquisition(node)[0]


def _read_acquisition(node) -> tuple[Acquisition, tuple[str, ...]]:
    """Read the acquisition, and what had to be recognised on the way."""
    if node is None or not node.IsA(DWI_CLASS):
        kind = "nothing" if node is None else f"'{node.GetName()}', a {node.GetClassName()}"
        raise InputError(
            f"a diffusion-weighted volume is expected, got {kind}",
            "Load a DWI NRRD, or import NIfTI with bval and bvec in this module.",
        )
    if node.GetNumberOfGradients() == 0 or node.GetImageData() is None:
        raise InputError(f"'{node.GetName()}' holds no diffusion data", "Load the scan again.")
    turn = rotation(node) @ frame_matrix(node)
    gradients = vtk_to_numpy(node.GetDiffusionGradients()).astype(np.float64) @ turn.T
    name = f"'{node.GetName()}'"
    bvals, note = to_s_per_mm2(check_bvals(vtk_to_numpy(node.GetBValues()), file=name), file=name)
    length = np.linalg.norm(gradients, axis=1, keepdims=True)
    acquisition = Acquisition(
        bvals, gradients / np.where(length > UNIT, length, 1), **attributes.read(node)
    )
    return acquisition, (note,) if note else ()


def node_from_scan(scan: Scan, name: str | None = None, node=None):
    """Show a scan as a DWI node, a new one or `node` with its former content replaced.

    Gradients are stored in RAS with an identity measurement frame; volumes with b below 1 s/mm2
    get zero vectors, because that is how Slicer knows a baseline. Other b0 volumes keep theirs:
    the fit uses their true b.
    """
    if not (scan.acquisition.bvals > scan.acquisition.b0_threshold).any():
        raise InputError(
            "no volume of this scan is diffusion-weighted", "Slicer cannot store it as a DWI."
        )
    fresh = node is None
    if fresh:
        node = slicer.vtkMRMLDiffusionWeightedVolumeNode()
        node.SetName(unique_name(name or scan.name))
    _fill(node, scan)
    if fresh:
        slicer.mrmlScene.AddNode(node)  # whole: selectors take it up at once
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    if len(scan.acquisition) < NRRD_VOLUMES:
        logging.warning(
            "'%s' has %d volumes: Slicer cannot save fewer than %d as a DWI. Keep the files.",
            node.GetName(),
            len(scan.acquisition),
            NRRD_VOLUMES,
        )
    return node


def unique_name(name: str) -> str:
    """Return `name`, numbered if a node in the scene has it already."""
    taken = slicer.mrmlScene.GetFirstNodeByName(name) is not None
    return slicer.mrmlScene.GenerateUniqueName(name) if taken else name


def _fill(node, scan: Scan) -> None:
    # what the reader left of an earlier file (DWMRI_gradient_0007 ...) would win over us on saving
    for key in [k for k in node.GetAttributeNames() if k.startswith("DWMRI_") or k == "modality"]:
        node.RemoveAttribute(key)
    signal = scan.volumes(np.arange(len(scan.acquisition)))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(signal.transpose(2, 1, 0, 3)))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(scan.affine))
    node.SetMeasurementFrameMatrix(slicer.util.vtkMatrixFromArray(np.eye(4)))
    acquisition = scan.acquisition
    gradients = np.where(acquisition.bvals[:, None] < BASELINE_B, 0.0, acquisition.bvecs)
    node.SetNumberOfGradients(len(gradients))
    node.SetDiffusionGradients(numpy_to_vtk(np.ascontiguousarray(gradients), deep=1))
    node.SetBValues(numpy_to_vtk(np.array(acquisition.bvals), deep=1))
    attributes.write(node, **{name: getattr(acquisition, name) for name in attributes.DEFAULTS})
    _read_back(node, gradients, acquisition.bvals)


def _read_back(node, gradients: NDArray, bvals: NDArray) -> None:
    """Check what the node has kept, since it refuses gradients without saying so."""
    kept = vtk_to_numpy(node.GetDiffusionGradients())
    kept_b = vtk_to_numpy(node.GetBValues())
    if (
        kept.shape != gradients.shape
        or not np.allclose(kept, gradients, rtol=0, atol=UNIT)
        or not np.allclose(kept_b, bvals, rtol=0, atol=B_NEAR)
    ):
        raise InputError(
            f"Slicer did not keep the gradients of '{node.GetName()}'",
            "Please report this with the bval and bvec files.",
        )


def _array(node) -> NDArray:
    """Return the image as (i, j, k, volume), a view of the node's memory."""
    array = slicer.util.arrayFromVolume(node)
    return (array if array.ndim == 4 else array[..., None]).transpose(2, 1, 0, 3)


def _transform_notes(node) -> tuple[str, ...]:
    transform = node.GetParentTransformNode()
    if transform is None:
        return ()
    matrix = parent_matrix(node)[:3, :3]
    note = f"the transform '{transform.GetName()}' was applied to positions and gradients"
    if np.allclose(matrix.T @ matrix, np.eye(3), atol=1e-3):
        return (note,)
    return (f"{note}; it is not rigid: gradients follow its rotation only",)
