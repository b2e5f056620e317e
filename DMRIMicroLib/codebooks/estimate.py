"""From a scan to maps by the codebook network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Acquisition
from ..fitting.estimate import choose_device
from ..maps import Map, MapSet
from ..metric import Flag, Metric
from ..models import MODELS, Model
from ..scan import Scan
from ..version import __version__
from .heads import Head, features, open_heads
from .network import Prediction
from .scan import chosen
from .slices import WEIGHTS, Loaded, Progress, open_codebook, predictions
from .stack import on_grid, slice_order

MODEL = "codebook"
"""Name that the maps are kept under."""

RESIDUAL = Metric("codebook_residual", "Spherical means left unexplained, RMS", "", 0, 1, (0, 0.1))
"""How far the kernels' spherical means are from those measured, relative to b = 0."""


def codebook(
    scan: Scan,
    *,
    weights: str | Path = WEIGHTS,
    extra: Sequence[str | Path] = (),
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MapSet:
    """Estimate all metrics of a scan of any protocol.

    Parameters
    ----------
    scan : Scan
        With a mask, or one is estimated from its b0 image. One b0 volume and one shell are enough.
    weights : str or path
        Of the network.
    extra : sequence of path
        Metrics that `adapt` made for these weights.
    device : str or torch.device, optional
        By default CUDA where there is one, else the CPU.
    progress, cancelled : callable, optional
        As of `fit`.

    Returns
    -------
    MapSet
        24 metrics and the extra ones with standard deviations, under the model name "codebook",
        and the map ``codebook_residual``. ``provenance["codebook"]["prior_driven"]`` names the
        metrics that this acquisition by itself does not determine.

    Raises
    ------
    InputError
        If the scan has no b0 volume or no weighted one, or no usable voxel, or an extra metric was
        made for other weights.
    Cancelled
        If `cancelled` said so.

    Notes
    -----
    Slices are taken one by one along the third axis. Memory: the signal of the masked voxels in
    float32 once, plus a few hundred bytes a voxel and channel of one slice for every thread.
    """
    device = choose_device(device)
    loaded = open_codebook(weights)
    heads = open_heads(extra, loaded.card, (*loaded.scale.metrics, RESIDUAL.name))
    heads = tuple(head.to(device) for head in heads)
    kernels, acq = loaded.network.kernels, scan.acquisition

    def keep(found: Prediction, means: Tensor) -> tuple[Tensor, ...]:
        b = means.new_tensor([shell.b / 1e3 for shell in acq.shells])
        told = kernels.means(found.weights, b, acq.delta, acq.Delta)
        residual = (told - means).square().mean(1).sqrt()
        own = [torch.stack(head(features(found)), 1) for head in heads]
        return found.mean, found.log_sd.exp(), residual, *own

    scan, usable, kept = predictions(scan, loaded, keep, device, progress, cancelled)
    mean, sd, residual, *own = kept
    values, deviations = loaded.scale.decode(mean, sd * loaded.calibration)
    answers = Answers(loaded, heads, values, deviations, residual, tuple(own))
    return _to_maps(scan, usable, answers, device)


@dataclass(frozen=True, eq=False)
class Answers:
    """Metrics of the n usable voxels, slice by slice.

    Attributes
    ----------
    loaded : Loaded
    heads : tuple of Head
    values, deviations : (n, k) tensor
        In the metrics' own units.
    residual : (n,) tensor
    own : tuple of (n, 2) tensors
        Value and standard deviation of each head's metric.
    """

    loaded: Loaded
    heads: tuple[Head, ...]
    values: Tensor
    deviations: Tensor
    residual: Tensor
    own: tuple[Tensor, ...]

    def columns(self) -> Iterator[tuple[Metric, Tensor, Tensor]]:
        """Yield every metric with its values and standard deviations: (n,)."""
        for k, name in enumerate(self.loaded.scale.metrics):
            yield metric_of(name), self.values[:, k], self.deviations[:, k]
        for head, told in zip(self.heads, self.own, strict=True):
            yield head.metric, told[:, 0], told[:, 1]


def owner(metric: str) -> Model | None:
    """Return the model whose metric it is."""
    return next((m for m in MODELS.values() for k in m.metrics if k.name == metric), None)


def metric_of(name: str) -> Metric:
    """Return what a metric of the network shows."""
    model = owner(name)
    return Metric(name, name) if model is None else next(m for m in model.metrics if m.name == name)


def prior_driven(metrics: Sequence[str], acq: Acquisition) -> dict[str, list[str]]:
    """Name metrics that an acquisition does not determine, and what it lacks for them."""
    out = {}
    for name in metrics:
        model = owner(name)
        lacks = () if model is None else model.missing(acq)
        if lacks:
            out[name] = list(lacks)
    return out


def _to_maps(
    scan: Scan, usable: NDArray[np.bool_], answers: Answers, device: torch.device
) -> MapSet:
    """Put the answers on the grid, within each metric's range."""
    order = slice_order(usable)
    maps, flags = {}, np.zeros(scan.shape, np.uint8)
    flags[usable] = Flag.GOOD
    for metric, value, deviation in answers.columns():
        held = value.clamp(metric.low, metric.high)
        data, sd = (on_grid(v, order, scan.shape) for v in (held, deviation))
        maps[metric.name] = Map(metric, MODEL, data, sd)
    maps[RESIDUAL.name] = Map(RESIDUAL, MODEL, on_grid(answers.residual, order, scan.shape))
    told = provenance(MODEL, scan, answers.loaded, answers.loaded.scale.metrics, device)
    told["extra"] = [head.card.provenance() for head in answers.heads]
    return MapSet(maps, scan.affine, usable, {MODEL: told}, {MODEL: flags})


def provenance(
    model: str, scan: Scan, loaded: Loaded, metrics: Sequence[str], device: torch.device
) -> dict[str, Any]:
    """Tell what maps were made of, and by what."""
    acq, noise = scan.acquisition, scan.noise
    leaning = prior_driven(metrics, acq)
    notes = list(scan.notes)
    if leaning:
        notes.append(
            f"{model}: metrics that this acquisition by itself does not determine: "
            f"{', '.join(leaning)}. Their maps lean on what tissue usually looks like"
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
