"""The command `dmrimicro simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from .acquisition import Acquisition
from .arguments import model_names
from .errors import InputError
from .terminal import ProgressStyle, console, shown

if TYPE_CHECKING:
    from .brain.scanner import Scanner

WRITING = 0.95
"""Share of the work that is done when writing begins."""


def _show_names(wanted: bool) -> None:
    if wanted:
        typer.echo(known_names())
        raise typer.Exit


def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the scan, its truth and its state.")],
    bids: Annotated[
        str,
        typer.Option(
            help="Labels, commas between: a subject each, with seeds from --seed on; "
            "the folder is then a BIDS data set."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same scan.")] = 0,
    protocol: Annotated[
        str, typer.Option(help="A name (see --list), or two files: dwi.bval,dwi.bvec.")
    ] = "clinical30",
    field: Annotated[float, typer.Option(help="Field strength [T].", min=0.05, max=7.5)] = 3.0,
    voxel_size: Annotated[
        float, typer.Option(help="Edge of a voxel, in mm.", min=0.5, max=10)
    ] = 2.0,
    scanner: Annotated[
        str | None,
        typer.Option(help="A scanner (see --list), in place of --field and --voxel-size."),
    ] = None,
    lesion: Annotated[str | None, typer.Option(help="A lesion (see --list).")] = None,
    lesion_masks: Annotated[
        Path | None, typer.Option(help="Folder of stroke masks (NIfTI) in the anatomy's space.")
    ] = None,
    age: Annotated[
        float | None, typer.Option(help="Age in months: an infant's brain.", min=0, max=24)
    ] = None,
    anatomy: Annotated[
        str, typer.Option(help="A name (see --list), an anatomy file, or a folder of maps.")
    ] = "small",
    models: Annotated[
        str, typer.Option(help="Models whose truth is written, separated by commas, all or none.")
    ] = "all",
    delta: Annotated[float | None, typer.Option("--delta", help="With two files: in ms.")] = None,
    Delta: Annotated[float | None, typer.Option("--Delta", help="With two files: in ms.")] = None,
    TE: Annotated[float | None, typer.Option("--TE", help="With two files: in ms.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace a simulation in the folder.")] = False,
    progress: Annotated[
        ProgressStyle, typer.Option(help="How to show progress.")
    ] = ProgressStyle.bar,
    names: Annotated[
        bool,
        typer.Option(
            "--list",
            help="List protocols, scanners, lesions and anatomies.",
            is_eager=True,
            callback=_show_names,
        ),
    ] = False,
) -> None:
    """Simulate a scan of a digital brain whose microstructure is known."""
    from .files import check_writable

    acquisition, notes = open_protocol(protocol, delta=delta, Delta=Delta, TE=TE)
    if lesion_masks is not None and not (lesion or "").startswith("stroke"):
        raise InputError("--lesion-masks without a stroke", "Add --lesion stroke.")
    check_writable(out)
    # after the input is known to be good: importing torch takes seconds
    from .brain import dataset
    from .brain.ownscan import open_anatomy
    from .brain.phantom import SubjectConfig
    from .brain.simulate import TRUTH, check_free
    from .brain.simulate import simulate as run
    from .fitting.estimate import choose_device

    labels = dataset.labels_of(bids)
    if labels:
        dataset.check_free_subjects(out, labels, overwrite=overwrite)
    else:
        check_free(out, overwrite=overwrite)
    said = []
    with shown(progress) as tell:
        tell(0.0, "Reading the anatomy")
        head, parts = open_anatomy(anatomy), max(1, len(labels))
        for k, label in enumerate(labels or [None]):

            def told(done: float, text: str, k: int = k) -> None:
                tell((k + done) / parts, text)

            made = run(
                head,
                seed=seed + k,
                protocol=acquisition,
                field=field,
                voxel_size=voxel_size,
                scanner=None if scanner is None else known_scanner(scanner),
                subject=SubjectConfig(masks=lesion_masks),
                lesion=lesion,
                age=age,
                models=wanted_models(models),
                device=choose_device(device),
                progress=lambda done, text, told=told: told(WRITING * done, text),
            )
            told(WRITING, "Writing")
            if label is None:
                image = made.save(out, overwrite=overwrite)
            else:
                image = dataset.save(made, out, label, overwrite=overwrite)
            shape = " x ".join(map(str, made.scan.shape))
            said.append(f"{shape} voxels, {made.scan.acquisition.describe()}: {image}")
        tell(1.0, "Done")
    for note in notes:
        console.print(f"note: {note}", style="dim")
    for line in said:
        typer.echo(line)
    typer.echo(f"truth: {out / (dataset.KNOWN if labels else TRUTH)}")


def wanted_models(text: str) -> list[str] | None:
    """Turn 'dti,dki' into names; 'all' is None, 'none' an empty list."""
    names = model_names(text)
    if names == "all":
        return None
    return [] if names == ["none"] else list(names)


def known_scanner(name: str) -> Scanner:
    """Return a scanner by its name."""
    from .brain.machines import SCANNERS

    if name not in SCANNERS:
        raise InputError(f"there is no scanner {name!r}", f"Choose from: {', '.join(SCANNERS)}.")
    return SCANNERS[name]


def open_protocol(text: str, **timing: float | None) -> tuple[str | Acquisition, tuple[str, ...]]:
    """Return a protocol's name, or the acquisition of two files in FSL's convention, and notes.

    The files are held to what those of a real scan are held to.
    """
    if "," not in text:
        given = [name for name, value in timing.items() if value is not None]
        if given:
            raise InputError(
                f"{', '.join(f'--{name}' for name in given)} with a protocol that has its own",
                "Give gradient timing with two files only: --protocol dwi.bval,dwi.bvec.",
            )
        return text, ()
    from .io.gradients import fsl_to_ras, read_bval, read_bvec
    from .table import B0_THRESHOLD, check_bvals, check_bvecs, to_s_per_mm2

    files = [Path(part.strip()) for part in text.split(",")]
    if len(files) != 2:
        raise InputError(f"--protocol has {len(files)} files", "Give two: dwi.bval,dwi.bvec.")
    bval, bvec = files
    bvals, note = to_s_per_mm2(check_bvals(read_bval(bval), file=bval), file=bval)
    bvecs = read_bvec(bvec, len(bvals))
    bvecs = check_bvecs(bvecs, bvals, b0_threshold=B0_THRESHOLD, file=bvec)
    # the simulated image has a positive determinant, which FSL's convention mirrors
    acquisition = Acquisition(bvals, fsl_to_ras(bvecs, np.eye(4)), **timing)
    return acquisition, (note,) if note else ()


def known_names() -> str:
    """List what can be named."""
    from .brain.anatomy import available
    from .brain.lesions import LESIONS
    from .brain.machines import SCANNERS
    from .brain.protocols import DESIGNS, named

    lines = ["protocols:"]
    lines += [f"  {name}: {named(name).describe()} ({d.source})" for name, d in DESIGNS.items()]
    lines += ["scanners:"]
    for name, s in SCANNERS.items():
        lines.append(f"  {name}: {s.field:g} T, {' x '.join(f'{v:g}' for v in s.voxel)} mm")
    lines += [f"lesions: stroke, {', '.join(LESIONS)}", f"anatomies: {', '.join(available())}"]
    return "\n".join(lines)
