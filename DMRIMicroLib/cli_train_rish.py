"""The commands `dmrimicro train rish-...`: networks that say RISH features of a better scanner."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import Threads
from .cli_train import Heads, Out, Seed, Steps, Style, Version, check_version, heads, train
from .terminal import ProgressStyle, shown

MADE = 0.5
"""Share of the progress for making pairs."""


class Preset(StrEnum):
    """Presets of every method."""

    cpu = "cpu"
    gpu = "gpu"


class LatentPreset(StrEnum):
    """Presets of latent diffusion: a 7 T autoencoder that starts from nothing, or no detail."""

    cpu = "cpu"
    gpu = "gpu"
    cpu_scratch = "cpu-scratch"
    gpu_scratch = "gpu-scratch"
    cpu_plain = "cpu-plain"
    gpu_plain = "gpu-plain"


SizeOf = Annotated[Preset, typer.Option(help="Size and length of the training.")]
LatentSizeOf = Annotated[
    LatentPreset, typer.Option(help="Size and length of the training; ablations.")
]
Pairs = Annotated[
    Path | None,
    typer.Option(help="Folder of pairs of patches, which methods share; OUT/pairs if left out."),
]
Bids = Annotated[
    Path | None,
    typer.Option(help="Data set with sub-*/ses-3T and ses-7T, in place of simulated pairs."),
]
Count = Annotated[int | None, typer.Option(help="Simulated pairs; what is missing is made.", min=2)]
Workers = Annotated[int, typer.Option(help="Processes that make pairs.", min=1)]


def command(kind: str, help: str, size: Any = SizeOf) -> None:
    """Add the command that trains a method; methods differ in name, presets and help only."""

    def run(
        out: Out,
        preset: Any = Preset.cpu.value,
        pairs: Pairs = None,
        bids: Bids = None,
        count: Count = None,
        steps: Steps = None,
        seed: Seed = 0,
        workers: Workers = 1,
        anatomies: Heads = "all",
        version: Version = "1.0.0",
        threads: Threads = None,
        progress: Style = ProgressStyle.bar,
    ) -> None:
        given = {"count": count, "steps": steps, "seed": seed, "version": version}
        source = {"bids": bids, "anatomies": anatomies, "workers": workers}
        make(kind, preset.value, out, pairs or out / "pairs", given, source, threads, progress)

    run.__annotations__["preset"] = size
    train.command(kind, help=help)(run)


AGAIN = "the same command takes up what was stopped."

command("rish-ldm", f"Train RISH latent diffusion, 3 T to 7 T; {AGAIN}", LatentSizeOf)
command("rish-residual", f"Train the network that says scale maps, 3 T to 7 T; {AGAIN}")
command("rish-cnn", f"Train the CNN, a baseline of 3 T to 7 T; {AGAIN}")
command("rish-gan", f"Train the GAN, a baseline of 3 T to 7 T; {AGAIN}")


def make(
    kind: str,
    preset: str,
    out: Path,
    folder: Path,
    given: dict[str, Any],
    source: dict[str, Any],
    threads: int | None,
    progress: ProgressStyle,
) -> None:
    """Make what is missing of the pairs, and train.

    Parameters
    ----------
    kind, preset : str
        Of the recipe.
    out, folder : path
        Of the training, and of the pairs.
    given : dict
        What stands in place of what the preset says, where it is not None; and the version.
    source : dict
        Where pairs are from.
    """
    from .files import check_writable

    check_writable(out)
    version = given["version"]
    check_version(version)
    # after the input is known to be good: importing torch takes seconds
    import torch

    from .rish.own import from_bids
    from .training.rish import check_packages, train_rish
    from .training.rish_pairs import FeatureConfig, make_pairs
    from .training.rish_recipe import read_rish

    recipe = read_rish(kind, preset).given(given["count"], given["steps"], given["seed"])
    check_packages(recipe)  # before hours of making pairs
    if threads is not None:
        torch.set_num_threads(threads)
    with shown(progress) as tell:

        def making(share: float, text: str) -> None:
            tell(MADE * share, text)

        if source["bids"] is not None:
            files = from_bids(source["bids"], folder, recipe.patch, progress=making)
            recipe = replace(recipe, pairs=len(files), data=source["bids"].name)
        else:
            names, config = heads(source["anatomies"]), FeatureConfig(patch=recipe.patch)
            count, seed, workers = recipe.pairs, recipe.seed, source["workers"]
            files = make_pairs(folder, names, count, seed, workers, config, making)
            told = ", ".join(sorted(Path(name).stem for name in names))
            recipe = replace(recipe, data=f"simulated from {told}")
        card = train_rish(
            recipe,
            files,
            out,
            version=version,
            progress=lambda share, text: tell(MADE + (1 - MADE) * share, text),
        )
    typer.echo(f"weights: {card.with_suffix('.safetensors')}")
