"""A metric of the user's own, from a few labelled voxels: a new head on a frozen codebook."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..fitting.estimate import choose_device
from ..metric import Metric
from ..scan import Scan
from ..version import __version__
from ..weights import Card, save
from ..weights.store import SUFFIX
from .heads import KIND, Head, features, label
from .labels import Targets, fold_of, labelled_voxels, matched
from .network import Prediction
from .ridge import Ridge, ridge
from .slices import WEIGHTS, Loaded, Progress, open_codebook, predictions
from .stack import slice_order

FEWEST = 200
"""Labelled voxels: the network's features are about 150 numbers a voxel."""

CONSTANT = 1e-6
"""Standard deviation over the largest label below which labels are constant."""

POOR = 0.5
"""Correlation of labels and held-out predictions below which the metric comes with a warning."""

LEAST_RESIDUAL = 1e-3
"""Residuals below this share of the labels' standard deviation count as such, in logarithms."""

LOG_MEAN = 0.5 * (float(np.euler_gamma) + math.log(2))
"""How far the mean of ln |r| is below ln sigma, for a normal r."""

COVERED = 0.95
"""Share of the held-out labels that intervals of `WIDE` standard deviations hold."""

WIDE = 1.96

SD_RANGE = (0.05, 3.0)
"""Of the standard deviation, relative to the labels' typical residual."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """What `adapt` learned.

    Attributes
    ----------
    head : Head
        What the file holds.
    correlation : float
        Of labels and what their voxels were told by the other folds.
    rmse : float
        Root of the mean squared difference of the two.
    voxels : int
        Labelled ones that were used.
    notes : tuple of str
        What the user must know.
    file : Path or None
        Where it was written.
    """

    head: Head
    correlation: float
    rmse: float
    voxels: int
    notes: tuple[str, ...] = ()
    file: Path | None = None

    @property
    def metric(self) -> Metric:
        """What its maps show."""
        return self.head.metric

    def save(self, file: str | Path) -> Adapted:
        """Write it, to ``NAME.safetensors`` with the card ``NAME.json`` beside it."""
        file = Path(file)
        if file.suffix != SUFFIX:
            raise InputError(f"ends in {file.suffix!r}", f"Let it end in {SUFFIX}.", file=file)
        tensors = {"mean": self.head.mean, "log_sd": self.head.log_sd}
        save(tensors, self.head.card, file.parent, stem=file.stem)
        return replace(self, file=file)


def adapt(
    codebook: str | Path,
    scans: Scan | Sequence[Scan],
    targets: Targets | Sequence[Targets],
    *,
    name: str,
    unit: str = "",
    title: str = "",
    limits: tuple[float, float] | None = None,
    mask: Targets | Sequence[Targets | None] | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Adapted:
    """Learn a new metric from labelled voxels.

    Parameters
    ----------
    codebook : str or path
        Weights of the network, "codebook" for those that come with the library.
    scans : Scan or sequence of Scan
    targets : path or (x, y, z) array, or a sequence of them
        The metric on each scan's grid. NaN and 0 are not labelled; with `mask`, 0 is a label.
    name : str
        Of the metric; its maps are called so.
    unit, title : str
        For people.
    limits : (float, float), optional
        Valid values; by default a little beyond the labels', and not below 0 if none of them is.
    mask : path or (x, y, z) array, or a sequence of them, optional
        Which voxels are labelled, where > 0.
    out : path, optional
        File to write, ``.safetensors``; a card appears beside it.
    device, progress, cancelled
        As of `codebook`.

    Returns
    -------
    Adapted

    Raises
    ------
    InputError
        If there are fewer than `FEWEST` labels, they do not vary, are not finite, or lie on
        another grid than the scan.

    Notes
    -----
    The mean is a ridge regression on the standardised features of the frozen network, the logarithm
    of the standard deviation another one of the logarithm of the residuals that voxels have when
    their block is left out; its constant is set so that 95 % of those residuals lie within 1.96
    standard deviations.
    """
    if not label(name):
        raise InputError(f"the name {name!r} has no letter", "Give the metric a name like 'T2'.")
    loaded = open_codebook(codebook)
    if label(name) in map(label, loaded.scale.metrics):
        raise InputError(
            f"the codebook has a metric {name} already", "Give the new one another name."
        )
    chosen = choose_device(device)
    every = [scans] if isinstance(scans, Scan) else list(scans)
    labels, masks = matched(targets, len(every), "targets"), matched(mask, len(every), "masks")
    found = []
    for k, scan in enumerate(every):
        part = _part(progress, k, len(every))
        labelled = labelled_voxels(scan, labels[k], masks[k])
        found.append(_gather(scan, *labelled, loaded, k, chosen, part, cancelled))
    columns, values, blocks = (torch.cat(v) for v in zip(*found, strict=True))
    made = learn(columns, values, blocks, Metric(name, title or name, unit), limits, loaded)
    notes = _notes(made, [len(v) for _, v, _ in found], every)
    made = replace(made, notes=tuple(notes))
    return made if out is None else made.save(out)


def learn(
    columns: Tensor,
    values: Tensor,
    blocks: Tensor,
    metric: Metric,
    limits: tuple[float, float] | None,
    loaded: Loaded,
) -> Adapted:
    """Fit the head.

    Parameters
    ----------
    columns : (n, f) tensor
        Of `heads.features`.
    values : (n,) tensor
    blocks : (n, 4) int tensor
        Number of the scan and place of the voxel.
    metric : Metric
        Its range and window are replaced.
    limits : (float, float), optional
    loaded : Loaded
    """
    _check(values)
    folds = fold_of(blocks)
    mean = ridge(columns, values, folds)
    residual = values.double() - mean.held_out
    low, high = limits or _limits(values)
    window = tuple(torch.quantile(values.double(), torch.tensor([0.02, 0.98]).double()).tolist())
    metric = replace(metric, low=low, high=high, window=window)
    spread, sd_range = _spread(columns, residual, float(values.std()), folds)
    rmse = float(residual.square().mean().sqrt())
    correlation = float(torch.corrcoef(torch.stack([values.double(), mean.held_out]))[0, 1])
    head = Head(metric, mean.weights.float(), spread.float(), sd_range, _card(metric, loaded))
    told = {"voxels": len(values), "correlation": round(correlation, 4), "rmse": rmse}
    told |= {"folds": int(folds.max()) + 1, "penalty": mean.penalty}
    card = replace(head.card, data=head.card.data | head.describe(), metrics=told)
    return Adapted(replace(head, card=card), correlation, rmse, len(values))


def _spread(
    columns: Tensor, residual: Tensor, size: float, folds: Tensor
) -> tuple[Tensor, tuple[float, float]]:
    """Fit the logarithm of the standard deviation: weights (f + 1,), and its range."""
    log = residual.abs().clamp(min=LEAST_RESIDUAL * size).log() + LOG_MEAN
    found: Ridge = ridge(columns, log, folds)
    typical = max(float(residual.square().mean().sqrt()), LEAST_RESIDUAL * size)
    bounds = (SD_RANGE[0] * typical, SD_RANGE[1] * typical)
    told = found.held_out.exp().clamp(*bounds)
    factor = float(torch.quantile(residual.abs() / told, COVERED)) / WIDE
    weights = found.weights.clone()
    weights[-1] += math.log(max(factor, 1e-3))
    return weights, (bounds[0] * factor, bounds[1] * factor)


def _check(values: Tensor) -> None:
    """Refuse labels that teach nothing."""
    if len(values) < FEWEST:
        raise InputError(
            f"{len(values)} voxels are labelled and have a signal, at least {FEWEST} are needed",
            "Label more voxels, or give more scans.",
        )
    if not float(values.std()) > CONSTANT * float(values.abs().max()):
        raise InputError(
            f"all labels are {float(values[0]):g}", "Give a map of values that differ."
        )


def _limits(values: Tensor) -> tuple[float, float]:
    """Choose a range of valid values: half of what the labels span beyond them on either side."""
    low, high = float(values.min()), float(values.max())
    beyond = (high - low) / 2
    return (max(0.0, low - beyond) if low >= 0 else low - beyond), high + beyond


def _card(metric: Metric, loaded: Loaded) -> Card:
    base = {"name": loaded.card.stem, "sha256": loaded.card.sha256}
    return Card(
        name=metric.name,
        version="1.0.0",
        kind=KIND,
        arguments={},
        about=f"{metric.title}, learned from labelled voxels on the codebook {base['name']}.",
        data={"base": base},
        training={"software": f"DMRIMicro {__version__}"},
        licence="",
    )


def _gather(
    scan: Scan,
    values: NDArray[np.float64],
    inside: NDArray[np.bool_],
    loaded: Loaded,
    number: int,
    device: torch.device,
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the labelled voxels of a scan: columns (n, f), values (n,), scan and place (n, 4)."""

    def keep(found: Prediction, means: Tensor) -> tuple[Tensor, ...]:
        return (features(found),)

    _, usable, (columns,) = predictions(scan, loaded, keep, device, progress, cancelled)
    at = slice_order(usable)
    labelled = inside.ravel()[at]
    at = at[labelled]
    place = np.stack(np.unravel_index(at, scan.shape), 1)
    blocks = np.concatenate([np.full((len(at), 1), number), place], 1)
    kept = columns[torch.from_numpy(labelled)]
    return kept, torch.from_numpy(values.ravel()[at]), torch.from_numpy(blocks)


def _notes(made: Adapted, used: list[int], scans: Sequence[Scan]) -> list[str]:
    """Say what deserves a doubt."""
    notes = []
    for count, scan in zip(used, scans, strict=True):
        if not count:
            notes.append(f"{scan.name}: no labelled voxel lies in its mask and has a signal")
    if made.correlation < POOR:
        notes.append(
            f"{made.metric.name}: voxels that were left out are predicted with a correlation of "
            f"{made.correlation:.2f} only: the codebook hardly sees this metric"
        )
    return notes


def _part(progress: Progress | None, done: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda share, text: progress((done + share) / total, text)


__all__ = ["FEWEST", "WEIGHTS", "Adapted", "adapt", "learn"]
