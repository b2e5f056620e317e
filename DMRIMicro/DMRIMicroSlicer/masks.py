"""Masks from label maps and segmentations, brought to a scan's grid by position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

from DMRIMicroLib.errors import InputError
from DMRIMicroLib.masking import onto_grid

from .geometry import parent_matrix
from .words import _

LABELMAP = "Binary labelmap"
VOLUMES = ("vtkMRMLLabelMapVolumeNode", "vtkMRMLScalarVolumeNode")


def mask_from_node(
    node, affine: NDArray, shape: tuple[int, ...], segment_id: str | None = None
) -> NDArray[np.bool_]:
    """Sample a mask node at the voxel centres of a grid: nearest neighbour.

    Parameters
    ----------
    node : vtkMRMLScalarVolumeNode or vtkMRMLSegmentationNode
        Label maps count wherever they are above 0.
    affine : (4, 4) array
        The grid's voxel indices to RAS world coordinates.
    shape : (3,) tuple
        The grid's size.
    segment_id : str, optional
        The segment to use; by default all of them together.
    """
    return mask_later(node, affine, shape, segment_id)()


def mask_later(
    node, affine: NDArray, shape: tuple[int, ...], segment_id: str | None = None
) -> Callable[[], NDArray[np.bool_]]:
    """Read a node; return what does the rest of `mask_from_node`, in any thread."""
    if node.IsA("vtkMRMLSegmentationNode"):
        layers = [layer[:2] for layer in segments(node, segment_id)]
    elif (
        node.GetClassName() in VOLUMES
    ):  # not IsA: diffusion and vector volumes are scalar volumes to it
        layers = [_labelmap(node)]
    else:
        raise InputError(
            _("'{node}' ({kind}) cannot be a mask").format(
                node=node.GetName(), kind=node.GetClassName()
            ),
            _("Choose a label map or a segmentation."),
        )
    parent = parent_matrix(node)
    elsewhere = (
        _("the mask '{node}' covers no voxel of the scan").format(node=node.GetName()),
        _("Check that both show the same head at one place."),
    )

    def sample() -> NDArray[np.bool_]:
        out = np.zeros(shape, dtype=bool)
        for inside, to_world in layers:
            try:
                out |= onto_grid(inside, parent @ to_world, shape, affine)
            except InputError:
                continue  # this segment is empty or lies elsewhere; together they may cover it
        if not out.any():
            raise InputError(*elsewhere)
        return out

    return sample


def _labelmap(node) -> tuple[NDArray, NDArray]:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return labelled(node) > 0, slicer.util.arrayFromVTKMatrix(matrix)


def labelled(node) -> NDArray:
    """Return the values of a label map or scalar volume: (i, j, k)."""
    if node.GetImageData() is None:
        raise InputError(
            _("the mask '{node}' is empty").format(node=node.GetName()), _("Choose another one.")
        )
    return slicer.util.arrayFromVolume(node).transpose(2, 1, 0)


def segments(node, segment_id: str | None = None) -> list[tuple[NDArray, NDArray, str]]:
    """Return each wanted segment as (i, j, k) bool, its own grid's matrix, and its name.

    The parent transform of the node is not applied.
    """
    segmentation = node.GetSegmentation()
    known = list(segmentation.GetSegmentIDs())
    if segment_id is not None and segment_id not in known:
        raise InputError(
            _("'{node}' has no segment {segment_id!r}").format(
                node=node.GetName(), segment_id=segment_id
            ),
            _("Choose from: {known}.").format(known=", ".join(known)),
        )
    if not segmentation.ContainsRepresentation(LABELMAP):
        # on a copy: the user's segmentation must not gain a representation because of us
        copy = slicer.vtkSegmentation()
        copy.DeepCopy(segmentation)
        if not copy.CreateRepresentation(LABELMAP):
            raise InputError(
                _("the segmentation '{node}' cannot be turned into voxels").format(
                    node=node.GetName()
                ),
                _("Create its binary label map in the Segmentations module."),
            )
        segmentation = copy
    layers = []
    for name in [segment_id] if segment_id else known:
        segment = segmentation.GetSegment(name)
        image = segment.GetRepresentation(LABELMAP)
        if image is not None and image.GetPointData().GetScalars() is not None:
            inside = _voxels(image) == segment.GetLabelValue()
            layers.append((inside, _extent_matrix(image), segment.GetName() or name))
    return layers


def _voxels(image) -> NDArray:
    i, j, k = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i).transpose(2, 1, 0)


def _extent_matrix(image) -> NDArray:
    """Return the matrix of the first stored voxel: a cropped segment does not start at 0."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    shift = np.eye(4)
    shift[:3, 3] = image.GetExtent()[::2]
    return slicer.util.arrayFromVTKMatrix(matrix) @ shift
