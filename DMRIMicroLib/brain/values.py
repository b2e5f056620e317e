"""What tissue is made of: ranges from the literature, by class and by bundle.

Ranges are those of healthy adults at body temperature. Where a paper gives a mean and a spread the
range is about two standard deviations; "range chosen" says that no one paper gives it, and that it
was set so that tensor and NODDI maps of the simulated brain look like those of real ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .anatomy import CLASSES

PARAMETERS = (
    "neurite",
    "soma",
    "free",
    "dot",
    "d_neurite",
    "d_extra_par",
    "perp_ratio",
    "radius",
    "odi",
    "isotropic",
    "tangential",
)
"""Parameters that vary: signal fractions (the space around neurites is the rest), diffusivities
[um2/ms], D_e_perp / D_e_par, soma radius [um], orientation dispersion index, share of neurites
without any preferred direction, share of them that runs along the cortical surface."""


@dataclass(frozen=True)
class Range:
    """Where a parameter lies in healthy adults.

    Attributes
    ----------
    low, high : float
    source : str
    """

    low: float
    high: float
    source: str


_NOVIKOV = "Novikov, Veraart, Jelescu, Fieremans, NeuroImage 174 (2018) 518-538"
_VERAART = "Veraart, Novikov, Fieremans, NeuroImage 182 (2018) 360-369"
_DHITAL = "Dhital, Reisert, Kellner, Kiselev, NeuroImage 189 (2019) 543-550"
_PALOMBO = "Palombo et al., NeuroImage 215 (2020) 116835"
_FUKUTOMI = "Fukutomi et al., NeuroImage 182 (2018) 488-499"
_ZHANG = "Zhang, Schneider, Wheeler-Kingshott, Alexander, NeuroImage 61 (2012) 1000-1016"
_TAX = "Tax et al., NeuroImage 210 (2020) 116534: still water is below 2 % of white matter's signal"
_MCNAB = "McNab et al., NeuroImage 69 (2013) 87-100: radial in the cortex, less so in S1"
_CHOSEN = "range chosen"
_MOVED = ", moved towards the maps of real scans"
_SHIFTED = "; moved by up to 0.08 towards the maps of real scans"

RANGES: dict[str, dict[str, Range]] = {
    "white": {
        "neurite": Range(0.40, 0.66, _NOVIKOV),
        "soma": Range(0.0, 0.08, _PALOMBO + " (soma signal is low in white matter)"),
        "free": Range(0.0, 0.05, _ZHANG),
        "dot": Range(0.0, 0.01, _TAX),
        "d_neurite": Range(1.8, 2.6, _DHITAL + "; " + _VERAART),
        "d_extra_par": Range(1.5, 2.2, _NOVIKOV),
        "perp_ratio": Range(0.30, 0.54, _NOVIKOV + _SHIFTED),
        "radius": Range(4.0, 8.0, _CHOSEN),
        "odi": Range(0.07, 0.43, _ZHANG + _SHIFTED),
        "isotropic": Range(0.0, 0.08, _CHOSEN),
        "tangential": Range(0.0, 0.0, "of cortex only"),
    },
    "cortex": {
        "neurite": Range(0.12, 0.26, _FUKUTOMI + _SHIFTED),
        "soma": Range(0.04, 0.16, _PALOMBO + " (0.2 to 0.4; lower here, for maps of real scans)"),
        "free": Range(0.0, 0.05, _ZHANG),
        "dot": Range(0.0, 0.008, _CHOSEN),
        "d_neurite": Range(1.7, 2.6, _PALOMBO + " (2 to 3 um2/ms)"),
        "d_extra_par": Range(1.10, 1.55, _CHOSEN + _MOVED),
        "perp_ratio": Range(0.58, 0.82, _CHOSEN + _MOVED),
        "radius": Range(5.0, 12.0, _PALOMBO),
        "odi": Range(0.12, 0.40, _FUKUTOMI + " (of the whole: 0.3 to 0.6)"),
        "isotropic": Range(0.0, 0.20, _CHOSEN),
        "tangential": Range(0.0, 0.30, _MCNAB),
    },
    "deep": {
        "neurite": Range(0.26, 0.42, _ZHANG),
        "soma": Range(0.05, 0.18, _CHOSEN),
        "free": Range(0.0, 0.05, _CHOSEN),
        "dot": Range(0.0, 0.01, _CHOSEN),
        "d_neurite": Range(1.7, 2.5, _CHOSEN),
        "d_extra_par": Range(1.2, 1.7, _CHOSEN),
        "perp_ratio": Range(0.55, 0.80, _CHOSEN),
        "radius": Range(5.0, 11.0, _CHOSEN),
        "odi": Range(0.12, 0.45, _CHOSEN),
        "isotropic": Range(0.0, 0.25, _CHOSEN),
        "tangential": Range(0.0, 0.0, "of cortex only"),
    },
    "csf": {
        "neurite": Range(0.0, 0.0, "cerebrospinal fluid is free water"),
        "soma": Range(0.0, 0.0, "cerebrospinal fluid is free water"),
        "free": Range(0.96, 1.0, _CHOSEN + ": membranes and vessels"),
        "dot": Range(0.0, 0.0, "cerebrospinal fluid is free water"),
        "d_neurite": Range(2.0, 2.4, "of no consequence: no neurites"),
        "d_extra_par": Range(1.8, 2.6, _CHOSEN),
        "perp_ratio": Range(0.9, 1.0, _CHOSEN),
        "radius": Range(6.0, 10.0, "of no consequence: no somas"),
        "odi": Range(1.0, 1.0, "no fibres"),
        "isotropic": Range(1.0, 1.0, "no fibres"),
        "tangential": Range(0.0, 0.0, "of cortex only"),
    },
}
"""Ranges by class of `anatomy.CLASSES` and parameter."""

BUNDLES: dict[str, dict[str, float]] = {
    "CC": {"odi": -0.6, "neurite": 0.4},
    "CST": {"odi": -0.3, "neurite": 0.4},
    "PYT": {"odi": -0.3, "neurite": 0.4},
    "FPT": {"odi": -0.2, "neurite": 0.3},
    "POPT": {"odi": -0.2, "neurite": 0.3},
    "MCP": {"odi": -0.3, "neurite": 0.4},
    "IFOF": {"odi": -0.1},
    "OR": {"neurite": 0.2},
    "CG": {"odi": -0.2, "neurite": -0.1},
    "FX": {"neurite": -0.4, "free": 0.6},
    "UF": {"odi": 0.3, "neurite": -0.3},
    "SLF": {"odi": 0.2},
    "AF": {"odi": 0.2},
}
"""Where a bundle, known by how its name begins, lies in the range of white matter: 0 its middle, 1
three quarters of the way to an end. Commissural and projection fibres are dense and parallel,
limbic and association fibres less so (H. Zhang et al. (2012), figure 6, for the order; sizes
chosen)."""

DENSITY_TO_TORTUOSITY = -0.5
"""Denser neurites leave a more tortuous space: the part of a deviation of the neurite fraction
that D_e_perp / D_e_par takes over (the sign is that of A. Szafer, J. Zhong, J. C. Gore, Magn.
Reson. Med. 33 (1995) 697-712; size chosen)."""


def middle_and_half(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Middle and half width of every range: two (classes, parameters) tensors."""
    ends = torch.tensor(
        [[(RANGES[c][p].low, RANGES[c][p].high) for p in PARAMETERS] for c in CLASSES],
        device=device,
    )
    return ends.mean(-1), (ends[..., 1] - ends[..., 0]) / 2


def bundle_offsets(names: tuple[str, ...]) -> Tensor:
    """Deviation of each bundle label, 0 first: -> (labels + 1, parameters)."""
    table = torch.zeros(len(names) + 1, len(PARAMETERS))
    for label, name in enumerate(names, start=1):
        # the longest beginning wins, so that "CC_Fr" may be told from "CC"
        known = max((k for k in BUNDLES if name.startswith(k)), key=len, default=None)
        for parameter, offset in BUNDLES.get(known or "", {}).items():
            table[label, PARAMETERS.index(parameter)] = offset
    return table


def within(deviation: Tensor, middle: Tensor, half: Tensor) -> Tensor:
    """Parameter from a deviation of any size: 0 is the middle, the ends are never passed."""
    return middle + half * torch.tanh(deviation)
