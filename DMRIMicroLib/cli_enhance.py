"""The command `dmrimicro enhance`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .arguments import (
    Bval,
    Bvec,
    Degibbs,
    Denoising,
    Device,
    Exclude,
    Mask,
    NoiseFrom,
    ScanPath,
    Threads,
    Threshold,
    parse_volumes,
)
from .cli_codebook import PREPARED, ShowProgress, between, prepared, use_threads
from .table import B0_THRESHOLD
from .terminal import ProgressStyle, console, shown

ENHANCED = 0.9
"""Share of the work that is done when writing begins."""


def enhance(
    scan: ScanPath,
    out: Annotated[Path, typer.Option(help="Image to write, .nii.gz; the rest lies beside it.")],
    method: Annotated[
        str, typer.Option(help="auto, residual, ldm, cnn, gan, linear or interpolate.")
    ] = "auto",
    resolution: Annotated[
        str, typer.Option(help="7T: voxels of 1.05 mm; keep: those of the scan; or an edge in mm.")
    ] = "7T",
    directions: Annotated[
        str, typer.Option(help="quiet: with noise taken out of them, too; keep: as in the scan.")
    ] = "quiet",
    samples: Annotated[
        int, typer.Option(help="Draws of a generative method; several: their mean and sd.", min=1)
    ] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same scan.")] = 0,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Edge of what a network sees at a time [voxels], a multiple of 8; as in its "
            "training if left out.",
            min=8,
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Name of the method's weights, or their .safetensors file.")
    ] = None,
    bval: Bval = None,
    bvec: Bvec = None,
    mask: Mask = None,
    b0_threshold: Threshold = B0_THRESHOLD,
    exclude: Exclude = "",
    noise: NoiseFrom = "b0",
    denoise: Denoising = None,
    degibbs: Degibbs = False,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the image.")] = False,
    progress: ShowProgress = ProgressStyle.bar,
) -> None:
    """Make a 7 T-like scan of a 3 T scan: same gradients, finer voxels."""
    from .files import check_writable
    from .io import load

    started = time.perf_counter()
    table = {"bval": bval, "bvec": bvec, "mask": mask, "b0_threshold": b0_threshold}
    opened = load(scan, **table, exclude=parse_volumes(exclude))
    check_writable(out.parent)
    # after the input is known to be good: importing torch takes seconds
    from .rish.enhance import enhance as run
    from .rish.result import check_image

    check_image(out, overwrite=overwrite)
    use_threads(threads)
    with shown(progress) as tell:
        tell(0.0, "Reading")
        opened = prepared(opened, denoise, degibbs, noise, tell)
        first = PREPARED if denoise or degibbs else 0.0
        made = run(
            opened,
            method,
            resolution,
            directions=directions,
            samples=samples,
            seed=seed,
            weights=weights,
            device=device,
            tile=tile,
            progress=between(tell, first, ENHANCED),
        )
        tell(ENHANCED, "Writing")
        image = made.save(out, overwrite=overwrite)
        tell(1.0, "Done")
    for note in dict.fromkeys(made.provenance["notes"]):
        console.print(f"note: {note}", style="dim")
    shape = " x ".join(map(str, made.scan.shape))
    seconds = time.perf_counter() - started
    typer.echo(f"{shape} voxels by {made.provenance['method']} in {seconds:.1f} s: {image}")
