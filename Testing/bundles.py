"""Maps with fibres that are known: a straight bundle, a crossing, a ring."""

from __future__ import annotations

import numpy as np
from phantom import AFFINES, fibre_tensors

from DMRIMicroLib.maps import Map, MapSet
from DMRIMicroLib.metric import Metric
from DMRIMicroLib.tracts.regions import Region

GRIDS = {**AFFINES, "isotropic": np.diag([2.0, 2, 2, 1])}
ALONG, ACROSS = 1.7e-3, 0.3e-3
FA = 0.8
"""About that of a tensor with these diffusivities [mm2/s]."""


def world_of(affine, shape):
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def packed(full):
    """(..., 3, 3) -> (..., 6): xx, yy, zz, xy, xz, yz."""
    i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    return full[..., i, j]


def map_set(affine, fibres, axes, sd=None, **scalars):
    """Maps of a tensor along `axes` (x, y, z, 3) where `fibres`, isotropic elsewhere."""
    shape = fibres.shape
    tensor = np.where(
        fibres[..., None],
        packed(fibre_tensors(axes, ALONG, ACROSS)),
        8e-4 * np.array([1, 1, 1, 0, 0, 0]),
    )
    layers = {"FA": np.where(fibres, FA, 0.05), **scalars}
    maps = {
        name: Map(
            Metric(name, name),
            "dti",
            np.asarray(data, np.float32),
            None if sd is None else np.full(shape, sd, np.float32),
        )
        for name, data in layers.items()
    }
    maps["tensor"] = Map(Metric("tensor", "t", kind="tensor"), "dti", tensor.astype(np.float32))
    flags = np.ones(shape, np.uint8)
    return MapSet(maps, affine, np.ones(shape, bool), {"dti": {"notes": []}}, {"dti": flags})


def frame_of(affine):
    """Middle of the grid and the directions of its axes in the world."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return unit


def straight(affine, shape=(30, 9, 9), radius=4.1, direction=None, **scalars):
    """A straight bundle through the middle; returns maps, a point on its axis, its direction."""
    axis = frame_of(affine)[:, 0] if direction is None else np.asarray(direction, float)
    axis = axis / np.linalg.norm(axis)
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    offset = world_of(affine, shape) - middle
    away = np.linalg.norm(offset - (offset @ axis)[..., None] * axis, axis=-1)
    axes = np.broadcast_to(axis, (*shape, 3))
    return map_set(affine, away < radius, axes, **scalars), middle, axis


def ring(affine=GRIDS["isotropic"], shape=(40, 40, 7), radius=25.0, width=6.1):
    """Half a ring around the world's z axis through the middle, where x is above the middle."""
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    offset = world_of(affine, shape) - middle
    x, y = offset[..., 0] + 1e-6, offset[..., 1]
    axes = np.stack([-y, x, 0 * x], -1)
    axes = axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    fibres = (np.abs(np.hypot(x, y) - radius) < width) & (x > 0)
    return map_set(affine, fibres, axes), middle


def ball(centre, radius, affine, shape, name="ball"):
    inside = np.linalg.norm(world_of(affine, shape) - centre, axis=-1) <= radius
    return Region(inside, affine, name)
