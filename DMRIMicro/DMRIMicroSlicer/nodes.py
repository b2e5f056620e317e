"""Diffusion-weighted volume nodes and scans, in both directions.

Slicer keeps arrays as (k, j, i, volume), gradients in a measurement frame MF with g_RAS = MF g, and
the geometry in IJKToRAS. A `Scan` keeps (i, j, k, volume), gradients in RAS, and the same matrix as
its affine. Nothing is flipped on the way, whatever the sign of the determinant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DMRIMicroLib.acquisition import Acquisition
from DMRIMicroLib.errors import InputError
from DMRIMicroLib.scan import Scan, read
from DMRIMicroLib.table import check_bvals, to_s_per_mm2

from . import attributes
from .background import Steps, at_once
from .geometry import (
    check_axes,
    frame_matrix,
    parent_matrix,
    remember_axes,
    rotation,
    world_affine,
)
from .masks import mask_later
from .words import _

DWI_CLASS = "vtkMRMLDiffusionWeightedVolumeNode"

NRRD_VOLUMES = 7
"""Slicer's DWI writer needs as many: 6 volumes come back as a tensor node, 4 as a vector node."""

UNIT = 1e-6
"""Gradients further than this from unit length are dropped by the node without a word."""

B_NEAR = 0.5
"""Agreement [s/mm2] asked of b-values that are read back."""

WINDOWED = (0.1, 99.9)
"""Share of the values below the window's ends [%]: those of Slicer's automatic window."""

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
    scan, masked = open_node(node, mask_node, segment_id)
    return masked(scan)


def open_node(
    node, mask_node=None, segment_id: str | None = None
) -> tuple[Scan, Callable[[Scan], Scan]]:
    """Do as `scan_from_node`, but leave the mask for later.

    Returns
    -------
    Scan
        Without the mask.
    callable
        Puts the mask on a scan of this grid. It may be called in a thread: it takes time, and
        leaves MRML alone.
    """
    acquisition, notes = _read_acquisition(node)
    signal = _array(node)
    if signal.shape[3] != len(acquisition):
        raise InputError(
            _("'{node}' has {volumes} volumes and {gradients} gradients").format(
                node=node.GetName(), volumes=signal.shape[3], gradients=len(acquisition)
            ),
            _("Load the diffusion scan again; something has cut one of them."),
        )
    affine = world_affine(node)
    notes += _transform_notes(node) + _enhanced_notes(node)
    lifted = node.GetAttribute(attributes.UNLIFTED) is None
    scan = Scan(signal, affine, acquisition, name=node.GetName(), notes=notes, lifted=lifted)
    if mask_node is None:
        return scan, lambda scan: scan
    mask = mask_later(mask_node, affine, signal.shape[:3], segment_id)
    return scan, lambda scan: scan.with_mask(mask())


def acquisition_from_node(node) -> Acquisition:
    """Read b-values [s/mm2] and gradients, turned into RAS world coordinates."""
    return _read_acquisition(node)[0]


def _read_acquisition(node) -> tuple[Acquisition, tuple[str, ...]]:
    """Read the acquisition, and what had to be recognised on the way."""
    if node is None or not node.IsA(DWI_CLASS):
        kind = _("nothing")
        if node is not None:
            kind = _("'{node}', a {kind}").format(node=node.GetName(), kind=node.GetClassName())
        raise InputError(
            _("a diffusion-weighted volume is expected, got {kind}").format(kind=kind),
            _("Load a DWI NRRD, or import NIfTI with bval and bvec in this module."),
        )
    if node.GetNumberOfGradients() == 0 or node.GetImageData() is None:
        raise InputError(
            _("'{node}' holds no diffusion data").format(node=node.GetName()),
            _("Load the scan again."),
        )
    check_axes(node)
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
    return at_once(adding_scan(scan, name, node))


def adding_scan(
    scan: Scan,
    name: str | None = None,
    node=None,
    progress: Callable[[float], None] | None = None,
) -> Steps:
    """Do as `node_from_scan`, bit by bit; given up before the end, add nothing.

    `progress` gets the share of the signal that is copied, in the thread that does it.
    """
    if not (scan.acquisition.bvals > scan.acquisition.b0_threshold).any():
        raise InputError(
            _("no volume of this scan is diffusion-weighted"), _("Slicer cannot store it as a DWI.")
        )
    fresh = node is None
    if fresh:
        node = slicer.vtkMRMLDiffusionWeightedVolumeNode()
        node.SetName(unique_name(name or scan.name))
    image, window = yield from _image(scan, progress)
    _fill(node, scan, image)
    if fresh:
        _add_display(node, window)
        slicer.mrmlScene.AddNode(node)  # whole: selectors take it up at once
    elif node.GetDisplayNode() is None:
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


def _image(scan: Scan, progress: Callable[[float], None] | None) -> Steps:
    """Make an image that holds the signal; return it, and a window for its first volume."""
    image = vtk.vtkImageData()
    image.SetDimensions(*scan.shape)
    image.AllocateScalars(vtk.VTK_FLOAT, len(scan.acquisition))
    held = vtk_to_numpy(image.GetPointData().GetScalars())
    held = held.reshape(*scan.shape[::-1], len(scan.acquisition)).transpose(2, 1, 0, 3)

    def copy() -> tuple[float, float]:  # into memory that VTK has made: it may take seconds
        for block, part in read(scan.signal, np.arange(len(scan.acquisition)), scan.source):
            held[..., block] = part
            if progress:
                progress(block.stop / len(scan.acquisition))
        return window_of(held[..., 0])

    window = yield copy
    return image, window


def window_of(values: NDArray) -> tuple[float, float]:
    """Return the window that Slicer would take, which takes it long on the main thread."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, WINDOWED) if known.size else (0.0, 1.0)
    return float(low), float(high)


def _add_display(node, window: tuple[float, float]) -> None:
    """Let a node that is not in the scene yet have a display node with this window."""
    display = slicer.vtkMRMLDiffusionWeightedVolumeDisplayNode()
    display.SetDefaultColorMap()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*window)
    slicer.mrmlScene.AddNode(display)
    node.SetAndObserveDisplayNodeID(display.GetID())


def _fill(node, scan: Scan, image) -> None:
    # what the reader left of an earlier file (DWMRI_gradient_0007 ...) would win over us on saving
    for key in [k for k in node.GetAttributeNames() if k.startswith("DWMRI_") or k == "modality"]:
        node.RemoveAttribute(key)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(scan.affine))
    node.SetMeasurementFrameMatrix(slicer.util.vtkMatrixFromArray(np.eye(4)))
    remember_axes(node)
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
            _("Slicer did not keep the gradients of '{node}'").format(node=node.GetName()),
            _("Please report this with the bval and bvec files."),
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


def _enhanced_notes(node) -> tuple[str, ...]:
    """Say of an enhanced scan that maps of it measure no more than the scan before did."""
    method = node.GetAttribute(attributes.ENHANCED_BY)
    if method is None:
        return ()
    what = "interpolated" if method == "interpolate" else f"made 7 T-like by a network ({method})"
    return (f"the scan was {what}: its finer voxels, and maps of them, are no measurement",)
