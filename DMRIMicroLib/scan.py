"""A diffusion scan: the signal on its grid, the acquisition, the mask, the noise."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .acquisition import Acquisition
from .errors import InputError
from .sigma import (
    AWAY,
    SAMPLE_VOXELS,
    SHELL_DIRECTIONS,
    Air,
    Noise,
    of_air,
    of_detail,
    of_repeats,
    of_shell,
)
from .table import volume_numbers

DETAILED = 6
"""Volumes of a shell whose finest detail is looked at."""

READ_BYTES = 256 * 2**20
"""Bytes of signal read at a time from a file that is opened lazily."""


@dataclass(frozen=True, eq=False)
class Scan:
    """One diffusion-weighted scan.

    Parameters
    ----------
    signal : (x, y, z, m) array or array-like
        Signal of m volumes. Anything with ``shape`` and numpy slicing will do, so a file can
        stay on disk (nibabel's array proxies) until voxels are asked for.
    affine : (4, 4) array
        Voxel indices to RAS millimetres.
    acquisition : Acquisition
        Weighting of the m volumes.
    mask : (x, y, z) bool array, optional
        Voxels to work on; None means not decided yet (see `masking.brain_mask`).
    name : str
        Short name for files and reports.
    source : Path, optional
        The image file that it came from.
    notes : tuple of str
        What was recognised, converted or left out on the way in, in words for the user.
    measured_noise : Noise, optional
        Noise that was given, or measured by other means than `Scan.noise`'s own. Denoising keeps
        here the noise of before: it is what lifts magnitude signals, denoised or not.
    origin : str, optional
        `fingerprint` of the scan before its signal was processed.
    lifted : bool
        Whether noise lifts the signals, as it does magnitudes; not those of an enhanced scan whose
        network has learned from scans without noise: fits take its noise for Gaussian then.

    Raises
    ------
    InputError
        If shapes disagree, the affine is singular or the mask is empty.
    """

    signal: Any
    affine: NDArray[np.float64]
    acquisition: Acquisition
    mask: NDArray[np.bool_] | None = None
    name: str = "scan"
    source: Path | None = None
    notes: tuple[str, ...] = ()
    measured_noise: Noise | None = None
    origin: str | None = None
    lifted: bool = True

    def __post_init__(self) -> None:
        shape = series_shape(self.signal, self.source)
        if shape[3] != len(self.acquisition):
            raise InputError(
                f"the image has {shape[3]} volumes and the acquisition {len(self.acquisition)}",
                "Check that image, b-values and b-vectors belong together.",
                file=self.source,
            )
        affine = np.array(self.affine, dtype=np.float64)
        if (
            affine.shape != (4, 4)
            or not np.isfinite(affine).all()
            or abs(np.linalg.det(affine[:3, :3])) < 1e-9
        ):
            raise InputError(
                "the affine is not an invertible 4x4 matrix", "Repair the header.", file=self.source
            )
        object.__setattr__(self, "affine", affine)
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask, shape[:3]))
        noise_map = None if self.measured_noise is None else self.measured_noise.map
        if noise_map is not None and noise_map.shape != shape[:3]:
            raise InputError(
                f"the noise map has shape {noise_map.shape}, the scan {shape[:3]}",
                "Give a noise map on the scan's grid.",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        return tuple(int(n) for n in self.signal.shape[:3])  # type: ignore[return-value]

    @cached_property
    def voxel_size(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel [mm]."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))  # type: ignore[return-value]

    @property
    def fingerprint(self) -> str:
        """sha256 that tells one scan from another: affine and first b0 volume as they came."""
        if self.origin is not None:
            return self.origin
        told = hashlib.sha256(np.round(self.affine, 4).tobytes())
        told.update(self.volumes(np.flatnonzero(self.acquisition.is_b0)[:1]).tobytes())
        return told.hexdigest()

    def with_processed(self, signal: NDArray[np.float32], noise: Noise | None) -> Scan:
        """Return the same scan with its signal processed: it keeps fingerprint and noise."""
        return replace(self, signal=signal, measured_noise=noise, origin=self.fingerprint)

    def with_mask(self, mask: NDArray) -> Scan:
        """Return the same scan with another mask."""
        return self._same_signal(mask=mask)

    def with_notes(self, *notes: str) -> Scan:
        """Return the same scan with more notes."""
        return self._same_signal(notes=self.notes + notes)

    def with_measured_noise(self, noise: Noise | None) -> Scan:
        """Return the same scan with another noise, or with None to have `Scan.noise` find it."""
        return self._same_signal(measured_noise=noise)

    def select(self, volumes: Sequence[int] | NDArray) -> Scan:
        """Return a scan of some of the volumes (read into memory)."""
        index = volume_numbers(volumes, len(self.acquisition))
        return replace(self, signal=self.volumes(index), acquisition=self.acquisition.subset(index))

    def volumes(self, indices: Sequence[int] | NDArray) -> NDArray[np.float32]:
        """Read some volumes: (k,) numbers -> (x, y, z, k) float32."""
        indices = volume_numbers(indices, len(self.acquisition))
        out = np.empty((*self.shape, len(indices)), dtype=np.float32)
        for block, part in read(self.signal, indices, self.source):
            out[..., block] = part
        return out

    def voxels(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Read the signal of the voxels in `mask`: (x, y, z) bool -> (n, m) float32.

        Peak memory is the result plus `READ_BYTES` (twice that for integer files).
        """
        if isinstance(self.signal, np.ndarray) and self.signal.flags.c_contiguous:
            rows = self.signal.reshape(-1, self.signal.shape[3])
            return np.take(rows, np.flatnonzero(mask), axis=0).astype(np.float32, copy=False)
        out = np.empty((int(mask.sum()), self.signal.shape[3]), dtype=np.float32)
        for block, part in read(self.signal, np.arange(self.signal.shape[3]), self.source):
            out[:, block] = part[mask]
        return out

    @property
    def b0(self) -> NDArray[np.float32]:
        """(x, y, z) robust S0: the voxelwise median of the b0 volumes (their mean if two).

        Samples that are not finite are left out; 0 where there is none.
        """
        return self._b0_and_spread[0]

    @cached_property
    def noise(self) -> Noise | None:
        """Noise: `measured_noise` if there is one, else found here.

        From the b0 repeats, their standard deviation; with a single b0, from what a tensor leaves
        unexplained of the lowest shell (`sigma.of_shell`); with fewer directions, from the finest
        detail of its images (`Noise.rough`). Median over the mask, or over the bright half of
        the image when there is no mask. None if there is no positive number. The air around the
        head tells the floor of magnitudes (`Noise.coils`).
        """
        found = self.measured_noise
        if found is None and (found := self._noise_of_head()) is not None:
            found = found.beside(self._air())
        return found if found is None or self.lifted else replace(found, floor=0.0)

    def _noise_of_head(self) -> Noise | None:
        spread = self._b0_and_spread[1]
        inside = self.foreground
        if not inside.any():
            return None
        if spread is not None:
            repeats = int(self.acquisition.is_b0.sum())
            return Noise.or_none(of_repeats(spread[inside], repeats), f"{repeats} b0 repeats")
        acq = self.acquisition
        shell = next((s for s in acq.shells if s.directions >= SHELL_DIRECTIONS), None)
        if shell is None:
            lowest = list(acq.shells[0].indices[:DETAILED]) if acq.shells else []
            images = self.volumes(lowest) if lowest else self.b0[..., None]
            what = "the lowest shell" if lowest else "the single b0"
            detail = Noise.or_none(of_detail(images, inside), f"fine detail of {what}, roughly")
            return None if detail is None else replace(detail, rough=True)
        volumes = list(shell.indices)
        sigma = of_shell(self._sample(volumes, inside), acq.bvecs[volumes])
        return Noise.or_none(
            sigma, f"tensor's residual at b = {shell.b:.0f}, as there is a single b0"
        )

    @property
    def snr(self) -> float | None:
        """Median b0 signal in the mask over the noise."""
        if self.noise is None:
            return None
        return float(np.median(self.b0[self.foreground])) / self.noise.sigma

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """(x, y, z) the mask, or the bright half of the b0 image where there is none."""
        return self.b0 > np.mean(self.b0) if self.mask is None else self.mask

    @cached_property
    def _b0_and_spread(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Median of the b0 volumes and, of two or more, their standard deviation: one read."""
        volumes = self.volumes(np.flatnonzero(self._baselines()))
        finite = np.isfinite(volumes)
        with np.errstate(invalid="ignore"):  # no spread where a sample is not finite
            spread = volumes.std(axis=3, ddof=1) if volumes.shape[3] > 1 else None
        if finite.all():
            return np.median(volumes, axis=3), spread
        volumes[~finite] = np.nan
        s0 = np.zeros(self.shape, dtype=np.float32)
        some = finite.any(axis=3)
        s0[some] = np.nanmedian(volumes[some], axis=1)
        return s0, spread

    def _air(self) -> Air | None:
        """Say what weighted images look like away from the head; None if that cannot be told."""
        from scipy.ndimage import binary_dilation

        acq, inside = self.acquisition, self.foreground
        volumes = [int(v) for shell in acq.shells for v in shell.indices][-DETAILED:]
        flat = [k for k in range(3) if inside.shape[k] == 1]
        around = np.ones([1 if k in flat else 3 for k in range(3)], bool)
        away = ~binary_dilation(inside, around, iterations=AWAY)
        return of_air(self._sample(volumes, away)) if volumes and away.any() else None

    def _sample(self, volumes: list[int], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Read some volumes in voxels spread evenly over those inside: (n, k), n limited."""
        places = np.flatnonzero(inside)
        places = places[:: -(-len(places) // SAMPLE_VOXELS)]
        picked = np.unravel_index(places, self.shape)
        out = np.empty((len(places), len(volumes)), dtype=np.float32)
        if isinstance(self.signal, np.ndarray):  # without a copy of whole volumes
            for column, volume in zip(out.T, volumes, strict=True):
                column[:] = self.signal[..., volume][picked]
            return out
        for block, part in read(self.signal, np.array(volumes), self.source):
            out[:, block] = part[picked]
        return out

    def _same_signal(self, **changes: Any) -> Scan:
        """Return a changed scan that need not read its b0 volumes again."""
        changed = replace(self, **changes)
        if "_b0_and_spread" in self.__dict__:
            changed.__dict__["_b0_and_spread"] = self._b0_and_spread
        return changed

    def _baselines(self) -> NDArray[np.bool_]:
        is_b0 = self.acquisition.is_b0
        if not is_b0.any():
            lowest = float(self.acquisition.bvals.min())
            raise InputError(
                f"there is no b0 volume: the lowest b-value is {lowest:g} s/mm2",
                "If those volumes are to serve as b0, say so: "
                f"--b0-threshold {np.ceil(lowest + 1):g} (b0_threshold= in Python); "
                "their true b is used all the same.",
                file=self.source,
            )
        return is_b0


def series_shape(signal: Any, source: Path | None) -> tuple[int, ...]:
    """Return the shape of a diffusion series, or say that it is not one."""
    shape = tuple(signal.shape)
    if len(shape) != 4:
        raise InputError(
            f"the image has {len(shape)} dimensions {shape}, expected 4 (x, y, z, volume)",
            "Give the whole diffusion series, not one volume of it.",
            file=source,
        )
    return shape


def read(signal: Any, indices: NDArray, source: Path | None) -> Iterator[tuple[slice, NDArray]]:
    """Yield (positions, (x, y, z, k) float32) for volumes of a 4-D array or file, a few at a time.

    Raises InputError, with the file, where the data turn out to be damaged.
    """
    step = max(1, READ_BYTES // (4 * int(np.prod(signal.shape[:3]))))
    for start in range(0, len(indices), step):
        wanted = indices[start : start + step]
        # a run of volumes is one read; an arbitrary list is not sliceable from a file
        run = np.array_equal(wanted, np.arange(wanted[0], wanted[0] + len(wanted)))
        try:
            if run or isinstance(signal, np.ndarray):
                key = slice(int(wanted[0]), int(wanted[-1]) + 1) if run else wanted
                part = np.asarray(signal[..., key], dtype=np.float32)
            else:
                single = [np.asarray(signal[..., int(v)], dtype=np.float32) for v in wanted]
                part = np.stack(single, axis=-1)
        except (EOFError, OSError, ValueError, zlib.error) as error:
            raise InputError(
                f"the image data cannot be read ({error})",
                "The file is probably cut off or damaged: copy or convert it again.",
                file=source,
            ) from error
        yield slice(start, start + len(wanted)), part


def _checked_mask(mask: NDArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise InputError(
            f"the mask has shape {mask.shape}, the scan {shape}",
            "Give a mask on the scan's grid (a mask file with an affine is resampled by itself).",
        )
    mask = np.nan_to_num(mask) > 0
    if not mask.any():
        raise InputError(
            "the mask is empty", "Give a mask with voxels in it, or none to have it estimated."
        )
    return mask
