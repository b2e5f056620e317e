"""Local PCA with the Marchenko-Pastur law of random matrices: noise, and the signal without it.

J. Veraart, E. Fieremans, D. S. Novikov, Magn. Reson. Med. 76 (2016) 1582-1593 (noise);
J. Veraart et al., NeuroImage 142 (2016) 394-406 (denoising). The work is dipy's ``mppca``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..scan import Scan
from ..sigma import Noise
from .work import Progress, Step, Stop, finite_signal, inside_of, steps, with_broken

MIN_VOLUMES = 7
"""Volumes below which there is no noise to tell from signal: one b0 and six directions."""

SAMPLES_PER_VOLUME = 2
"""A patch has at least this many voxels a volume. The law takes voxels as independent: on a scan
that had been interpolated, patches with 1.2 voxels a volume gave 0.3 of the noise in its air, with
2.2 they gave 0.9."""

MIN_SLAB = 16
"""Width of the slabs that are worked on one after the other, at least [voxels]."""

SLAB_RADII = 8
"""The same in patch radii: a rim of two radii on either side is worked on twice."""

SPARSE = 2
"""`noise_by_pca` looks at every second voxel in a slice: interpolation, zero filling and partial
Fourier make neighbours alike, which the law takes for signal."""

Radius = tuple[int, int, int]


def denoise_by_pca(scan: Scan, step: Step) -> tuple[NDArray[np.float32], str, Noise | None]:
    """Return the denoised signal, words about how, and the noise that was found."""
    import dipy

    radius = _checked_radius(scan, scan.shape)
    signal, broken = finite_signal(scan)
    inside = inside_of(scan)
    clean, sigma = mppca_in_slabs(signal, inside, radius, step)
    signal[inside] = clean[inside]
    noise = Noise.of_map(sigma, inside, f"MP-PCA, {_patch(radius)}")
    how = f"MP-PCA (dipy {dipy.__version__}, {_patch(radius)})"
    return with_broken(signal, broken), how, noise


def noise_by_pca(
    scan: Scan, *, progress: Progress | None = None, cancelled: Stop | None = None
) -> Noise:
    """Measure the noise voxel by voxel, from all volumes; repeats are not needed.

    Looks at every second voxel in a slice (`SPARSE`) where the grid is large enough. It counts
    thermal noise only, no pulsation or motion. Where the SNR is below 3 it is too low, as the
    spread of magnitudes is there: 0.66 of the noise in air.

    Raises
    ------
    InputError
        If the scan is too short, its grid too small, or there is no noise.
    Cancelled
        If `cancelled` said so.
    """
    step = steps(progress, cancelled, "Measuring the noise")
    nx, ny, nz = scan.shape
    half = (-(-nx // SPARSE), -(-ny // SPARSE), nz)
    stride = SPARSE if _radius(half, len(scan.acquisition)) else 1
    radius = _checked_radius(scan, half if stride > 1 else scan.shape)
    inside = inside_of(scan)
    picked = (slice(None, None, stride),) * 2
    near = _grown(inside, (stride - 1, stride - 1, 0))[picked]
    signal = np.ascontiguousarray(finite_signal(scan)[0][picked])
    sigma = mppca_in_slabs(signal, near, radius, step)[1]
    full = sigma.repeat(stride, axis=0)[:nx].repeat(stride, axis=1)[:, :ny]
    voxels = "every second voxel in a slice" if stride > 1 else "every voxel"
    noise = Noise.of_map(full, inside, f"local PCA of {voxels}, {_patch(radius)}")
    if noise is None:
        raise InputError(
            "local PCA finds no noise in the scan",
            "Was it denoised already? Give the noise of before as a number.",
            file=scan.source,
        )
    return noise


def mppca_in_slabs(
    signal: NDArray[np.float32], inside: NDArray[np.bool_], radius: Radius, step: Step
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run dipy's MP-PCA on one slab after the other, which gives what a single call gives.

    dipy takes its mask as the places for a patch's middle. Here it is widened, so that a voxel
    at the mask's rim is averaged over all patches that hold it, as the inner ones are.

    Parameters
    ----------
    signal : (x, y, z, m) float32 array
        Finite.
    inside : (x, y, z) bool array
        Voxels that are wanted.
    radius : (3,) ints
        A patch has 2 r + 1 voxels along an axis.
    step : callable
        Told the finished share.

    Returns
    -------
    (x, y, z, m) and (x, y, z) float32 arrays
        Denoised signal and noise, valid where `inside`.
    """
    from dipy.denoise.localpca import mppca

    middles = _grown(inside, radius)
    (first, last), *box = _box(inside, radius)
    box = [slice(*edges) for edges in box]
    clean, sigma = np.zeros_like(signal), np.zeros(inside.shape, dtype=np.float32)
    width = max(MIN_SLAB, SLAB_RADII * radius[0])
    for start in range(first, last, width):
        step((start - first) / (last - first))
        stop, rim = min(start + width, last), max(first, start - 2 * radius[0])
        part = (slice(rim, min(stop + 2 * radius[0], last)), *box)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where there is no patch
            found = mppca(
                signal[part],
                mask=middles[part],
                patch_radius=radius,
                return_sigma=True,
                suppress_warning=True,
            )
        for whole, slab in zip((clean, sigma), found, strict=True):
            whole[start:stop, box[0], box[1]] = slab[start - rim : stop - rim]
    step(1.0)
    return clean, sigma


def _radius(shape: tuple[int, ...], volumes: int) -> Radius | None:
    """Smallest patch with `SAMPLES_PER_VOLUME`, flatter along short axes; None if none fits."""
    limit = (np.array(shape) - 1) // 2
    for r in range(1, int(limit.max()) + 1):
        x, y, z = (int(v) for v in np.minimum(r, limit))
        # one sample is lost to the mean
        if (2 * x + 1) * (2 * y + 1) * (2 * z + 1) - 1 >= SAMPLES_PER_VOLUME * volumes:
            return x, y, z
    return None


def _checked_radius(scan: Scan, shape: tuple[int, ...]) -> Radius:
    volumes = len(scan.acquisition)
    if volumes < MIN_VOLUMES:
        raise InputError(
            f"local PCA needs {MIN_VOLUMES} volumes, the scan has {volumes}",
            "Leave it out.",
            file=scan.source,
        )
    radius = _radius(shape, volumes)
    if radius is None:
        raise InputError(
            f"a grid of {' x '.join(map(str, scan.shape))} voxels is too small for local PCA of "
            f"{volumes} volumes",
            f"It needs patches of {SAMPLES_PER_VOLUME} voxels a volume; leave it out.",
            file=scan.source,
        )
    return radius


def _patch(radius: Radius) -> str:
    x, y, z = (2 * r + 1 for r in radius)
    flat = ", flat as there are too few slices" if z < min(x, y) else ""
    return f"patches of {x} x {y} x {z} voxels{flat}"


def _grown(inside: NDArray[np.bool_], radius: Radius) -> NDArray[np.bool_]:
    """Add the voxels within a box of `radius` around those inside."""
    from scipy.ndimage import maximum_filter

    return maximum_filter(inside, size=tuple(2 * r + 1 for r in radius), mode="constant")


def _box(inside: NDArray[np.bool_], radius: Radius) -> list[tuple[int, int]]:
    """First and last + 1 voxel along each axis that a patch with a wanted voxel reaches."""
    box = []
    for axis, r in enumerate(radius):
        held = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = int(held[0]) - 2 * r, int(held[-1]) + 1 + 2 * r
        box.append((max(low, 0), min(high, inside.shape[axis])))
    return box
