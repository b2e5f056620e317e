"""Methods on RISH features from pairs to weights with a card, stage by stage.

Every stage has a folder with checkpoint and log, and goes on from there. The networks of latent
diffusion (X. Zhu et al., MICCAI 2024) are trained one after the other: the 3 T autoencoder
("low"), from it that of 7 T ("high"), the denoiser of both fields' latents; the way of sampling is
chosen on pairs held out. Other methods have one stage ("method"). Last comes super-resolution
("finer"), on what the method says of all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..rish.blocks import monai
from ..rish.data import load_pair, shells_in, split
from ..rish.gan import gan_loss
from ..rish.methods import KINDS, build
from ..rish.residual import residual_loss
from ..rish.superres import SuperResolution, finer_loss, resample
from ..rish.tiles import over_tiles, overlap_of, tile_of
from ..rish.units import Setting
from ..version import __version__
from ..weights import Card, save
from .recipe import hold, small, training_loop
from .rish_latent import TRANSLATED, train_latent
from .rish_measure import nmse
from .rish_pairs import by_look
from .rish_recipe import RishRecipe
from .rish_run import Progress, Run
from .rish_stream import fine_of, kept, said_of

SIMULATED = "simulated from"
"""How `RishRecipe.data` of simulated pairs begins; the heads follow."""

SAID = "said"
"""Folder of what the method says of every pair, on the fine grid."""

ABOUT = (
    "Says what the RISH features (orders 0, 2, 4) of a shell of a 3 T scan, b = {b} s/mm2, would "
    "be at 7 T, on voxels of {low:.4g} mm, and sharpens them to {high:.4g} mm. {method} {learned} "
    "For research, not for diagnosis."
)

METHODS = {
    "ldm": "Latent diffusion after X. Zhu et al. (MICCAI 2024), and a small network, not theirs, "
    "that gives back what its codes lose.",
    "ldm, plain": "Latent diffusion after X. Zhu et al. (MICCAI 2024).",
    "residual": "A U-Net that says the logarithm of scale maps.",
    "cnn": "A plain convolutional network, the baseline of benchmarks.",
    "gan": "An autoencoder trained against a discriminator, a baseline of benchmarks.",
}


def check_packages(recipe: RishRecipe) -> None:
    """Say what a training needs and is not installed."""
    training_loop()
    if recipe.autoencoder:
        monai("networks.nets")


def train_rish(
    recipe: RishRecipe,
    files: Sequence[Path],
    folder: Path,
    *,
    version: str = "1.0.0",
    progress: Progress = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Train a method and write its weights; return the card's path.

    A training that was stopped goes on from its checkpoints: with the same recipe and pairs, to the
    same weights.

    Parameters
    ----------
    recipe : RishRecipe
    files : sequence of path
        Pairs (`rish_pairs.make_pairs`, or `rish.own.from_bids`); the last tenth is held out.
    folder : path
        For stages, weights and card.
    version : str
        Of the weights.
    progress, cancelled
        As of `fitting.fit`; a cancelled training leaves its checkpoints.
    """
    if recipe.every.get("accelerator") == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device", "Train with --preset cpu.")
    known, held_out = split(files)
    first = load_pair(known[0])
    hold(recipe.told() | {"quiet": first.quiet}, folder, "settings: ")
    setting = Setting(
        shells=shells_in(files),
        edges=first.edges,
        patch=min(recipe.crop, first.low.shape[-1]),
        clean=recipe.data.startswith(SIMULATED),
        quiet=first.quiet,
    )
    run = Run(recipe, folder, known, held_out, setting, progress, cancelled)
    name = next(name for name, kind in KINDS.items() if kind == recipe.kind)
    network, data = train_latent(run) if name == "ldm" else (_direct(run, name), {})
    sharper = _finer(run, network)
    card = Card(
        recipe.kind,
        version,
        recipe.kind,
        {"method": network.arguments(), "finer": sharper.arguments()},
        about=about(name + ", plain" * recipe.plain, setting, recipe.data),
        data=setting.told() | data,
        training={"software": f"DMRIMicro {__version__}", "recipe": recipe.told()},
        metrics=_measured(run, network, sharper),
    )
    both = nn.ModuleDict({"method": network, "finer": sharper})
    return save(small(both.state_dict()), card, folder)


def about(name: str, setting: Setting, data: str) -> str:
    """Tell what a method does, and what it learned from: `RishRecipe.data`."""
    low, high = setting.edges
    told = {"method": METHODS[name], "learned": f"It learned from {origin(data)}."}
    b = " to ".join(f"{b:.0f}" for b in sorted(set(setting.shells)))
    return ABOUT.format(b=b, low=low, high=high, **told)


def origin(data: str) -> str:
    """Tell where pairs are from: `RishRecipe.data` in words."""
    if data.startswith(SIMULATED):
        heads = data.removeprefix(SIMULATED).strip()
        return f"simulated pairs only, whose 7 T scans are free of noise (heads: {heads})"
    return f"the paired scans of {data}" if data else "pairs of scans whose origin was not told"


def _direct(run: Run, name: str) -> nn.Module:
    """Train a method of one network."""
    torch.manual_seed(run.recipe.seed_of("method"))
    zero = {"zero": run.setting.units.zero} if name == "residual" else {}
    network = build(name, run.recipe.method | zero)
    own = gan_loss if name == "gan" else residual_loss
    return run.learn(
        "method",
        network,
        run.stream("method"),
        lambda network, example, step: own(network, *example[:3]),
    )


def _finer(run: Run, network: nn.Module) -> SuperResolution:
    """Train super-resolution on what a method says, which is kept on disk."""
    said = run.folder / SAID
    run.keep_said("finer", network, said, lambda file: _on_fine(run, network, file))
    torch.manual_seed(run.recipe.seed_of("finer"))
    read = said_of(said, fine_of(run.setting.units))
    made = run.learn(
        "finer",
        SuperResolution(**run.recipe.finer),
        run.stream("finer", read=read),
        lambda network, example, step: finer_loss(network, *example[:3]),
    )
    assert isinstance(made, SuperResolution)
    return made


@torch.no_grad()
def _on_fine(run: Run, network: nn.Module, file: Path, tiled: bool = False) -> Tensor:
    """Say 7 T features of a pair's 3 T features, interpolated on the fine grid: (3, f, f, f).

    Of the whole pair at once, which takes less than half the time of tiles, or tiled.
    """
    pair = load_pair(file)
    low = run.setting.units.to_network(pair.low).to(run.device)
    if tiled:
        made = _by_tiles(run, network, low)[None]
    elif (there := run.folder / TRANSLATED / file.name).exists():
        made = network.finished(kept(there)[None].float().to(low))  # type: ignore[operator]
    else:
        made = network(low[None])
    shape = tuple(pair.fine.shape[1:])
    return resample(made, run.setting.factor, shape)[0].cpu()  # type: ignore[arg-type]


@torch.no_grad()
def _by_tiles(run: Run, network: nn.Module, low: Tensor) -> Tensor:
    """Say 7 T features as `enhance` does, by tiles of what the network saw: (3, x, y, z)."""
    tile = tile_of(run.setting.patch)
    return over_tiles(lambda part, corner: network(part[None])[0], low, tile, overlap_of(tile))


@torch.no_grad()
def _measured(run: Run, network: nn.Module, sharper: nn.Module) -> dict[str, Any]:
    """Measure a method on the pairs held out, beside the scan as it is, on both grids."""
    units = run.setting.units

    def fine(file: Path) -> tuple[Tensor, Tensor, Tensor]:
        pair = load_pair(file)
        return _on_fine(run, network, file, tiled=True), pair.to_network(units)[2], pair.fine_mask

    run.progress(1.0, "Measuring")
    network.to(run.device)

    def say(low: Tensor) -> Tensor:
        return _by_tiles(run, network, low.to(run.device)).cpu()

    def told(files: Sequence[Path]) -> dict[str, list[float]]:
        return {
            "3 T scan": nmse(lambda low: low, files, run.read, units),
            "7 T-like": nmse(say, files, run.read, units),
            "7 T-like, interpolated to the fine grid": nmse(lambda v: v, files, fine, units),
            "7 T-like, sharpened": nmse(lambda v: sharper(v[None])[0], files, fine, units),
        }

    every = {look: told(files) for look, files in by_look(run.judging).items()}
    network.cpu()
    return {_measured_on(run): every.get("", every)}


def _measured_on(run: Run) -> str:
    """Tell what was measured, on which pairs."""
    text = f"NMSE of RISH 0, 2, 4 on pairs held out of the training ({len(run.judging)})"
    if not run.recipe.autoencoder:
        return text
    if run.judging == run.choosing:
        return f"{text}, on which guidance and noise level were chosen, too: too good"
    return f"{text}, others than those on which guidance and noise level were chosen"
