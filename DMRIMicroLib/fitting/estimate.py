"""From a scan to maps: masks, batches, devices, provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass, replace
from datetime import UTC, datetime
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..errors import InputError
from ..maps import Map, MapSet
from ..masking import brain_mask
from ..metric import Flag
from ..models import LinearModel, Model, NonlinearModel, choose
from ..models.framed import FramedModel
from ..scan import Noise, Scan
from ..version import __version__
from .linear import REDUNDANCY
from .methods import UNKNOWN_NOISE
from .options import Options
from .run import BATCH_VOXELS, Found, Progress, Run, Step

UNKNOWN = (
    "the noise of this scan is not known (that takes repeated b0 volumes, or a shell of 8 "
    f"directions): nonlinear models take it for Gaussian, {UNKNOWN_NOISE:.0%} of S0 where a prior "
    "is to be weighed; give it with --noise (sigma= in Python)"
)
"""Told with the maps."""


ROUNDING = 1e-7
"""Rounding of float32 (2**-23), as a share of the b0 signal: no noise is smaller."""


def fit(
    scan: Scan,
    models: str | Model | Sequence[str | Model],
    *,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> MapSet:
    """Fit models to every voxel of the scan's mask.

    Parameters
    ----------
    scan : Scan
        With a mask, or one is estimated from its b0 image.
    models : str, Model or a sequence of them
        E.g. ``["dti", "noddi"]``; see `DMRIMicroLib.models.MODELS`. ``"all"`` fits those that the
        acquisition allows; the notes name the rest.
    device : str or torch.device, optional
        By default CUDA where there is one, else the CPU.
    progress : callable, optional
        Called with the finished share (0 to 1) and a few words.
    cancelled : callable, optional
        Asked between batches; True stops the fit.
    **options
        Fields of `fitting.options.Options`: method, iterations, b_max, likelihood, coils, sigma,
        robust, uncertainty.

    Returns
    -------
    MapSet
        float32 maps on the scan's grid; 0 where there is no answer (`MapSet.mask`). `MapSet.flags`
        tells what to think of each voxel.

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
    chosen_options = _options(options)
    if not scan.lifted and chosen_options.likelihood == "auto":
        chosen_options = replace(chosen_options, likelihood="gaussian")
    chosen, notes = choose(models, scan.acquisition, partial(missing, options=chosen_options))
    device = choose_device(device)
    scan = brain_mask(scan.with_notes(*notes))
    assert scan.mask is not None
    report = progress or (lambda share, text: None)
    report(0.0, "Reading")
    signal = torch.from_numpy(scan.voxels(scan.mask))
    # a voxel without any b0 signal has no S0 to be divided by
    usable = np.isfinite(scan.b0[scan.mask]) & (scan.b0[scan.mask] > 0)
    noise = _plausible(_noise(scan, chosen_options), scan, usable, chosen_options)
    results: list[MapSet] = []
    empty: list[str] = []
    for k, model in enumerate(chosen):
        volumes = select_volumes(model, scan.acquisition, chosen_options.b_max)
        acquisition = scan.acquisition.subset(volumes)
        step = Step(report, cancelled, k / len(chosen), 1 / len(chosen), f"Fitting {model.title}")
        run = Run(model, acquisition, volumes, chosen_options, device, step)
        found = run.fit(signal, None if noise is None else _per_voxel(noise, scan))
        found.flags[~usable] = Flag.EMPTY
        made = _provenance(scan, chosen_options, device, run, noise)
        made["voxels"] = found.counts(len(volumes))
        if (found.flags == Flag.EMPTY).all():
            empty.append(model.name)
        else:
            results.append(_to_maps(model, found, scan, made))
    report(1.0, "Done")
    return _together(results, empty, scan)


def missing(model: Model, acquisition: Acquisition, options: Options) -> tuple[str, ...]:
    """Say what the volumes that would be used lack for the model, or for the options."""
    kept = acquisition.subset(select_volumes(model, acquisition, options.b_max))
    lacks = model.missing(kept)
    if not lacks and options.robust and isinstance(model, FramedModel):
        return ("the option robust switched off: it has no robust fit",)
    least = REDUNDANCY * model.size if options.robust and isinstance(model, LinearModel) else 0
    if not lacks and len(kept) < least:
        return (f"{least} volumes for a robust fit (there are {len(kept)})",)
    return lacks


def _options(given: dict[str, Any]) -> Options:
    known = Options.__dataclass_fields__
    if strangers := [name for name in given if name not in known]:
        raise TypeError(f"fit() has no option {strangers[0]!r}; there are {', '.join(known)}")
    return Options(**given)


def _noise(scan: Scan, options: Options) -> Noise | None:
    """Return the noise that the fit may rely on; None where it is not known well enough."""
    if options.sigma is not None:
        return Noise(options.sigma, "given by the user")
    noise = None if scan.noise is None or scan.noise.rough else scan.noise
    if noise is None and options.likelihood == "rician":
        raise InputError(
            "a Rician likelihood needs the noise, and this scan does not tell it",
            'Give sigma (--noise NUMBER), measure it (--noise pca), or leave likelihood at "auto".',
            file=scan.source,
        )
    return noise


def _plausible(
    noise: Noise | None, scan: Scan, usable: NDArray[np.bool_], options: Options
) -> Noise | None:
    """Return the noise if it fits the signal; None if it was found to be mere rounding.

    `usable` tells the voxels of the mask, (n,), that have a b0 signal.
    """
    if noise is None or not usable.any():
        return noise
    b0 = float(np.median(scan.b0[scan.mask][usable]))
    found = options.sigma is None
    if found and noise.sigma < ROUNDING * b0 and options.likelihood == "auto":
        return None  # a simulation without noise
    if not ROUNDING * b0 <= noise.sigma <= b0:
        raise InputError(
            f"the noise, sigma = {noise.sigma:.3g} ({noise.method}), cannot be that of a scan "
            f"whose median b0 signal is {b0:.3g}",
            "Give sigma in the unit of the signal, or check the image and the mask."
            if found
            else "Give sigma in the unit of the signal, or leave it out.",
            file=scan.source,
        )
    return noise


def _per_voxel(noise: Noise, scan: Scan) -> torch.Tensor:
    """Spread the noise over the voxels of the mask: (n,) float32 standard deviations."""
    assert scan.mask is not None
    if noise.map is None:
        return torch.full((int(scan.mask.sum()),), noise.sigma)
    sigma = torch.from_numpy(noise.map[scan.mask].astype(np.float32))
    return torch.where((sigma > 0) & torch.isfinite(sigma), sigma, noise.sigma)


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


def _together(results: list[MapSet], empty: list[str], scan: Scan) -> MapSet:
    """Put the models' maps into one set, whose notes name the models that have no answer."""
    told = "no voxel of the mask has a usable signal (positive and finite in enough volumes)"
    if not results:
        raise InputError(
            f"{', '.join(empty)}: {told}", "Check the image and the mask.", file=scan.source
        )
    result = reduce(MapSet.merged, results)
    notes = [f"{name}: {told}, so that there are no maps of it" for name in empty]
    provenance = {
        name: {**made, "notes": [*made["notes"], *notes]}
        for name, made in result.provenance.items()
    }
    return replace(result, provenance=provenance)


def _to_maps(model: Model, found: Found, scan: Scan, provenance: dict[str, Any]) -> MapSet:
    """Put the voxels that have an answer back on the grid."""
    assert scan.mask is not None
    index = np.flatnonzero(scan.mask)
    flags = np.zeros(scan.shape, dtype=np.uint8)
    flags.ravel()[index] = found.flags
    good = found.flags != Flag.EMPTY
    every = bool(good.all())
    index = index if every else index[good]

    def on_grid(value: torch.Tensor) -> NDArray[np.float32]:
        data = np.zeros((len(value), *scan.shape), dtype=np.float32)
        for channel, row in zip(data, value.numpy(), strict=True):
            channel.ravel()[index] = row if every else row[good]
        return data[0] if len(value) == 1 else np.moveaxis(data, 0, -1)

    maps = {
        metric.name: Map(
            metric,
            model.name,
            on_grid(found.values[metric.name]),
            on_grid(found.deviations[metric.name]) if metric.name in found.deviations else None,
        )
        for metric in model.metrics
    }
    return MapSet(maps, scan.affine, flags > 0, {model.name: provenance}, {model.name: flags})


def _provenance(
    scan: Scan,
    options: Options,
    device: torch.device,
    run: Run,
    noise: Noise | None,
) -> dict[str, Any]:
    acq, volumes = scan.acquisition, run.volumes
    unknown = [UNKNOWN] if noise is None and isinstance(run.model, NonlinearModel) else []
    cautions = [f"{run.model.name}: {c}" for c in run.model.cautions(run.acquisition)]
    notes = [*scan.notes, *unknown, *cautions]
    if len(volumes) < len(acq):
        kept = acq.subset(volumes)
        notes.append(
            f"{run.model.name}: fitted to {len(volumes)} of {len(acq)} volumes: {kept.describe()}"
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
        "acquisition": {"summary": acq.describe(), "sha256": acq.digest, "volumes": volumes},
        "model": _constants(run.model),
        "options": asdict(options),
        "noise": None if noise is None else {"sigma": noise.sigma, "method": noise.method},
        "device": str(device),
        "torch": torch.__version__,
        "notes": notes,
    }


def _constants(model: Model) -> dict[str, Any]:
    """Fields of a model (fixed diffusivities, say), as far as JSON can hold them."""
    if not is_dataclass(model):
        return {}
    told = {}
    for name, value in asdict(model).items():
        try:
            told[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue  # a tensor or a function: no constant to be told
    return told
