"""One training loop for every network: Lightning Fabric, checkpoints, resume, averaged weights."""

from __future__ import annotations

import csv
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..errors import InputError
from ..files import staged
from .processes import DDP, Crew, launched

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"


@dataclass(frozen=True)
class Training:
    """How long and how fast to train.

    Attributes
    ----------
    steps : int
    batch : int
        Examples a step.
    rate : float
        Learning rate at its highest; it falls to a fiftieth, as a cosine.
    warmup : int
        Steps in which it rises.
    decay : float
        Of AdamW.
    clip : float
        Largest norm of the gradient.
    average : float
        Of the weights, per step (their exponential moving average is what is kept).
    precision : str
        Lightning's name, "32-true" or "bf16-mixed".
    accelerator : str
    save_every : int
        Steps between checkpoints.
    devices, nodes : int
        Processes of each node, and nodes; 0: as torchrun or srun started them. All together work on
        the `batch` examples of a step.
    strategy : str
        Lightning's name of how several processes work together.
    """

    steps: int = 2000
    batch: int = 4
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.01
    clip: float = 1.0
    average: float = 0.998
    precision: str = "32-true"
    accelerator: str = "cpu"
    save_every: int = 100
    devices: int = 0
    nodes: int = 0
    strategy: str = DDP

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        share = min(1.0, step / self.steps)
        return self.rate * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def train(
    network: nn.Module,
    examples: Callable[[int], Iterator[Any]],
    loss: Callable[[nn.Module, Any, int], tuple[Tensor, dict[str, float]]],
    training: Training,
    folder: Path,
    progress: Callable[[float, str], None] = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> nn.Module:
    """Train a network; go on from the folder's checkpoint if there is one.

    Parameters
    ----------
    network : nn.Module
    examples : callable
        From the number of the first example that is wanted to an endless iterator; for several
        processes better also from ``step``, the distance to the next.
    loss : callable
        From network, example and step to the loss and what the log should say.
    training : Training
    folder : path
        Of checkpoint and log.
    progress, cancelled : callable
        As of `fitting.fit`; a cancelled training leaves its checkpoint.

    Returns
    -------
    nn.Module
        With the averaged weights.
    """
    crew = _crew(training)
    fabric, share = crew.fabric, training.batch // crew.world
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = torch.optim.AdamW(network.parameters(), training.rate, weight_decay=training.decay)
    model, optimiser = fabric.setup(network, optimiser)
    _open_methods(model, network)
    mean = {name: value.detach().clone() for name, value in network.state_dict().items()}
    first = _resume(folder, network, optimiser, mean, training)
    stream, began = crew.own(examples, first * training.batch), time.monotonic()
    totals: dict[str, float] = {}
    for step in range(first, training.steps):
        if crew.any(cancelled()):
            break
        for group in optimiser.param_groups:
            group["lr"] = training.rate_at(step)
        for _ in range(share):
            with fabric.no_backward_sync(model, enabled=crew.world > 1):
                value, told = loss(model, next(stream), step)
                fabric.backward(value / share)
            for key, number in told.items():
                totals[key] = totals.get(key, 0.0) + number / share
        crew.average_gradients(network.parameters())
        norm = fabric.clip_gradients(
            model, optimiser, max_norm=training.clip, error_if_nonfinite=False
        )
        if bool(torch.isfinite(norm)):  # one bad example costs a step, not the weights
            optimiser.step()
        optimiser.zero_grad()
        keep = min(training.average, (1 + step) / (10 + step))
        for name, now in network.state_dict().items():
            mean[name].lerp_(now.detach().to(mean[name]), 1 - keep)
        if (step + 1) % training.save_every == 0 or step + 1 == training.steps:
            since = (step + 1 - first) % training.save_every or training.save_every
            said = crew.average({key: value / since for key, value in totals.items()})
            if crew.leads:
                _log(folder / LOG, step + 1, time.monotonic() - began, said)
                _save(folder, step + 1, network, optimiser, mean, training)
            fabric.barrier()  # none may look for a checkpoint that is not there yet
            totals = {}
        if crew.leads:
            progress((step + 1) / training.steps, f"Training: step {step + 1} of {training.steps}")
    network.load_state_dict(mean)
    return network


def _open_methods(model: Any, network: nn.Module) -> None:
    """Let a loss call every method of a network that DDP wraps, not only its forward pass."""
    for name in set(dir(type(network))) - set(dir(nn.Module)):
        if not name.startswith("_") and inspect.ismethod(getattr(network, name)):
            model.mark_forward_method(name)


def _crew(training: Training) -> Crew:
    """Start the processes that the training is for; one, unless torchrun or srun started more."""
    local, nodes = launched()
    devices, nodes = training.devices or local, training.nodes or nodes
    several = {"strategy": training.strategy} if devices * nodes > 1 else {}
    fabric = Fabric(
        accelerator=training.accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=training.precision,  # type: ignore[arg-type]
        **several,
    )
    return Crew.of(fabric, training.batch)


def _save(folder: Path, step: int, network, optimiser, mean: dict, training: Training) -> None:
    state = {
        "step": step,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "mean": mean,
        "training": asdict(training),
    }
    with staged(folder) as stage:
        torch.save(state, stage / CHECKPOINT)


def _resume(folder: Path, network, optimiser, mean: dict, training: Training) -> int:
    """Load the checkpoint, if there is one; return the step to go on with."""
    file = folder / CHECKPOINT
    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["training"]["batch"] != training.batch:
        raise InputError(
            f"was begun with {state['training']['batch']} examples a step",
            "Go on with as many, or give another folder.",
            file=file,
        )
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    for name, value in state["mean"].items():
        mean[name].copy_(value)
    return state["step"]


def _log(file: Path, step: int, seconds: float, said: dict[str, float]) -> None:
    row = {"step": step, "seconds": round(seconds, 1)} | {k: round(v, 5) for k, v in said.items()}
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
