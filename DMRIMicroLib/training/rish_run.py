"""A training on RISH features under way: its folder, its pairs, how a stage is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import Cancelled
from ..rish.units import Setting
from .recipe import training_loop
from .rish_recipe import RishRecipe
from .rish_stream import Patches, Read, Spots, Stream, keep, pairs_of, stream_of

Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Run:
    """A training under way.

    Attributes
    ----------
    recipe : RishRecipe
    folder : Path
    known, held_out : list of Path
        Pairs to learn from, and those held out.
    setting : Setting
        Units, shell and voxels of the pairs.
    progress, cancelled : callable
    """

    recipe: RishRecipe
    folder: Path
    known: list[Path]
    held_out: list[Path]
    setting: Setting
    progress: Progress
    cancelled: Callable[[], bool]

    @property
    def read(self) -> Read:
        """What reads features of both fields on the 3 T grid."""
        return pairs_of(self.setting.units)

    @property
    def device(self) -> torch.device:
        """Of the training."""
        return torch.device(self.recipe.every.get("accelerator", "cpu"))

    @property
    def choosing(self) -> list[Path]:
        """Pairs held out on which a way of sampling is chosen: half of them at most."""
        return self.held_out[: min(self.recipe.choosing, max(1, len(self.held_out) // 2))]

    @property
    def judging(self) -> list[Path]:
        """Pairs held out on which nothing is chosen, of every method alike; one pair is both."""
        return self.held_out[len(self.choosing) :] or self.held_out

    def stream(self, stage: str, files: Sequence[Path] | None = None, read: Read | None = None):
        """Return the examples of a stage."""
        recipe = self.recipe
        seed, crop = recipe.seed_of(stage), recipe.crops.get(stage, recipe.crop)
        share = recipe.spots.get(stage, 0.0)
        spots = Spots(share, self.setting.units.zero[0]) if share else None
        return stream_of(files or self.known, read or self.read, seed, recipe.patches, crop, spots)

    def learn(self, stage: str, network: nn.Module, stream: Stream, loss: Callable) -> nn.Module:
        """Train a network, or take what a finished stage has left; it comes back on the CPU."""
        loop = training_loop()
        training = loop.Training(**self.recipe.training(stage))
        stopped = [False]

        def asked() -> bool:
            stopped[0] = stopped[0] or self.cancelled()
            return stopped[0]

        def tell(share: float, text: str) -> None:
            self.tell(stage, share, text)

        def on_device(network: nn.Module, example: Patches, step: int):
            return loss(network, example.to(next(network.parameters()).device), step)

        folder = self.folder / stage
        network = loop.train(network, stream, on_device, training, folder, tell, asked)
        if stopped[0]:
            raise Cancelled("Stopped; the same command goes on from the last checkpoint.")
        return network.cpu().eval().requires_grad_(False)

    def keep_said(
        self, stage: str, network: nn.Module, folder: Path, say: Callable[[Path], Tensor]
    ) -> None:
        """Write what a network says of every pair, which takes long, once; `say` asks it."""
        folder.mkdir(parents=True, exist_ok=True)
        network.to(self.device)
        for number, file in enumerate(self.known):
            self.stop_if_asked()
            if not (folder / file.name).exists():
                keep(say(file), folder / file.name)
            self.tell(stage, 0.0, f"pair {number + 1} of {len(self.known)}")
        network.cpu()

    def tell(self, stage: str, share: float, text: str) -> None:
        """Tell how far a stage is."""
        names = list(self.recipe.stages)
        self.progress((names.index(stage) + share) / len(names), f"{stage}: {text}")

    def stop_if_asked(self) -> None:
        """Stop a stage that has no steps of its own."""
        if self.cancelled():
            raise Cancelled("Stopped; the same command goes on from here.")

    def begun(self, stage: str) -> bool:
        """Whether a stage has a checkpoint."""
        return (self.folder / stage / training_loop().CHECKPOINT).exists()
