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
    values, fitted = signal.new_zeros(FITS, *mask.shape), []
    voxels, options = signal[:, mask].T.contiguous().cpu(), Options()
    first = 0
    for name, metrics in FITTED.items():
        model = MODELS[name]
        possible = len(voxels) > 0 and not missing(model, acquisition, options)
        fitted.append(float(possible))
        if possible:
            volumes = select_volumes(model, acquisition, None)
            quiet = Step(lambda share, text: None, None, 0.0, 1.0, "")
            kept = acquisition.subset(volumes)
            found = Run(model, kept, volumes, options, torch.device("cpu"), quiet)
            answers = found.fit(voxels, None).values
            for k, metric in enumerate(metrics):
                scale = 1e3 if model.name == "dti" and metric != "FA" else 1.0  # mm2/s to um2/ms
                value = (
                    (scale * answers[metric][0]).nan_to_num().clamp(*RANGE.get(metric, KURTOSIS))
                )
                values[first + k, mask] = value.to(values)
        first += len(metrics)
    return values, signal.new_tensor(fitted)
