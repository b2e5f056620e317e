"""Tissue with known parameters, and its noise-free signal by brute force.

Nothing here uses the library's signal models: orientations are averaged by a plain product
quadrature in double precision, so an error in a model shows as a bias.

Parameters are drawn from what is reported of living human brains:

- NODDI: NDI 0.45-0.75 in white and 0.3-0.5 in grey matter, ODI 0.05-0.3 and 0.3-0.7 (H. Zhang et
  al., NeuroImage 61 (2012) 1000-1016; H. Fukutomi et al., NeuroImage 182 (2018) 488-499).
- Free water: mostly below 0.2, with a tail to 0.8 for partial volume with cerebrospinal fluid
  (O. Pasternak et al., Magn. Reson. Med. 62 (2009) 717-730).
- Tensors: MD 0.6-1.0 um2/ms, FA 0.1-0.85 (C. Pierpaoli et al., Radiology 201 (1996) 637-648).
- SMT: D_par 1.2-2.5, D_perp 0.2-0.8 um2/ms (E. Kaden et al., Magn. Reson. Med. 75 (2016)
  1752-1763). MC-SMT: v 0.2-0.8, D 1.4-2.4 (E. Kaden et al., NeuroImage 139 (2016) 346-359).
- SANDI: R 4-12 um, D_in 1.5-2.5, D_ec 0.5-1.2, f_soma up to 0.6 in grey matter (M. Palombo et al.,
  NeuroImage 215 (2020) 116835).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import spherical_jn

D_WATER = 3.0
"""Free water at body temperature [um2/ms]."""

WHITE, GREY = 0.5, 0.35
"""Shares of white and grey matter; the rest is tissue at the edge of cerebrospinal fluid."""

NODES = (40, 20)
"""Quadrature nodes in the cosine and in the azimuth; 80 and 40 change no signal by 1e-7."""

SPHERE_ROOTS = 60
"""Modes of a sphere; the rest is below 1e-6 of the diffusivity."""

LEAST = 0.1
"""Smallest eigenvalue of a tissue tensor [um2/ms]."""


@dataclass(frozen=True)
class Tissue:
    """Voxels of one model.

    Attributes
    ----------
    model : str
        The model that is to be fitted.
    truth : dict of metric name to (n,) array
        Empty where only the estimator defines it: `accuracy.truth_of` then gives it.
    signal : (n, m) array
        Noise-free, 1 without weighting.
    water : (n,) array
        Fraction of free water.
    """

    model: str
    truth: dict[str, np.ndarray]
    signal: np.ndarray
    water: np.ndarray


def draw_water(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Class of tissue (0 white, 1 grey, 2 at fluid) and fraction of free water, each (n,)."""
    kind = rng.choice(3, n, p=[WHITE, GREY, 1 - WHITE - GREY])
    tissue = 0.2 * rng.beta(1, 3, n)
    return kind, np.where(kind == 2, rng.uniform(0.2, 0.8, n), tissue)


def directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform unit vectors: (n, 3)."""
    v = rng.normal(size=(n, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def by_class(kind: np.ndarray, rng: np.random.Generator, *ranges: tuple) -> np.ndarray:
    """Uniform values within the range of each voxel's class."""
    low, high = np.array(ranges).T
    return rng.uniform(low[kind], high[kind])


def noddi(acq, n: int, rng: np.random.Generator) -> Tissue:
    """Watson-dispersed sticks, hindered tissue under tortuosity, free water."""
    kind, water = draw_water(n, rng)
    ndi = by_class(kind, rng, (0.45, 0.8), (0.3, 0.5), (0.3, 0.8))
    odi = by_class(kind, rng, (0.05, 0.3), (0.3, 0.7), (0.05, 0.7))
    signal = noddi_signal(acq, ndi, odi, water, directions(n, rng))
    return Tissue("noddi", {"NDI": ndi, "ODI": odi, "FWF": water}, signal, water)


def noddi_signal(acq, ndi, odi, water, mu, d=1.7) -> np.ndarray:
    """Signal of NODDI's tissue: (n,) parameters, (n, 3) axes -> (n, m)."""
    b, cos = acq.bvals / 1e3, mu @ acq.bvecs.T
    kappa = 1 / np.tan(np.pi / 2 * odi)
    sticks = dispersed(b, cos, kappa, d, np.zeros(len(ndi)))
    across = d * (1 - ndi)
    tau = mean_square_cosine(kappa)
    along = across + (d - across) * tau
    beside = across + (d - across) * (1 - tau) / 2
    extra = np.exp(-b * (beside[:, None] + (along - beside)[:, None] * cos**2))
    tissue = ndi[:, None] * sticks + (1 - ndi)[:, None] * extra
    return (1 - water)[:, None] * tissue + water[:, None] * np.exp(-b * D_WATER)


def smt(acq, n: int, rng: np.random.Generator) -> Tissue:
    """Identical microscopic tensors of any orientation distribution."""
    along, across = rng.uniform(1.2, 2.5, n), rng.uniform(0.2, 0.8, n)
    signal = zeppelins(acq, along, across, rng)
    micro = anisotropy(np.stack([along, across, across], 1))
    truth = {"SMT_D_par": along, "SMT_D_perp": across, "uFA": micro}
    return Tissue("smt", truth, signal, np.zeros(n))


def mcsmt(acq, n: int, rng: np.random.Generator) -> Tissue:
    """Sticks in zeppelins of one intrinsic diffusivity."""
    v, d = rng.uniform(0.2, 0.8, n), rng.uniform(1.4, 2.4, n)
    state = rng.bit_generator.state
    inside = zeppelins(acq, d, np.zeros(n), rng)
    rng.bit_generator.state = state  # the same orientations again
    outside = zeppelins(acq, d, (1 - v) * d, rng)
    signal = v[:, None] * inside + (1 - v)[:, None] * outside
    truth = {"v_int": v, "D_int": d, "D_ext_perp": (1 - v) * d}
    return Tissue("mcsmt", truth, signal, np.zeros(n))


def sandi(acq, n: int, rng: np.random.Generator) -> Tissue:
    """Sticks, spheres and a ball."""
    share = rng.dirichlet([2.5, 2.0, 2.5], n)  # neurites, somas, the rest
    d_in, d_ec = rng.uniform(1.5, 2.5, n), rng.uniform(0.5, 1.2, n)
    radius = rng.uniform(4, 12, n)
    b = acq.bvals / 1e3
    sticks = zeppelins(acq, d_in, np.zeros(n), rng)
    somas = np.exp(-b * sphere_diffusivity(radius, 3.0, acq.delta, acq.Delta)[:, None])
    signal = share[:, :1] * sticks + share[:, 1:2] * somas
    signal += share[:, 2:] * np.exp(-b * d_ec[:, None])
    truth = {"f_neurite": share[:, 0], "f_soma": share[:, 1], "R_soma": radius}
    return Tissue("sandi", truth, signal, np.zeros(n))


def freewater(acq, n: int, rng: np.random.Generator) -> Tissue:
    """One tensor beside free water."""
    _, water = draw_water(n, rng)
    values = draw_tensor(n, rng)
    frames = np.stack([np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(n)])
    signal = np.exp(-tensor_exponent(acq, values, frames))
    free = np.exp(-acq.bvals / 1e3 * D_WATER)
    signal = (1 - water)[:, None] * signal + water[:, None] * free
    return Tissue("freewater", {"FW": water, "FA_t": anisotropy(values)}, signal, water)


def mixed(acq, n: int, rng: np.random.Generator) -> Tissue:
    """Tissue that no fitted model generates, for estimators such as DTI, DKI and MAP-MRI.

    Half NODDI's tissue, half two crossing fibres (each sticks in zeppelins) beside free water.
    """
    first = noddi(acq, n - n // 2, rng)
    _, water = draw_water(n // 2, rng)
    share = rng.uniform(0.3, 0.7, n // 2)[:, None]
    d, v = rng.uniform(1.5, 2.2, n // 2), rng.uniform(0.3, 0.7, n // 2)
    crossing = np.zeros_like(first.signal[: n // 2])
    for part in (share, 1 - share):
        mu, kappa = directions(n // 2, rng), np.full(n // 2, 16.0)
        b, cos = acq.bvals / 1e3, mu @ acq.bvecs.T
        sticks = dispersed(b, cos, kappa, d, np.zeros_like(d))
        outside = dispersed(b, cos, kappa, d, (1 - v) * d)
        crossing += part * (v[:, None] * sticks + (1 - v)[:, None] * outside)
    free = np.exp(-acq.bvals / 1e3 * D_WATER)
    crossing = (1 - water)[:, None] * crossing + water[:, None] * free
    signal = np.concatenate([first.signal, crossing])
    return Tissue("", {}, signal, np.concatenate([first.water, water]))


KINDS = {"noddi": noddi, "smt": smt, "mcsmt": mcsmt, "sandi": sandi, "freewater": freewater}


def zeppelins(acq, along: np.ndarray, across: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zeppelins dispersed about one random axis a voxel: (n, m)."""
    n = len(along)
    cos = directions(n, rng) @ acq.bvecs.T
    kappa = 1 / np.tan(np.pi / 2 * rng.uniform(0.05, 0.7, n))
    return dispersed(acq.bvals / 1e3, cos, kappa, along, across)


def dispersed(b, cos, kappa, along, across) -> np.ndarray:
    """Mean signal of zeppelins in a Watson distribution.

    Parameters
    ----------
    b : (m,) array
        [ms/um2]
    cos : (n, m) array
        Cosine between gradients and the axis.
    kappa, along, across : (n,) arrays
        Concentration and diffusivities [um2/ms].
    """
    t, weight = polar(kappa)
    azimuth = np.cos((np.arange(NODES[1]) + 0.5) / NODES[1] * np.pi)
    b, cos = torch.tensor(b), torch.tensor(np.broadcast_to(cos, (len(kappa), len(b))).copy())
    sin = (1 - cos.square()).clamp(min=0).sqrt()
    along, across = (torch.tensor(np.broadcast_to(d, len(kappa)).copy()) for d in (along, across))
    steep = -b * (along - across)[:, None]
    total = torch.zeros_like(cos)
    for k, tk in enumerate(t):
        part = torch.zeros_like(cos)
        for a in azimuth * (1 - tk * tk) ** 0.5:
            part += (cos * tk + sin * a).square_().mul_(steep).exp_()
        total += part * torch.tensor(weight[:, k : k + 1] / NODES[1])
    return (total * torch.exp(-b * across[:, None])).numpy()


def polar(kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in the cosine to the axis (k,), and weights of the Watson density (n, k)."""
    x, w = np.polynomial.legendre.leggauss(NODES[0])
    t = (x + 1) / 2
    weight = w * np.exp(np.asarray(kappa)[:, None] * (t**2 - 1))
    return t, weight / weight.sum(1, keepdims=True)


def mean_square_cosine(kappa: np.ndarray) -> np.ndarray:
    """Return tau of NODDI, <cos2>: (n,)."""
    t, weight = polar(kappa)
    return weight @ t**2


def sphere_diffusivity(radius, d: float, delta: float, Delta: float) -> np.ndarray:
    """Apparent diffusivity in spheres, written as Murday and Cotts (1968) print it: (n,).

    Their roots are found by bracketing, and nothing is rearranged.
    """
    slope = lambda x: spherical_jn(1, x, derivative=True)  # noqa: E731
    edges = np.arange(SPHERE_ROOTS + 1) * np.pi + 1e-6
    mu = np.array([brentq(slope, lo, hi) for lo, hi in pairwise(edges)])
    squared = (mu[:, None] / radius) ** 2  # alpha_m^2
    x = squared * d
    echo = 2 + np.exp(-x * (Delta - delta)) - 2 * np.exp(-x * delta) - 2 * np.exp(-x * Delta)
    echo += np.exp(-x * (Delta + delta))
    terms = (2 * delta - echo / x) / (x * squared * (mu[:, None] ** 2 - 2))
    return 2 * terms.sum(0) / (delta**2 * (Delta - delta / 3))


def draw_tensor(n: int, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues (n, 3) [um2/ms] of tensors that are not all axially symmetric."""
    fa, mean = rng.uniform(0.1, 0.85, n), rng.uniform(0.6, 1.0, n)
    # deviations from the mean, perpendicular to (1, 1, 1), from prolate to somewhat triaxial
    angle = rng.uniform(0, np.pi / 9, n)
    prolate, triaxial = np.array([2.0, -1, -1]) / 6**0.5, np.array([0, 1.0, -1]) / 2**0.5
    shape = np.cos(angle)[:, None] * prolate + np.sin(angle)[:, None] * triaxial
    # FA^2 = 3/2 |dev|^2 / (|dev|^2 + 3 mean^2)
    size = mean * np.sqrt(3 * fa**2 / (1.5 - fa**2))
    return (mean[:, None] + size[:, None] * shape).clip(LEAST)


def anisotropy(values: np.ndarray) -> np.ndarray:
    """FA of tensors with these eigenvalues: (n, 3) -> (n,)."""
    spread = ((values - values.mean(1, keepdims=True)) ** 2).sum(1)
    return np.sqrt(1.5 * spread / (values**2).sum(1))


def tensor_exponent(acq, values: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return b g'Dg: eigenvalues (n, 3), axes in columns (n, 3, 3) -> (n, m)."""
    along = np.einsum("mi,nij->nmj", acq.bvecs, frames) ** 2
    return acq.bvals / 1e3 * np.einsum("nmj,nj->nm", along, values)
