"""The network over the slices of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import Cancelled
from ..fitting.threads import in_threads
from ..scan import Scan
from ..signals.space import Space
from ..weights import Card, load
from .apart import asked_of, habits_of
from .network import Codebook, Posterior, Prediction, Shape
from .noise import with_settled_noise
from .recalibrate import Habits, Said
from .scale import Scale
from .stack import Stack, with_usable

Progress = Callable[[float, str], None]
Keep = Callable[[Prediction, Tensor], tuple[Tensor, ...]]

WEIGHTS = "codebook"
"""Shipped weights that are used by default."""

LOOKING = 0.7
"""Share of the work until the prior is known."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network that is ready.

    Attributes
    ----------
    network : Codebook
    scale : Scale
    calibration : tensor (k,)
        Factor of each predicted standard deviation.
    card : Card
    """

    network: Codebook
    scale: Scale
    calibration: Tensor
    card: Card

    @property
    def space(self) -> Space:
        """The signal space of the network."""
        return Space.read(self.card.data["space"])


def open_codebook(name: str | Path = WEIGHTS) -> Loaded:
    """Load a codebook by name or file; see `weights.load`."""
    tensors, card = load(name, "codebook")
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in card.arguments.items()}
    network = Codebook(Shape(**arguments)).eval().requires_grad_(False)
    network.load_state_dict(tensors)
    data = card.data
    scale = Scale(tuple(data["metrics"]), tuple(data["centre"]), tuple(data["spread"]))
    return Loaded(network, scale, torch.tensor(data["calibration"]), card)


def predictions(
    scan: Scan,
    loaded: Loaded,
    keep: Keep,
    device: torch.device,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Scan, NDArray[np.bool_], list[Tensor]]:
    """Run the network over the slices of a scan.

    Parameters
    ----------
    scan, progress, cancelled
        As of `codebook`.
    loaded : Loaded
    keep : callable
        From a slice's prediction and spherical means (n, s) to what is wanted of its n voxels:
        (n, ...) tensors.
    device : torch.device

    Returns
    -------
    scan : Scan
        With a mask.
    usable : (x, y, z) bool array
        Voxels with an answer.
    kept : list of (n, ...) tensors
        What `keep` gave of all of them, in the order of `slice_order`.
    """
    report = progress or (lambda share, text: None)
    report(0.0, "Reading")
    scan, usable = with_usable(scan)
    network = loaded.network.to(device)
    if isinstance(network, Codebook):
        scan = with_settled_noise(scan, usable, network, loaded.space, device)
    run = _Run(Stack(scan, usable, loaded.space), loaded, device, keep)
    count = len(run.stack)
    for first, work in ((0.0, run.look), (LOOKING, run.answer)):
        share = LOOKING if work == run.look else 1 - LOOKING
        for k in in_threads(work, range(count), device):
            report(first + share * (k + 1) / count, f"Slice {k + 1} of {count}")
            if cancelled is not None and cancelled():
                raise Cancelled("Stopped; nothing was written.")
        if work == run.look:
            run.learn()
    parts = [run.done[k] for k in range(count)]
    return scan, run.stack.usable, [torch.cat(v) for v in zip(*parts, strict=True)]


class _Run:
    """The network over the slices of a scan."""

    def __init__(self, stack: Stack, loaded: Loaded, device: torch.device, keep: Keep) -> None:
        self.stack, self.network = stack, loaded.network.to(device)
        self.device, self.keep = device, keep
        self.means: dict[int, Tensor] = {}
        self.said: dict[int, Said] = {}
        self.habits: Habits | None = None
        self.done: dict[int, tuple[Tensor, ...]] = {}

    def look(self, k: int) -> int:
        """Find what network and data say of slice k; a network that needs no data step answers."""
        seen = self.stack.tokens(k).to(self.device)
        means = seen.mean[:, seen.mask].T
        with torch.inference_mode():
            if isinstance(self.network, Codebook):
                self.said[k], self.means[k] = Said.of(self.network, seen), means.cpu()
            else:
                self._keep(k, self.network(seen), means)
        return k

    def learn(self) -> None:
        """Find by how much real tissue differs from what the network expects."""
        if self.said:
            with torch.inference_mode():
                said = [self.said[k] for k in range(len(self.stack))]
                asked = asked_of(self.network, self.stack, self.device)
                self.habits = habits_of(self.stack.acquisition, said, asked)

    def answer(self, k: int) -> int:
        """Tell the metrics of slice k."""
        if k in self.said:
            assert self.habits is not None
            said, means = self.said.pop(k), self.means.pop(k)
            with torch.inference_mode():
                found = said.corrected(self.habits).posterior()
                told = Posterior(*(v.to(self.device) for v in found))
                self._keep(k, self.network.tell(told, said.prior.features.to(self.device)), means)
        return k

    def _keep(self, k: int, found: Prediction, means: Tensor) -> None:
        self.done[k] = tuple(v.float().cpu() for v in self.keep(found, means.to(self.device)))
