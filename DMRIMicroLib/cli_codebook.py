"""The commands `dmrimicro codebook` and `dmrimicro adapt`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .arguments import (
    BigDelta,
    Bval,
    Bvec,
    Degibbs,
    Denoise,
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
    parse_volumes,
)
from .errors import InputError
from .index import check_folder
from .maps import MapSet
from .scan import Scan
from .table import B0_THRESHOLD
from .terminal import ProgressStyle, console, shown

Tell = Callable[[float, str], None]

Weights = Annotated[
    str, typer.Option(help="Name of the network's weights, or their .safetensors file.")
]
ShowProgress = Annotated[ProgressStyle, typer.Option(help="How to show progress.")]

PREPARED, ESTIMATED, PICTURED = 0.3, 0.8, 0.9
"""Share of the work that is done when the signal is prepared, the maps are there, and the report is
written (about)."""


def codebook(
    scan: ScanPath,
    out: MapFolder,
    weights: Weights = "codebook",
    extra: Annotated[
        list[Path] | None, typer.Option(help="Metric made by `adapt`; may be repeated.")
    ] = None,
    kernels: Annotated[
        bool, typer.Option(help="Write the weight of every tissue kernel, too (a second pass).")
    ] = False,
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
    """Estimate 24 metrics of a scan of any protocol by a trained network, in seconds."""
    from .files import check_writable
    from .io import load

    started = time.perf_counter()
    timing = {"delta": delta, "Delta": Delta, "TE": TE}
    table = {"bval": bval, "bvec": bvec, "mask": mask, "b0_threshold": b0_threshold}
    opened = load(scan, **table, exclude=parse_volumes(exclude), **timing)
    check_writable(out)
    check_folder(out, overwrite=overwrite)
    # after the input is known to be good: importing torch takes seconds
    from .codebooks.estimate import codebook as estimate
    from .codebooks.kernel_maps import IMAGE, TABLE, kernel_maps

    use_threads(threads)
    with shown(progress) as tell:
        tell(0.0, "Reading")
        # here and not above, because removing noise changes the scan
        opened = prepared(opened, denoise, degibbs, noise, tell)
        check_folder(out, opened.fingerprint, overwrite=overwrite)
        first = PREPARED if denoise or degibbs else 0.0
        middle = (first + ESTIMATED) / 2 if kernels else ESTIMATED
        network = {"weights": weights, "device": device}
        maps = estimate(opened, extra=extra or (), **network, progress=between(tell, first, middle))
        book = None
        if kernels:
            book = kernel_maps(opened, **network, progress=between(tell, middle, ESTIMATED))
        tell(ESTIMATED, "Writing the report" if report else "Writing maps")
        texts = {"report.html": _report(opened, maps) if report else None}
        if book is None:  # those of an earlier run would tell of other maps
            texts |= {IMAGE: None, TABLE: None}
        tell(PICTURED, "Writing maps")
        index = maps.save(out, overwrite=overwrite, texts=texts)
        if book is not None:
            book.save(out)
        tell(1.0, "Done")
    for note in dict.fromkeys(maps.provenance["codebook"]["notes"]):
        console.print(f"note: {note}", style="dim")
    seconds = time.perf_counter() - started
    typer.echo(f"{len(maps)} maps of the codebook in {seconds:.1f} s: {index}")


def adapt(
    scan: ScanPath,
    target: Annotated[
        Path, typer.Argument(help="Image of the metric on the scan's grid; NaN and 0: unlabelled.")
    ],
    name: Annotated[str, typer.Option(help="Name of the metric.")],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    unit: Annotated[str, typer.Option(help="Its unit.")] = "",
    title: Annotated[str, typer.Option(help="What it is, in a few words.")] = "",
    labelled: Annotated[
        Path | None, typer.Option(help="Image that is > 0 where labelled; then 0 is a label.")
    ] = None,
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
    overwrite: Annotated[bool, typer.Option(help="Replace the file.")] = False,
    progress: ShowProgress = ProgressStyle.bar,
) -> None:
    """Teach the codebook a new metric from labelled voxels; use it with `codebook --extra FILE`."""
    from .io import load

    timing = {"delta": delta, "Delta": Delta, "TE": TE}
    table = {"bval": bval, "bvec": bvec, "mask": mask, "b0_threshold": b0_threshold}
    opened = load(scan, **table, exclude=parse_volumes(exclude), **timing)
    if not target.exists():
        raise InputError("there is no such file", "Check the path.", file=target)
    _check_metric_file(out, overwrite)
    from .codebooks.adapt import adapt as learn

    use_threads(threads)
    with shown(progress) as tell:
        tell(0.0, "Reading")
        opened = prepared(opened, denoise, degibbs, noise, tell)
        first = PREPARED if denoise or degibbs else 0.0
        made = learn(
            weights,
            opened,
            target,
            name=name,
            unit=unit,
            title=title,
            mask=labelled,
            out=out,
            device=device,
            progress=between(tell, first, PICTURED),
        )
        tell(1.0, "Done")
    for note in made.notes:
        console.print(f"note: {note}", style="dim")
    typer.echo(
        f"{name}: {made.voxels} voxels; where they were left out, correlation "
        f"{made.correlation:.3f}, error {made.rmse:.3g} {unit}".rstrip()
    )
    typer.echo(f"use it: dmrimicro codebook SCAN --out DIR --extra {made.file}")


def prepared(scan: Scan, denoise: Denoise | None, degibbs: bool, noise: str, tell: Tell) -> Scan:
    """Return the scan with a mask, after the steps that were asked for."""
    from .masking import brain_mask
    from .preprocess import prepare

    return prepare(
        brain_mask(scan),
        denoise=denoise and denoise.value,
        degibbs=degibbs,
        noise=noise,
        progress=between(tell, 0.0, PREPARED),
    )


def between(tell: Tell, low: float, high: float) -> Tell:
    """Return what shows a part of the work within the whole."""
    return lambda share, text: tell(low + (high - low) * share, text)


def _report(scan: Scan, maps: MapSet) -> str:
    from .report import render

    return render(scan, maps)


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads, if it was said how many."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _check_metric_file(file: Path, overwrite: bool) -> None:
    """Refuse, before the work, a file that cannot be written."""
    from .files import check_writable

    check_writable(file.parent)
    if file.suffix != ".safetensors":
        raise InputError(f"ends in {file.suffix!r}", "Let it end in .safetensors.", file=file)
    if file.exists() and not overwrite:
        raise InputError("is there already", "Name another, or add --overwrite.", file=file)
