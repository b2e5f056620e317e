"""The commands `dmrimicro train ...`."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Threads, names_in
from .errors import InputError
from .terminal import ProgressStyle, shown

if TYPE_CHECKING:
    from .training.recipe import Recipe

train = typer.Typer(
    help="Train the learned methods on simulated brains.",
    no_args_is_help=True,
    add_completion=False,
)


class Preset(StrEnum):
    """Presets of the codebook's recipe: two sizes, one to go on from weights, and ablations."""

    cpu = "cpu"
    further = "cpu-further"
    gpu = "gpu"
    short = "cpu-short"
    no_mamba = "cpu-no-mamba"
    no_cnn = "cpu-no-cnn"
    no_kernels = "cpu-no-kernels"
    abg = "cpu-abg"


class DemicPreset(StrEnum):
    """Presets of demic's recipe."""

    cpu = "cpu"
    gpu = "gpu"


Out = Annotated[Path, typer.Option(help="Folder for checkpoint, log, weights and card.")]
Pool = Annotated[
    Path | None, typer.Option(help="Folder of the labelled slices; OUT/pool if left out.")
]
Slices = Annotated[
    int | None, typer.Option(help="Labelled slices; what is missing is made.", min=2)
]
Steps = Annotated[int | None, typer.Option(help="Of the training.", min=1)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same training.")]
Workers = Annotated[
    int, typer.Option(help="Processes that make slices, and examples; 0 for none.", min=0)
]
Heads = Annotated[
    str, typer.Option(help="Heads, separated by commas, or all (`dmrimicro anatomy list`).")
]
Version = Annotated[str, typer.Option(help="Of the weights.")]
PoolOnly = Annotated[bool, typer.Option(help="Make the slices and stop.")]
Style = Annotated[ProgressStyle, typer.Option(help="How to show progress.")]


@train.callback()
def commands() -> None:
    """Train the learned methods on simulated brains."""


@train.command("prior", help="Train the prior of PIGMENT, which is that of the codebook: the same.")
@train.command("codebook")
def train_codebook(
    out: Out,
    preset: Annotated[
        Preset, typer.Option(help="Size and length of the training; ablations.")
    ] = Preset.cpu,
    pool: Pool = None,
    slices: Slices = None,
    steps: Steps = None,
    seed: Seed = 0,
    workers: Workers = 1,
    anatomies: Heads = "all",
    without: Annotated[
        str, typer.Option(help="Metrics that are not learned, separated by commas.")
    ] = "",
    prior: Annotated[
        str,
        typer.Option(help="Weights whose prior is kept: only how metrics are read is learned."),
    ] = "",
    start: Annotated[
        str, typer.Option(help="Weights that the training begins with, in place of none.")
    ] = "",
    version: Version = "1.0.0",
    pool_only: PoolOnly = False,
    threads: Threads = None,
    progress: Style = ProgressStyle.bar,
) -> None:
    """Train the codebook; the same command takes up a training that was stopped."""
    left_out = tuple(names_in(without))
    if prior and start:
        raise InputError("--prior and --start were both given", "Give one of them.")
    given = {"slices": slices, "steps": steps, "seed": seed, "without": left_out}
    given |= {"prior": prior, "start": start}
    recipe = recipe_of("codebook", preset.value, given, anatomies, out, version)
    make(recipe, out, pool, workers, heads(anatomies), version, pool_only, threads, progress)


@train.command("demic")
def train_demic(
    out: Out,
    preset: Annotated[
        DemicPreset, typer.Option(help="Size and length of the training.")
    ] = DemicPreset.cpu,
    pool: Pool = None,
    slices: Slices = None,
    steps: Steps = None,
    seed: Seed = 0,
    workers: Workers = 1,
    anatomies: Heads = "all",
    version: Version = "1.0.0",
    threads: Threads = None,
    progress: Style = ProgressStyle.bar,
) -> None:
    """Train demic, the published network, for comparison: on the slices of the codebook."""
    given = {"slices": slices, "steps": steps, "seed": seed, "without": ()}
    recipe = recipe_of("demic", preset.value, given, anatomies, out, version)
    make(recipe, out, pool, workers, heads(anatomies), version, False, threads, progress)


def check_version(version: str) -> None:
    """Refuse what is no version of weights."""
    if not all(part.isdecimal() for part in version.split(".")):
        raise InputError(f"the version is {version!r}", "Write it like 1.0.0.")


def recipe_of(
    name: str, preset: str, given: dict[str, Any], anatomies: str, out: Path, version: str
) -> Recipe:
    """Check what was given, and put it in place of what the preset says."""
    from .files import check_writable

    check_writable(out)
    check_version(version)
    # after the input is known to be good: importing torch takes seconds
    from .training.recipe import read_recipe

    recipe = read_recipe(preset, name)
    names = tuple(sorted(Path(head).stem for head in heads(anatomies)))
    changes = {"seed": given["seed"], "without": given["without"], "anatomies": names}
    changes |= {name: given.get(name, "") for name in ("prior", "start")}
    if given["slices"] is not None:
        changes["slices"] = given["slices"]
    if given["steps"] is not None:
        changes["training"] = recipe.training | {"steps": given["steps"]}
    recipe = replace(recipe, **changes)
    recipe.metrics()
    return recipe


def make(
    recipe: Recipe,
    out: Path,
    pool: Path | None,
    workers: int,
    sources: list[str],
    version: str,
    pool_only: bool,
    threads: int | None,
    progress: ProgressStyle,
) -> None:
    """Make what is missing of the pool, and train."""
    import torch

    from .training.recipe import train_codebook, training_loop
    from .training.slices import make_pool_side_by_side

    if not pool_only:
        training_loop()  # tells what is not installed, before hours of making slices
    if threads is not None:
        torch.set_num_threads(threads)
    first = 1.0 if pool_only else 0.3
    with shown(progress) as tell:
        tell(0.0, "Making slices")
        files = make_pool_side_by_side(
            pool or out / "pool",
            sources,
            recipe.slices,
            recipe.seed,
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
        return names_in(text)
    from .brain.anatomy import available

    names = list(available())
    return [name for name in names if name != "small"] or names
