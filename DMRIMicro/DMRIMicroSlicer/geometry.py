"""Where volume nodes lie in the world."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray

from DMRIMicroLib.errors import InputError


def parent_matrix(node) -> NDArray[np.float64]:
    """Return the (4, 4) matrix of the node's parent transforms to world, identity without any."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            f"'{node.GetName()}' is under the non-linear transform '{transform.GetName()}'",
            "Take it out of the transform, or harden a linear one: gradients cannot follow a warp.",
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
    u, _, v = np.linalg.svd(parent_matrix(node)[:3, :3])
    return u @ v


def frame_matrix(node) -> NDArray[np.float64]:
    """Return the (3, 3) measurement frame of a diffusion node: g_RAS = MF g."""
    matrix = vtk.vtkMatrix4x4()
    node.GetMeasurementFrameMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
