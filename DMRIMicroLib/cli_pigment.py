"""The command `dmrimicro pigment`."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from .arguments import (
    BigDelta,
    Bval,
    Bvec,
    Degibbs,
    Denoising,
    Device,
    EchoTime,
    Exclude,
    MapFolder,
    Mask,
    NoiseFrom,
    Overwrite,
    ScanPath,
    SmallDelta,
    Threads,
    Threshold,
    WriteReport,
    names_in,
    parse_volumes,
)
from .cli_codebook import PREPARED, ShowProgress, Weights, between, prepared, use_threads
from .index import check_folder
from .table import B0_THRESHOLD
from .terminal import ProgressStyle, console, shown

WRITTEN = 0.95
"""Share of the work that is done when the maps are there."""


class PresetName(StrEnum):
    """Presets of `prior.estimate.PRESETS`."""

    fast = "fast"
    standard = "standard"
    best = "best"


def pigment(
    scan: ScanPath,
    out: MapFolder,
    models: Annotated[
        str, typer.Option(help="Models whose metrics are wanted, separated by commas; or all.")
    ] = "dti,dki,noddi",
    preset: Annotated[
        PresetName, typer.Option(help="How much work is done: fast, standard or best.")
    ] = (PresetName.standard),
    samples: Annotated[
        int | None, typer.Option(help="Samples of what the tissue may be.", min=1)
    ] = None,
    adapt: Annotated[
        int | None,
        typer.Option(
            help="Steps in which the prior first learns from the scan, by volumes left out.",
            min=0,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same maps.")] = 0,
    weights: Weights = "codebook",
    bval: Bval = None,
    bvec: Bvec = None,
    mask: Mask = None,
    b0_threshold: Threshold = B0_THRESHOLD,
    exclude: Exclude = "",
    delta: SmallDelta = None,
    Delta: BigDelta = None,
    TE: EchoTime = None,
    noise: NoiseFrom = "b0",
    denoise: Denoising = None,
    degibbs: Degibbs = False,
    device: Device = "auto",
    threads: Threads = None,
    report: WriteReport = True,
    overwrite: Overwrite = False,
    progress: ShowProgress = ProgressStyle.bar,
) -> None:
    """Estimate maps from too few volumes: samples under a prior of brain tissue."""
    from .files import check_writable
    from .io import load

    started = time.perf_counter()
    timing = {"delta": delta, "Delta": Delta, "TE": TE}
    table = {"bval": bval, "bvec": bvec, "mask": mask, "b0_threshold": b0_threshold}
    opened = load(scan, **table, exclude=parse_volumes(exclude), **timing)
    check_writable(out)
    check_folder(out, overwrite=overwrite)
    # after the input is known to be good: importing torch takes seconds
    from .prior.estimate import pigment as estimate

    use_threads(threads)
    names = names_in(models)
    with shown(progress) as tell:
        tell(0.0, "Reading")
        opened = prepared(opened, denoise, degibbs, noise, tell)
        check_folder(out, opened.fingerprint, overwrite=overwrite)
        first = PREPARED if denoise or degibbs else 0.0
        found = estimate(
            opened,
            names,
            preset=preset.value,
            samples=samples,
            adapt=adapt,
            weights=weights,
            seed=seed,
            device=device,
            progress=between(tell, first, WRITTEN),
        )
        text = None
        if report:
            from .report import render

            tell(WRITTEN, "Writing the report")
            text = render(opened, found.maps)
        tell(WRITTEN, "Writing maps")
        index = found.save(out, overwrite=overwrite, texts={"report.html": text})
        tell(1.0, "Done")
    for note in dict.fromkeys(found.maps.provenance["pigment"]["notes"]):
        console.print(f"note: {note}", style="dim")
    seconds = time.perf_counter() - started
    typer.echo(f"{len(found.maps)} maps by posterior sampling in {seconds:.1f} s: {index}")
