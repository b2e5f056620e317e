"""Noise-free signals of our models against independent programs and brute force.

Conventions of each oracle:

- quadrature: `_tissue`, a product rule over all orientations in double precision; the hindered
  part of NODDI is one tensor averaged over the Watson distribution (Zhang et al. 2012, eq. 8).
- AMICO (2.1.1): the NODDI toolbox's series. Sticks in Legendre polynomials up to degree 12, with
  rational approximations of their Watson coefficients; the hindered part as above. Its table of a
  sphere's roots holds 116.22 twice and leaves out 160.2 and 163.4. Its signals are computed at the
  b-values of a virtual scanner (G = 40 mT/m), which equal the given ones.
- dmipy-fit: sticks in a Watson distribution by spherical harmonics, whose degree it takes from b
  and ODI (at most 14). Its NODDI disperses the hindered zeppelin's signal, not its tensor, so only
  the sticks are compared. Spheres by the diameter, with 100 roots.
"""

from __future__ import annotations

import importlib.util

import _amico
import _tissue
import numpy as np
import torch
from _common import HCP_TIMING, rounded, shells

MM2_S = 1e-3
"""1 um2/ms in mm2/s, AMICO's unit."""

M2_S = 1e-9
"""1 um2/ms in m2/s, dmipy's unit."""

ODI = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
CONES = 400
"""Nodes of the orientation average of spherical means."""


def protocol():
    """Three shells to b = 3000, with the HCP's timing."""
    return shells({1000.0: 30, 2000.0: 30, 3000.0: 30}, b0=1, **HCP_TIMING)


def worst(ours, theirs, keep=slice(None)) -> float:
    """Largest difference, to three digits."""
    return rounded(float(np.abs(np.asarray(ours) - np.asarray(theirs))[..., keep].max()), 3)


def noddi() -> dict:
    """Compare NODDI: all of it by quadrature and AMICO, its sticks with dmipy-fit."""
    from DMRIMicroLib.models import get

    acq, odi = protocol(), np.array(ODI)
    ndi, water = np.linspace(0.1, 0.9, len(odi)), np.linspace(0.7, 0, len(odi))
    mu = np.tile([0.0, 0, 1], (len(odi), 1))
    model, one = get("noddi"), np.ones_like(odi)
    full = torch.tensor(np.stack([ndi, odi, water, *mu.T, one]))
    sticks = torch.tensor(np.stack([one, odi, 0 * one, *mu.T, one]))
    ours = model.signal(acq, full).numpy().T
    out = {"quadrature": worst(ours, _tissue.noddi_signal(acq, ndi, odi, water, mu))}
    if _amico.available():
        theirs = _amico_noddi(acq, ndi, odi, water)
        out["AMICO"] = {
            f"ODI {o:g}": worst(a, b, ~acq.is_b0) for o, a, b in zip(odi, ours, theirs, strict=True)
        }
    if importlib.util.find_spec("dmipy_fit"):
        theirs = _dmipy_sticks(acq, odi)
        ours = model.signal(acq, sticks).numpy().T
        out["dmipy-fit, sticks"] = {
            f"ODI {o:g}": worst(a, b) for o, a, b in zip(odi, ours, theirs, strict=True)
        }
    return out


def _amico_noddi(acq, ndi, odi, water) -> np.ndarray:
    import amico

    table = np.column_stack([acq.bvecs, acq.bvals])
    # AMICO turns directions in place
    inside, outside, free = (
        kind(amico.scheme.Scheme(table.copy()))
        for kind in (
            amico.synthesis.NODDIIntraCellular,
            amico.synthesis.NODDIExtraCellular,
            amico.synthesis.NODDIIsotropic,
        )
    )
    kappa = 1 / np.tan(np.pi / 2 * odi)
    rows = []
    for v, k, f in zip(ndi, kappa, water, strict=True):
        tissue = v * inside.get_signal(1.7 * MM2_S, float(k))
        tissue += (1 - v) * outside.get_signal(1.7 * MM2_S, float(k), float(v))
        rows.append((1 - f) * tissue + f * free.get_signal(3.0 * MM2_S))
    return np.stack(rows)


def _dmipy_scheme(acq):
    from dmipy_fit.core.acquisition_scheme import acquisition_scheme_from_bvalues

    directions = np.where(acq.is_b0[:, None], [1.0, 0, 0], acq.bvecs)
    return acquisition_scheme_from_bvalues(
        acq.bvals * 1e6, directions, acq.delta * 1e-3, acq.Delta * 1e-3
    )


def _dmipy_sticks(acq, odi) -> np.ndarray:
    from dmipy_fit.distributions.distribute_models import SD1WatsonDistributed
    from dmipy_fit.signal_models.cylinder_models import C1Stick

    scheme, model = _dmipy_scheme(acq), SD1WatsonDistributed([C1Stick(lambda_par=1.7 * M2_S)])
    names = {"mu": np.array([0.0, 0]), "lambda_par": 1.7 * M2_S}
    known = {n: v for n in model.parameter_names for k, v in names.items() if n.endswith(k)}
    (dispersion,) = (n for n in model.parameter_names if n.endswith("odi"))
    return np.stack([model(scheme, **known, **{dispersion: o}) for o in odi])


def means() -> dict:
    """Compare the models of spherical means: the average over all directions, by quadrature."""
    from DMRIMicroLib.models import get

    powder, n = protocol().powder(), 40
    rng, one = np.random.default_rng(0), np.ones(n)
    d, ratio, v = rng.uniform(1.0, 3, n), rng.uniform(0, 1, n), rng.uniform(0, 1, n)
    f_ec, f_is, radius = rng.uniform(0, 1, n), rng.uniform(0, 1, n), rng.uniform(2, 12, n)
    d_ec = rng.uniform(0.5, 3, n)
    b = powder.bvals / 1e3

    def cone(along, across):
        t, weight = np.polynomial.legendre.leggauss(CONES)
        spread = across[:, None, None] + (along - across)[:, None, None] * t**2
        return (np.exp(-b[:, None] * spread) * weight / 2).sum(-1)

    share = [a[:, None] for a in (v, f_ec, f_is)]
    somas = np.exp(
        -b * _tissue.sphere_diffusivity(radius, 3.0, powder.delta, powder.Delta)[:, None]
    )
    cells = (1 - share[2]) * cone(d, 0 * d) + share[2] * somas
    expected = {
        "smt": ([d, ratio, one], cone(d, ratio * d)),
        "mcsmt": (
            [v, d, one],
            share[0] * cone(d, 0 * d) + (1 - share[0]) * cone(d, (1 - v) * d),
        ),
        "sandi": (
            [f_ec, f_is, d, radius, d_ec, one],
            (1 - share[1]) * cells + share[1] * np.exp(-b * d_ec[:, None]),
        ),
    }
    out = {}
    for name, (parameters, truth) in expected.items():
        ours = get(name).signal(powder, torch.tensor(np.stack(parameters))).numpy().T
        out[name] = {"quadrature": worst(ours, truth)}
    if _amico.available():
        out["sandi"]["AMICO, spheres"] = _amico_spheres(protocol())
    if importlib.util.find_spec("dmipy_fit"):
        _dmipy_means(powder, out)
    return out


def _amico_spheres(acq) -> dict:
    import amico

    from DMRIMicroLib.physics.compartments import sphere

    rows = _amico.scheme(acq, timing=True).splitlines()[1:]
    table = amico.scheme.Scheme(np.array([row.split() for row in rows], float))
    model, b = amico.synthesis.SphereGPD(table), torch.tensor(acq.bvals / 1e3)
    out = {}
    for radius in (2.0, 5.0, 8.0, 11.0):
        theirs = model.get_signal(3.0 * MM2_S, radius * 1e-6)
        out[f"R {radius:g}"] = worst(sphere(b, radius, 3.0, acq.delta, acq.Delta).numpy(), theirs)
    return out


def _dmipy_means(powder, out: dict) -> None:
    from dmipy_fit.signal_models.cylinder_models import C1Stick
    from dmipy_fit.signal_models.gaussian_models import G2Zeppelin
    from dmipy_fit.signal_models.sphere_models import S4SphereGaussianPhaseApproximation

    from DMRIMicroLib.physics.compartments import sphere, stick_mean, zeppelin_mean

    scheme, b = _dmipy_scheme(protocol()), torch.tensor(powder.bvals / 1e3)
    d = {"lambda_par": 1.9 * M2_S}
    theirs = C1Stick().spherical_mean(scheme, **d)
    out["sandi"]["dmipy-fit, sticks"] = worst(stick_mean(b, 1.9), theirs)
    theirs = G2Zeppelin().spherical_mean(scheme, **d, lambda_perp=0.4 * M2_S)
    out["smt"]["dmipy-fit"] = worst(zeppelin_mean(b, 1.9, 0.4), theirs)
    mixed = 0.6 * C1Stick().spherical_mean(scheme, **d)
    mixed += 0.4 * G2Zeppelin().spherical_mean(scheme, **d, lambda_perp=0.4 * 1.9 * M2_S)
    ours = 0.6 * stick_mean(b, 1.9) + 0.4 * zeppelin_mean(b, 1.9, 0.4 * 1.9)
    out["mcsmt"]["dmipy-fit"] = worst(ours, mixed)
    ball = S4SphereGaussianPhaseApproximation(diffusion_constant=3.0 * M2_S)
    acq = protocol()
    out["sandi"]["dmipy-fit, spheres"] = {}
    for radius in (2.0, 5.0, 8.0, 11.0):
        theirs = ball(scheme, diameter=2 * radius * 1e-6)
        ours = sphere(torch.tensor(acq.bvals / 1e3), radius, 3.0, acq.delta, acq.Delta).numpy()
        out["sandi"]["dmipy-fit, spheres"][f"R {radius:g}"] = worst(ours, theirs)
