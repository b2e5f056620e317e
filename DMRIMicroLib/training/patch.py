"""One patch of a simulated brain: where it lies, its tissue, what a scanner makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..acquisition import Acquisition
from ..brain.anatomy import Anatomy
from ..brain.grid import Grid, overlap
from ..brain.phantom import Subject, render
from ..brain.relaxation import unweighted
from ..brain.sampling import sample
from ..brain.scanner import USUAL_TE, Observation, Scanner, observe
from ..brain.volume import StateVolume

TRIES = 50
"""Places to look for a patch with enough brain before the best of them is taken."""

COARSE, AROUND = 4.0, 8.0
"""Grid on which a lesion is looked for, and how far it reaches beyond the anatomy's brain, which
the subject's own shape may leave [mm]."""

STEP_MARGIN = 1
"""Slices beside a patch that a moving head brings in; slices that do not move see only their own
tissue."""

PARAMETERS = (
    "neurite",
    "extra",
    "soma",
    "free",
    "dot",
    "d_neurite",
    "d_extra_par",
    "d_extra_perp",
    "radius",
)
"""Channels of a batch's state; those of the fibre orientations are apart."""

Render = Callable[[Anatomy, object, Tensor, tuple[int, int, int], torch.device], StateVolume]


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of n subjects, seen by one scanner with one protocol.

    Attributes
    ----------
    signal : (n, m, x, y, z) tensor
        Measured magnitude.
    clean : (n, m, x, y, z) tensor
        The same voxels without noise and artefacts, on the same scale.
    sigma : (n, x, y, z) tensor
        Standard deviation of the noise.
    state : (n, 9, x, y, z) tensor
        Means of `PARAMETERS` over the voxels.
    odf : (n, c, x, y, z) tensor
    mask : (n, x, y, z) bool tensor
    affine : (n, 4, 4) float64 tensor
        Voxel indices to RAS millimetres, of each patch.
    acquisition : Acquisition
        What the scanner tells.
    scanner : Scanner
    """

    signal: Tensor
    clean: Tensor
    sigma: Tensor
    state: Tensor
    odf: Tensor
    mask: Tensor
    affine: Tensor
    acquisition: Acquisition
    scanner: Scanner


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a patch lies: its voxels, those around it, how finely they are cut, its middle [mm]."""

    patch: tuple[int, int, int]
    margin: int
    finer: int
    centre: Tensor

    def margins(self, scanner: Scanner) -> tuple[int, int, int]:
        """Voxels around the patch along each axis."""
        return self.margin, self.margin, min(self.margin, STEP_MARGIN) if scanner.moves else 0

    def grid(self, scanner: Scanner, margins: tuple[int, int, int]) -> Grid:
        """Voxels of a scanner, along the world's axes."""
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = torch.diag(steps(scanner))
        shape = tuple(n + 2 * m for n, m in zip(self.patch, margins, strict=True))
        middle = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
        affine[:3, 3] = self.centre - affine[:3, :3] @ middle
        return Grid(affine, shape)  # type: ignore[arg-type]


def rendered(
    anatomy: Anatomy,
    subject: Subject,
    frame: Frame,
    scanner: Scanner,
    device: torch.device,
    renderer: Render = render,
) -> StateVolume:
    """Tissue of a subject in a patch and its margins."""
    fine = frame.grid(scanner, frame.margins(scanner)).refined((frame.finer,) * 3)
    return renderer(anatomy, subject, fine.affine, fine.shape, device)


def look(
    volume: StateVolume,
    frame: Frame,
    acquisition: Acquisition,
    scanner: Scanner,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """Scan a patch: the tensors of a `Batch`, in its order, of one subject."""
    seen = observe(volume, acquisition, scanner, generator)
    clean, state, odf = _known(volume, acquisition, scanner, seen)
    margins = frame.margins(scanner)
    cut = (..., *(slice(m, m + n) for m, n in zip(margins, frame.patch, strict=True)))
    parts = tuple(v[cut] for v in (seen.signal, clean, seen.sigma, state, odf, seen.mask))
    return (*parts, frame.grid(scanner, (0, 0, 0)).affine)


def batched(
    made: Sequence[tuple[Tensor, ...]], acquisition: Acquisition, scanner: Scanner
) -> Batch:
    """Put patches together."""
    stacked = [torch.stack(parts) for parts in zip(*made, strict=True)]
    return Batch(*stacked, acquisition=acquisition, scanner=scanner)


def chosen(anatomies: Sequence[Anatomy], generator: torch.Generator) -> Anatomy:
    """Draw one of some anatomies."""
    return anatomies[int(torch.randint(len(anatomies), (1,), generator=generator))]


def steps(scanner: Scanner) -> Tensor:
    """Distances between a scanner's voxels [mm]: (3,) float64."""
    return torch.tensor([*scanner.voxel[:2], scanner.voxel[2] + scanner.gap], dtype=torch.float64)


def extent(patch: tuple[int, int, int], scanner: Scanner) -> Tensor:
    """Edges of a patch [mm]: (3,) float64."""
    return torch.tensor(patch, dtype=torch.float64) * steps(scanner)


def place(anatomy: Anatomy, generator: torch.Generator, edges: Tensor, brain: float) -> Tensor:
    """Draw the middle of a patch with these edges [mm]: (3,) -> (3,) RAS [mm].

    In the anatomy, which the subject's own shape may leave by some millimetres.
    """
    inside, voxels = brain_of(anatomy)
    edge = anatomy.affine[:3, :3].norm(dim=0).cpu()
    half = (edges / edge / 2).ceil().long()
    best, most = None, -1.0
    for _ in range(TRIES):
        middle = voxels[int(torch.randint(len(voxels), (1,), generator=generator))]
        low, high = (middle - half).clamp(min=0), middle + half + 1
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        share = float(inside[box].sum()) / float((2 * half + 1).prod())
        if share > most:
            best, most = middle, share
        if share >= brain:
            break
    assert best is not None
    world = anatomy.affine.double().cpu() @ torch.cat([best.double(), torch.ones(1).double()])
    return world[:3]


def ill_place(anatomy: Anatomy, subject: Subject, generator: torch.Generator) -> Tensor | None:
    """Draw a place in a subject's lesion: (3,) RAS [mm]; None if it shows nowhere."""
    ill = ill_places(anatomy, subject)
    return ill[int(torch.randint(len(ill), (1,), generator=generator))] if len(ill) else None


def ill_places(anatomy: Anatomy, subject: Subject) -> Tensor:
    """Look where a subject is ill, on a grid of `COARSE`: (n, 3) RAS [mm]."""
    world = anatomy.affine.double().cpu()
    inside = brain_of(anatomy)[1].double() @ world[:3, :3].T + world[:3, 3]
    low, high = inside.amin(0) - AROUND, inside.amax(0) + AROUND
    affine = torch.diag(torch.tensor([COARSE, COARSE, COARSE, 1.0], dtype=torch.float64))
    affine[:3, 3] = low
    shape = tuple(((high - low) / COARSE).ceil().int().tolist())
    seen = render(anatomy, subject, affine, shape)
    return low + COARSE * seen.mask.nonzero()[seen.lesion > 0].double()


@lru_cache(maxsize=32)
def brain_of(anatomy: Anatomy) -> tuple[Tensor, Tensor]:
    """Where an anatomy is brain, (x, y, z) bool, and the indices of those voxels, (n, 3)."""
    inside = (anatomy.tissue.float().sum(0) > 0.5).cpu()
    return inside, inside.nonzero()


def _known(
    volume: StateVolume, acquisition: Acquisition, scanner: Scanner, seen: Observation
) -> tuple[Tensor, Tensor, Tensor]:
    """Return clean signal (m, x, y, z), state (9, x, y, z) and fibre orientations (c, x, y, z)."""
    grid = seen.grid
    bright = unweighted(volume, scanner.field, acquisition.TE or USUAL_TE, scanner.TR)
    pure = sample(volume, bright, grid, acquisition)
    part = overlap(volume.mask, volume.affine, grid, volume.fill.dtype)
    weight = bright * volume.fill
    total = part.mean(weight)
    odf = volume.state.odf
    values = [getattr(volume.state, name) for name in PARAMETERS]
    values += [odf[:, k] for k in range(odf.shape[1])]
    means = torch.stack([part.mean(weight * v) / total for v in values])
    known = torch.cat([seen.level * pure.signal(), means])
    dense = known.new_zeros(len(known), seen.mask.numel())
    dense[:, pure.voxels] = known
    m, p = len(acquisition), len(PARAMETERS)
    clean, state, fibres = dense.reshape(-1, *grid.shape).split([m, p, odf.shape[1]])
    return clean, state, fibres
