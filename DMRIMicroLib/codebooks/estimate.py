"""From a scan to maps by the codebook network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import Cancelled, InputError
from ..fitting.estimate import choose_device
from ..fitting.threads import in_threads
from ..maps import Map, MapSet
from ..masking import brain_mask
from ..metric import Flag, Metric
from ..models import MODELS, Model
from ..scan import Scan
from ..version import __version__
from ..weights import Card, load
from .network import Codebook, Prediction, Shape
from .scale import Scale
from .scan import chosen
from .tokens import tokens

MODEL = "codebook"
"""Name that the maps are kept under."""

WEIGHTS = "codebook"
"""Shipped weights that are used by default."""

NOISE_UNKNOWN = 0.05
"""Noise relative to the b0 signal where the scan does not tell its own."""

RESIDUAL = Metric("codebook_residual", "Spherical means left unexplained, RMS", "", 0, 1, (0, 0.1))
"""How far the kernels' spherical means are from those measured, relative to b = 0."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network that is ready.

    Attributes
    ----------
    network : Codebook
    scale : Scale
    calibration : tensor (k,)
        Factor of each predicted standard deviation.
    card : Card
    """

    network: Codebook
    scale: Scale
    calibration: Tensor
    card: Card


@lru_cache(maxsize=4)
def open_codebook(name: str | Path = WEIGHTS) -> Loaded:
    """Load a codebook by name or file; see `weights.load`."""
    tensors, card = load(name, "codebook")
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in card.arguments.items()}
    network = Codebook(Shape(**arguments)).eval().requires_grad_(False)
    network.load_state_dict(tensors)
    data = card.data
    scale = Scale(tuple(data["metrics"]), tuple(data["centre"]), tuple(data["spread"]))
    return Loaded(network, scale, torch.tensor(data["calibration"]), card)


def codebook(
    scan: Scan,
    *,
    weights: str | Path = WEIGHTS,
    device: str | torch.device | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MapSet:
    """Estimate all metrics of a scan of any protocol.

    Parameters
    ----------
    scan : Scan
        With a mask, or one is estimated from its b0 image. One b0 volume and one shell are enough.
    weights : str or path
        Of the network.
    device : str or torch.device, optional
        By default CUDA where there is one, else the CPU.
    progress, cancelled : callable, optional
        As of `fit`.

    Returns
    -------
    MapSet
        24 metrics with standard deviations, under the model name "codebook", and the map
        ``codebook_residual``. ``provenance["codebook"]["prior_driven"]`` names the metrics that
        this acquisition by itself does not determine.

    Raises
    ------
    InputError
        If the scan has no b0 volume or no weighted one, or no usable voxel.
    Cancelled
        If `cancelled` said so.

    Notes
    -----
    Slices are taken one by one along the third axis. Memory: the signal of the masked voxels in
    float32 once, plus a few hundred bytes a voxel and channel of one slice for every thread.
    """
    acq = scan.acquisition
    if not acq.is_b0.any() or not acq.shells:
        raise InputError(
            f"has {acq.describe()}", "Give a scan with a b0 and a weighted volume.", scan.source
        )
    device = choose_device(device)
    scan = brain_mask(scan)
    assert scan.mask is not None
    report = progress or (lambda share, text: None)
    report(0.0, "Reading")
    loaded = open_codebook(weights)
    network = loaded.network.to(device)
    usable = scan.mask & np.isfinite(scan.b0) & (scan.b0 > 0)
    if not usable.any():
        raise InputError("no voxel of the mask has a b0 signal", "Check the mask.", scan.source)
    run = _Run(scan, usable, network, device)
    levels = np.flatnonzero(usable.any((0, 1)))
    parts: list[tuple[Tensor, ...]] = []
    for k in in_threads(run, range(len(levels)), device):
        parts.append(run.done.pop(k))
        report((k + 1) / len(levels), f"Slice {k + 1} of {len(levels)}")
        if cancelled is not None and cancelled():
            raise Cancelled("Stopped; nothing was written.")
    mean, sd, residual = (torch.cat(v) for v in zip(*parts, strict=True))
    values, deviations = loaded.scale.decode(mean, sd * loaded.calibration)
    return _to_maps(scan, usable, loaded, values, deviations, residual, device)


class _Run:
    """The network over the slices of a scan."""

    def __init__(
        self, scan: Scan, usable: NDArray[np.bool_], network: Codebook, device: torch.device
    ) -> None:
        self.network, self.device, self.usable = network, device, usable
        self.acquisition = scan.acquisition
        self.signal = scan.voxels(usable)
        self.levels = np.flatnonzero(usable.any((0, 1)))
        self.first = np.argwhere(usable)[:, 2]
        edges = scan.affine[:3, :3]
        self.frame = torch.as_tensor((edges / np.linalg.norm(edges, axis=0)).T.copy())
        noise = scan.noise
        unknown = NOISE_UNKNOWN * float(np.median(scan.b0[usable]))
        sigma = unknown if noise is None else noise.sigma if noise.map is None else noise.map
        self.sigma = np.broadcast_to(np.float32(sigma), usable.shape)
        self.done: dict[int, tuple[Tensor, ...]] = {}

    def __call__(self, k: int) -> int:
        """Predict slice k."""
        z = int(self.levels[k])
        mask = self.usable[:, :, z]
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
        signal = np.zeros((*mask.shape, self.signal.shape[1]), np.float32)
        signal[mask] = np.nan_to_num(self.signal[self.first == z])
        cut = torch.from_numpy(np.ascontiguousarray(np.moveaxis(signal[box], -1, 0)))
        inside = torch.from_numpy(np.ascontiguousarray(mask[box]))
        sigma = torch.from_numpy(np.ascontiguousarray(self.sigma[:, :, z][box]))
        seen = tokens(cut, inside, self.acquisition, sigma, self.frame).to(self.device)
        with torch.inference_mode():
            found = self.network(seen)
            residual = self._residual(found, seen.mean[:, seen.mask].T)
        self.done[k] = tuple(v.float().cpu() for v in (found.mean, found.log_sd.exp(), residual))
        return k

    def _residual(self, found: Prediction, measured: Tensor) -> Tensor:
        """RMS over the shells of what the kernels leave of the spherical means: (n,)."""
        acq = self.acquisition
        b = measured.new_tensor([shell.b / 1e3 for shell in acq.shells])
        told = self.network.kernels.means(found.weights, b, acq.delta, acq.Delta)
        return (told - measured).square().mean(1).sqrt()


def owner(metric: str) -> Model | None:
    """Return the model whose metric it is."""
    return next((m for m in MODELS.values() for k in m.metrics if k.name == metric), None)


def prior_driven(metrics: tuple[str, ...], scan: Scan) -> dict[str, list[str]]:
    """Name metrics that an acquisition does not determine, and what it lacks for them."""
    out = {}
    for name in metrics:
        model = owner(name)
        lacks = () if model is None else model.missing(scan.acquisition)
        if lacks:
            out[name] = list(lacks)
    return out


def _to_maps(
    scan: Scan,
    usable: NDArray[np.bool_],
    loaded: Loaded,
    values: Tensor,
    deviations: Tensor,
    residual: Tensor,
    device: torch.device,
) -> MapSet:
    """Put the answers on the grid, within each metric's range."""
    order = _slice_order(usable)
    leaning = prior_driven(loaded.scale.metrics, scan)
    maps, flags = {}, np.zeros(scan.shape, np.uint8)
    flags[usable] = Flag.GOOD
    for k, name in enumerate(loaded.scale.metrics):
        model = owner(name)
        metric = next(m for m in model.metrics if m.name == name) if model else Metric(name, name)
        data, sd = (_on_grid(v[:, k], order, scan.shape) for v in (values, deviations))
        maps[name] = Map(metric, MODEL, np.clip(data, metric.low, metric.high), sd)
    maps[RESIDUAL.name] = Map(RESIDUAL, MODEL, _on_grid(residual, order, scan.shape))
    told = _provenance(scan, loaded, leaning, device)
    return MapSet(maps, scan.affine, usable, {MODEL: told}, {MODEL: flags})


def _slice_order(usable: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat indices of the voxels, slice by slice and in C order within each."""
    at = np.argwhere(usable)
    at = at[np.lexsort((at[:, 1], at[:, 0], at[:, 2]))]
    return np.ravel_multi_index(tuple(at.T), usable.shape)


def _on_grid(
    values: Tensor, order: NDArray[np.intp], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    out = np.zeros(int(np.prod(shape)), np.float32)
    out[order] = values.numpy()
    return out.reshape(shape)


def _provenance(
    scan: Scan, loaded: Loaded, leaning: dict[str, list[str]], device: torch.device
) -> dict[str, Any]:
    acq, noise = scan.acquisition, scan.noise
    notes = list(scan.notes)
    if leaning:
        notes.append(
            f"{', '.join(leaning)}: this acquisition by itself does not determine them; their "
            "maps lean on what tissue usually looks like"
        )
    return {
        "software": "DMRIMicro",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "scan": {
            "name": scan.name,
            "file": None if scan.source is None else scan.source.name,
            "shape": [*scan.shape, len(acq)],
            "voxel_size_mm": [round(v, 4) for v in scan.voxel_size],
            "fingerprint": scan.fingerprint,
        },
        "acquisition": {"summary": acq.describe(), "sha256": acq.digest},
        "weights": loaded.card.provenance(),
        "selective_scan": chosen(device, "auto"),
        "prior_driven": leaning,
        "noise": None if noise is None else {"sigma": noise.sigma, "method": noise.method},
        "device": str(device),
        "torch": torch.__version__,
        "notes": notes,
    }
