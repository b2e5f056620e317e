"""The first two years: more water, fewer and thinner neurites, a smaller head.

J. Dubois et al., Neuroscience 276 (2014) 48-71, review the course: diffusivity falls and anisotropy
rises fast in the first year and slowly after it, from the centre to the periphery. Values at term
are those of P. Mukherjee et al., Radiology 221 (2001) 349-358 (diffusivity) and N. Kunz et al.,
NeuroImage 96 (2014) 288-299 (neurite fraction).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..errors import InputError
from .anatomy import CLASSES
from .values import PARAMETERS, middle_and_half

MONTHS = (0.0, 24.0)
"""Ages that this describes [months]."""

TIME_CONSTANT = 8.0
"""Months after which 63 % of the change from newborn to adult is done (range 6 to 12 by region;
Dubois et al.)."""

HEAD_START = 5.0
"""Months by which the middle of the head is ahead of its surface (chosen: the posterior limb of
the internal capsule is myelinated at term, the frontal poles at about half a year)."""

HEAD_RADIUS = 75.0
"""Distance from the middle of an adult's head to the surface of the brain [mm], about."""

CIRCUMFERENCE = ((0.0, 34.2), (3.0, 40.0), (6.0, 42.8), (12.0, 45.5), (18.0, 46.8), (24.0, 47.7))
"""Age [months] and circumference of the head [cm], mean of girls and boys (WHO Child Growth
Standards, Geneva 2007)."""

ADULT_CIRCUMFERENCE = 56.0
"""[cm] (K. M. Bushby et al., Arch. Dis. Child. 67 (1992) 1286-1287)."""

NEWBORN: dict[str, dict[str, tuple[float, float]]] = {
    "white": {
        "neurite": (0.12, 0.28),
        "soma": (0.0, 0.06),
        "free": (0.05, 0.16),
        "d_neurite": (1.8, 2.4),
        "d_extra_par": (1.8, 2.4),
        "perp_ratio": (0.50, 0.75),
        "odi": (0.05, 0.32),
    },
    "cortex": {
        "neurite": (0.10, 0.20),
        "soma": (0.02, 0.12),
        "free": (0.03, 0.12),
        "d_extra_par": (1.4, 2.0),
        "radius": (4.0, 8.0),
    },
    "deep": {
        "neurite": (0.14, 0.28),
        "soma": (0.02, 0.12),
        "free": (0.02, 0.10),
        "d_extra_par": (1.4, 1.9),
        "perp_ratio": (0.65, 0.85),
    },
}
"""Ranges at term that differ from an adult's; units as in `values.PARAMETERS`."""


def check_age(months: float) -> None:
    """Raise InputError unless an age lies in `MONTHS`."""
    if not MONTHS[0] <= months <= MONTHS[1]:
        raise InputError(
            f"an age of {months:g} months", "Give 0 to 24 months, or none for an adult."
        )


def head_size(months: float) -> float:
    """Circumference of the head over an adult's."""
    check_age(months)
    for (before, small), (after, large) in pairwise(CIRCUMFERENCE):
        if months <= after:
            share = (months - before) / (after - before)
            return (small + share * (large - small)) / ADULT_CIRCUMFERENCE
    raise AssertionError  # check_age let no greater age through


def maturity(months: float, from_middle: Tensor) -> Tensor:
    """How much of the way from newborn to adult is done, 0 to 1.

    Parameters
    ----------
    months : float
        Age.
    from_middle : (n,) tensor
        Distance from the middle of the head, in a head of adult size [mm].
    """
    ahead = HEAD_START * (1 - (from_middle / HEAD_RADIUS).clamp(0, 1))
    return 1 - torch.exp(-(months + ahead) / TIME_CONSTANT)


def newborn_middle_and_half(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Middle and half width of every range at term: two (classes, parameters) tensors."""
    middle, half = middle_and_half(device)
    for c, changed in NEWBORN.items():
        for name, (low, high) in changed.items():
            at = CLASSES.index(c), PARAMETERS.index(name)
            middle[at], half[at] = (low + high) / 2, (high - low) / 2
    return middle, half
