"""The commands `dmrimicro anatomy list` and `dmrimicro anatomy build`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import names_in
from .errors import InputError
from .terminal import ProgressStyle, shown

if TYPE_CHECKING:
    from .brain.build import Built

anatomy = typer.Typer(
    help="Heads for `dmrimicro simulate`: list them, build them.",
    no_args_is_help=True,
    add_completion=False,
)

Folder = Annotated[
    Path | None, typer.Option(help="Folder of the anatomies; the cache if left out.")
]


@anatomy.command("list")
def list_anatomies(out: Folder = None) -> None:
    """List the anatomies at hand, and those that can be built."""
    from .brain.anatomy import anatomy_folder, available
    from .brain.build import NAMES

    there = available(out)
    for name, file in there.items():
        typer.echo(f"{name}: {file}")
    if lacking := [name for name in NAMES if name not in there]:
        typer.echo(f"not built: {', '.join(lacking)} (dmrimicro anatomy build --data DIR)")
    typer.echo(f"folder: {out or anatomy_folder()}")


@anatomy.command("build")
def build_anatomies(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of public data with anatomy/ and orientation/ (see the README)."),
    ] = None,
    names: Annotated[
        str, typer.Option(help="Anatomies to build, separated by commas, or all.")
    ] = "all",
    from_nilearn: Annotated[
        bool, typer.Option(help="Build one of nilearn's tissue maps, with invented fibres.")
    ] = False,
    out: Folder = None,
    rebuild: Annotated[bool, typer.Option(help="Build those again that are there.")] = False,
    progress: Annotated[
        ProgressStyle, typer.Option(help="How to show progress.")
    ] = ProgressStyle.bar,
) -> None:
    """Build anatomies into the cache; one that is there already is left as it is."""
    from .files import check_writable

    if (data is None) == (not from_nilearn):
        raise InputError(
            "nothing says what to build from" if data is None else "there are two sources",
            "Give either --data DIR or --from-nilearn.",
        )
    if out is not None:
        check_writable(out)
    chosen = names_in(names)
    with shown(progress) as tell:
        tell(0.0, "Reading")
        if data is None:
            made = [_of_nilearn(out, rebuild, tell)]
        else:
            from .brain.build import build

            made = build(
                data,
                out,
                names=None if chosen == ["all"] else chosen,
                rebuild=rebuild,
                progress=tell,
            )
        tell(1.0, "Done")
    for one in made:
        said = "was there" if one.seconds is None else f"{one.seconds:.0f} s"
        typer.echo(f"{one.name}: {one.file} ({said})")


def _of_nilearn(out: Path | None, rebuild: bool, tell: Callable[[float, str], None]) -> Built:
    from .brain.anatomy import SUFFIX, anatomy_folder, save
    from .brain.build import Built, usable
    from .brain.ownscan import NILEARN, build_from_nilearn

    file = (out or anatomy_folder()) / f"{NILEARN}{SUFFIX}"
    if usable(file) and not rebuild:
        return Built(NILEARN, file, None)
    started = time.perf_counter()
    tell(0.1, "Building of nilearn's tissue maps")
    save(build_from_nilearn(), file)
    return Built(NILEARN, file, time.perf_counter() - started)
