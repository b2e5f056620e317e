"""The commands `dmrimicro train ...`."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .arguments import Threads
from .errors import InputError
from .terminal import ProgressStyle, shown

train = typer.Typer(
    help="Train the learned methods on simulated brains.",
    no_args_is_help=True,
    add_completion=False,
)


class Preset(StrEnum):
    """Presets of the recipe."""

    cpu = "cpu"
    gpu = "gpu"


@train.callback()
def commands() -> None:
    """Train the learned methods on simulated brains."""


@train.command("codebook")
def train_codebook(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log, weights and card.")],
    preset: Annotated[Preset, typer.Option(help="Size and length of the training.")] = Preset.cpu,
    pool: Annotated[
        Path | None, typer.Option(help="Folder of the labelled slices; OUT/pool if left out.")
    ] = None,
    slices: Annotated[
        int | None, typer.Option(help="Labelled slices; what is missing is made.", min=2)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the training.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same training.")] = 0,
    workers: Annotated[
        int, typer.Option(help="Processes that make slices, and examples; 0 for none.", min=0)
    ] = 1,
    anatomies: Annotated[
        str, typer.Option(help="Heads, separated by commas, or all (`dmrimicro anatomy list`).")
    ] = "all",
    version: Annotated[str, typer.Option(help="Of the weights.")] = "1.0.0",
    pool_only: Annotated[bool, typer.Option(help="Make the slices and stop.")] = False,
    threads: Threads = None,
    progress: Annotated[
        ProgressStyle, typer.Option(help="How to show progress.")
    ] = ProgressStyle.bar,
) -> None:
    """Train the codebook; the same command takes up a training that was stopped."""
    from .files import check_writable

    check_writable(out)
    if not all(part.isdecimal() for part in version.split(".")):
        raise InputError(f"the version is {version!r}", "Write it like 1.0.0.")
    # after the input is known to be good: importing torch takes seconds
    import torch

    from .training.recipe import read_recipe, train_codebook, training_loop
    from .training.slices import make_pool_side_by_side

    if not pool_only:
        training_loop()  # tells what is not installed, before hours of making slices
    if threads is not None:
        torch.set_num_threads(threads)
    recipe = replace(read_recipe(preset.value), seed=seed)
    if slices is not None:
        recipe = replace(recipe, slices=slices)
    if steps is not None:
        recipe = replace(recipe, training=recipe.training | {"steps": steps})
    sources = heads(anatomies)
    recipe = replace(recipe, anatomies=tuple(sorted(Path(name).stem for name in sources)))
    first = 1.0 if pool_only else 0.3
    with shown(progress) as tell:
        tell(0.0, "Making slices")
        files = make_pool_side_by_side(
            pool or out / "pool",
            sources,
            recipe.slices,
            seed,
            workers,
            lambda done, text: tell(first * done, text),
        )
        if pool_only:
            typer.echo(f"{len(files)} slices: {files[0].parent}")
            return
        card = train_codebook(
            recipe,
            files,
            out,
            version=version,
            workers=workers,
            progress=lambda done, text: tell(first + (1 - first) * done, text),
        )
    typer.echo(f"weights: {card.with_suffix('.safetensors')}")


def heads(text: str) -> list[str]:
    """Turn 'a,b' or 'all' into anatomies; of all, the small one only if there is no other."""
    if text.strip() != "all":
        return [name.strip() for name in text.split(",") if name.strip()]
    from .brain.anatomy import available

    names = list(available())
    return [name for name in names if name != "small"] or names
