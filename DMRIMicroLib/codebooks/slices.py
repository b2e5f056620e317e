"""The network over the slices of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import Cancelled, InputError
from ..fitting.threads import in_threads
from ..masking import brain_mask
from ..scan import Scan
from ..signals.space import Space
from ..weights import Card, load
from .network import Codebook, Posterior, Prediction, Prior, Shape
from .recalibrate import Habits, Said, find_habits
from .scale import Scale
from .tokens import tokens

Progress = Callable[[float, str], None]
Keep = Callable[[Prediction, Tensor], tuple[Tensor, ...]]

WEIGHTS = "codebook"
"""Shipped weights that are used by default."""

LOOKING = 0.7
"""Share of the work until the prior is known."""

NOISE_UNKNOWN = 0.05
"""Noise relative to the b0 signal where the scan does not tell its own."""


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
    acq = scan.acquisition
    if not acq.is_b0.any() or not acq.shells:
        fix = "Give a scan with a b0 and a weighted volume."
        raise InputError(f"has {acq.describe()}", fix, file=scan.source)
    scan = brain_mask(scan)
    assert scan.mask is not None
    report = progress or (lambda share, text: None)
    report(0.0, "Reading")
    usable = scan.mask & np.isfinite(scan.b0) & (scan.b0 > 0)
    if not usable.any():
        what = "no voxel of the mask has a b0 signal"
        raise InputError(what, "Check the mask.", file=scan.source)
    run = _Run(scan, usable, loaded, device, keep)
    count, parts = len(run.levels), []
    for first, work in ((0.0, run.look), (LOOKING, run.answer)):
        share = LOOKING if work == run.look else 1 - LOOKING
        for k in in_threads(work, range(count), device):
            report(first + share * (k + 1) / count, f"Slice {k + 1} of {count}")
            if cancelled is not None and cancelled():
                raise Cancelled("Stopped; nothing was written.")
        if work == run.look:
            run.learn()
    parts = [run.done[k] for k in range(count)]
    return scan, usable, [torch.cat(v) for v in zip(*parts, strict=True)]


class _Run:
    """The network over the slices of a scan."""

    def __init__(
        self,
        scan: Scan,
        usable: NDArray[np.bool_],
        loaded: Loaded,
        device: torch.device,
        keep: Keep,
    ) -> None:
        self.network, self.space = loaded.network.to(device), loaded.space
        self.device, self.usable, self.keep = device, usable, keep
        self.acquisition = scan.acquisition
        self.signal = np.nan_to_num(scan.voxels(usable), copy=False)
        self.levels = np.flatnonzero(usable.any((0, 1)))
        self.first = np.argwhere(usable)[:, 2]
        edges = scan.affine[:3, :3]
        self.frame = torch.as_tensor((edges / np.linalg.norm(edges, axis=0)).T.copy())
        noise = scan.noise
        unknown = NOISE_UNKNOWN * float(np.median(scan.b0[usable]))
        sigma = unknown if noise is None else noise.sigma if noise.map is None else noise.map
        self.sigma = np.broadcast_to(np.float32(sigma), usable.shape)
        self.means: dict[int, Tensor] = {}
        self.said: dict[int, Said] = {}
        self.habits: Habits | None = None
        self.done: dict[int, tuple[Tensor, ...]] = {}

    def look(self, k: int) -> int:
        """Find what network and data say of slice k; a network that needs no data step answers."""
        z = int(self.levels[k])
        mask = self.usable[:, :, z]
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
        signal = np.zeros((*mask.shape, self.signal.shape[1]), np.float32)
        level = np.flatnonzero(self.first == z)
        signal[mask] = self.signal[level]
        cut = torch.from_numpy(np.ascontiguousarray(np.moveaxis(signal[box], -1, 0)))
        inside = torch.from_numpy(np.ascontiguousarray(mask[box]))
        sigma = torch.from_numpy(np.ascontiguousarray(self.sigma[:, :, z][box]))
        seen = tokens(cut, inside, self.acquisition, sigma, self.frame, self.space).to(self.device)
        means = seen.mean[:, seen.mask].T
        with torch.inference_mode():
            if isinstance(self.network, Codebook):
                prior = Prior(*(v.cpu() for v in self.network.prior(seen)))
                data = (v.cpu() for v in (seen.matrix, seen.vector.T.contiguous(), seen.noise))
                self.said[k], self.means[k] = Said(prior, *data), means.cpu()
            else:
                self._keep(k, self.network(seen), means)
        return k

    def learn(self) -> None:
        """Find by how much real tissue differs from what the network expects."""
        if self.said:
            with torch.inference_mode():
                self.habits = find_habits([self.said[k] for k in range(len(self.levels))])

    def answer(self, k: int) -> int:
        """Tell the metrics of slice k."""
        if k in self.said:
            assert self.habits is not None
            said, means = self.said.pop(k), self.means.pop(k)
            with torch.inference_mode():
                prior = self.habits.corrected(said.prior)
                found = prior.posterior(said.matrix, said.vector, said.noise)
                told = Posterior(*(v.to(self.device) for v in found))
                self._keep(k, self.network.tell(told, prior.features.to(self.device)), means)
        return k

    def _keep(self, k: int, found: Prediction, means: Tensor) -> None:
        self.done[k] = tuple(v.float().cpu() for v in self.keep(found, means.to(self.device)))


def slice_order(usable: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat indices of the voxels, slice by slice and in C order within each."""
    at = np.argwhere(usable)
    at = at[np.lexsort((at[:, 1], at[:, 0], at[:, 2]))]
    return np.ravel_multi_index(tuple(at.T), usable.shape)


def on_grid(values: Tensor, order: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Put values of the voxels of `slice_order` on the grid, 0 elsewhere: (n,) -> (x, y, z)."""
    out = np.zeros(int(np.prod(shape)), np.float32)
    out[order] = values.numpy()
    return out.reshape(shape)
