"""The training itself: the loop of `training.loop`, stopped where held-out scans say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import Cancelled
from ..files import staged
from ..training.examples import Example
from ..training.recipe import training_loop

BEST, HISTORY = "best.safetensors", "validation.json"
"""Files of the best weights so far, and of how held-out scans judged all of them."""

GAIN = 1e-4
"""The loss of held-out scans has to fall by so much to count as better."""

Progress = Callable[[float, str], None]
Loss = Callable[[nn.Module, Example, int], tuple[torch.Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    Attributes
    ----------
    steps : int
        At most.
    batch : int
        Examples a step.
    rate : float
        Learning rate at its highest.
    warmup : int
        Steps in which it rises.
    check : int
        Steps between two looks at held-out scans.
    patience : int
        Looks without a gain after which the training stops.
    looked_at : int
        Examples of held-out scans.
    settle : int
        Examples that tell centre and spread of the inputs of a network that begins from nothing.
    head : (int, int, int)
        Strange voxels, batches and examples that teach to read metrics, see `training.head`.
    calibrate : int
        Examples of held-out scans that calibrate standard deviations.
    edge : int
        Of an example's square [voxels].
    accelerator : str
    seed : int
    """

    steps: int = 1000
    batch: int = 4
    rate: float = 5e-4
    warmup: int = 50
    check: int = 50
    patience: int = 5
    looked_at: int = 16
    settle: int = 48
    head: tuple[int, int, int] = (20_000, 2000, 400)
    calibrate: int = 24
    edge: int = 64
    accelerator: str = "cpu"
    seed: int = 0

    def told(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return json.loads(json.dumps(asdict(self)))


@dataclass
class History:
    """What held-out scans said, step by step; kept in a file."""

    folder: Path
    losses: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> History:
        """Read what there is."""
        file = folder / HISTORY
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        return cls(folder, [(int(step), float(loss)) for step, loss in found])

    @property
    def best(self) -> int:
        """Number of the look that counts: the first one that no later one betters by `GAIN`."""
        best = 0
        for k, (_, loss) in enumerate(self.losses):
            if loss < self.losses[best][1] - GAIN:
                best = k
        return best

    def add(self, step: int, loss: float, network: nn.Module) -> None:
        """Write a look down, and the weights if they are the best so far."""
        self.losses.append((step, loss))
        with staged(self.folder) as stage:
            if self.best == len(self.losses) - 1:
                own = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
                save_file(own, stage / BEST)
            (stage / HISTORY).write_text(json.dumps(self.losses) + "\n", encoding="utf-8")

    def over(self, settings: Settings) -> bool:
        """Whether there were enough looks without a gain, or steps."""
        looks = len(self.losses) - 1 - self.best
        return looks >= settings.patience or self.losses[-1][0] >= settings.steps

    def told(self) -> dict[str, Any]:
        """Return it as JSON values, for the card."""
        losses = {str(step): round(loss, 5) for step, loss in self.losses}
        return {"steps": self.losses[self.best][0], "loss of held-out scans by step": losses}


def learn(
    network: nn.Module,
    stream: Callable,
    looked_at: Sequence[Example],
    loss: Loss,
    settings: Settings,
    folder: Path,
    progress: Progress = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> History:
    """Train until held-out scans gain no more; the network then has the weights that were best.

    The loop runs from one look to the next, and goes on from its own checkpoint: a training that
    was stopped is taken up by the same call. The weights that it began with are looked at, too, so
    that what comes out is never worse than they are.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    stream : callable
        As of `loop.train`.
    looked_at : sequence of Example
        Of held-out scans.
    loss : callable
    settings : Settings
    folder : path
        Of checkpoint, log and history.
    progress, cancelled
        As of `loop.train`.

    Returns
    -------
    History
    """
    loop = training_loop()
    training = loop.Training(
        steps=settings.steps,
        batch=settings.batch,
        rate=settings.rate,
        warmup=settings.warmup,
        average=0.99,  # over the steps between two looks and a few more
        accelerator=settings.accelerator,
        save_every=settings.check,
        devices=1,
        nodes=1,
    )
    history = History.read(folder)
    if not history.losses:
        history.add(0, look(network, looked_at, loss), network)
    while not history.over(settings):
        # a checkpoint whose look was never written is looked at before anything else is learned:
        # looks fall on the same steps whenever a training was stopped
        step = min(history.losses[-1][0] + settings.check, settings.steps)
        asked = _Until(step - steps_done(folder), cancelled)
        network = loop.train(network, stream, loss, training, folder, progress, asked)
        if asked.stopped:
            raise Cancelled("Stopped; the same command goes on from the last checkpoint.")
        history.add(step, look(network, looked_at, loss), network)
    network.load_state_dict(load_file(folder / BEST))
    return history


@torch.no_grad()
def look(network: nn.Module, examples: Sequence[Example], loss: Loss) -> float:
    """Return the mean loss of some examples."""
    network.eval()
    value = sum(float(loss(network, example, 0)[0]) for example in examples) / len(examples)
    network.train()
    return value


def steps_done(folder: Path) -> int:
    """Count the steps of the checkpoint in a folder, 0 if there is none."""
    file = folder / training_loop().CHECKPOINT
    if not file.exists():
        return 0
    return int(torch.load(file, map_location="cpu", weights_only=True)["step"])


class _Until:
    """Asked before every step: True after so many steps, or when the user stops."""

    def __init__(self, steps: int, cancelled: Callable[[], bool]) -> None:
        self.left, self.cancelled, self.stopped = steps, cancelled, False

    def __call__(self) -> bool:
        self.stopped = self.stopped or self.cancelled()
        self.left -= 1
        return self.stopped or self.left < 0
