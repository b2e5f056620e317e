"""Conventional methods on a thinned scan: dipy, AMICO, our own fits, and these after denoising.

Each takes a scan and gives `Fitted`, or says in words why it cannot. The one with a prior, which
needs a codebook's signal space, is in _gaussian.py.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import ClassVar

import _amico
import _dipy
import _sparse
import numpy as np
import torch
from _sparse import Fitted
from scipy import ndimage

from DMRIMicroLib.models import NODDI
from DMRIMicroLib.models.dki import DKI, ELEMENTS

UM2_MS = 1e3
"""One mm2/s in um2/ms."""

KURTOSIS = (0.0, 3.0)
"""Kurtoses are compared within this range, everybody's."""

LOW_B = 1100.0
"""A tensor is fitted by dipy to lower b-values [s/mm2], if there are six directions."""

DKI_VOLUMES = 22
WIDTHS = (0.5, 0.7, 1.0)
"""Gaussian smoothing in the plane, standard deviations [voxels]."""

SIMULATIONS = 20_000
"""Of FORCE, whose default is 500,000: hours a protocol on two cores. Its error levels off from
some ten thousand."""


def dipy_dti(scan) -> Fitted | str:
    """Tensor by weighted least squares."""
    from dipy.reconst.dti import TensorModel

    acq = scan.acquisition
    low = np.flatnonzero(acq.bvals < LOW_B)
    if (~acq.is_b0[low]).sum() < 6:
        low = np.arange(len(acq))
    signal = scan.voxels(scan.mask)[:, low]
    fit = TensorModel(_dipy.table(acq.subset(low)), fit_method="WLS").fit(signal)
    tensor = fit.quadratic_form * UM2_MS

    def predict(asked) -> np.ndarray:
        g = asked.bvecs
        return np.exp(-asked.bvals / 1e3 * np.einsum("mi,nij,mj->nm", g, tensor, g))

    maps = {"FA": fit.fa, "MD": fit.md * UM2_MS, "V1": fit.evecs[..., 0]}
    return Fitted(maps, {"DTI": predict})


def dipy_dki(scan) -> Fitted | str:
    """Kurtosis by weighted least squares."""
    from dipy.reconst.dki import DiffusionKurtosisModel

    acq = scan.acquisition
    if len(acq) < DKI_VOLUMES or len(acq.shells) < 2:
        return "22 unknowns need 22 volumes and two shells"
    fit = DiffusionKurtosisModel(_dipy.table(acq), fit_method="WLS").fit(scan.voxels(scan.mask))

    def predict(asked) -> np.ndarray:
        return fit.predict(_dipy.table(asked), S0=1.0)

    return Fitted({"MK": fit.mk(*KURTOSIS)}, {"DKI": predict})


def dipy_msdki(scan) -> Fitted | str:
    """Mean-signal kurtosis."""
    from dipy.reconst.msdki import MeanDiffusionKurtosisModel

    acq = scan.acquisition
    if len(acq.shells) < 2:
        return "the mean signal's kurtosis needs two shells"
    fit = MeanDiffusionKurtosisModel(_dipy.table(acq)).fit(scan.voxels(scan.mask))
    return Fitted({"MSK": fit.msk})


def amico(scan) -> Fitted | str:
    """NODDI by AMICO, also of a single shell."""
    found = _amico.fit(scan.voxels(scan.mask), scan.acquisition)
    maps = {k: found.maps[k] for k in ("NDI", "ODI", "FWF")}
    return Fitted(maps, {"NODDI": _noddi(maps, found.directions)})


def ours(scan, **options) -> Fitted:
    """`dm.fit` as it comes: DTI, DKI and NODDI as far as the volumes allow, isotropic DKI.

    With other `options` of `dm.fit` if some are given.
    """
    import DMRIMicroLib as dm
    from DMRIMicroLib.errors import NotIdentifiable

    out = Fitted({})
    for model in ("dti", "dki", "noddi"):
        with contextlib.suppress(NotIdentifiable):
            found = dm.fit(scan, model, device="cpu", **options)
            maps = {k: np.asarray(m)[scan.mask] for k, m in found.items()}
            _PICK[model](out, maps)
    if len(scan.acquisition.shells) > 1:
        _linear(out, scan, IsotropicKurtosis(), "MK_iso", "DKI, isotropic")
        if not DKI().missing(scan.acquisition):
            _linear(out, scan, DKI(), None, "DKI")
    return out


def ours_known(scan) -> Fitted | str:
    """Fit the same with the noise known, from all b0 volumes of the whole scan."""
    return ours(scan.with_measured_noise(_sparse.scan().noise))


def mppca(scan) -> Fitted | str:
    """Fit the same after MP-PCA."""
    from DMRIMicroLib.errors import InputError
    from DMRIMicroLib.preprocess import denoise

    try:
        return ours(denoise(scan, "mppca"))
    except InputError as error:
        return str(error)


def smoothed(width: float):
    """Return the method that smooths every volume before the same fits."""

    def work(scan) -> Fitted | str:
        mask = scan.mask.astype(np.float32)
        sigma = (width, width, 0)
        weight = np.maximum(ndimage.gaussian_filter(mask, sigma), 1e-3)
        volumes = [
            ndimage.gaussian_filter(scan.signal[..., k] * mask, sigma) / weight
            for k in range(len(scan.acquisition))
        ]
        # what lifts magnitudes is the noise of before
        return ours(scan.with_processed(np.stack(volumes, -1), scan.noise))

    return work


def force(scan) -> Fitted | str:
    """Match simulated signals, by FORCE of dipy, averaged over the best matches.

    Averages do better than the single best match here. NDI and ODI are those of its own model of
    tissue. Directions, and so predicted signals, are left out.
    """
    from dipy.reconst.force import FORCEModel

    # its simulations' kurtosis comes from dipy's fit of the protocol itself
    kurtosis = len(scan.acquisition.shells) > 1 and len(scan.acquisition) >= DKI_VOLUMES
    model = FORCEModel(_dipy.table(scan.acquisition), use_posterior=True)
    with contextlib.redirect_stdout(io.StringIO()):
        np.random.seed(0)  # noqa: NPY002 - dipy's own generator
        model.generate(
            num_simulations=SIMULATIONS,
            num_cpus=1,
            compute_dki=kurtosis,
            use_cache=False,
        )
        fit = model.fit(scan.voxels(scan.mask))
    maps = {"FA": fit.fa, "MD": np.asarray(fit.md) * UM2_MS}
    maps |= {"NDI": fit.nd, "ODI": fit.dispersion, "FWF": fit.csf_fraction}
    if kurtosis:
        maps["MK"] = fit.mk
    return Fitted({k: np.asarray(v, np.float32).ravel() for k, v in maps.items()})


METHODS = {
    "ours": ours,
    "dipy DTI": dipy_dti,
    "AMICO": amico,
    "dipy MSDKI": dipy_msdki,
    "dipy DKI": dipy_dki,
    "ours, noise known": ours_known,
    **{f"smoothing {width}": smoothed(width) for width in WIDTHS},
    "MP-PCA": mppca,
    "FORCE": force,
}

PEERS = {
    "FA": "dipy DTI",
    "MD": "dipy DTI",
    "V1": "dipy DTI",
    "MK": "dipy DKI",
    "MSK": "dipy MSDKI",
    "NDI": "AMICO",
    "ODI": "AMICO",
    "FWF": "AMICO",
}
"""Program that a metric is fitted by where ours does not."""


@dataclass(frozen=True)
class IsotropicKurtosis(DKI):
    """DKI with one kurtosis for all directions: ln S = ln S0 - b D(g) + b^2 v / 6, 8 unknowns.

    For protocols that do not determine a kurtosis tensor.
    """

    size: ClassVar[int] = 8  # type: ignore[assignment]

    def design(self, acq) -> torch.Tensor:
        """Design matrix of ln S: (m, 8)."""
        whole = super().design(acq)
        return torch.cat([whole[:, :6], whole[:, 6:21] @ ISOTROPIC[:, None], whole[:, 21:]], 1)

    def derive(self, parameters: torch.Tensor) -> dict[str, torch.Tensor]:
        """Kurtoses: (8, n) -> each (n,)."""
        quartic = ISOTROPIC.to(parameters)[:, None] * parameters[6]
        return super().derive(torch.cat([parameters[:6], quartic, parameters[7:]]))


ISOTROPIC = torch.tensor(
    [
        1.0 if len(set(name)) == 1 else 1 / 3 if name[0] == name[1] and name[2] == name[3] else 0.0
        for name in ELEMENTS
    ],
    dtype=torch.float64,
)
"""Tensor of fourth order that is 1 in every direction."""


def _linear(out: Fitted, scan, model: DKI, metric: str | None, name: str) -> None:
    """Fit a linear model as `dm.fit` does, for its parameters."""
    from DMRIMicroLib.fitting.linear import WeightedLeastSquares

    wls = WeightedLeastSquares(
        model.design(scan.acquisition), 1, device=torch.device("cpu"), dtype=torch.float32
    )
    parameters = wls.fit(torch.from_numpy(scan.voxels(scan.mask))).parameters
    parameters[-1] = 0
    if metric:
        out.maps[metric] = np.clip(model.derive(parameters)["MK"].numpy(), *KURTOSIS)
    out.predict[name] = lambda asked: model.signal(asked, parameters).clamp(0, 2).T.numpy()


def _noddi(maps: dict[str, np.ndarray], mu: np.ndarray):
    """Return the prediction of NODDI's equations from maps: (n,) each and (n, 3)."""
    length = np.linalg.norm(mu, axis=1, keepdims=True)
    mu = np.where(length > 0, mu / np.where(length > 0, length, 1), [1.0, 0, 0])
    low = {p.name: (p.low, p.high) for p in NODDI().parameters}
    rows = [np.clip(maps[k], *low[k.lower()]) for k in ("NDI", "ODI", "FWF")]
    parameters = torch.tensor(np.stack([*rows, *mu.T, np.ones(len(mu))]), dtype=torch.float32)
    return lambda asked: NODDI().signal(asked, parameters).T.numpy()


def _pick_dti(out: Fitted, maps: dict[str, np.ndarray]) -> None:
    xx, yy, zz, xy, xz, yz = maps["tensor"].T * UM2_MS
    out.maps |= {"FA": maps["FA"], "MD": maps["MD"] * UM2_MS, "V1": maps["V1"]}

    def predict(asked) -> np.ndarray:
        x, y, z = asked.bvecs.T[..., None]
        d = xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)
        return np.exp(-asked.bvals[:, None] / 1e3 * d).T

    out.predict["DTI"] = predict


def _pick_dki(out: Fitted, maps: dict[str, np.ndarray]) -> None:
    out.maps["MK"] = np.clip(maps["MK"], *KURTOSIS)


def _pick_noddi(out: Fitted, maps: dict[str, np.ndarray]) -> None:
    out.maps |= {k: maps[k] for k in ("NDI", "ODI", "FWF")}
    out.predict["NODDI"] = _noddi(maps, maps["mu"])


_PICK = {"dti": _pick_dti, "dki": _pick_dki, "noddi": _pick_noddi}
