"""Noise-free round trip: fitting the simulated signal of a tissue returns the tissue.

`python3 run.py bench brain_roundtrip` writes benchmarks/results/brain_roundtrip.json. The signal is
that of the digital brain (`physics.tissue.signal`, the general state); each model is given states
that lie in it, and must find their parameters: median and largest error over random voxels.

Models of spherical means know their state exactly only if the mean over the directions of a shell
is that over the sphere: with uniform orientations it is, with dispersed ones ("dispersed") the
directions decide. NODDI's own signal takes the surroundings' mean tensor where the state averages
their signals, so that its state is exact only without surroundings ("sticks").
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from _common import Results, hcp, rounded, soma, synthetic

if TYPE_CHECKING:
    from DMRIMicroLib.physics.tissue import TissueState

SEED = 2026

NODDI_D = 1.7
"""Diffusivity along neurites that NODDI assumes [um2/ms]."""

QUIET = 1e-2
"""Noise that is told of the noise-free signals of 1000: no floor is taken from them."""

ORDER = 6

KAPPA = (0.5, 8.0)
"""Concentration of dispersed fibres: beyond, order 6 rings below zero along the fibres."""

Case = tuple["TissueState", dict[str, torch.Tensor]]
"""A state and what a fit should find."""


def uniform(n: int, low: float, high: float, rng: np.random.Generator) -> torch.Tensor:
    """(n,) numbers."""
    return torch.tensor(rng.uniform(low, high, n))


def watson_odf(kappa: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """ODF of Watson densities about random axes: (n,) -> (n, 28)."""
    from DMRIMicroLib.physics.sh import sh_basis, sh_degrees
    from DMRIMicroLib.physics.watson import watson_moments

    axis = rng.normal(size=(len(kappa), 3))
    axis = torch.tensor(axis / np.linalg.norm(axis, axis=1, keepdims=True))
    degree = sh_degrees(ORDER)[0] // 2
    return watson_moments(kappa, ORDER)[:, degree] * sh_basis(axis, ORDER)


def orientations(n: int, rng: np.random.Generator, dispersed: bool) -> torch.Tensor:
    """ODF of all directions alike, or of Watson densities that order 6 holds: (n, 28)."""
    kappa = uniform(n, *KAPPA, rng) if dispersed else torch.zeros(n, dtype=torch.float64)
    return watson_odf(kappa, rng)


def state(odf: torch.Tensor, **parts: torch.Tensor):
    """State with nothing but the parts that are named."""
    from DMRIMicroLib.physics.tissue import TissueState

    none = torch.zeros(len(odf), dtype=odf.dtype)
    names = ("neurite", "extra", "soma", "free", "dot", "d_neurite")
    names += ("d_extra_par", "d_extra_perp", "radius")
    return TissueState(**{k: parts.get(k, none) for k in names}, odf=odf)


def noddi(n: int, rng: np.random.Generator, sticks: bool = False) -> Case:
    """Sticks and tortuous surroundings, dispersed alike, with free water."""
    from DMRIMicroLib.physics.watson import kappa_from_odi

    ndi, odi, water = (uniform(n, *r, rng) for r in ((0.3, 0.8), (0.15, 0.7), (0.0, 0.4)))
    ndi = torch.ones_like(ndi) if sticks else ndi
    d = torch.full_like(ndi, NODDI_D)
    made = state(
        watson_odf(kappa_from_odi(odi), rng),
        neurite=(1 - water) * ndi,
        extra=(1 - water) * (1 - ndi),
        free=water,
        d_neurite=d,
        d_extra_par=d,
        d_extra_perp=(1 - ndi) * d,
    )
    return made, {"NDI": ndi, "ODI": odi, "FWF": water}


def smt(n: int, rng: np.random.Generator, dispersed: bool = False) -> Case:
    """One zeppelin."""
    along, across = uniform(n, 1.2, 2.5, rng), uniform(n, 0.2, 0.8, rng)
    one = torch.ones_like(along)
    odf = orientations(n, rng, dispersed)
    made = state(odf, extra=one, d_extra_par=along, d_extra_perp=across)
    return made, {"SMT_D_par": along, "SMT_D_perp": across}


def mcsmt(n: int, rng: np.random.Generator, dispersed: bool = False) -> Case:
    """Sticks in zeppelins of (1 - v) D across."""
    v, d = uniform(n, 0.2, 0.8, rng), uniform(n, 1.4, 2.4, rng)
    across = (1 - v) * d
    odf = orientations(n, rng, dispersed)
    made = state(odf, neurite=v, extra=1 - v, d_neurite=d, d_extra_par=d, d_extra_perp=across)
    return made, {"v_int": v, "D_int": d, "D_ext_perp": across}


def sandi(n: int, rng: np.random.Generator, dispersed: bool = False) -> Case:
    """Sticks, spheres, and surroundings that are the same along and across."""
    share = torch.tensor(rng.dirichlet([2.5, 2.0, 2.5], n))
    d_in, d_ec, radius = (uniform(n, *r, rng) for r in ((1.5, 2.5), (0.5, 1.2), (4.0, 12.0)))
    odf = orientations(n, rng, dispersed)
    made = state(
        odf,
        neurite=share[:, 0],
        soma=share[:, 1],
        extra=share[:, 2],
        d_neurite=d_in,
        d_extra_par=d_ec,
        d_extra_perp=d_ec,
        radius=radius,
    )
    told = {"f_neurite": share[:, 0], "f_soma": share[:, 1], "f_extra": share[:, 2]}
    return made, told | {"R_soma": radius, "D_in": d_in, "D_ec": d_ec}


def dti(n: int, rng: np.random.Generator) -> Case:
    """Zeppelins in one direction."""
    made, told = tensors(n, rng)
    return made, {k: told[k] for k in ("FA", "MD")}


def freewater(n: int, rng: np.random.Generator) -> Case:
    """Return the same beside free water."""
    from dataclasses import replace

    made, told = tensors(n, rng)
    water = uniform(n, 0.0, 0.6, rng)
    return replace(made, extra=1 - water, free=water), {"FW": water, "FA_t": told["FA"]}


def tensors(n: int, rng: np.random.Generator) -> Case:
    """Zeppelins along one axis: the density is a point, whose SH all have the moments 1.

    Order 6 holds the signal to 1e-5 where b times the difference of the diffusivities is below 1,
    as it is at the b-values of the tensor fit, hence the range.
    """
    across, more = uniform(n, 0.5, 0.9, rng), uniform(n, 0.1, 0.9, rng)
    along = across + more
    axis = watson_point(n, rng)
    made = state(axis, extra=torch.ones(n).double(), d_extra_par=along, d_extra_perp=across)
    mean = (along + 2 * across) / 3
    fa = more / torch.sqrt(along**2 + 2 * across**2)
    return made, {"FA": fa, "MD": mean * 1e-3}


def watson_point(n: int, rng: np.random.Generator) -> torch.Tensor:
    """ODF of fibres in one direction each: (n, 28)."""
    from DMRIMicroLib.physics.sh import sh_basis

    axis = rng.normal(size=(n, 3))
    return sh_basis(torch.tensor(axis / np.linalg.norm(axis, axis=1, keepdims=True)), ORDER)


CASES: dict[str, tuple[str, Callable[[int, np.random.Generator], Case], Callable]] = {
    "dti": ("dti", dti, hcp),
    "freewater": ("freewater", freewater, hcp),
    "smt": ("smt", smt, hcp),
    "smt, dispersed": ("smt", partial(smt, dispersed=True), hcp),
    "mcsmt": ("mcsmt", mcsmt, hcp),
    "mcsmt, dispersed": ("mcsmt", partial(mcsmt, dispersed=True), hcp),
    "sandi": ("sandi", sandi, soma),
    "sandi, dispersed": ("sandi", partial(sandi, dispersed=True), soma),
    "noddi, sticks": ("noddi", partial(noddi, sticks=True), hcp),
    "noddi": ("noddi", noddi, hcp),
}
"""Model, states that lie in it, and the protocol to see them with."""


def round_trip(case: str, n: int) -> dict:
    """Simulate, fit, compare: errors of each metric."""
    import DMRIMicroLib as dm
    from DMRIMicroLib.physics.tissue import signal

    model, make, protocol = CASES[case]
    acq = protocol()
    made, truth = make(n, np.random.default_rng(SEED))
    scan = synthetic(signal(made, acq).numpy(), acq, None, 0)
    maps = dm.fit(scan, model, device="cpu", sigma=QUIET)
    voxels = maps.provenance[model]["voxels"]
    told = {"voxels": n, "not_converged": voxels["not_converged"], "acquisition": acq.describe()}
    for name, true in truth.items():
        if name not in maps:
            continue
        off = np.abs(np.asarray(maps[name].data).ravel() - true.numpy())
        level = float(true.abs().median())
        told[name] = {
            "median_error": rounded(float(np.median(off))),
            "p90_error": rounded(float(np.percentile(off, 90))),
            "largest_error": rounded(float(off.max())),
            "typical_value": rounded(level),
        }
        if not math.isfinite(float(off.max())):
            told[name]["not_finite"] = int((~np.isfinite(off)).sum())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=500)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--name", default="brain_roundtrip", help="of the file under results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.name)
    for case in options.cases:
        told = round_trip(case, options.voxels)
        results.put(case, value=told)
        sys.stdout.write(f"{case}: {json.dumps(told)}\n")


if __name__ == "__main__":
    main()
