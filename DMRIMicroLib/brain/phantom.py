"""From an anatomy to a brain with tissue in it.

A subject is all random numbers of one brain; it is drawn without an anatomy, and rendered on any
grid of any anatomy. So patches of one brain, and one brain on the grids of two scanners, agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..physics.tissue import TissueState
from .anatomy import CLASSES, Anatomy
from .deform import Deformation, DeformationConfig, Warp, carry, draw_deformation
from .fields import EXTENT, Field, Image, draw_field, grid_points
from .head import Head, head_of
from .infant import check_age, head_size, maturity
from .lesions import Lesion, apply, draw_lesion
from .placing import Placed, place
from .sulci import draw_pattern, fluid_around, layered, opened, ranks, stretched
from .tissues import coherent, compose, parameters
from .values import PARAMETERS, bundle_offsets
from .volume import StateVolume

LABELS = 256
"""Bundle labels that a subject has deviations for: all that an anatomy can hold."""

CHUNK = 1 << 15
"""Voxels rendered at a time: what they need stays in the processor's cache."""

BRAIN = 0.02
"""A voxel with less brain than this share is outside the mask."""


@dataclass(frozen=True)
class SubjectConfig:
    """How subjects differ.

    Attributes
    ----------
    deformation : DeformationConfig
    person, bundle : float
        Standard deviation of a parameter between people and between bundles of a person, in half
        widths of its range.
    coarse, fine : (float, float)
        Of the fields within a class: standard deviation in half widths, and distance of the control
        points [mm].
    sharpness : (float, float)
        Range of the power that tissue probabilities are raised to: 1 leaves an atlas' blur, more
        makes voxels purer.
    folding : (float, float)
        How far gyri of the subject's own are taken out of the tissue probabilities (0 not at all, 1
        to one class everywhere), and distance of the control points of their pattern [mm]: sulci
        are about 2.5 times that apart. See `sulci`.
    sulci : (float, float)
        Range of what is added to the logit of cerebrospinal fluid: an atlas, being a mean of many
        brains, blurs their sulci away; more of it is atrophy.
    width : (float, float)
        Range of the least share of fluid in a sulcus, relative to that of its cortex.
    rim : (float, float)
        Range of how far the fluid around the brain reaches beyond its hull [mm].
    crossing : (float, float)
        Range of the power that the sizes of fibre populations are raised to; large ones leave one.
    age : float or None
        Months, 0 to 24; None for an adult.
    lesion : str or None
        One of `lesions.LESIONS`, "stroke", or None.
    masks : path-like or None
        Folder of stroke masks.
    """

    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    person: float = 0.25
    bundle: float = 0.3
    coarse: tuple[float, float] = (0.3, 28.0)
    fine: tuple[float, float] = (0.45, 5.0)
    sharpness: tuple[float, float] = (0.9, 1.3)
    folding: tuple[float, float] = (0.9, 3.8)
    sulci: tuple[float, float] = (-1.5, 0.0)
    width: tuple[float, float] = (0.05, 0.22)
    rim: tuple[float, float] = (-1.0, 1.0)
    crossing: tuple[float, float] = (0.75, 1.3)
    age: float | None = None
    lesion: str | None = None
    masks: str | Path | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """All random numbers of one brain.

    Attributes
    ----------
    deformation : Deformation
    person : (4, p) tensor
        Deviation of each class and of each of `values.PARAMETERS`, in half widths.
    bundle : (`LABELS`, p) tensor
        Of each bundle; label 0 has none.
    coarse, fine : Field
        p channels each, in half widths.
    pattern : Field
        One channel, whose zeros are sulci.
    folding, sharpness, sulci, width, rim, crossing : float
    age : float or None
        Months.
    lesion : Lesion or None
    """

    deformation: Deformation
    person: Tensor
    bundle: Tensor
    coarse: Field
    fine: Field
    pattern: Field
    folding: float
    sharpness: float
    sulci: float
    width: float
    rim: float
    crossing: float
    age: float | None
    lesion: Lesion | None


def draw_subject(generator: torch.Generator, config: SubjectConfig | None = None) -> Subject:
    """Draw a subject: a function of the generator's state and of the configuration."""
    config = SubjectConfig() if config is None else config
    if config.age is not None:
        check_age(config.age)
    size = 1.0 if config.age is None else head_size(config.age)
    p = len(PARAMETERS)

    def scaled(settings: tuple[float, float], channels: int) -> Field:
        return Field(settings[0] * draw_field(generator, channels, settings[1]).values)

    def between(ends: tuple[float, float]) -> float:
        return ends[0] + (ends[1] - ends[0]) * float(torch.rand((), generator=generator))

    deformation = draw_deformation(generator, config.deformation, size)
    bundle = config.bundle * torch.randn((LABELS, p), generator=generator)
    bundle[0] = 0
    return Subject(
        deformation,
        config.person * torch.randn((4, p), generator=generator),
        bundle,
        scaled(config.coarse, p),
        scaled(config.fine, p),
        draw_pattern(generator, config.folding[1]),
        config.folding[0],
        between(config.sharpness),
        between(config.sulci),
        between(config.width),
        between(config.rim),
        between(config.crossing),
        config.age,
        None if config.lesion is None else draw_lesion(generator, config.lesion, config.masks),
    )


def render(
    anatomy: Anatomy,
    subject: Subject,
    affine: Tensor,
    shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
) -> StateVolume:
    """Put tissue into a head.

    Parameters
    ----------
    anatomy : Anatomy
    subject : Subject
    affine : (4, 4) tensor
        Of the grid wanted, voxel indices to RAS millimetres; the head lies where the anatomy's
        does.
    shape : (x, y, z)
    device : torch.device or str

    Raises
    ------
    InputError
        If the grid meets no brain.
    """
    body = body_of(anatomy, subject, torch.device(device))
    affine = affine.to(torch.float64).cpu()
    points = grid_points(affine, shape).to(device)
    parts = [_visible(body, chunk) for chunk in points.split(CHUNK)]
    fill, mask = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    if not mask.any():
        raise InputError("there is no brain on this grid", "Move it to where the head lies.")
    pieces = [_render_points(body, chunk) for chunk in points[mask].split(CHUNK)]
    state = _joined([p[0] for p in pieces])
    tissue = torch.cat([p[1] for p in pieces])
    healthy = torch.zeros(len(tissue), dtype=torch.uint8, device=tissue.device)
    volume = StateVolume(state, mask.reshape(shape), affine, fill[mask], tissue.T, healthy)
    if body.lesion is None or subject.lesion is None:
        return volume
    weight = body.lesion.weight(torch.cat([p[2] for p in pieces]))
    return apply(volume, weight, subject.lesion)


class Body:
    """A subject in a head: all that does not depend on the grid, on a device."""

    def __init__(self, anatomy: Anatomy, subject: Subject, device: torch.device) -> None:
        self.subject = subject
        self.head: Head = head_of(anatomy, device)
        self.lesion: Placed | None = None
        deformation = subject.deformation
        if subject.lesion is not None:
            self.lesion = place(subject.lesion, self.head)
            deformation = replace(deformation, push=self.lesion.push)
        self.warp: Warp = deformation.on(self.head.centre, device)
        self.coarse: Image = subject.coarse.dense(device)
        self.fine: Image = subject.fine.dense(device)
        self.pattern: Image = subject.pattern.dense(device)
        own = subject.bundle[: len(anatomy.bundles) + 1]
        self.bundles = (own + bundle_offsets(anatomy.bundles)).to(device)

    def own_tissue(self, tissue: Tensor, hull: Tensor, from_middle: Tensor) -> Tensor:
        """Fractions of the classes in this subject, which sum to 1: (n, 4).

        From those of the atlas (n, 4), the distance from the hull (n,) and from the middle (n, 3).
        """
        subject = self.subject
        share = fluid_around(tissue.clamp(0, 1), hull, subject.rim).pow(subject.sharpness)
        share[:, CLASSES.index("csf")] *= math.exp(subject.sulci)
        share = opened(share, subject.width)
        across = from_middle[:, 0] + self.head.centre[0]
        pattern = self.pattern(stretched(from_middle))[:, 0]
        rank = ranks(pattern, across, share[:, CLASSES.index("cortex")])
        return layered(share, rank, subject.folding)


@lru_cache(maxsize=4)
def body_of(anatomy: Anatomy, subject: Subject, device: torch.device) -> Body:
    """Body of a subject, kept for its next patch."""
    return Body(anatomy, subject, device)


def _visible(body: Body, points: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each point that is brain, and whether that is any."""
    source, _ = body.warp(points)
    tissue, hull = body.head.tissue_and_hull(source)
    fill = fluid_around(tissue, hull, body.subject.rim).sum(1).clamp(0, 1)
    within = (points - body.head.centre).abs().amax(1) < EXTENT / 2
    return fill, (fill > BRAIN) & within


def _render_points(body: Body, points: Tensor) -> tuple[TissueState, Tensor, Tensor]:
    """State, tissue (n, 4) and place in the anatomy (n, 3) of some points."""
    subject = body.subject
    source, jacobian = body.warp(points)
    spots = body.head.at(source)
    from_middle = source - body.head.centre
    tissue = body.own_tissue(spots.tissue, spots.hull, from_middle)
    deviation = (body.coarse(from_middle) + body.fine(from_middle))[:, None]
    deviation = deviation + subject.person.to(points)
    size = spots.size**subject.crossing
    deviation[:, 0] += body.bundles[spots.bundle] + coherent(spots.coherence, size)
    young = None
    if subject.age is not None:
        young = 1 - maturity(subject.age, from_middle.norm(dim=-1))
    directions, sharper = carry(spots.directions, jacobian)
    state = compose(tissue, parameters(deviation, young), directions, size, sharper)
    return state, tissue, source


def _joined(states: list[TissueState]) -> TissueState:
    """One state of many."""
    return TissueState(
        **{f.name: torch.cat([getattr(s, f.name) for s in states]) for f in fields(TissueState)}
    )
