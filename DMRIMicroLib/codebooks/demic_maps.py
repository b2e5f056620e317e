"""From a scan to maps by `demic`, trained as our own codebook is: the baseline of benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..fitting.estimate import choose_device
from ..maps import Map, MapSet
from ..metric import Flag
from ..scan import Scan
from ..version import __version__
from ..weights import load
from .abg import check_distinct
from .decay import decay_of
from .demic import KERNELS, WIDTHS, Demic, normalise
from .estimate import metric_of
from .network import Prediction
from .scale import Scale
from .slices import Loaded, Progress, predictions
from .stack import on_grid, slice_order
from .tokens import Tokens

KIND = "demic"
"""Of the weights, and the name that the maps are kept under."""


class DemicSlices(nn.Module):
    """`Demic` from `Tokens` to a `Prediction`, so that it is trained and run as `Codebook` is.

    Alpha, beta and gamma are normalised over the slice, in the training and after it.

    Parameters
    ----------
    metrics : sequence of str
    widths : sequence of int
    kernels : int
    """

    def __init__(
        self, metrics: Sequence[str], widths: Sequence[int] = WIDTHS, kernels: int = KERNELS
    ) -> None:
        super().__init__()
        self.metrics, self.widths, self.kernels = tuple(metrics), tuple(widths), kernels
        self.demic = Demic(len(self.metrics), self.widths, kernels)

    def arguments(self) -> dict:
        """Return what builds the same network."""
        return {"metrics": self.metrics, "widths": self.widths, "kernels": self.kernels}

    def forward(self, tokens: Tokens) -> Prediction:
        """Predict a slice; standard deviations are those of the whole training, log_sd = 0.

        `Prediction.odf` holds alpha, beta and gamma told back, `Prediction.features` those that
        were put in: (n, 3), normalised.
        """
        abg, usable = decay_of(tokens)
        if bool(usable.any()):
            abg = normalise(abg, usable)
        found, mask = self.demic(abg[None]), tokens.mask
        mean, kernels, back = (v[0][:, mask].T for v in (found.metrics, found.kernels, found.abg))
        nothing = mean.new_zeros(len(mean), 0)  # it knows no signal space
        own = abg[:, mask].T
        return Prediction(mean, torch.zeros_like(mean), kernels, back, own, nothing, nothing)


def open_demic(name: str | Path) -> Loaded:
    """Load `demic` by name or file; see `weights.load`."""
    tensors, card = load(name, KIND)
    network = DemicSlices(**card.arguments).eval().requires_grad_(False)
    network.load_state_dict(tensors)
    data = card.data
    scale = Scale(tuple(data["metrics"]), tuple(data["centre"]), tuple(data["spread"]))
    return Loaded(network, scale, torch.tensor(data["calibration"]), card)


def demic(
    scan: Scan,
    *,
    weights: str | Path,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MapSet:
    """Estimate the metrics of a scan with b0 images and at least two shells.

    Parameters
    ----------
    scan : Scan
    weights : str or path
        Of kind "demic".
    device, progress, cancelled
        As of `estimate.codebook`.

    Returns
    -------
    MapSet
        Under the model name "demic". The standard deviation of a metric is the same everywhere:
        the network knows none.

    Raises
    ------
    NotIdentifiable
        If there are fewer than three distinct b-values.
    """
    chosen, loaded = choose_device(device), open_demic(weights)
    check_distinct(torch.tensor([0.0, *(shell.b / 1e3 for shell in scan.acquisition.shells)]))

    def keep(found: Prediction, means: Tensor) -> tuple[Tensor, ...]:
        return found.mean, found.log_sd.exp()

    scan, usable, (mean, sd) = predictions(scan, loaded, keep, chosen, progress, cancelled)
    values, deviations = loaded.scale.decode(mean, sd * loaded.calibration)
    order, maps = slice_order(usable), {}
    for k, name in enumerate(loaded.scale.metrics):
        metric = metric_of(name)
        held = values[:, k].clamp(metric.low, metric.high)
        data, spread = (on_grid(v, order, scan.shape) for v in (held, deviations[:, k]))
        maps[name] = Map(metric, KIND, data, spread)
    told = {
        "software": "DMRIMicro",
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "acquisition": {
            "summary": scan.acquisition.describe(),
            "sha256": scan.acquisition.digest,
        },
        "weights": loaded.card.provenance(),
        "device": str(chosen),
        "notes": list(scan.notes),
    }
    flags = np.where(usable, np.uint8(Flag.GOOD), np.uint8(Flag.EMPTY))
    return MapSet(maps, scan.affine, usable, {KIND: told}, {KIND: flags})
