"""Diffusion of latents: noise, DDIM there and back, classifier-free guidance; and its network.

X. Zhu et al. (MICCAI 2024), eq. 4 to 10, after J. Ho, A. Jain, P. Abbeel (DDPM, NeurIPS 2020), J.
Song, C. Meng, S. Ermon (DDIM, ICLR 2021) and J. Ho, T. Salimans ("Classifier-free diffusion
guidance", arXiv:2207.12598). Schedulers and U-Net are MONAI's. As printed, eq. 5 and 7 of the paper
have the noise under the root; eq. 8 is Song et al.'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import cut, filled, monai
from .noise import Noise
from .vqvae import DIMENSION

NONE, LOW, HIGH = 0, 1, 2
"""Labels: not told, 3 T, 7 T."""

TIMES = 500
"""Times of the diffusion; the paper does not say how many."""

Denoise = Callable[[Tensor, int], Tensor]
"""From noisy latents and the time to the noise in them."""


@dataclass(frozen=True)
class Path:
    """The way from latents to noise and back.

    Attributes
    ----------
    steps : int
        Of DDIM, over all `TIMES`; a sampling takes those up to its noise level.
    depth : float
        Noise level that is gone up to, as a share of all times.
    eta : float
        Share of fresh noise on the way back: 0 is deterministic, 1 is as random as DDPM.
    refine : int
        Times that a step up asks again for the noise, where it has got to: the way back asks there.
    """

    steps: int = 50
    depth: float = 0.25
    eta: float = 0.0
    refine: int = 0

    @property
    def stride(self) -> int:
        """Times between steps."""
        return TIMES // self.steps

    @property
    def taken(self) -> int:
        """Steps up, and steps down."""
        return min(round(self.depth * self.steps), (TIMES - 1) // self.stride)


@lru_cache(maxsize=4)
def scheduler(steps: int) -> Any:
    """MONAI's DDIM scheduler of so many steps, with the linear betas of Ho et al. (2020)."""
    made = monai("networks.schedulers").DDIMScheduler(
        num_train_timesteps=TIMES, schedule="linear_beta", clip_sample=False
    )
    made.set_timesteps(steps)
    return made


def noisy(latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Eq. 5: sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise; (b, c, x, y, z), times (b,)."""
    return scheduler(TIMES).add_noise(latents, noise, times)


def invert(denoise: Denoise, latents: Tensor, path: Path) -> Tensor:
    """Eq. 8: go from latents up to the path's noise level, deterministically.

    x_{t+1} = sqrt(abar_{t+1} / abar_t) x_t + sqrt(abar_{t+1}) [sqrt(1 / abar_{t+1} - 1)
    - sqrt(1 / abar_t - 1)] eps(x_t, t)

    The way back takes the noise at t + 1, so there and back loses contrast: 2 % of unit normal
    latents at 50 steps and a quarter of the times. A step that asks again takes it there, too; then
    it is 0.03 % (fixed-point inversion: Z. Pan et al., "Effective real image editing with
    accelerated iterative diffusion inversion", ICCV 2023; not in Zhu et al.).
    """
    plan = scheduler(path.steps)
    for k in range(path.taken):
        time = k * path.stride
        up = plan.reversed_step(denoise(latents, time), time, latents)[0]
        for _ in range(path.refine):
            up = plan.reversed_step(denoise(up, time + path.stride), time, latents)[0]
        latents = up
    return latents


def sample(denoise: Denoise, latents: Tensor, path: Path, noise: Noise | None = None) -> Tensor:
    """Come back from the path's noise level (Song et al. 2021, eq. 12 and 16).

    `noise` draws what eta > 0 asks for.
    """
    plan = scheduler(path.steps)
    for k in range(path.taken, 0, -1):
        time = k * path.stride
        said = denoise(latents, time)
        if path.eta and noise is not None:
            # eta is the share of the variance of eq. 16; drawn here, so that a device's generator
            # does not change the answer
            eta = path.eta
            expected = plan.step(said, time, latents, eta=0.0)[0]
            before, now = (plan.alphas_cumprod[t] for t in (time - path.stride, time))
            spread = eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
            kept = (1 - before - spread.square()).sqrt() - (1 - before).sqrt()
            fresh = noise(latents.shape).to(latents)
            latents = expected + float(kept) * said + float(spread) * fresh
        else:
            latents = plan.step(said, time, latents)[0]
    return latents


class Denoiser(nn.Module):
    """U-Net that says the noise in latents; the field strength comes in by cross-attention (eq. 9).

    Parameters
    ----------
    widths : sequence of int
        Channels of its levels; edges are halved between them.
    attended : sequence of bool
        Levels with attention; the paper has it at the deeper two of four.
    blocks : int
        Residual blocks of each level.
    heads : int
        Channels of a head of the attention.
    groups : int
        Of the normalisation; divides all widths.
    dimension : int
        Channels of the latents.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64),
        attended: Sequence[bool] = (False, True),
        blocks: int = 1,
        heads: int = 16,
        groups: int = 8,
        dimension: int = DIMENSION,
    ) -> None:
        super().__init__()
        self.widths, self.attended = tuple(widths), tuple(attended)
        self.blocks, self.heads, self.groups, self.dimension = blocks, heads, groups, dimension
        context = widths[-1]
        self.labels = nn.Embedding(3, context)
        self.network = monai("networks.nets.diffusion_model_unet").DiffusionModelUNet(
            spatial_dims=3,
            in_channels=dimension,
            out_channels=dimension,
            num_res_blocks=blocks,
            channels=self.widths,
            attention_levels=self.attended,
            norm_num_groups=groups,
            num_head_channels=heads,
            with_conditioning=True,
            cross_attention_dim=context,
        )
        self.register_buffer("centre", torch.zeros(dimension))
        self.register_buffer("spread", torch.ones(dimension))

    def arguments(self) -> dict:
        """Return what builds the same network."""
        names = ("widths", "attended", "blocks", "heads", "groups", "dimension")
        return {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def begin(self, latents: Tensor) -> None:
        """Find the unit of the latents, (b, c, x, y, z) of both fields: each channel's own."""
        flat = latents.movedim(1, -1).flatten(0, -2)
        self.centre.copy_(flat.mean(0))
        self.spread.copy_(flat.std(0).clamp(min=1e-3))

    def to_units(self, latents: Tensor) -> Tensor:
        """Bring encodings to unit variance."""
        shape = (-1, 1, 1, 1)
        return (latents - self.centre.view(shape)) / self.spread.view(shape)

    def from_units(self, latents: Tensor) -> Tensor:
        """Undo `to_units`."""
        shape = (-1, 1, 1, 1)
        return latents * self.spread.view(shape) + self.centre.view(shape)

    def forward(self, latents: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Say the noise in latents of unit variance.

        Parameters
        ----------
        latents : (b, c, x, y, z) tensor
            Any edges.
        times, labels : (b,) tensors of int
        """
        whole = filled(latents, 2 ** (len(self.widths) - 1))
        return cut(self.network(whole, times, context=self.labels(labels)[:, None]), latents)

    def towards(self, label: int, guidance: float = 0.0) -> Denoise:
        """Return the function of latents and time that says the noise, guided towards a label."""

        def denoise(latents: Tensor, time: int) -> Tensor:
            times = torch.full((len(latents),), time, device=latents.device)
            return guided(
                lambda told: self(latents, times, torch.full_like(times, told)), label, guidance
            )

        return denoise


def guided(say: Callable[[int], Tensor], label: int, guidance: float) -> Tensor:
    """Eq. 10: (1 + w) eps(x, c) - w eps(x)."""
    told = say(label)
    return told if guidance == 0 else (1 + guidance) * told - guidance * say(NONE)


def dropped(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace a share of labels by `NONE`, so that one network learns both parts of eq. 10."""
    away = torch.rand(labels.shape, generator=generator) < share
    return torch.where(away.to(labels.device), NONE, labels)


def denoiser_loss(
    network: nn.Module, latents: Tensor, labels: Tensor, drop: float, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Eq. 7: squared error of the noise, at random times.

    Parameters
    ----------
    network : Denoiser
        Maybe as a Lightning module around it.
    latents : (b, c, x, y, z) tensor
        Of unit variance.
    labels : (b,) tensor of int
    drop : float
        Share of labels that are not told.
    generator : torch.Generator
        Of the CPU, so that every device draws alike.
    """
    times = torch.randint(TIMES, (len(latents),), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    said = network(noisy(latents, noise, times), times, dropped(labels, drop, generator))
    value = (said - noise).square().mean()
    return value, {"mse": float(value.detach())}
