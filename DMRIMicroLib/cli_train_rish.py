"""The commands `dmrimicro train rish-...`: networks that say RISH features of a better scanner."""

from __future__ import annotations

from collections.abc import Callable
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

PAIRS = "pairs"
"""Folder of the pairs in that of a training."""


class Preset(StrEnum):
    """Presets of every method."""

    cpu = "cpu"
    gpu = "gpu"


class LatentPreset(StrEnum):
    """Presets of latent diffusion: a 7 T autoencoder that starts from nothing, no detail, both."""

    cpu = "cpu"
    gpu = "gpu"
    cpu_scratch = "cpu-scratch"
    gpu_scratch = "gpu-scratch"
    cpu_plain = "cpu-plain"
    gpu_plain = "gpu-plain"
    cpu_plain_scratch = "cpu-plain-scratch"
    gpu_plain_scratch = "gpu-plain-scratch"


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
Count = Annotated[
    int | None,
    typer.Option(help="Simulated heads, up to three pairs of each; what lacks is made.", min=2),
]
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
        make(kind, preset.value, out, pairs or out / PAIRS, given, source, threads, progress)

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

    from .training.rish import check_packages, train_rish
    from .training.rish_recipe import read_rish

    recipe = read_rish(kind, preset).given(given["count"], given["steps"], given["seed"])
    check_packages(recipe)  # before hours of making pairs
    if threads is not None:
        torch.set_num_threads(threads)
    with shown(progress) as tell:

        def making(share: float, text: str) -> None:
            tell(MADE * share, text)

        asked = recipe.patch, recipe.pairs, recipe.seed
        files, data = found_pairs(folder, *asked, **source, progress=making)
        recipe = replace(recipe, pairs=len(files), data=data)
        card = train_rish(
            recipe,
            files,
            out,
            version=version,
            progress=lambda share, text: tell(MADE + (1 - MADE) * share, text),
        )
    typer.echo(f"weights: {card.with_suffix('.safetensors')}")


def found_pairs(
    folder: Path,
    patch: int,
    count: int,
    seed: int,
    *,
    bids: Path | None,
    anatomies: str,
    workers: int,
    progress: Callable[[float, str], None],
) -> tuple[list[Path], str]:
    """Make what is missing of the pairs; return them and their origin (`RishRecipe.data`)."""
    from .rish.own import from_bids
    from .training.rish import SIMULATED
    from .training.rish_pairs import FeatureConfig, make_pairs

    if bids is not None:
        return from_bids(bids, folder, patch, progress=progress), bids.name
    names, config = heads(anatomies), FeatureConfig(patch=patch)
    files = make_pairs(folder, names, count, seed, workers, config, progress)
    return files, f"{SIMULATED} {', '.join(sorted(Path(name).stem for name in names))}"


@train.command("rish-linear")
def train_rish_linear(
    out: Out,
    pairs: Pairs = None,
    bids: Bids = None,
    count: Count = 100,
    patch: Annotated[int, typer.Option(help="Voxels of a patch along each edge.", min=4)] = 32,
    seed: Seed = 0,
    workers: Workers = 1,
    anatomies: Heads = "all",
    version: Version = "1.0.0",
    progress: Style = ProgressStyle.bar,
) -> None:
    """Learn the three numbers of linear harmonisation from 3 T to 7 T."""
    from .files import check_writable

    check_writable(out)
    check_version(version)
    from .rish.data import load_pair, split
    from .rish.linear import Linear, learn_linear, save_linear
    from .rish.units import Setting
    from .training.rish import origin
    from .training.rish_measure import measured
    from .training.rish_pairs import by_look

    source = {"bids": bids, "anatomies": anatomies, "workers": workers}
    with shown(progress) as tell:
        files, data = found_pairs(pairs or out / PAIRS, patch, count, seed, **source, progress=tell)
        looks = by_look(files)
        known, held_out = split(looks.get("whole", files))
        first = load_pair(known[0])
        scale = learn_linear(load_pair(file) for file in known)
        told = {"pairs": len(known), "simulated": bids is None, "seed": seed}
        setting = Setting(edges=first.edges, patch=patch, clean=bids is None, quiet=first.quiet)
        metrics = measured(Linear(scale, setting, {}).features, held_out, setting.units)
        card = save_linear(scale, setting, out, version, origin(data), metrics, **told)
    typer.echo(f"lambda of orders 0, 2, 4: {', '.join(f'{v:.3f}' for v in scale.tolist())}")
    typer.echo(f"weights: {card.with_suffix('.safetensors')}")
