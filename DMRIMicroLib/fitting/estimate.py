"""From a scan to maps: masks, batches, devices, provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch

from ..acquisition import Acquisition
from ..errors import Cancelled, InputError
from ..maps import Map, MapSet
from ..masking import brain_mask
from ..models import LinearModel, Model, get, require
from ..scan import Scan
from ..version import __version__
from .linear import WeightedLeastSquares

BATCH_BYTES = 256 * 2**20
"""Working memory of all batches that are under way together [bytes]."""

BATCH_COPIES = 3
"""Arrays of the size of a batch's signal that it holds at once: itself, ln S, and room."""

BATCH_VOXELS = {"cpu": 32768, "cuda": 1048576}
"""Voxels in a batch at most: enough to hide the cost of launching each operation."""

MIN_BATCH = 12288
"""Voxels below which a second thread costs more than it gains."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Options:
    """How to fit.

    Attributes
    ----------
    method : {"wls", "ols"}
        Weighted or ordinary least squares.
    iterations : int
        Reweighted passes of "wls".
    b_max : float, optional
        Leave out volumes above this b [s/mm2]; by default each model chooses.
    """

    method: Literal["wls", "ols"] = "wls"
    iterations: int = 1
    b_max: float | None = None

    def __post_init__(self) -> None:
        if self.method not in ("wls", "ols"):
            raise InputError(f"method is {self.method!r}", "Choose wls or ols.")
        if not 1 <= self.iterations <= 20:
            raise InputError(f"iterations is {self.iterations}", "Choose 1 to 20.")


def fit(
    scan: Scan,
    models: str | Model | Sequence[str | Model],
    *,
    method: Literal["wls", "ols"] = "wls",
    iterations: int = 1,
    b_max: float | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MapSet:
    """Fit models to every voxel of the scan's mask.

    Parameters
    ----------
    scan : Scan
        With a mask, or one is estimated from its b0 image.
    models : str, Model or a sequence of them
        E.g. ``"dti"``; see `DMRIMicroLib.models.MODELS`.
    method, iterations, b_max
        See `Options`.
    device : str or torch.device, optional
        By default CUDA where there is one, else the CPU.
    progress : callable, optional
        Called with the finished share (0 to 1) and a few words.
    cancelled : callable, optional
        Asked between batches; True stops the fit.

    Returns
    -------
    MapSet
        float32 maps on the scan's grid; 0 where there is no answer (`MapSet.mask`).

    Raises
    ------
    NotIdentifiable
        If the acquisition lacks what a model needs.
    InputError
        If the scan, mask or an option is unusable.
    Cancelled
        If `cancelled` said so.

    Notes
    -----
    Memory: the signal of the masked voxels in float32 once, plus `BATCH_BYTES` for the
    batches of all threads together, plus the maps.
    """
    options = Options(method, iterations, b_max)
    chosen = [get(m) for m in ([models] if isinstance(models, str | Model) else models)]
    if not chosen:
        raise InputError("no model was named", "Name at least one.")
    device = choose_device(device)
    used = [select_volumes(model, scan.acquisition, b_max) for model in chosen]
    kept = [scan.acquisition.subset(volumes) for volumes in used]
    for model, acquisition in zip(chosen, kept, strict=True):
        require(model, acquisition)
    scan = brain_mask(scan)
    assert scan.mask is not None
    fingerprint = _fingerprint(scan)
    report = progress or (lambda share, text: None)
    report(0.0, "Reading")
    signal = torch.from_numpy(scan.voxels(scan.mask))
    # a voxel without any b0 signal has no S0 to be divided by
    usable = torch.from_numpy(np.isfinite(scan.b0[scan.mask]) & (scan.b0[scan.mask] > 0))
    result: MapSet | None = None
    for k, (model, volumes) in enumerate(zip(chosen, used, strict=True)):
        step = _Step(report, cancelled, k / len(chosen), 1 / len(chosen), f"Fitting {model.title}")
        derived, good, counts = _fit_linear(model, signal, volumes, kept[k], options, device, step)
        good &= usable
        made = _provenance(scan, options, device, volumes, fingerprint)
        made["voxels"] = {"fitted": int(good.sum()), "left_out": int((~good).sum()), **counts}
        maps = _to_maps(model, derived, good, scan, made)
        result = maps if result is None else result.merged(maps)
    assert result is not None
    report(1.0, "Done")
    return result


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best there is."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type not in BATCH_VOXELS:
            raise RuntimeError(f"only {' and '.join(BATCH_VOXELS)} are supported")
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {str(device)!r} cannot be used ({str(error).splitlines()[0]})",
            "Choose cpu, or auto.",
        ) from error
    return chosen


def select_volumes(model: Model, acquisition: Acquisition, b_max: float | None) -> list[int]:
    """Volumes that a fit of `model` uses, given the user's upper b-value or None."""
    if b_max is None:
        return model.volumes(acquisition)
    low = [v for v, b in enumerate(acquisition.bvals) if b <= b_max]
    if not low:
        raise InputError(
            f"no volume has b <= {b_max:g}", f"This scan has {acquisition.describe()}."
        )
    return low


@dataclass(frozen=True)
class _Step:
    """One model's part of the work, as progress and cancel checks see it."""

    report: Progress
    cancelled: Callable[[], bool] | None
    start: float
    share: float
    text: str

    def __call__(self, done: float) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("The fit was cancelled; nothing was written.")
        self.report(self.start + self.share * done, self.text)


def _fit_linear(
    model: Model,
    signal: torch.Tensor,
    volumes: list[int],
    acquisition: Acquisition,
    options: Options,
    device: torch.device,
    step: _Step,
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, int]]:
    """Fit and derive batch by batch: (n, m) signal -> metrics (channels, n), good (n,), counts."""
    assert isinstance(model, LinearModel)
    design = model.design(acquisition)
    passes = options.iterations if options.method == "wls" else 0
    solver = WeightedLeastSquares(design, passes, device=device, dtype=signal.dtype)
    n = len(signal)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    voxel_bytes = BATCH_COPIES * signal.element_size() * len(volumes)
    size = min(BATCH_VOXELS[device.type], max(1024, BATCH_BYTES // threads // voxel_bytes))
    if device.type == "cpu":  # a batch for every thread, if there is enough to share
        size = min(size, max(MIN_BATCH, -(-n // threads)))
    every = len(volumes) == signal.shape[1]
    out = {m.name: torch.empty(m.channels, n) for m in model.metrics}
    good = torch.empty(n, dtype=torch.bool)
    usable = torch.empty(n, dtype=torch.int32)

    def work(start: int) -> int:
        at = slice(start, start + size)
        batch = signal[at] if every else signal[at][:, volumes]
        fitted = solver.fit(batch.to(device))
        good[at], usable[at] = fitted.good.cpu(), fitted.usable.cpu()
        for name, value in model.derive(fitted.parameters).items():
            out[name][:, at] = value.cpu()
        return start

    for start in _in_threads(work, range(0, n, size), device):
        step(start / n)
    step(1.0)
    counts = {
        "with_unusable_samples": int((usable < len(volumes)).sum()),
        "unusable_samples": int((len(volumes) - usable).sum()),
    }
    return out, good, counts


def _in_threads(
    work: Callable[[int], int], starts: Sequence[int], device: torch.device
) -> Iterator[int]:
    """Run batches side by side on the CPU's threads, each on one thread; yield them in order.

    One thread a batch, because the operations inside are too small to share: with another
    program busy on one core, sharing them was measured to be 60 times slower.
    """
    if device.type != "cpu":
        yield from map(work, starts)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, starts) if threads > 1 and len(starts) > 1 else map(work, starts)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _to_maps(
    model: Model,
    derived: dict[str, torch.Tensor],
    good: torch.Tensor,
    scan: Scan,
    provenance: dict[str, Any],
) -> MapSet:
    """Put the voxels that are `good` back on the grid."""
    assert scan.mask is not None
    index = np.flatnonzero(scan.mask)
    index, every = index[good.numpy()], bool(good.all())
    fitted = np.zeros(scan.shape, dtype=bool)
    fitted.ravel()[index] = True
    if not len(index):
        raise InputError(
            "no voxel of the mask has a usable signal (positive and finite in enough volumes)",
            "Check the image and the mask.",
            file=scan.source,
        )
    maps = {}
    for metric in model.metrics:
        value = derived[metric.name] if every else derived[metric.name][:, good]
        data = np.zeros((metric.channels, *scan.shape), dtype=np.float32)
        for channel, row in zip(data, value.numpy(), strict=True):
            channel.ravel()[index] = row
        maps[metric.name] = Map(
            metric, model.name, data[0] if metric.kind == "scalar" else np.moveaxis(data, 0, -1)
        )
    return MapSet(maps, scan.affine, fitted, {model.name: provenance})


def _provenance(
    scan: Scan, options: Options, device: torch.device, volumes: list[int], fingerprint: str
) -> dict[str, Any]:
    acq = scan.acquisition
    notes = list(scan.notes)
    if len(volumes) < len(acq):
        kept = acq.subset(volumes)
        notes.append(f"fitted to {len(volumes)} of {len(acq)} volumes: {kept.describe()}")
    return {
        "software": "DMRIMicro",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "scan": {
            "name": scan.name,
            "file": None if scan.source is None else scan.source.name,
            "shape": [*scan.shape, len(acq)],
            "voxel_size_mm": [round(v, 4) for v in scan.voxel_size],
            "fingerprint": fingerprint,
        },
        "acquisition": {"summary": acq.describe(), "sha256": acq.digest, "volumes": volumes},
        "options": {
            "method": options.method,
            "iterations": options.iterations if options.method == "wls" else 0,
            "b_max": options.b_max,
        },
        "device": str(device),
        "torch": torch.__version__,
        "notes": notes,
    }


def _fingerprint(scan: Scan) -> str:
    """sha256 that tells one scan from another: grid and first b0 volume, whatever was excluded."""
    told = hashlib.sha256(np.round(scan.affine, 4).tobytes())
    told.update(scan.volumes(np.flatnonzero(scan.acquisition.is_b0)[:1]).tobytes())
    return told.hexdigest()
