"""A subject in a scanner, start to end: everything from a seed and a configuration."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save_file

from ..acquisition import Acquisition
from ..errors import InputError
from ..files import staged
from ..fitting.threads import one_thread_each
from ..index import INDEX, listed
from ..io import nifti
from ..io.bids import MS_PER_S, TIMES
from ..maps import MapSet
from ..models import MODELS
from ..scan import Scan
from ..version import __version__
from .anatomy import Anatomy
from .fields import EXTENT
from .grid import covering
from .phantom import Subject, SubjectConfig, draw_subject, render
from .protocols import named
from .scanner import Scanner, scan
from .truth import orientations, truth
from .volume import StateVolume

FINER = 2
"""Pieces of tissue along each edge of a voxel."""

SEARCH = 5.0
"""Voxel size of the grid on which a subject's brain is looked for [mm]."""

MARGIN = 8.0
"""Empty space around the head, on each side [mm]: the field of view is larger than the brain."""

IMAGE, STATE, TRUTH = "dwi.nii.gz", "state.safetensors", "truth"
"""What a simulation is called in its folder."""

RENDERED, SCANNED = 0.1, 0.2
"""Share of the work that is done when the tissue is there, and when it was scanned; the rest is the
truth of all models (about; on a CPU)."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated scan and all that is known of it.

    Attributes
    ----------
    scan : Scan
    truth : MapSet
        All metrics, and the state (`truth.truth`).
    volume : StateVolume
        The tissue, on a grid finer than the scan's.
    scanner : Scanner
    provenance : dict
        Seed and configuration.
    """

    scan: Scan
    truth: MapSet
    volume: StateVolume
    scanner: Scanner
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the scan, the truth and the state, or nothing; return the path of the scan's image.

        ``dwi.nii.gz`` with ``.bval``, ``.bvec``, ``.json`` and ``dwi_mask.nii.gz``; ``truth/`` with
        a map for each metric and the fibre orientations' SH; ``state.safetensors`` with the tissue.

        Raises
        ------
        InputError
            If there is such a scan or truth already and `overwrite` is off.
        """
        folder = Path(folder)
        check_free(folder, overwrite=overwrite)
        known = folder / TRUTH
        before = listed(known / INDEX)
        odf, affine = orientations(self.volume, self.scan.acquisition, self.scanner)
        with staged(folder, last=IMAGE) as stage, staged(known, last=INDEX) as maps:
            self.truth.save(maps)
            nib.save(nib.Nifti1Image(odf, affine), maps / "model-state_param-odf_dwimap.nii.gz")
            save_file(state_tensors(self.volume), stage / STATE, self._strings())
            sidecar = json.dumps(self._sidecar(), indent=2) + "\n"
            (stage / "dwi.json").write_text(sidecar, encoding="utf-8")
            shutil.copymode(stage / "dwi.json", stage / STATE)  # safetensors let only the user read
            nifti.save(self.scan, stage / IMAGE)
        for name in before - listed(known / INDEX):
            (known / name).unlink(missing_ok=True)
        return folder / IMAGE

    def _sidecar(self) -> dict[str, Any]:
        """Names of BIDS, in its units, and the provenance."""
        acq, scanner = self.scan.acquisition, self.scanner
        told = {
            "Modality": "MR",
            "Manufacturer": "simulated",
            "MagneticFieldStrength": scanner.field,
            "RepetitionTime": scanner.TR,
            "SliceThickness": scanner.voxel[2],
            "PartialFourier": scanner.partial,
        }
        times = {key: getattr(acq, name) for key, name in TIMES.items()}
        told |= {key: value / MS_PER_S for key, value in times.items() if value is not None}
        return {**told, "DMRIMicro": self.provenance}

    def _strings(self) -> dict[str, str]:
        return {"format": "DMRIMicro state", "provenance": json.dumps(self.provenance)}


def simulate(
    anatomy: Anatomy,
    *,
    seed: int,
    protocol: str | Acquisition = "clinical30",
    field: float = 3.0,
    voxel_size: float | tuple[float, float, float] = 2.0,
    scanner: Scanner | None = None,
    subject: SubjectConfig | None = None,
    lesion: str | None = None,
    age: float | None = None,
    models: Sequence[str] | None = None,
    finer: int = FINER,
    device: str | torch.device = "cpu",
    progress: Callable[[float, str], None] | None = None,
) -> Simulation:
    """Simulate one scan of one subject: the same arguments give the same bits on one machine.

    Parameters
    ----------
    anatomy : Anatomy
    seed : int
    protocol : str or Acquisition
        A name of `protocols.DESIGNS`, or any acquisition.
    field : float
        [T]
    voxel_size : float or (float, float, float)
        [mm]
    scanner : Scanner, optional
        In place of `field` and `voxel_size`; by default a usual one with mild artefacts.
    subject : SubjectConfig, optional
    lesion : str, optional
        Of the subject, see `lesions`.
    age : float, optional
        Months, for an infant.
    models : sequence of str, optional
        Models whose metrics get a truth: all, by default.
    finer : int
        Pieces of tissue along each edge of a voxel.
    device : str or torch.device
    progress : callable, optional
        Called with the share that is done, 0 to 1, and what is being done.
    """
    report = progress or (lambda share, text: None)
    if unknown := set(models or ()) - set(MODELS):
        raise InputError(
            f"no model is called {', '.join(sorted(unknown))}", f"Choose of {', '.join(MODELS)}."
        )
    acquisition = named(protocol) if isinstance(protocol, str) else protocol
    if scanner is None:
        size = voxel_size if isinstance(voxel_size, tuple) else (voxel_size,) * 3
        scanner = usual_scanner(field, tuple(float(v) for v in size))  # type: ignore[arg-type]
    config = subject or SubjectConfig()
    if lesion is not None:
        config = replace(config, lesion=lesion)
    if age is not None:
        config = replace(config, age=age)
    person = draw_subject(generator_for(seed, "subject"), config)
    made = {
        "software": f"DMRIMicro {__version__}",
        "seed": seed,
        "anatomy": anatomy.name,
        "sources": list(anatomy.sources),
        "subject": json.loads(json.dumps(asdict(config), default=str)),
        "scanner": asdict(scanner),
        "acquisition": acquisition.describe(),
        "finer": finer,
    }
    with one_thread_each():  # a busy core would hold up every small operation
        report(0.0, "Making the tissue")
        affine, shape = fine_grid(anatomy, scanner, finer, person)
        volume = render(anatomy, person, affine, shape, device)
        report(RENDERED, "Scanning")
        seen = scan(volume, acquisition, scanner, generator_for(seed, "scanner"))

        def tell(share: float, text: str) -> None:
            report(SCANNED + (1 - SCANNED) * share, text)

        known = truth(volume, acquisition, scanner, models, device, tell)
    return Simulation(seen, known, volume, scanner, made)


def check_free(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raise InputError if a folder holds a scan or a truth that may not be replaced."""
    there = [n for n in (IMAGE, STATE, f"{TRUTH}/{INDEX}") if (Path(folder) / n).exists()]
    if there and not overwrite:
        raise InputError(
            f"holds {', '.join(there)} already",
            "Choose another output folder, or allow it with --overwrite (overwrite=True).",
            file=folder,
        )


def usual_scanner(field: float, voxel: tuple[float, float, float]) -> Scanner:
    """Return an ordinary scanner of a field strength [T], with mild artefacts."""
    return Scanner(
        f"{field:g} T",
        field=field,
        voxel=voxel,
        noise_profile=0.3,
        ringing=True,
        partial=0.8,
        bias=0.08 if field <= 3 else 0.15,
        transmit=min(0.45, 0.05 * field),
        ghost=0.01,
        receive=0.35,
        eddy=0.075,
        pulsation=0.03,
        level=8000.0,
    )


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Return the generator of a purpose: what one draws does not change what another does."""
    told = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(told[:8], "little") % 2**63)


def fine_grid(
    anatomy: Anatomy, scanner: Scanner, finer: int = FINER, subject: Subject | None = None
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Return the grid on which to render, so that voxels of the scanner hold whole pieces of it.

    It holds the brain of the anatomy, or of a subject, who may be larger and lie elsewhere.
    """
    if subject is None:
        affine, brain = anatomy.affine, anatomy.tissue.sum(0) > 0.1
    else:
        affine, brain = _whole_brain(anatomy, subject)
    inside = brain.nonzero()
    low, high = inside.min(0).values.double(), inside.max(0).values.double()
    edge = affine[:3, :3].norm(dim=0)
    pad = torch.ceil(MARGIN / edge)
    first, last = low - pad, high + pad
    box = affine.clone()
    box[:3, 3] += affine[:3, :3] @ first
    shape = tuple(int(n) for n in last - first + 1)
    coarse = covering(box, shape, scanner.voxel, scanner.gap)
    # slices and the gaps between them are cut alike
    slices = math.ceil(finer * coarse.voxel[2] / scanner.voxel[2] - 1e-6)
    parts = coarse.refined((finer, finer, slices))
    return parts.affine, parts.shape


def _whole_brain(anatomy: Anatomy, subject: Subject) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a subject's brain is, on a coarse grid of all the space that a head may fill.

    A lesion does not count: the field of view is the same with it and without.
    """
    tissue = (anatomy.tissue.sum(0) > 0.1).nonzero().double()
    middle = anatomy.affine[:3, :3] @ tissue.mean(0) + anatomy.affine[:3, 3]
    axes = anatomy.affine[:3, :3] / anatomy.affine[:3, :3].norm(dim=0)
    count = int(EXTENT / SEARCH)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = SEARCH * axes
    affine[:3, 3] = middle - affine[:3, :3] @ torch.full((3,), (count - 1) / 2).double()
    well = replace(subject, lesion=None)
    return affine, render(anatomy, well, affine, (count,) * 3, "cpu").mask


def state_tensors(volume: StateVolume) -> dict[str, torch.Tensor]:
    """Return a volume as named tensors to keep, in half precision."""
    kept = {
        f"state.{name}": value.half().cpu().contiguous()
        for name, value in vars(volume.state).items()
    }
    return kept | {
        "mask": volume.mask.cpu(),
        "affine": volume.affine.double().cpu(),
        "fill": volume.fill.half().cpu(),
        "tissue": volume.tissue.half().cpu().contiguous(),
        "lesion": volume.lesion.cpu(),
    }


def digest(signal: np.ndarray) -> str:
    """Hexadecimal sha256 of an array's bits, to tell whether two simulations are the same."""
    return hashlib.sha256(np.ascontiguousarray(signal).tobytes()).hexdigest()
