"""What is known of a head before any tissue is put into it: classes, fibres, bundles."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import staged
from ..io.example import cache_folder

CLASSES = ("white", "cortex", "deep", "csf")
"""Tissue classes: white matter, cortical grey, deep grey nuclei, cerebrospinal fluid."""

SUFFIX = ".safetensors"
FORMAT = "DMRIMicro anatomy"
FORMAT_VERSION = "1"

SHIPPED = Path(__file__).parent / "data"
"""Folder of the anatomies that come with the library."""

BYTE = 255.0
"""Fractions are stored in steps of 1 / 255: finer than anyone knows a tissue fraction."""

SIGNED = 127.0
"""Unit vectors are stored in steps of 1 / 127 a component: at most 0.4 degrees off."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One head on one grid; world coordinates are RAS millimetres.

    Attributes
    ----------
    name : str
    affine : (4, 4) float64 tensor
        Voxel indices to RAS.
    tissue : (4, x, y, z) float16 tensor
        Volume fractions of `CLASSES`; what is left to 1 is not brain.
    peaks : (k, 3, x, y, z) float16 tensor
        Fibre directions in RAS, longest first; the length is the relative size of the fibre
        population (0: none).
    coherence : (x, y, z) float16 tensor
        0 to 1: how parallel the fibres of a population are (from the anisotropy of the source).
    bundle : (x, y, z) uint8 tensor
        Bundle label, 0 for none.
    bundles : tuple of str
        Names of the labels 1, 2, ...
    sources : tuple of str
        Where it comes from, with licences.
    """

    name: str
    affine: Tensor
    tissue: Tensor
    peaks: Tensor
    coherence: Tensor
    bundle: Tensor
    bundles: tuple[str, ...]
    sources: tuple[str, ...]


def anatomy_folder() -> Path:
    """Where anatomies built on this machine are kept."""
    return cache_folder() / "anatomy"


def available(folder: str | Path | None = None) -> dict[str, Path]:
    """Name and file of every anatomy at hand: the shipped ones and those built here."""
    folders = (SHIPPED, Path(folder) if folder else anatomy_folder())
    return {file.stem: file for place in folders for file in sorted(place.glob(f"*{SUFFIX}"))}


def save(anatomy: Anatomy, file: str | Path) -> Path:
    """Write an anatomy: brain voxels only, bytes; the file appears whole or not at all.

    Fractions are rounded to 1 / 255 and directions to 0.4 degrees. Returns the path.
    """
    from safetensors.torch import save_file

    file = Path(file)
    if file.suffix != SUFFIX:
        raise InputError(f"ends in {file.suffix!r}", f"Let it end in {SUFFIX}.", file=file)
    mask = (_bytes(anatomy.tissue) > 0).any(0).cpu()
    peaks = anatomy.peaks[..., mask].float()
    share = peaks.norm(dim=1)
    tensors = {
        "mask": torch.from_numpy(np.packbits(mask.numpy())),
        "tissue": _bytes(anatomy.tissue[:, mask]),
        "share": _bytes(share),
        "direction": (peaks / share.clamp(min=1e-6)[:, None] * SIGNED).round().to(torch.int8),
        "coherence": _bytes(anatomy.coherence[mask]),
        "bundle": anatomy.bundle[mask],
    }
    about = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": anatomy.name,
        "shape": json.dumps(list(mask.shape)),
        "affine": json.dumps(anatomy.affine.tolist()),
        "bundles": json.dumps(anatomy.bundles),
        "sources": json.dumps(anatomy.sources),
    }
    with staged(file.parent) as stage:
        contents = {key: value.cpu().contiguous() for key, value in tensors.items()}
        plain = stage / "mode"
        plain.touch()
        save_file(contents, stage / file.name, metadata=about)
        shutil.copymode(plain, stage / file.name)  # safetensors let only the user read it
        plain.unlink()
    return file


def load_anatomy(name: str | Path, *, device: str | torch.device = "cpu") -> Anatomy:
    """Read an anatomy by its name (see `available`) or its file.

    Raises
    ------
    InputError
        If there is none of that name, or the file is not an anatomy.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(name)
    if file.suffix != SUFFIX:
        known = available()
        if str(name) not in known:
            raise InputError(
                f"no anatomy is called {str(name)!r}; there are {', '.join(known) or 'none'}",
                f"Choose one of them, or give a {SUFFIX} file.",
            )
        file = known[str(name)]
    if not file.exists():
        raise InputError("there is no such file", "Check the path.", file=file)
    try:
        with safe_open(file, "pt", device=str(device)) as opened:
            about = opened.metadata() or {}
            if (about.get("format"), about.get("version")) != (FORMAT, FORMAT_VERSION):
                raise InputError(
                    f"is not an anatomy of version {FORMAT_VERSION}", "Build it anew.", file=file
                )
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot be read ({error})", "Build it anew.", file=file) from error
    return _unpacked(tensors, about)


def _unpacked(tensors: dict[str, Tensor], about: dict[str, str]) -> Anatomy:
    shape = tuple(json.loads(about["shape"]))
    bits = np.unpackbits(tensors["mask"].cpu().numpy(), count=int(np.prod(shape)))
    mask = torch.from_numpy(bits.astype(bool)).reshape(shape).to(tensors["tissue"].device)

    def volume(values: Tensor, dtype: torch.dtype) -> Tensor:
        whole = torch.zeros(*values.shape[:-1], *shape, dtype=dtype, device=values.device)
        whole[..., mask] = values.to(dtype)
        return whole

    direction = tensors["direction"].float()
    unit = direction / direction.norm(dim=1, keepdim=True).clamp(min=1)
    half = torch.float16
    return Anatomy(
        name=about["name"],
        affine=torch.tensor(json.loads(about["affine"]), dtype=torch.float64),
        tissue=volume(tensors["tissue"].float() / BYTE, half),
        peaks=volume(unit * (tensors["share"].float() / BYTE)[:, None], half),
        coherence=volume(tensors["coherence"].float() / BYTE, half),
        bundle=volume(tensors["bundle"], torch.uint8),
        bundles=tuple(json.loads(about["bundles"])),
        sources=tuple(json.loads(about["sources"])),
    )


def _bytes(fraction: Tensor) -> Tensor:
    return (fraction.float().clamp(0, 1) * BYTE).round().to(torch.uint8)
