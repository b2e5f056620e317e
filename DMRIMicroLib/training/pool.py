"""A pool of labelled slices: brains whose tissue and 24 metrics are known, kept to be scanned anew.

The truth of a slice costs seconds (eight conventional fits of its noise-free signal), a scan of it
a fraction of one. So slices are rendered and labelled once, written to disk in half precision, and
every step of a training scans one of them with another protocol and another scanner. Slice k is a
function of (anatomies, seed, configuration, k) only: what is missing of a pool is made again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..brain.anatomy import Anatomy
from ..brain.grid import Grid
from ..brain.lesions import LESIONS
from ..brain.machines import THICK, VOXELS, ScannerConfig, draw_scanner
from ..brain.phantom import SubjectConfig, draw_subject, render
from ..brain.protocols import named
from ..brain.scanner import GEOMETRY, K_SPACE, Scanner
from ..brain.simulate import generator_for
from ..brain.truth import truth
from ..brain.volume import StateVolume
from ..errors import InputError
from ..files import staged
from ..metric import Flag
from ..models import MODELS, Model
from ..physics.tissue import TissueState

METRICS = (
    "FA", "MD", "AD", "RD", "MK", "AK", "RK", "FW", "FA_t", "NDI", "ODI", "FWF", "SMT_D_par",
    "SMT_D_perp", "uFA", "v_int", "D_int", "D_ext_perp", "f_neurite", "f_soma", "R_soma", "RTOP",
    "RTAP", "RTPP",
)  # fmt: skip
"""The 24 metrics of 8 models."""

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""World axes of a slice's rows, columns and thickness."""

LABELLED = 0.5
"""A voxel with at least this much brain is labelled."""

LEFT = 0.3
"""Of the least area of brain at least so much is left when the head was deformed; else another
slice is drawn."""

SCANNER = (*GEOMETRY, *K_SPACE)
"""What is kept of a slice's scanner."""

STATE = tuple(name for name in TissueState.__dataclass_fields__)


@dataclass(frozen=True)
class PoolConfig:
    """What slices there are.

    Attributes
    ----------
    planes : (float, float, float)
        Weights of axial, coronal and sagittal slices.
    fields : pairs of field strength [T] and weight
    lesion, infant : float
        Share of subjects with a lesion, and of children below two years.
    brain : float
        Least area of brain in a slice [mm2].
    finer : (int, int, int)
        Pieces of tissue along each edge of a voxel.
    subject : SubjectConfig
    scanner : ScannerConfig
        Of which the k-space is taken.
    """

    planes: tuple[float, float, float] = (0.7, 0.15, 0.15)
    fields: tuple[tuple[float, float], ...] = ((0.064, 0.05), (1.5, 0.2), (3.0, 0.6), (7.0, 0.15))
    lesion: float = 0.2
    infant: float = 0.05
    brain: float = 6000.0
    finer: tuple[int, int, int] = (2, 2, 2)
    subject: SubjectConfig = field(default_factory=SubjectConfig)
    scanner: ScannerConfig = field(default_factory=ScannerConfig)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of one brain.

    Attributes
    ----------
    volume : StateVolume
        Its tissue, in pieces.
    scanner : Scanner
        A perfect one with the voxels, field strength, TR and k-space of the labels.
    TE : float
        Echo time of the labels [ms].
    mask : (x, y) bool tensor
        Labelled voxels.
    labels : (24, x, y) tensor
        `METRICS`, each in its unit.
    known : (24, x, y) bool tensor
        Where the label means something.
    frame : (3, 3) tensor
        World axes (RAS) as rows: of the slice's rows, columns and thickness.
    """

    volume: StateVolume
    scanner: Scanner
    TE: float
    mask: Tensor
    labels: Tensor
    known: Tensor
    frame: Tensor


def draw_slice(
    anatomies: Sequence[Anatomy], generator: torch.Generator, config: PoolConfig
) -> Slice:
    """Draw a subject and a slice of it, and label it."""
    u = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
    anatomy = anatomies[int(u[0] * len(anatomies))]
    subject = draw_subject(generator, _who(config, u))
    fields, weights = zip(*config.fields, strict=True)
    tesla = float(fields[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))])
    small, large = VOXELS[tesla]
    edge = round(small + (large - small) * u[4], 2)
    thick = edge if u[5] < 0.6 else round(edge * (1 + (THICK[tesla] - 1) * u[6]), 2)
    plane = int(torch.multinomial(torch.tensor(config.planes), 1, generator=generator))
    axes = list(PLANES.values())[plane]
    grid = _slice_grid(anatomy, axes, (edge, edge, thick), u[7], config)
    fine = grid.refined(config.finer)
    volume = render(anatomy, subject, fine.affine, fine.shape, torch.device("cpu"))
    if float(volume.fill.sum()) * edge**2 / math.prod(config.finer) < config.brain * LEFT:
        return draw_slice(anatomies, generator, config)
    TE = round(55 + 45 * u[8], 1)
    TR = round(3 + 6 * u[9], 2)
    own = {"field": tesla, "voxel": (edge, edge, thick), "gap": 0.0, "TR": TR}
    scanner = replace(draw_scanner(generator, config.scanner), **own).perfect(k_space=True)
    mask, labels, known = label(volume, scanner, TE)
    return Slice(volume, scanner, TE, mask, labels, known, torch.eye(3)[list(axes)])


def label(volume: StateVolume, scanner: Scanner, TE: float) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the noise-free signal: mask (x, y), labels and where they are known (24, x, y).

    As sharp as the scanner shows it: what lies beyond its k-space no estimator can tell, and dense
    scans of real heads, by which estimators are judged, have their own ringing too.
    """
    seen = replace(named("ukb"), TE=TE)
    names = sorted(name for name, m in MODELS.items() if gives(m))
    maps = truth(volume, seen, scanner, names, "cpu", imaged=True)
    mask = torch.from_numpy(maps.mask[:, :, 0])
    labels = np.stack([np.asarray(maps[name].data)[:, :, 0] for name in METRICS])
    known = np.stack([told(maps, name)[:, :, 0] for name in METRICS])
    return mask, torch.from_numpy(labels), torch.from_numpy(known) & mask


def gives(model: Model) -> bool:
    """Whether a model has one of `METRICS`."""
    return any(metric.name in METRICS for metric in model.metrics)


def told(maps, name: str) -> np.ndarray:
    """Where the fit went well and the metric means something: (x, y, z)."""
    item = maps[name]
    flags = maps.flags[item.model]
    good = (flags == Flag.GOOD) | (flags == Flag.OUT_OF_RANGE)
    if name in ("FA", "MD", "AD", "RD", "RTOP", "RTAP", "RTPP", "FW", "FWF"):
        good |= flags == Flag.UNDETERMINED
    return good & np.isfinite(np.asarray(item.data))


def _who(config: PoolConfig, u: list[float]) -> SubjectConfig:
    """Configure the subject: healthy, with a lesion, or a child."""
    if u[1] < config.lesion:
        kinds = list(LESIONS)
        return replace(config.subject, lesion=kinds[int(u[2] * len(kinds))])
    if u[1] > 1 - config.infant:
        return replace(config.subject, age=round(24 * u[2], 1))
    return config.subject


def _slice_grid(
    anatomy: Anatomy,
    axes: tuple[int, int, int],
    voxel: tuple[float, float, float],
    place: float,
    config: PoolConfig,
) -> Grid:
    """Grid of one slice: where, among those with enough brain, is told by 0 <= place < 1."""
    brain = anatomy.tissue.float().sum(0) > LABELLED
    edge = anatomy.affine[:3, :3].norm(dim=0)
    inside = brain.nonzero()
    low, high = inside.amin(0).double(), inside.amax(0).double()
    other = [a for a in range(3) if a != axes[2]]
    area = brain.sum(other) * float(edge[other[0]] * edge[other[1]])
    slices = (area >= config.brain).nonzero()[:, 0]
    if not len(slices):
        raise InputError("no slice holds enough brain", "Lower `brain`.")
    middle = (low + high) / 2
    middle[axes[2]] = float(slices[0]) + place * float(slices[-1] - slices[0])
    step = torch.tensor(voxel, dtype=torch.float64)
    extent = ((high - low + 1) * edge)[list(axes)] + 16.0  # the deformed head may be larger
    shape = [int(torch.ceil(extent[k] / step[k])) for k in range(2)]
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.eye(3, dtype=torch.float64)[list(axes)].T * step
    world = anatomy.affine.double() @ torch.cat([middle, torch.ones(1, dtype=torch.float64)])
    half = (torch.tensor([*shape, 1], dtype=torch.float64) - 1) / 2
    affine[:3, 3] = world[:3] - affine[:3, :3] @ half
    return Grid(affine, (shape[0], shape[1], 1))


def save_slice(item: Slice, file: Path) -> None:
    """Write a slice in half precision; the file appears whole or not at all."""
    volume = item.volume
    tensors = {name: getattr(volume.state, name).half() for name in STATE}
    tensors |= {"mask": item.mask, "labels": item.labels, "known": item.known}
    tensors |= {"frame": item.frame, "pieces": volume.mask, "affine": volume.affine}
    tensors |= {"fill": volume.fill.half(), "tissue": volume.tissue.half()}
    tensors["lesion"] = volume.lesion
    told = {name: getattr(item.scanner, name) for name in SCANNER} | {"TE": item.TE}
    with staged(file.parent) as stage:
        whole = {key: value.contiguous() for key, value in tensors.items()}
        save_file(whole, stage / file.name, {"slice": json.dumps(told)})


def load_slice(file: Path) -> Slice:
    """Read a slice."""
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["slice"])
        get = opened.get_tensor
        state = TissueState(**{name: get(name).float() for name in STATE})
        own = {"fill": get("fill").float(), "tissue": get("tissue").float()}
        volume = StateVolume(
            state=state, mask=get("pieces"), affine=get("affine"), lesion=get("lesion"), **own
        )
        own = {name: told[name] for name in SCANNER} | {"voxel": tuple(told["voxel"])}
        scanner = Scanner("perfect", sensitivity=np.inf, **own)
        read = (get(name) for name in ("mask", "labels", "known", "frame"))
        return Slice(volume, scanner, told["TE"], *read)


def make_pool(
    folder: Path,
    anatomies: Sequence[Anatomy],
    slices: int,
    seed: int,
    config: PoolConfig | None = None,
    progress: Callable[[float, str], None] = lambda share, text: None,
    start: int = 0,
    step: int = 1,
) -> list[Path]:
    """Make what is missing of a pool.

    Parameters
    ----------
    folder : path
    anatomies : sequence of Anatomy
    slices : int
        Wanted in all.
    seed : int
    config : PoolConfig, optional
    progress : callable
        Gets the share that is done and what is being done.
    start, step : int
        Numbers of the slices to make: several processes take turns.

    Returns
    -------
    list of path
        Files of all slices, whether made here or by others.
    """
    config = config or PoolConfig()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"slice-{seed}-{k:05d}.safetensors" for k in range(slices)]
    for k in range(start, slices, step):
        if not files[k].exists():
            save_slice(draw_slice(anatomies, generator_for(seed, f"slice {k}"), config), files[k])
        progress((k + 1) / slices, f"slice {k + 1} of {slices}")
    return files


__all__ = ["METRICS", "PoolConfig", "Slice", "draw_slice", "load_slice", "make_pool", "save_slice"]
