"""dipy as a peer: the fits that ours are compared with, on the voxels of a scan's mask."""

from __future__ import annotations

import warnings

import numpy as np

KURTOSIS_RANGE = (-3 / 7, 10.0)
"""Limits that dipy sets kurtoses to; ours are the same."""


def table(acq, timing: bool = False):
    """Return dipy's gradient table of an acquisition, times in s."""
    from dipy.core.gradients import gradient_table

    times = {"big_delta": acq.Delta * 1e-3, "small_delta": acq.delta * 1e-3} if timing else {}
    return gradient_table(acq.bvals, bvecs=acq.bvecs, b0_threshold=acq.b0_threshold, **times)


def dti(signal: np.ndarray, acq) -> dict[str, np.ndarray]:
    """Tensor by weighted least squares: (n, m) signals -> (n,) metrics [mm2/s]."""
    from dipy.reconst.dti import TensorModel

    fit = TensorModel(table(acq), fit_method="WLS").fit(signal)
    return {"FA": fit.fa, "MD": fit.md, "AD": fit.ad, "RD": fit.rd}


def dki(signal: np.ndarray, acq) -> dict[str, np.ndarray]:
    """Kurtosis by weighted least squares."""
    from dipy.reconst.dki import DiffusionKurtosisModel

    low, high = KURTOSIS_RANGE
    fit = DiffusionKurtosisModel(table(acq), fit_method="WLS").fit(signal)
    return {"MK": fit.mk(low, high), "AK": fit.ak(low, high), "RK": fit.rk(low, high)}


def free_water(signal: np.ndarray, acq) -> dict[str, np.ndarray]:
    """Free water elimination by nonlinear least squares (Hoy et al. 2014)."""
    from dipy.reconst.fwdti import FreeWaterTensorModel

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fit = FreeWaterTensorModel(table(acq), fit_method="NLS").fit(signal)
    return {"FW": fit.f, "FA_t": fit.fa}


def mapmri(signal: np.ndarray, acq) -> dict[str, np.ndarray]:
    """MAP-MRI of radial order 6 with the Laplacian penalty, weight 0.2, all volumes in the tensor.

    dipy's return probabilities are per mm.
    """
    from dipy.reconst.mapmri import MapmriModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MapmriModel(
            table(acq, timing=True),
            radial_order=6,
            laplacian_regularization=True,
            laplacian_weighting=0.2,
        )
        fit = model.fit(signal)
        return {"RTOP": fit.rtop(), "RTAP": fit.rtap(), "RTPP": fit.rtpp()}
