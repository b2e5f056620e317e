"""Linear fits as a first guess: what a tensor and a kurtosis tensor say, where they can be fitted.

They cost next to nothing and are without bias; the network learns how far to believe them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..fitting.estimate import missing, select_volumes
from ..fitting.options import Options
from ..fitting.run import Run, Step
from ..models import MODELS

FITTED = {"dti": ("FA", "MD", "AD", "RD"), "dki": ("MK", "AK", "RK")}
"""Metrics that are taken from each model."""

RANGE = {"FA": (0.0, 1.0), "MD": (0.0, 4.0), "AD": (0.0, 4.0), "RD": (0.0, 4.0)}
"""Of the values [um2/ms]; those of kurtosis are `KURTOSIS`."""

KURTOSIS = (-0.5, 3.0)

FITS = sum(map(len, FITTED.values()))


def linear_fits(signal: Tensor, mask: Tensor, acquisition: Acquisition) -> tuple[Tensor, Tensor]:
    """Fit the linear models that an acquisition allows.

    Parameters
    ----------
    signal : (m, x, y) tensor
    mask : (x, y) bool tensor
    acquisition : Acquisition

    Returns
    -------
    values : (7, x, y) tensor
        FA, MD, AD, RD [um2/ms], MK, AK, RK; 0 where there is none.
    fitted : (2,) tensor
        1 for a model that was fitted, tensor and kurtosis.
    """
    found, fitted = fit_voxels(signal[:, mask].T.contiguous().cpu(), acquisition)
    values = signal.new_zeros(FITS, *mask.shape)
    values[:, mask] = found.to(values)
    return values, fitted.to(signal)


def fit_voxels(
    voxels: Tensor, acquisition: Acquisition, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Fit n voxels as `linear_fits` does those of a slice: (n, m) -> (7, n), (2,).

    A scan's voxels are fitted together: what a fit prepares costs as much as a slice's voxels.
    """
    options, fitted = Options(), []
    values = voxels.new_zeros(FITS, len(voxels))
    first = 0
    for name, metrics in FITTED.items():
        model = MODELS[name]
        possible = len(voxels) > 0 and not missing(model, acquisition, options)
        fitted.append(float(possible))
        if possible:
            volumes = select_volumes(model, acquisition, None)
            quiet = Step(lambda share, text: None, None, 0.0, 1.0, "")
            kept = acquisition.subset(volumes)
            found = Run(model, kept, volumes, options, device or torch.device("cpu"), quiet)
            answers = found.fit(voxels, None).values
            for k, metric in enumerate(metrics):
                scale = 1e3 if model.name == "dti" and metric != "FA" else 1.0  # mm2/s to um2/ms
                value = (scale * answers[metric][0]).nan_to_num()
                values[first + k] = value.clamp(*RANGE.get(metric, KURTOSIS))
        first += len(metrics)
    return values, voxels.new_tensor(fitted)
