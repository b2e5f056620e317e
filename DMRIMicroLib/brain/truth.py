"""What a fit of a simulated scan should find.

The truth of a metric is what its conventional estimator says of the same voxels without noise and
artefacts, seen by an acquisition that determines it well: only so has kurtosis, say, a truth in
tissue that no kurtosis tensor describes. The state's own parameters are maps beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..acquisition import Acquisition
from ..fitting import fit
from ..maps import Map, MapSet
from ..metric import Metric
from ..models import MODELS
from ..scan import Scan
from ..version import __version__
from .grid import Grid, overlap
from .protocols import named
from .relaxation import unweighted
from .scanner import BRAIN_SHARE, USUAL_TE, Scanner, grid_of, observe
from .volume import StateVolume

DENSE = {"sandi": "sandi", "mapmri": "hcp3t"}
"""Protocol of `protocols.DESIGNS` whose noise-free signal gives the truth of a model that two
shells do not determine."""

USUAL_DENSE = "ukb"
"""Of all others: 50 directions at b = 1000 and at b = 2000 s/mm2, as most scans with shells have.
A metric of a model that simplifies depends on b, and kurtosis is defined for b below some 2500."""

TINY = 1e-6
"""Fractions below this have no diffusivity of their own."""

STATE = (
    Metric("state_neurite", "Neurites' share of the signal"),
    Metric("state_extra", "Share of the space around neurites"),
    Metric("state_soma", "Somas' share of the signal"),
    Metric("state_free", "Free water's share of the signal"),
    Metric("state_dot", "Still water's share of the signal", window=(0, 0.1)),
    Metric("state_d_neurite", "Diffusivity along neurites", "um2/ms", 0, 3.5, (0, 3)),
    Metric("state_d_extra_par", "Diffusivity around and along neurites", "um2/ms", 0, 3.5, (0, 3)),
    Metric("state_d_extra_perp", "Diffusivity around and across them", "um2/ms", 0, 3.5, (0, 2)),
    Metric("state_radius", "Soma radius", "um", 0, 30, (0, 12)),
    Metric("state_s0", "Signal without weighting, relative to water", "", 0, 2, (0, 0.5)),
    Metric("state_fill", "Share of the voxel that is brain"),
)
"""Maps of the state's own parameters."""

OWNER = {
    "d_neurite": "neurite",
    "d_extra_par": "extra",
    "d_extra_perp": "extra",
    "radius": "soma",
}
"""Compartment whose parameter it is: means are weighted by its share of the signal."""


def truth(
    volume: StateVolume,
    acquisition: Acquisition,
    scanner: Scanner,
    models: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[float, str], None] | None = None,
    imaged: bool = False,
) -> MapSet:
    """Return the true maps of a simulated scan: all metrics, and the state.

    Parameters
    ----------
    volume : StateVolume
    acquisition : Acquisition
        The scan's. Its TE decides how bright tissues are in mixed voxels.
    scanner : Scanner
        The scan's: its grid, field strength and TR.
    models : sequence of str, optional
        All that the registry knows, by default; an empty one for the state only.
    device : str or torch.device, optional
        Of the fits.
    progress : callable, optional
        Called with the share that is done, 0 to 1, and what is being done.
    imaged : bool
        The truth of the metrics as sharp as the scanner's k-space shows it, with its ringing: what
        this scanner would find with any number of noise-free volumes.
    """
    names, report = list(MODELS) if models is None else list(models), progress or _silent
    result, done = state_maps(volume, acquisition, scanner), 0.0
    by_protocol: dict[str, list[str]] = {}
    for name in names:
        by_protocol.setdefault(DENSE.get(name, USUAL_DENSE), []).append(name)
    for protocol, chosen in by_protocol.items():
        report(done, "Truth: noise-free signal")
        played = replace(named(protocol), TE=acquisition.TE)
        dense = noise_free(volume, played, scanner, imaged)
        first, part = done, len(chosen) / len(names)
        found = fit(
            dense,
            chosen,
            device=device,
            likelihood="gaussian",
            progress=partial(_within, report, first, part),
        )
        done += part
        for model in chosen:
            found.provenance[model]["truth"] = f"noise-free signal of protocol {protocol}"
        result = result.merged(found)
    return result


def _silent(share: float, text: str) -> None:
    """Report nothing."""


def _within(
    report: Callable[[float, str], None], first: float, part: float, share: float, text: str
) -> None:
    """Report the share of a part of the work."""
    report(first + part * share, f"Truth: {text[0].lower()}{text[1:]}")


def noise_free(
    volume: StateVolume, acquisition: Acquisition, scanner: Scanner, imaged: bool = False
) -> Scan:
    """Scan without noise and artefacts but those of k-space, if `imaged`; 0 around the brain."""
    seen = observe(volume, acquisition, scanner.perfect(imaged), torch.Generator())
    signal = np.moveaxis((seen.signal * seen.mask).cpu().numpy(), 0, -1)
    affine, mask = seen.grid.affine.cpu().numpy(), seen.mask.cpu().numpy()
    return Scan(signal, affine, acquisition, mask, name="noise-free")


def state_maps(volume: StateVolume, acquisition: Acquisition, scanner: Scanner) -> MapSet:
    """Return the means of the state's parameters over the scanner's voxels.

    Fractions are means weighted by brightness, as the signal is; diffusivities and radii also by
    the fraction of their compartment.
    """
    grid = grid_of(volume, scanner)
    seen = overlap(volume.mask, volume.affine, grid, volume.fill.dtype)
    fill = seen.mean(volume.fill)
    bright = _bright(volume, acquisition, scanner) * volume.fill
    s0 = seen.mean(bright)
    state, values = volume.state, {"fill": fill, "s0": s0}
    for name in ("neurite", "extra", "soma", "free", "dot"):
        values[name] = seen.mean(bright * getattr(state, name)) / s0
    for name, owner in OWNER.items():
        share = bright * getattr(state, owner)
        amount = seen.mean(share)
        mean = seen.mean(share * getattr(state, name)) / amount.clamp(min=TINY)
        values[name] = torch.where(amount > TINY, mean, 0)
    inside = fill >= BRAIN_SHARE
    mask = _dense(inside, seen.voxels, grid) > 0
    maps = {
        metric.name: Map(
            metric,
            "state",
            _dense(values[metric.name.removeprefix("state_")] * inside, seen.voxels, grid),
        )
        for metric in STATE
    }
    made = {"state": {"software": f"DMRIMicro {__version__}", "method": "means over the voxels"}}
    return MapSet(maps, grid.affine.cpu().numpy(), mask, made)


def orientations(
    volume: StateVolume, acquisition: Acquisition, scanner: Scanner
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the SH of the fibre orientations, (x, y, z, c), and the affine.

    Means over the voxels, weighted by the signal of neurites and the space around them.
    """
    grid = grid_of(volume, scanner)
    seen = overlap(volume.mask, volume.affine, grid, volume.fill.dtype)
    weight = _bright(volume, acquisition, scanner) * volume.fill
    weight = weight * (volume.state.neurite + volume.state.extra).clamp(min=TINY)
    total = seen.mean(weight)
    odf = volume.state.odf
    parts = [
        _dense(seen.mean(weight * odf[:, k]) / total, seen.voxels, grid)
        for k in range(odf.shape[1])
    ]
    return np.stack(parts, -1), grid.affine.cpu().numpy()


def _bright(volume: StateVolume, acquisition: Acquisition, scanner: Scanner) -> Tensor:
    return unweighted(volume, scanner.field, acquisition.TE or USUAL_TE, scanner.TR)


def _dense(values: Tensor, voxels: Tensor, grid: Grid) -> NDArray[np.float32]:
    """Put values on their grid: (n,) -> (x, y, z)."""
    out = np.zeros(int(np.prod(grid.shape)), np.float32)
    out[voxels.cpu().numpy()] = values.cpu().numpy()
    return out.reshape(grid.shape)
