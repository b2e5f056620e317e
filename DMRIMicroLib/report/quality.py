"""Numbers that tell whether to trust a scan: noise, outliers, b-vectors, impossible tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..maps import MapSet
from ..models.dti import DTI, MM2_S
from ..physics.linalg import eigh3
from ..scan import READ_BYTES, Scan
from .advice import HIGH_FA, warnings_of
from .coherence import Coherence, coherence

ROBUST_Z = 4.0
"""Robust standard deviations beyond which a slice or a volume is an outlier."""

LEAST_CHANGE = 0.2
"""An outlier must also be this large [natural log of the signal ratio]: what is smaller than the
change of the mean signal with gradient direction is no artefact worth a warning."""

LEAST_SPREAD = 0.02
"""Robust scales below this [natural log] are not believed: a MAD of few volumes can be near 0."""

MAD_TO_SD = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""

MIN_GROUP = 5
"""A median of fewer volumes at one b-value cannot show up one that is wrong."""

NEAR_SLICES = 3
"""A slice is compared with this many on either side in its volume."""

MIN_SLICE_SHARE = 0.1
"""Slices with less than this share of the largest slice's mask are left out: partial volume."""

RESIDUAL_VOXELS = 20_000
"""The residual is taken over this many voxels at most, evenly picked."""

RESIDUAL_B = 1500.0
"""Above this b [s/mm2] no tissue obeys a tensor: a residual there does not tell about quality."""


@dataclass(frozen=True)
class Quality:
    """What was found.

    Attributes
    ----------
    snr : float or None
        Median b0 signal in the mask over the noise.
    noise_method : str
        How the noise was estimated.
    volume_signal : tuple of float
        Mean signal in the mask, one a volume.
    outlier_volumes : tuple of int
        Volumes whose mean signal does not fit their shell.
    outlier_slices : tuple of (int, int)
        (volume, slice) of signal drop-outs; slices along the third image axis.
    unchecked_volumes : int
        Volumes of b-values that have too few volumes to tell an outlier.
    coherence : Coherence or None
        Test of the b-vectors; None without FA and V1.
    high_fa, negative : float or None
        Share of voxels with an FA above `HIGH_FA` and with a negative eigenvalue.
    residual : float or None
        Typical |signal - tensor's prediction| over S0: the median over voxels and volumes.
    warnings : tuple of str
        What is wrong and what to do, for the user.
    """

    snr: float | None
    noise_method: str
    volume_signal: tuple[float, ...]
    outlier_volumes: tuple[int, ...]
    outlier_slices: tuple[tuple[int, int], ...]
    unchecked_volumes: int
    coherence: Coherence | None = None
    high_fa: float | None = None
    negative: float | None = None
    residual: float | None = None
    warnings: tuple[str, ...] = field(default=())


def assess(scan: Scan, maps: MapSet | None = None) -> Quality:
    """Look at a scan and its tensor maps; the signal is read once, `READ_BYTES` at a time."""
    mask = _working_mask(scan, maps)
    tensor = np.asarray(maps["tensor"]) if maps is not None and "tensor" in maps else None
    has_b0 = bool(scan.acquisition.is_b0.any())
    slice_means, residual = _read_once(scan, mask, _TensorFit.of(scan, maps) if has_b0 else None)
    counts = mask.sum(axis=(0, 1))
    volumes, slices, unchecked = find_outliers(scan, slice_means, counts)
    high, negative = (None, None) if tensor is None else _impossible(tensor[mask])
    found = {
        "snr": scan.snr if has_b0 else None,
        "noise_method": scan.noise.method if has_b0 and scan.noise else "",
        "volume_signal": tuple(float(v) for v in slice_means @ counts / counts.sum()),
        "outlier_volumes": volumes,
        "outlier_slices": slices,
        "unchecked_volumes": unchecked,
        "coherence": None,
        "high_fa": high,
        "negative": negative,
        "residual": residual,
    }
    if maps is not None and "FA" in maps and "V1" in maps:
        found["coherence"] = coherence(maps["FA"].data, maps["V1"].data, maps.affine, mask)
    return Quality(**found, warnings=tuple(warnings_of(**found)))


def find_outliers(
    scan: Scan, slice_means: NDArray, counts: NDArray
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], int]:
    """Find volumes and slices whose signal does not fit their shell.

    Parameters
    ----------
    scan : Scan
        For its shells.
    slice_means : (m, z) array
        Mean signal in the mask of each slice.
    counts : (z,) array
        Mask voxels of each slice.

    Returns
    -------
    volumes : tuple of int
    slices : tuple of (volume, slice)
    unchecked : int
        Volumes of groups that are too small.

    Notes
    -----
    A volume's log ratio to the shell's median, slice by slice, has two parts: its median over
    slices (whole-volume change) and what a slice differs from its neighbours (drop-out by motion
    during the diffusion encoding). Each is compared with its own robust spread over the shell, so
    that the change of a slice's mean signal with gradient direction is part of the spread.
    """
    good = np.flatnonzero(counts >= max(1, MIN_SLICE_SHARE * counts.max()))
    volumes: list[int] = []
    slices: list[tuple[int, int]] = []
    unchecked = 0
    groups = [np.flatnonzero(scan.acquisition.is_b0)]
    groups += [np.array(s.indices) for s in scan.acquisition.shells]
    for group in groups:
        if len(group) < MIN_GROUP:
            unchecked += len(group)
            continue
        level = np.maximum(slice_means[np.ix_(group, good)], 1e-6 * slice_means.max())
        ratio = np.log(level / np.median(level, axis=0))
        whole = np.median(ratio, axis=1)
        volumes += [int(group[v]) for v in np.flatnonzero(_stands_out(whole[:, None])[:, 0])]
        local = ratio - _running_median(ratio)
        lost = _stands_out(local) & (local < 0)
        slices += [(int(group[v]), int(good[z])) for v, z in np.argwhere(lost)]
    return tuple(sorted(volumes)), tuple(sorted(slices)), unchecked


def _stands_out(values: NDArray) -> NDArray[np.bool_]:
    """(volumes, k) -> True where a value is far from the others of its column, and large."""
    centred = values - np.median(values, axis=0)
    spread = MAD_TO_SD * np.median(np.abs(centred), axis=0)
    spread = np.maximum(spread, MAD_TO_SD * np.median(np.abs(centred)))  # one column's MAD is noisy
    limit = np.maximum(ROBUST_Z * np.maximum(spread, LEAST_SPREAD), LEAST_CHANGE)
    return np.abs(centred) > limit


def _running_median(ratio: NDArray) -> NDArray:
    """(volumes, z) -> median of the slices around, `NEAR_SLICES` on either side."""
    width = 2 * NEAR_SLICES + 1
    if ratio.shape[1] <= width:
        return np.median(ratio, axis=1, keepdims=True)
    around = np.lib.stride_tricks.sliding_window_view(ratio, width, axis=1)
    return np.pad(np.median(around, axis=2), ((0, 0), (NEAR_SLICES, NEAR_SLICES)), mode="edge")


@dataclass(frozen=True)
class _TensorFit:
    """What predicts the signal of n voxels: indices, S0 (n,) and parameters of DTI (7, n)."""

    where: tuple[NDArray, ...]
    s0: NDArray
    parameters: torch.Tensor

    @classmethod
    def of(cls, scan: Scan, maps: MapSet | None) -> _TensorFit | None:
        """Pick voxels evenly; None without a tensor map."""
        if maps is None or "tensor" not in maps:
            return None
        inside = np.argwhere(maps.mask & (scan.b0 > 0))
        where = tuple(inside[:: max(1, len(inside) // RESIDUAL_VOXELS)].T)
        return cls(where, scan.b0[where], _parameters(maps["tensor"].data[where]))

    def error(self, signal: NDArray, acquisition: Acquisition) -> float:
        """Median over voxels of |S - prediction| / S0, for the one volume of `acquisition`."""
        predicted = DTI().signal(acquisition, self.parameters)[0].clamp(max=1).numpy()
        return float(np.median(np.abs(signal[self.where] / self.s0 - predicted)))


def _parameters(tensor: NDArray) -> torch.Tensor:
    """DTI's parameters for S0 = 1: (n, 6) tensors [mm2/s] -> (7, n)."""
    parameters = torch.zeros(7, len(tensor))
    parameters[:6] = torch.from_numpy(np.ascontiguousarray(tensor.T, dtype=np.float32)) / MM2_S
    return parameters


def _read_once(
    scan: Scan, mask: NDArray, tensor_fit: _TensorFit | None
) -> tuple[NDArray[np.float64], float | None]:
    """Return the (m, z) mean signal in the mask and the tensor's relative residual, or None."""
    x, y, z = np.nonzero(mask)
    counts = np.maximum(np.bincount(z, minlength=scan.shape[2]), 1)
    means = np.zeros((len(scan.acquisition), scan.shape[2]))
    errors = []
    for v, volume in _each_volume(scan):
        volume = np.nan_to_num(volume, posinf=0.0, neginf=0.0)
        means[v] = np.bincount(z, volume[x, y, z], minlength=scan.shape[2]) / counts
        acq = scan.acquisition
        if tensor_fit is not None and acq.b0_threshold < acq.bvals[v] <= RESIDUAL_B:
            errors.append(tensor_fit.error(volume, acq.subset([v])))
    return means, float(np.median(errors)) if errors else None


def _each_volume(scan: Scan) -> Iterator[tuple[int, NDArray]]:
    """Yield (number, volume). Read in runs: seeking in a .nii.gz starts over for every read."""
    total = len(scan.acquisition)
    step = max(1, READ_BYTES // (4 * int(np.prod(scan.shape))))
    for start in range(0, total, step):
        numbers = np.arange(start, min(start + step, total))
        part = scan.volumes(numbers)
        for k, v in enumerate(numbers):
            yield int(v), part[..., k]


def _working_mask(scan: Scan, maps: MapSet | None) -> NDArray[np.bool_]:
    return scan.foreground if maps is None else maps.mask


def _impossible(tensor: NDArray) -> tuple[float, float]:
    """Share of voxels with too high an FA, and with a negative eigenvalue: from (n, 6) tensors."""
    parameters = _parameters(tensor)
    high = DTI().derive(parameters)["FA"] > HIGH_FA
    negative = eigh3(parameters[:6])[0][2] < 0
    return float(high.float().mean()), float(negative.float().mean())
