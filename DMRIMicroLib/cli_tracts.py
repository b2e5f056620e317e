"""The commands `dmrimicro seeds`, `tracts`, `profile`, `connectome` and `planning`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import Bval, Bvec, Device, Threads, names_in
from .errors import InputError
from .terminal import ProgressStyle, console, shown

if TYPE_CHECKING:
    from .maps import MapSet
    from .tracts.seeds import Seeds
    from .tracts.tractogram import Tractogram


class Follow(StrEnum):
    """What lines follow."""

    tensor = "tensor"
    csd = "csd"


class Way(StrEnum):
    """How they follow it."""

    deterministic = "deterministic"
    probabilistic = "probabilistic"


Folder = Annotated[Path, typer.Argument(help="Folder of maps, from `dmrimicro fit`.")]
Lines = Annotated[Path, typer.Argument(help="Streamlines: .trx, .trk, .tck or .vtk.")]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", help="Further image for rules: NAME=image.nii.gz; may be repeated."),
]
Within = Annotated[
    str | None, typer.Option(help="Seeds lie in this mask, or in labels of it: seg.nii.gz:3,7.")
]
Density = Annotated[
    float | None, typer.Option(help="Seeds a voxel; 1 if left out.", show_default=False)
]
Count = Annotated[int | None, typer.Option(help="Seeds in all, instead of a density.")]
Seed = Annotated[int, typer.Option(help="Of the random numbers.")]
Overwrite = Annotated[bool, typer.Option(help="Replace files that are there.")]
ShowProgress = Annotated[ProgressStyle, typer.Option(help="How to show progress.")]
Regions = Annotated[
    list[str] | None, typer.Option(help="Mask, or labels of it: seg.nii.gz:3; may be repeated.")
]


def seeds(
    maps: Folder,
    rule: Annotated[str, typer.Argument(help='Where: "NDI > 0.4 and FWF < 0.2 and NDI_sd < 0.1".')],
    out: Annotated[Path, typer.Option(help="Table to write: CSV, x, y, z in RAS mm.")],
    within: Within = None,
    density: Density = None,
    count: Count = None,
    file: Files = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Choose seeds of streamlines by a rule on the maps."""
    found = _seeds(_maps(maps), rule, within, density, count, file, seed)
    found.save(out, overwrite=overwrite)
    typer.echo(f"{len(found)} seeds in {found.provenance['voxels']} voxels: {out}")


def tracts(
    maps: Folder,
    out: Annotated[Path, typer.Option(help="Streamlines to write: .trx, .trk, .tck or .vtk.")],
    seeds: Annotated[
        str, typer.Option(help='Rule of the voxels to start in, or a file of "dmrimicro seeds".')
    ] = "FA > 0.3",
    within: Within = None,
    density: Density = None,
    count: Count = None,
    inside: Annotated[str, typer.Option(help="Rule of the voxels to run in.")] = "FA > 0.15",
    file: Files = None,
    include: Regions = None,
    exclude: Regions = None,
    ends: Annotated[
        list[str] | None, typer.Option(help="Lines end here; twice: one end in each.")
    ] = None,
    method: Annotated[Way, typer.Option(help="Of each step.")] = Way.deterministic,
    odf: Annotated[Follow, typer.Option(help="What to follow; csd needs --scan.")] = Follow.tensor,
    scan: Annotated[Path | None, typer.Option(help="The scan that was fitted, for csd.")] = None,
    bval: Bval = None,
    bvec: Bvec = None,
    step: Annotated[float | None, typer.Option(help="[mm]; half a voxel if left out.")] = None,
    max_angle: Annotated[
        float | None, typer.Option(help="Between steps [degrees]; 45, or 30 if probabilistic.")
    ] = None,
    min_length: Annotated[float, typer.Option(help="[mm]")] = 20.0,
    max_length: Annotated[float, typer.Option(help="[mm]")] = 250.0,
    along: Annotated[str, typer.Option(help="Maps to keep along the lines: FA,MD.")] = "",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    progress: ShowProgress = ProgressStyle.bar,
) -> None:
    """Track fibres through the maps."""
    from .files import check_writable
    from .tracts.regions import read_region
    from .tracts.seeds import Seeds
    from .tracts.storage import check_name

    started = time.perf_counter()
    check_name(out, overwrite=overwrite)
    check_writable(out.parent)
    opened = _maps(maps)
    regions = {"include": include, "exclude": exclude, "ends": ends}
    read = {role: [read_region(r) for r in given or ()] for role, given in regions.items()}
    if Path(seeds).suffix == ".csv":
        if within is not None or density is not None or count is not None:
            raise InputError(
                "the seeds come from a file, which --within, --density and --count do not change",
                "Leave these out, or give a rule.",
                file=seeds,
            )
        start = Seeds.load(seeds)
    else:
        start = _seeds(opened, seeds, within, density, count, file, seed)
    dwi = None
    if scan is not None:
        from .io import load

        dwi = load(scan, bval=bval, bvec=bvec)
    from .tracts.track import tracts as track

    with shown(progress) as tell:
        found = track(
            opened,
            start,
            scan=dwi,
            odf=odf.value,
            method=method.value,
            inside=inside,
            files=_pairs(file, "--file"),
            **read,
            step=step,
            max_angle=max_angle,
            min_length=min_length,
            max_length=max_length,
            seed=seed,
            threads=threads or 0,
            device=device,
            progress=tell,
        )
        if along:
            found = found.along(opened, names_in(along), files=_pairs(file, "--file"))
        found.save(out, overwrite=overwrite)
    if not len(found):
        console.print("note: no line was found; loosen --inside, the regions or --min-length")
    seconds = time.perf_counter() - started
    typer.echo(f"{len(found)} lines from {len(start)} seeds in {seconds:.1f} s: {out}")


def profile(
    lines: Lines,
    maps: Folder,
    metrics: Annotated[str, typer.Option(help="Maps to follow: FA,MD.")],
    out: Annotated[Path, typer.Option(help="Table to write, CSV.")],
    figure: Annotated[Path | None, typer.Option(help="Figure to write, PNG.")] = None,
    points: Annotated[int, typer.Option(help="Points along the bundle.", min=2)] = 100,
    start: Annotated[
        str | None, typer.Option(help="Mask of the end to begin at; seg.nii.gz:3 for a label.")
    ] = None,
    file: Files = None,
    overwrite: Overwrite = False,
) -> None:
    """Follow maps along a bundle, with their uncertainty."""
    from .tracts.profile import profile as follow
    from .tracts.regions import read_region

    found = follow(
        _lines(lines),
        _maps(maps),
        names_in(metrics),
        files=_pairs(file, "--file"),
        points=points,
        start=None if start is None else read_region(start),
    )
    found.save(out, figure=figure, overwrite=overwrite)
    typer.echo(f"{', '.join(found)} at {points} points: {out}")


def connectome(
    lines: Lines,
    parcellation: Annotated[Path, typer.Argument(help="Image of labels; 0 is none.")],
    out: Annotated[Path, typer.Option(help="Matrix to write, CSV.")],
    weight: Annotated[
        str, typer.Option(help="count, length, or a map: its mean along the lines.")
    ] = "count",
    maps: Annotated[Path | None, typer.Option(help="Folder of maps, for --weight FA.")] = None,
    names: Annotated[
        Path | None, typer.Option(help="Names of the labels: a number and a name a line.")
    ] = None,
    reach: Annotated[
        float, typer.Option(help="Ends belong to the nearest region so near [mm].")
    ] = 4.0,
    figure: Annotated[Path | None, typer.Option(help="Figure to write, PNG.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a matrix of the regions that lines connect."""
    from .tracts.connectome import connectome as connect
    from .tracts.connectome import read_names

    found = connect(
        _lines(lines),
        parcellation,
        weight=weight,
        maps=None if maps is None else _maps(maps),
        names=None if names is None else read_names(names),
        reach=reach,
    )
    found.save(out, figure=figure, overwrite=overwrite)
    if found.unassigned:
        console.print(f"note: {found.unassigned} lines have an end near no region", style="dim")
    typer.echo(f"{len(found.labels)} regions: {out}")


def planning(
    maps: Folder,
    lesion: Annotated[str, typer.Argument(help="Mask of the lesion; seg.nii.gz:3 for a label.")],
    out: Annotated[Path, typer.Option(help="Folder for planning.html and planning.json.")],
    tracts: Annotated[
        list[str] | None,
        typer.Option("--tract", help="Bundle: NAME=lines.trk, or a file; may be repeated."),
    ] = None,
    metrics: Annotated[str, typer.Option(help="Maps to tell of; all if left out.")] = "",
    distance: Annotated[float, typer.Option(help="Bundles within so many mm are at risk.")] = 10.0,
    rim: Annotated[float, typer.Option(help="Width of the rim around the lesion [mm].")] = 5.0,
    file: Files = None,
    overwrite: Overwrite = False,
) -> None:
    """Tell which bundles run near a lesion, and how its tissue is. Research use only."""
    from .files import check_writable
    from .tracts.planning import NOTICE
    from .tracts.planning import planning as plan
    from .tracts.regions import read_region

    check_writable(out)
    bundles = {}
    for given in tracts or ():
        name, _, path = given.rpartition("=")
        name = name or Path(path).stem
        if name in bundles:
            raise InputError(f"there are two bundles {name!r}", "Name them: --tract NAME=FILE.")
        bundles[name] = _lines(Path(path))
    found = plan(
        _maps(maps),
        read_region(lesion),
        bundles,
        metrics=names_in(metrics) or None,
        files=_pairs(file, "--file"),
        distance=distance,
        rim=rim,
    )
    page = found.save(out, overwrite=overwrite)
    for note in found.notes:
        console.print(f"note: {note}", style="dim")
    for bundle in found.bundles:
        typer.echo(
            f"{bundle.name}: {bundle.distance_mm:.1f} mm, {bundle.lines_within} of {bundle.lines} "
            f"lines within {distance:g} mm, {bundle.lines_through} through the lesion"
        )
    typer.echo(f"{page}\n{NOTICE}")


def _maps(folder: Path) -> MapSet:
    from .maps import MapSet

    return MapSet.load(folder)


def _lines(file: Path) -> Tractogram:
    from .tracts.storage import load

    return load(file)


def _seeds(
    maps: MapSet,
    rule: str,
    within: str | None,
    density: float | None,
    count: int | None,
    file: list[str] | None,
    seed: int,
) -> Seeds:
    from .tracts.regions import read_region
    from .tracts.seeds import seeds as choose

    region = None if within is None else read_region(within)
    files = _pairs(file, "--file")
    return choose(maps, rule, within=region, files=files, density=density, count=count, seed=seed)


def _pairs(given: list[str] | None, option: str) -> dict[str, str | Path]:
    """Turn NAME=FILE into a dictionary."""
    found: dict[str, str | Path] = {}
    for pair in given or ():
        name, equals, path = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{option} has {pair!r}", "Write NAME=image.nii.gz, NAME one word.")
        found[name] = Path(path)
    return found
