"""Where volume nodes lie in the world."""

from __future__ import annotations

import json

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray

from DMRIMicroLib.errors import InputError

from .words import _

AXES = "DMRIMicro.axes"
"""Node attribute: directions of the image axes when gradients or tensors were put in."""

TURNED = 0.01
"""Axes that have turned by less than this [rad] have not been turned."""


def parent_matrix(node) -> NDArray[np.float64]:
    """Return the (4, 4) matrix of the node's parent transforms to world, identity without any."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            _("'{node}' is under the non-linear transform '{transform}'").format(
                node=node.GetName(), transform=transform.GetName()
            ),
            _(
                "Take it out of the transform, or harden a linear one: gradients cannot follow a "
                "warp."
            ),
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def world_affine(node) -> NDArray[np.float64]:
    """Return the (4, 4) matrix from voxel indices to RAS world coordinates."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return parent_matrix(node) @ slicer.util.arrayFromVTKMatrix(matrix)


def rotation(node) -> NDArray[np.float64]:
    """Return the rotation nearest to the parent transforms: what turns gradients and tensors.

    Finite strain: shears and scales do not turn them.
    """
    u, _sizes, v = np.linalg.svd(parent_matrix(node)[:3, :3])
    return u @ v


def remember_axes(node) -> None:
    """Note how the axes of a volume with gradients or tensors lie."""
    node.SetAttribute(AXES, json.dumps(_axes(node).tolist()))


def check_axes(node) -> None:
    """Refuse a volume that was turned for good since: Slicer leaves what it holds as it was.

    Axes may be flipped: Slicer's reader does so, with the voxels. A file that the module has not
    made holds no note, and is not checked.
    """
    noted = node.GetAttribute(AXES)
    if noted is None:
        return
    change = np.linalg.solve(np.array(json.loads(noted)), _axes(node))
    if not np.allclose(np.abs(change), np.eye(3), atol=TURNED):
        raise InputError(
            _(
                "'{node}' was turned after it was made, by a transform that was hardened: "
                "Slicer turns the image, but not the directions in it"
            ).format(node=node.GetName()),
            _("Import or fit the scan again, and leave it under its transform."),
        )


def _axes(node) -> NDArray[np.float64]:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]


def frame_matrix(node) -> NDArray[np.float64]:
    """Return the (3, 3) measurement frame of a diffusion node: g_RAS = MF g."""
    matrix = vtk.vtkMatrix4x4()
    node.GetMeasurementFrameMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
