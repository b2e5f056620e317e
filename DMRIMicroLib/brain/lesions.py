"""What disease does to tissue: strokes, tumours, demyelination.

A lesion is drawn (random numbers), placed in a head (`placing`) and applied to a tissue state. In
the state a lesion replaces some of the tissue by another mixture, changes diffusivities, and takes
the order out of the fibres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .fields import Field, draw_field
from .volume import StateVolume

KINDS = (
    "none",
    "stroke_acute",
    "stroke_subacute",
    "stroke_chronic",
    "tumour_core",
    "tumour_necrosis",
    "tumour_infiltration",
    "oedema",
    "demyelination",
)
"""What a voxel can be; the numbers are those of `StateVolume.lesion`."""

LESIONS = ("stroke_acute", "stroke_subacute", "stroke_chronic", "tumour", "demyelination")
"""Lesions that can be asked for; "stroke" is any of the three stages."""

FRACTIONS = ("neurite", "extra", "soma", "free", "dot")
DIFFUSIVITIES = ("d_neurite", "d_extra_par", "d_extra_perp", "radius")
ORDER = "order"

NUMBERS = 128
"""Uniform random numbers that a lesion has for its place and size."""

RAGGED = 12.0
"""Distance of the control points of a lesion's border [mm]."""


@dataclass(frozen=True)
class Effect:
    """Ranges of what a kind of lesion does where it is complete.

    Attributes
    ----------
    keep : (low, high)
        Share of the tissue that is left.
    instead : mapping of fraction to share
        What the rest becomes; sums to 1.
    factors : mapping of parameter to (low, high)
        Of diffusivities, of the soma radius and of the ODF's coefficients above degree 0
        (``"order"``); 1 where not named.
    source : str
    """

    keep: tuple[float, float]
    instead: dict[str, float]
    factors: dict[str, tuple[float, float]]
    source: str


EFFECTS: dict[str, Effect] = {
    "stroke_acute": Effect(
        (0.5, 0.75),
        {"neurite": 0.55, "soma": 0.32, "extra": 0.11, "dot": 0.02},
        {
            "d_neurite": (0.40, 0.60),
            "d_extra_par": (0.45, 0.65),
            "d_extra_perp": (0.40, 0.60),
            "radius": (1.0, 1.2),
        },
        "C. H. Sotak, NMR Biomed. 15 (2002) 561-569: ADC falls by 40 to 50 %, cells swell; M. D. "
        "Budde, J. A. Frank, PNAS 107 (2010) 14472-14477: neurites bead",
    ),
    "stroke_subacute": Effect(
        (0.45, 0.7),
        {"neurite": 0.25, "soma": 0.2, "extra": 0.35, "free": 0.2},
        {
            "d_neurite": (0.70, 0.90),
            "d_extra_par": (0.80, 1.00),
            "d_extra_perp": (0.90, 1.20),
            ORDER: (0.60, 0.85),
        },
        "G. Schlaug et al., Neurology 49 (1997) 113-119: ADC returns to normal within 7 to 14 days",
    ),
    "stroke_chronic": Effect(
        (0.1, 0.35),
        {"neurite": 0.04, "soma": 0.04, "extra": 0.27, "free": 0.65},
        {"d_extra_par": (1.0, 1.2), "d_extra_perp": (1.2, 1.6), ORDER: (0.3, 0.6)},
        "Schlaug et al. (1997): ADC well above normal; cavitation",
    ),
    "tumour_core": Effect(
        (0.1, 0.3),
        {"neurite": 0.03, "soma": 0.12, "extra": 0.63, "free": 0.22},
        {
            "d_neurite": (0.7, 0.9),
            "d_extra_par": (0.9, 1.15),
            "d_extra_perp": (1.5, 2.1),
            "radius": (0.8, 1.1),
            ORDER: (0.2, 0.5),
        },
        "range chosen: ADC 1.0 to 1.4 um2/ms, anisotropy low",
    ),
    "tumour_necrosis": Effect(
        (0.0, 0.05),
        {"soma": 0.01, "extra": 0.14, "free": 0.85},
        {"d_extra_par": (1.1, 1.3), "d_extra_perp": (1.6, 2.2), ORDER: (0.0, 0.2)},
        "range chosen: ADC 1.8 to 2.5 um2/ms",
    ),
    "tumour_infiltration": Effect(
        (0.5, 0.75),
        {"neurite": 0.10, "soma": 0.12, "extra": 0.60, "free": 0.18},
        {"d_extra_perp": (1.1, 1.3), ORDER: (0.6, 0.85)},
        "range chosen: S. Price et al., Eur. Radiol. 17 (2007) 1675-1684 see lower anisotropy",
    ),
    "oedema": Effect(
        (0.15, 0.4),
        {"neurite": 0.06, "soma": 0.02, "extra": 0.62, "free": 0.3},
        {"d_extra_par": (1.05, 1.25), "d_extra_perp": (1.6, 2.1), ORDER: (0.8, 1.0)},
        "range chosen: vasogenic water between fibres that are left, ADC 1.2 to 1.6 um2/ms",
    ),
    "demyelination": Effect(
        (0.5, 0.75),
        {"neurite": 0.1, "soma": 0.06, "extra": 0.66, "free": 0.18},
        {"d_extra_perp": (1.3, 1.8), ORDER: (0.7, 0.95)},
        "S.-K. Song et al., NeuroImage 26 (2005) 132-140: radial diffusivity rises; T. Granberg et "
        "al., Brain 140 (2017) 2912-2926: neurite density falls",
    ),
}
"""Effects by kind. The ADC that is named is what a tensor fit at b = 1000 s/mm2 finds, where free
water has little signal left."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion drawn; `placing.place` puts it into a head.

    Attributes
    ----------
    name : str
        One of `LESIONS`.
    keep : (kinds,) tensor
        Share of the tissue that is left, by `KINDS`.
    logarithm : (kinds, 5) tensor
        Of the factors of `DIFFUSIVITIES` and of the order.
    uniform : (`NUMBERS`,) tensor
        Uniform random numbers for where it is and how large.
    ragged : Field
        One channel: how its border departs from a smooth one.
    mask : Path or None
        File of a mask in the space of the anatomy.
    """

    name: str
    keep: Tensor
    logarithm: Tensor
    uniform: Tensor
    ragged: Field
    mask: Path | None = None


def apply(volume: StateVolume, weight: Tensor, lesion: Lesion) -> StateVolume:
    """Change the tissue of a volume.

    Parameters
    ----------
    volume : StateVolume
        n voxels.
    weight : (n, kinds) tensor
        How much of each voxel is which of `KINDS` (the first is not read), summing to at most 1.
    lesion : Lesion

    Returns
    -------
    StateVolume
        With the same mask. Cerebrospinal fluid cannot be ill: its share of a voxel is spared.
    """
    state = volume.state
    weight = weight * (1 - volume.tissue[3])[:, None]
    weight[:, 0] = 0
    instead = weight.new_tensor([_instead(kind) for kind in KINDS])
    lost = weight * (1 - lesion.keep.to(weight))
    left = 1 - lost.sum(1, keepdim=True)
    fractions = torch.stack([getattr(state, f) for f in FRACTIONS], 1) * left + lost @ instead
    factor = torch.exp(weight @ lesion.logarithm.to(weight))
    changed = {f: fractions[:, i] for i, f in enumerate(FRACTIONS)}
    changed |= {d: getattr(state, d) * factor[:, i] for i, d in enumerate(DIFFUSIVITIES)}
    # tissue that has lost its order has no axis across which it could be faster
    changed["d_extra_perp"] = torch.minimum(changed["d_extra_perp"], changed["d_extra_par"])
    odf = torch.cat([state.odf[:, :1], state.odf[:, 1:] * factor[:, -1:]], 1)
    label = torch.where(weight.sum(1) > 0.5, weight.argmax(1), 0)
    return replace(volume, state=replace(state, odf=odf, **changed), lesion=label.to(torch.uint8))


def draw_lesion(generator: torch.Generator, name: str, masks: str | Path | None = None) -> Lesion:
    """Draw a lesion.

    Parameters
    ----------
    generator : torch.Generator
    name : str
        One of `LESIONS`, or "stroke" for any stage.
    masks : path-like, optional
        Folder of stroke masks (NIfTI) in the space of the anatomy; without it strokes are drawn as
        the territory of a vessel or as a lacune.

    Raises
    ------
    InputError
        If there is no such lesion, or no mask in the folder.
    """
    if name not in (*LESIONS, "stroke"):
        raise InputError(f"no lesion {name!r}", f"Choose one of: stroke, {', '.join(LESIONS)}.")
    stage = LESIONS[int(torch.randint(3, (1,), generator=generator))]
    uniform = torch.rand(NUMBERS, generator=generator)
    keep, logarithm = _draw_effects(generator)
    ragged = draw_field(generator, 1, RAGGED)
    name = stage if name == "stroke" else name
    mask = None
    if masks is not None and name.startswith("stroke"):
        files = sorted(Path(masks).glob("*.nii*"))
        if not files:
            raise InputError("no mask (*.nii.gz)", "Give a folder with masks.", file=masks)
        mask = files[int(uniform[0] * len(files))]
    return Lesion(name, keep, logarithm, uniform, ragged, mask)


def _draw_effects(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `Lesion.keep` and `Lesion.logarithm`."""
    columns = (*DIFFUSIVITIES, ORDER)
    ranges = torch.ones(len(KINDS), 1 + len(columns), 2)
    for i, kind in enumerate(KINDS):
        if kind in EFFECTS:
            ranges[i, 0] = torch.tensor(EFFECTS[kind].keep)
            for name, ends in EFFECTS[kind].factors.items():
                ranges[i, 1 + columns.index(name)] = torch.tensor(ends)
    at = torch.rand(ranges.shape[:2], generator=generator)
    drawn = ranges[..., 0] + at * (ranges[..., 1] - ranges[..., 0])
    return drawn[:, 0], torch.log(drawn[:, 1:].clamp_min(1e-3))


def _instead(kind: str) -> list[float]:
    """Fractions of what a kind puts in the place of tissue."""
    effect = EFFECTS.get(kind)
    return [0.0 if effect is None else effect.instead.get(f, 0.0) for f in FRACTIONS]
