"""What the commands take: types, choices and help of their arguments."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .errors import InputError


class Method(StrEnum):
    """Least-squares methods of linear models."""

    wls = "wls"
    ols = "ols"


class Noise(StrEnum):
    """Noise of the magnitude signal."""

    auto = "auto"
    rician = "rician"
    gaussian = "gaussian"


class Denoise(StrEnum):
    """Methods of noise removal."""

    mppca = "mppca"
    patch2self = "patch2self"


ScanPath = Annotated[
    Path, typer.Argument(help="NIfTI (.nii, .nii.gz), DWI NRRD, or a folder of DICOM files.")
]
Bval = Annotated[Path | None, typer.Option(help="b-values; found beside the image if left out.")]
Bvec = Annotated[
    Path | None, typer.Option(help="b-vectors, FSL convention; found beside the image if left out.")
]
Mask = Annotated[
    Path | None, typer.Option(help="Mask image on any overlapping grid; estimated if left out.")
]
Threshold = Annotated[float, typer.Option(help="Volumes with b up to this count as b0 [s/mm2].")]
ModelFile = Annotated[
    list[Path] | None, typer.Option(help="Python file with a model of your own; may be repeated.")
]
SmallDelta = Annotated[
    float | None, typer.Option("--delta", help="Gradient duration [ms].", show_default=False)
]
BigDelta = Annotated[
    float | None,
    typer.Option("--Delta", help="Gradient separation, start to start [ms].", show_default=False),
]
EchoTime = Annotated[float | None, typer.Option("--TE", help="Echo time [ms].")]
NoiseFrom = Annotated[
    str, typer.Option(help="Noise from: b0 (repeats; after mppca: its own), pca, or a number.")
]
Denoising = Annotated[
    Denoise | None, typer.Option(help="Remove noise first; patch2self needs 20 directions.")
]
Degibbs = Annotated[bool, typer.Option(help="Remove Gibbs ringing first.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; all cores if left out.", min=1)]
MapFolder = Annotated[Path, typer.Option(help="Folder for the maps.")]
WriteReport = Annotated[bool, typer.Option(help="Write report.html beside the maps.")]
Overwrite = Annotated[bool, typer.Option(help="Replace maps of another scan in the folder.")]
Exclude = Annotated[str, typer.Option(help="Volumes to leave out, counted from 0: 3,17,40-45.")]


def model_names(text: str) -> str | list[str]:
    """Turn 'dti, dki' into names; 'all' stays."""
    if text.strip().lower() == "all":
        return "all"
    return names_in(text)


def names_in(text: str) -> list[str]:
    """Turn 'a, b' into names; nothing between commas counts for nothing."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_volumes(text: str) -> list[int]:
    """Turn '3,17,40-45' into numbers."""
    volumes: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, _, last = part.partition("-")
        try:
            start, stop = int(first), int(last or first)
            if stop < start:
                raise ValueError
            volumes += range(start, stop + 1)
        except ValueError:
            raise InputError(
                f"--exclude has {part!r}", "Write volume numbers like 3,17,40-45."
            ) from None
    return volumes
