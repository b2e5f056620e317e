"""Stages of RISH latent diffusion: two autoencoders, the denoiser, how it is sampled, detail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..brain.simulate import generator_for
from ..files import staged
from ..rish.detail import Detail, detail_loss
from ..rish.diffusion import HIGH, LOW, Denoiser, denoiser_loss
from ..rish.ldm import LatentDiffusion, Sampling
from ..rish.vqvae import Autoencoder, autoencoder_loss
from .rish_measure import choose, middles
from .rish_run import Run
from .rish_stream import Patches, said_of

SAMPLING = "sampling.json"
"""File of the way of sampling that was chosen, and of the curve."""

DETAIL = "detail"
"""Name of the stage."""

TRANSLATED = "translated"
"""Folder of what comes of every pair before detail, on the 3 T grid."""

CURVE = "curve.json"
"""File of the ways that were tried so far."""

SETTLING = 16
"""Examples that tell where codes start and what the unit of latents is."""


def train_latent(run: Run) -> tuple[LatentDiffusion, dict[str, Any]]:
    """Train the networks of latent diffusion, and choose how it samples."""
    recipe = run.recipe
    network = LatentDiffusion(recipe.autoencoder, recipe.denoiser)
    network.low = train_autoencoder(run, "low", None)
    start = None if recipe.scratch else network.low.state_dict()
    network.high = train_autoencoder(run, "high", start)
    network.denoiser = train_denoiser(run, network)
    file = run.folder / SAMPLING
    if not file.exists():
        network.to(run.device)
        chosen, curve = _chosen(run, network)
        with staged(run.folder) as stage:
            told = {"sampling": chosen.told(), "curve": curve}
            (stage / SAMPLING).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    told = json.loads(file.read_text(encoding="utf-8"))
    network.sampling = Sampling.read(told["sampling"])
    if not recipe.plain:
        network.detail = train_detail(run, network)
    return network.cpu(), told


def train_detail(run: Run, network: LatentDiffusion) -> nn.Module:
    """Train what gives back what the autoencoders lose, on translations that are kept on disk."""
    seed = run.recipe.seed_of(DETAIL)
    torch.manual_seed(seed)
    folder = run.folder / TRANSLATED

    def translated(file: Path) -> Tensor:
        low = run.read(file)[0].float().to(run.device)
        return network.seen(low[None])[0].cpu()

    run.keep_said(DETAIL, network, folder, translated)
    # `run.read` begins a new memory at every use: pairs stay in that of `said_of` alone
    stream = run.stream(DETAIL, read=said_of(folder, lambda file: run.read(file)))
    detail = Detail(**run.recipe.detail)
    if not run.begun(DETAIL):
        examples = stream(0)
        detail.begin(next(examples)[:3] for _ in range(SETTLING))
    return run.learn(DETAIL, detail, stream, lambda net, e, step: detail_loss(net, *e[:3]))


def _chosen(run: Run, network: LatentDiffusion) -> tuple[Sampling, list[dict]]:
    """Choose guidance and noise level; what was tried stays in the folder."""

    def tell(done: int, count: int) -> None:
        run.tell("denoiser", 1.0, f"guidance and noise level: {done} of {count} tried")
        run.stop_if_asked()

    read = middles(run.read, run.setting.patch)
    return choose(network, run.choosing, read, run.setting.units, run.folder / CURVE, tell)


def train_autoencoder(run: Run, stage: str, start: dict[str, Tensor] | None) -> Autoencoder:
    """Train the autoencoder of one field, from nothing or from that of the other field."""
    recipe, which = run.recipe, {"low": 0, "high": 1}[stage]
    seed = recipe.seed_of(stage)
    torch.manual_seed(seed)
    network = Autoencoder(**recipe.autoencoder)
    files = run.known if stage == "low" else recipe.seen(run.known)
    stream = run.stream(stage, files)
    if start is not None:
        network.load_state_dict(start)
    elif not run.begun(stage):
        examples = stream(0)
        seen = [next(examples)[which] for _ in range(SETTLING)]
        with torch.no_grad():
            network.begin(torch.cat(seen), seed)

    def loss(network: nn.Module, example: Patches, step: int):
        return autoencoder_loss(network, example[which], example.mask, seed, step)

    return run.learn(stage, network, stream, loss)


def train_denoiser(run: Run, network: LatentDiffusion) -> nn.Module:
    """Train the denoiser on latents of both fields, each from its own encoder."""
    recipe = run.recipe
    seed = recipe.seed_of("denoiser")
    torch.manual_seed(seed)
    stream = run.stream("denoiser")
    denoiser = Denoiser(**recipe.denoiser)
    if not run.begun("denoiser"):
        examples = stream(0)
        seen = [_encoded(network, next(examples)) for _ in range(SETTLING)]
        denoiser.begin(torch.cat(seen))
    network.low.to(run.device), network.high.to(run.device)

    def loss(denoiser: nn.Module, example: Patches, step: int):
        own = getattr(denoiser, "module", denoiser)
        latents = own.to_units(_encoded(network, example))
        labels = torch.tensor([LOW, HIGH], device=latents.device)
        labels = labels.repeat_interleave(len(example.given))
        generator = generator_for(seed, f"noise {example.number}")
        return denoiser_loss(denoiser, latents, labels, recipe.drop, generator)

    return run.learn("denoiser", denoiser, stream, loss)


@torch.no_grad()
def _encoded(network: LatentDiffusion, example: Patches) -> Tensor:
    """Encode the features of both fields, 3 T first: (2 b, c, x, y, z)."""
    return torch.cat([network.low.encode(example.given), network.high.encode(example.wanted)])
