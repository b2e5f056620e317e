"""Bring images of one head into the space of another, and what that does to directions.

Affine registration by mutual information, then symmetric diffeomorphic registration (B. B. Avants
et al., Med. Image Anal. 12 (2008) 26-41), both as dipy has them; directions are turned by
preservation of the principal direction (D. C. Alexander et al., IEEE Trans. Med. Imaging 20 (2001)
1131-1139).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, binary_fill_holes, gaussian_filter, map_coordinates

AFFINE_ITERATIONS = [500, 100]
"""Coarse to fine, at voxels of `AFFINE_FACTORS` times the grid's, of which all are used: random
samples of them would make two runs differ. The warp does the rest."""
AFFINE_FACTORS = [4, 2]
AFFINE_SIGMAS = [3.0, 1.0]

WARP_ITERATIONS = [40, 25, 12]
WARP_RADIUS = 3
"""Half width of the window of local cross-correlation [voxels]."""
WARP_SMOOTHING = 2.0
"""Smoothing of each update of the deformation [voxels]: fibres must not follow noise."""

GENTLE_ITERATIONS = [20, 10, 0]
GENTLE_SMOOTHING = 4.0
"""The same between images of different kinds, whose details have no counterparts: a harder warp
drew the anisotropic cores of bundles over all white matter."""

RIM = 3.0
"""Anisotropy this close to the edge of a brain [mm] is mostly noise, and bright."""

FAR = 500.0
"""Half edge of the cube whose corners carry world coordinates through a deformation [mm]."""


@dataclass(frozen=True, eq=False)
class Image:
    """A volume in the world.

    Attributes
    ----------
    data : (..., x, y, z) array
    affine : (4, 4) array
        Voxel indices to RAS millimetres.
    """

    data: NDArray
    affine: NDArray

    @property
    def spacing(self) -> NDArray:
        """Voxel size [mm]: (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@dataclass(frozen=True, eq=False)
class Warp:
    """Where each voxel of a grid lies in another head.

    Attributes
    ----------
    affine : (4, 4) array
        Of the grid, voxel indices to RAS millimetres.
    points : (x, y, z, 3) array
        RAS millimetres in the other head.
    """

    affine: NDArray
    points: NDArray

    def onto(self, affine: NDArray, shape: tuple[int, ...]) -> Warp:
        """Return the same warp for the voxels of another grid."""
        return self.after(still(affine, shape))

    def after(self, first: Warp) -> Warp:
        """Return the warp that goes through `first` and then through this one.

        Displacements are interpolated; beyond the grid they are those of its edge.
        """
        moved = np.moveaxis(self.points - world(self.affine, self.points.shape[:3]), -1, 0)
        by = sample(Image(moved, self.affine), first.points, outside="nearest")
        return Warp(first.affine, first.points + np.moveaxis(by, 0, -1))

    def turning(self) -> NDArray:
        """Matrices that take directions of the other head to this grid's: (x, y, z, 3, 3).

        Inverse of the Jacobian of `points` in world coordinates.
        """
        by_index = np.stack(np.gradient(self.points, axis=(0, 1, 2)), axis=-1)
        jacobian = by_index @ np.linalg.inv(self.affine[:3, :3])
        return np.linalg.inv(jacobian)


def world(affine: NDArray, shape: tuple[int, ...]) -> NDArray:
    """RAS millimetres of every voxel centre: (x, y, z, 3)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def still(affine: NDArray, shape: tuple[int, ...]) -> Warp:
    """Return the warp that moves nothing."""
    return Warp(affine, world(affine, shape))


def sample(image: Image, points: NDArray, order: int = 1, outside: str = "constant") -> NDArray:
    """Interpolate at points of the world: (c..., x, y, z) at (..., 3) -> (c..., ...).

    `outside` is 0 (``"constant"``) or the value at the edge (``"nearest"``).
    """
    inverse = np.linalg.inv(image.affine)
    at = np.moveaxis(points @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
    channels = image.data.reshape(-1, *image.data.shape[-3:]).astype(np.float32)
    out = [map_coordinates(c, at, order=order, mode=outside) for c in channels]
    return np.stack(out).reshape(*image.data.shape[:-3], *points.shape[:-1])


def without_rim(fa: Image) -> Image:
    """Anisotropy without the bright edge of the brain."""
    inside = binary_fill_holes(np.pad(fa.data > 0, 1))
    voxels = max(1, round(RIM / float(fa.spacing.mean())))
    inside = binary_erosion(inside, iterations=voxels)[1:-1, 1:-1, 1:-1]
    return Image(np.where(inside, np.clip(fa.data, 0, 1), 0), fa.affine)


def register(
    static: Image, moving: Image, *, affine_only: bool = False, gentle: bool = False
) -> Warp:
    """Find where each voxel of `static` lies in `moving`; gently if they are of different kinds."""
    from dipy.align.imaffine import (
        AffineRegistration,
        MutualInformationMetric,
        transform_centers_of_mass,
    )
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D

    fixed, other = (gaussian_filter(i.data.astype(float), 0.5) for i in (static, moving))
    grids = {"static_grid2world": static.affine, "moving_grid2world": moving.affine}
    found = transform_centers_of_mass(fixed, static.affine, other, moving.affine)
    search = AffineRegistration(
        metric=MutualInformationMetric(nbins=32, sampling_proportion=None),
        level_iters=AFFINE_ITERATIONS,
        sigmas=AFFINE_SIGMAS,
        factors=AFFINE_FACTORS,
        verbosity=0,
    )
    for kind in (RigidTransform3D(), AffineTransform3D()):
        found = search.optimize(fixed, other, kind, None, starting_affine=found.affine, **grids)
    points = world(static.affine, static.data.shape)
    if affine_only:
        return Warp(static.affine, points @ found.affine[:3, :3].T + found.affine[:3, 3])
    smoothing = GENTLE_SMOOTHING if gentle else WARP_SMOOTHING
    metric = CCMetric(3, sigma_diff=smoothing, radius=WARP_RADIUS)
    steps = GENTLE_ITERATIONS if gentle else WARP_ITERATIONS
    flow = SymmetricDiffeomorphicRegistration(metric, level_iters=steps)
    flow.verbosity = 0
    mapping = flow.optimize(fixed, other, prealign=found.affine, **grids)
    return Warp(static.affine, _carried(mapping))


def _carried(mapping: object) -> NDArray:
    """World coordinates that a dipy mapping reads at each voxel of its static grid.

    A linear function is interpolated exactly, so the eight corners of a large cube will do.
    """
    affine = np.diag([2 * FAR] * 3 + [1.0])
    affine[:3, 3] = -FAR
    corners = world(affine, (2, 2, 2))
    to_grid = np.linalg.inv(affine)
    axes = [mapping.transform(corners[..., a], image_world2grid=to_grid) for a in range(3)]
    return np.stack(axes, axis=-1)
