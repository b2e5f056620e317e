"""The command `dmrimicro simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from .acquisition import Acquisition
from .errors import InputError
from .terminal import ProgressStyle, shown


def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the scan, its truth and its state.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same scan.")] = 0,
    protocol: Annotated[
        str, typer.Option(help="A name (see --list), or two files: dwi.bval,dwi.bvec.")
    ] = "clinical30",
    field: Annotated[float, typer.Option(help="Field strength [T].", min=0.05, max=10)] = 3.0,
    voxel_size: Annotated[float, typer.Option(help="Edge of a voxel [mm].", min=0.5, max=10)] = 2.0,
    lesion: Annotated[str | None, typer.Option(help="A lesion (see --list).")] = None,
    age: Annotated[
        float | None, typer.Option(help="Age in months: an infant's brain.", min=0, max=24)
    ] = None,
    anatomy: Annotated[
        str, typer.Option(help="A name (see --list), an anatomy file, or a folder of maps.")
    ] = "small",
    models: Annotated[str, typer.Option(help="Models whose truth is written, or all.")] = "all",
    delta: Annotated[float | None, typer.Option("--delta", help="With files [ms].")] = None,
    Delta: Annotated[float | None, typer.Option("--Delta", help="With files [ms].")] = None,
    TE: Annotated[float | None, typer.Option("--TE", help="With files [ms].")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    progress: Annotated[
        ProgressStyle, typer.Option(help="How to show progress.")
    ] = ProgressStyle.bar,
    names: Annotated[
        bool, typer.Option("--list", help="List protocols, lesions and anatomies.", is_eager=True)
    ] = False,
) -> None:
    """Simulate a scan of a digital brain whose microstructure is known."""
    from .arguments import model_names
    from .brain.ownscan import open_anatomy
    from .brain.simulate import simulate as run
    from .files import check_writable
    from .fitting.estimate import choose_device

    if names:
        typer.echo(known_names())
        return
    check_writable(out)
    head, acquisition = open_anatomy(anatomy), open_protocol(protocol, delta, Delta, TE)
    wanted = model_names(models)
    with shown(progress) as tell:
        tell(0.0, "Simulating")
        made = run(
            head,
            seed=seed,
            protocol=acquisition,
            field=field,
            voxel_size=voxel_size,
            lesion=lesion,
            age=age,
            models=None if wanted == "all" else wanted,
            device=choose_device(device),
        )
        tell(0.9, "Writing")
        image = made.save(out)
        tell(1.0, "Done")
    shape = " x ".join(map(str, made.scan.shape))
    typer.echo(f"{shape} voxels, {made.scan.acquisition.describe()}: {image}")
    typer.echo(f"truth: {out / 'truth'}")


def open_protocol(
    text: str, delta: float | None, Delta: float | None, TE: float | None
) -> str | Acquisition:
    """Return a protocol's name, or the acquisition of two files in FSL's convention."""
    if "," not in text:
        return text
    from .io.gradients import fsl_to_ras

    files = [Path(part.strip()) for part in text.split(",")]
    if len(files) != 2:
        raise InputError(f"--protocol has {len(files)} files", "Give two: dwi.bval,dwi.bvec.")
    tables = []
    for file in files:
        try:
            tables.append(np.atleast_2d(np.loadtxt(file)))
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot be read as numbers ({error})", "Give FSL's text files.", file=file
            ) from error
    bvals, bvecs = tables[0].ravel(), tables[1]
    if bvecs.shape[0] == 3 and bvecs.shape[1] == len(bvals):
        bvecs = bvecs.T
    # the simulated image has a positive determinant, which FSL's convention mirrors
    return Acquisition(bvals, fsl_to_ras(bvecs, np.eye(4)), delta=delta, Delta=Delta, TE=TE)


def known_names() -> str:
    """List what can be named."""
    from .brain.anatomy import available
    from .brain.lesions import LESIONS
    from .brain.protocols import DESIGNS, named

    lines = ["protocols:"]
    lines += [f"  {name}: {named(name).describe()} ({d.source})" for name, d in DESIGNS.items()]
    lines += [f"lesions: stroke, {', '.join(LESIONS)}", f"anatomies: {', '.join(available())}"]
    return "\n".join(lines)
