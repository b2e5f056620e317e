"""Pairs of scans that no training saw: one piece of one head at 3 T and at 7 T, maybe ill."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from _lesions import effect_of

PLAIN = "interpolate"

SHELL, SHELLS = 1000.0, 2000.0
"""Largest b-value of the scans: of RISH and tensors, and of NODDI [s/mm2]."""

REACH = 16.0
"""About it a lesion's thickest part is looked for [mm]."""

VOLUME, TRIES = 1000.0, 40
"""Least volume of a lesion [mm3], and subjects drawn at most."""

SLAB, SLABS = (145, 174, 16), 9
"""3 T voxels of a slab of the HCP's field of view, and how many are a whole head."""


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes
    ----------
    weights : tuple of (str, str)
        Names of methods, and files.
    anatomies : str
    seed, patch, voxels : int
        Of the trainings; 3 T voxels along an edge; voxels of a pair to which NODDI is fitted.
    keep : str
        Folder of simulated pairs; "": none is kept.
    only : tuple of str
        Names of the methods that are asked now; all, if there is none.
    both : tuple of str
        Names of those that are asked without super-resolution, too; all, if there is none.
    scans : str
        Data set of real scans in place of simulated pairs (`rish.own.from_bids`).
    """

    weights: tuple[tuple[str, str], ...]
    anatomies: str
    seed: int
    patch: int
    voxels: int
    keep: str = ""
    only: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    scans: str = ""

    @property
    def methods(self) -> dict[str, str | None]:
        """Weights by name, interpolation first."""
        known = {PLAIN: None, **dict(self.weights)}
        return {name: known[name] for name in self.only or known}


@dataclass(frozen=True, eq=False)
class Seen:
    """One piece of one head: the 3 T scan, that of 7 T as measured and free of noise.

    Attributes
    ----------
    low, high, clean : Scan
        Real scans are never clean: None.
    mask : (x, y, z) bool array
        Voxels of the 7 T grid that count, for every method alike.
    ill : (x, y, z) array or None
        Share of a 7 T voxel that is ill.
    """

    low: object
    high: object
    clean: object
    mask: np.ndarray
    ill: np.ndarray | None = None


@cache
def heads(anatomies: str) -> tuple:
    """Open the heads."""
    from DMRIMicroLib.brain.ownscan import open_anatomy

    return tuple(open_anatomy(name.strip()) for name in anatomies.split(","))


def machines(largest: float) -> list:
    """Return both scanners, and of their protocols the volumes up to a b-value [s/mm2]."""
    from DMRIMicroLib.training.rish_pairs import shell_machine

    return [shell_machine(name, largest) for name in ("hcp3t", "hcp7t")]


def pair(asked: Asked, number: int, largest: float = SHELL) -> Seen:
    """Draw a pair that no training saw, or take the one that was kept, or a subject's scans."""
    if asked.scans:
        return real(asked.scans, number, largest)
    told = f"{asked.anatomies}-{asked.seed}-{asked.patch}-{largest:.0f}-{number}"
    return kept(asked, told, lambda: seen_by(*drawn(asked, number, largest)))


def kept(asked: Asked, told: str, draw: Callable[[], Seen]) -> Seen:
    """Take the pair of that name that was kept, or draw it."""
    if not asked.keep:
        return draw()
    file = Path(asked.keep) / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.pickle"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(pickle.dumps(draw(), protocol=5))
        part.replace(file)
    return pickle.loads(file.read_bytes())


def real(folder: str, number: int, largest: float) -> Seen:
    """Read both scans of a subject, the last one first: the last tenth no training sees."""
    from DMRIMicroLib.masking import brain_mask
    from DMRIMicroLib.rish.own import both_of

    every = list(both_of(Path(folder)).values())
    one, two = (brain_mask(files.load()) for files in every[-1 - number])
    one, two = (s.select(np.flatnonzero(s.acquisition.bvals < 1.25 * largest)) for s in (one, two))
    return together(one, two, None)


def drawn(asked: Asked, number: int, largest: float) -> tuple:
    """Draw what both scanners see of one piece of one head."""
    import torch

    from DMRIMicroLib.brain.simulate import generator_for
    from DMRIMicroLib.rish.data import TEST
    from DMRIMicroLib.training.pairs import PairConfig, draw_pair

    first, second = machines(largest)
    config = PairConfig(patch=(asked.patch,) * 3, first=first, second=second)
    generator = generator_for(asked.seed + TEST, f"RISH pair {number}")
    return draw_pair(heads(asked.anatomies), generator, config, torch.device("cpu"))


def slab(asked: Asked, number: int) -> Seen:
    """Draw what both scanners see of a slab of a head, from its feet up; then of the next head."""
    told = f"slab-{SLAB}-{asked.anatomies}-{asked.seed}-{number}"
    return kept(asked, told, lambda: _slab(asked, number))


def _slab(asked: Asked, number: int) -> Seen:
    from DMRIMicroLib.brain.phantom import draw_subject
    from DMRIMicroLib.brain.simulate import generator_for
    from DMRIMicroLib.rish.data import TEST
    from DMRIMicroLib.training import patch as patches
    from DMRIMicroLib.training.pairs import PairConfig

    first, second = machines(SHELL)
    config = PairConfig(patch=SLAB, first=first, second=second)
    generator = generator_for(asked.seed + TEST, f"RISH head {number // SLABS}")
    anatomy = patches.chosen(heads(asked.anatomies), generator)
    subject = draw_subject(generator, config.subject)
    world = anatomy.affine.double().cpu()
    brain = patches.brain_of(anatomy)[1].double() @ world[:3, :3].T + world[:3, 3]
    centre = (brain.amin(0) + brain.amax(0)) / 2
    centre[2] += (number % SLABS - (SLABS - 1) / 2) * patches.extent(SLAB, first[0])[2]
    noise = generator_for(asked.seed + TEST, f"RISH slab {number}")
    return seen_by(*seen_about(centre, anatomy, subject, config, noise)[0])


def seen_about(centre, anatomy, subject, config, generator) -> tuple:
    """Show both scanners a place; both batches, and the second's volume and frame."""
    import torch

    from DMRIMicroLib.training import patch as patches

    batches = []
    machines = config.first, config.second
    for (scanner, acq), size in zip(machines, config.patches(), strict=True):
        frame = patches.Frame(size, config.margin, config.finer, centre)
        volume = patches.rendered(anatomy, subject, frame, scanner, torch.device("cpu"))
        row = patches.look(volume, frame, acq, scanner, generator)
        batches.append(patches.batched([row], acq, scanner))
    return batches, volume, frame


def seen_by(low, high, ill: np.ndarray | None = None) -> Seen:
    """Put what two scanners saw of one simulated subject together."""
    scans = scan_of(low, low.signal), scan_of(high, high.signal), scan_of(high, high.clean)
    return together(*scans, ill)


def together(low, high, clean, ill: np.ndarray | None = None) -> Seen:
    """Put two scans of one subject together: voxels count that both show as brain."""
    from DMRIMicroLib.masking import onto_grid

    mask = onto_grid(np.asarray(low.mask), low.affine, high.shape, high.affine)
    return Seen(low, high, clean, mask & np.asarray(high.mask), ill)


def scan_of(batch, signal):
    """Turn the one subject of a batch into a scan."""
    from DMRIMicroLib.scan import Scan

    data = np.ascontiguousarray(np.moveaxis(signal[0].numpy(), 0, -1))
    return Scan(data, batch.affine[0].numpy(), batch.acquisition, batch.mask[0].numpy())


def lesioned(asked: Asked, number: int, kind: str) -> Seen:
    """Draw subjects until one has a large lesion, and a pair about its middle."""
    with effect_of(kind) as host:
        return _lesioned(asked, number, kind, host)


def _lesioned(asked: Asked, number: int, kind: str, host: str) -> Seen:
    from DMRIMicroLib.brain.phantom import draw_subject
    from DMRIMicroLib.brain.simulate import generator_for
    from DMRIMicroLib.rish.data import TEST
    from DMRIMicroLib.training import patch as patches
    from DMRIMicroLib.training.pairs import PairConfig

    first, second = machines(SHELL)
    config = PairConfig(patch=(asked.patch,) * 3, first=first, second=second)
    for attempt in range(TRIES):
        generator = generator_for(asked.seed + TEST, f"RISH lesion {kind} {number} {attempt}")
        anatomy = patches.chosen(heads(asked.anatomies), generator)
        subject = draw_subject(generator, replace(config.subject, lesion=host))
        centre = middle(anatomy, subject)
        if centre is None:
            continue
        batches, volume, frame = seen_about(centre, anatomy, subject, config, generator)
        return seen_by(*batches, ill_share(volume, frame, second[0]))
    raise RuntimeError(f"no {kind} of {TRIES} is large enough")


def middle(anatomy, subject):
    """Return the ill place with the most ill places about it: (3,) [mm], or None."""
    import torch

    from DMRIMicroLib.training.patch import COARSE, ill_places

    places = ill_places(anatomy, subject)
    if len(places) * COARSE**3 < VOLUME:
        return None
    return places[(torch.cdist(places, places) < REACH).sum(1).argmax()]


def ill_share(volume, frame, scanner) -> np.ndarray:
    """Share of every voxel of a patch that is ill: (x, y, z)."""
    ill = np.zeros(tuple(volume.mask.shape))
    ill[volume.mask.numpy()] = volume.lesion.numpy() > 0
    split = [m for n in ill.shape for m in (n // frame.finer, frame.finer)]
    share, margins = ill.reshape(split).mean((1, 3, 5)), frame.margins(scanner)
    return share[tuple(slice(m, m + n) for m, n in zip(margins, frame.patch, strict=True))]
