"""One model on all voxels of a scan, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..errors import Cancelled
from ..metric import Flag
from ..models import Model
from .methods import method_for
from .options import Options
from .outcome import outcome
from .threads import in_threads

BATCH_BYTES = 256 * 2**20
"""Working memory of all batches that are under way together [bytes]."""

BATCH_COPIES = 4
"""Arrays of the size of a batch's signal that it holds at once: itself, its logarithm or share of
S0, weights, and room."""

COVARIANCE_COPIES = 3
"""Arrays of the size of a covariance that a batch holds at once."""

BATCH_VOXELS = {"cpu": 32768, "cuda": 1048576}
"""Voxels in a batch at most: enough to hide the cost of launching each operation."""

MIN_BATCH = 12288
"""Voxels below which a second thread costs more than it gains."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Step:
    """One model's part of the work, as progress and cancel checks see it."""

    report: Progress
    cancelled: Callable[[], bool] | None
    start: float
    share: float
    text: str

    def __call__(self, done: float) -> None:
        """Report the share that is done, or stop."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("The fit was cancelled; nothing was written.")
        self.report(self.start + self.share * done, self.text)


@dataclass
class Found:
    """Metrics of all n voxels of the mask."""

    values: dict[str, torch.Tensor]
    deviations: dict[str, torch.Tensor]
    flags: NDArray[np.uint8]
    usable: torch.Tensor

    def counts(self, volumes: int) -> dict[str, int]:
        """Count voxels by flag, and samples that could not be used."""
        told = {
            "fitted": int((self.flags != Flag.EMPTY).sum()),
            "left_out": int((self.flags == Flag.EMPTY).sum()),
            "with_unusable_samples": int((self.usable < volumes).sum()),
            "unusable_samples": int((volumes - self.usable).sum()),
        }
        return told | {
            flag.name.lower(): int((self.flags == flag).sum()) for flag in Flag if flag > Flag.GOOD
        }


@dataclass(frozen=True)
class Run:
    """One model on the voxels of a scan."""

    model: Model
    acquisition: Acquisition
    volumes: list[int]
    options: Options
    device: torch.device
    step: Step

    def fit(self, signal: torch.Tensor, sigma: torch.Tensor | None) -> Found:
        """Fit and derive batch by batch: (n, m) signal, (n,) sigma -> metrics."""
        model, device, n = self.model, self.device, len(signal)
        method = method_for(model, self.acquisition, self.options, device, signal.dtype)
        every = len(self.volumes) == signal.shape[1]
        size = self._batch(signal)
        scalars = [m for m in model.metrics if m.kind == "scalar"] * self.options.uncertainty
        found = Found(
            {m.name: torch.empty(m.channels, n) for m in model.metrics},
            {m.name: torch.empty(1, n) for m in scalars},
            np.empty(n, dtype=np.uint8),
            torch.empty(n, dtype=torch.int32),
        )

        def work(start: int) -> int:
            at = slice(start, start + size)
            batch = signal[at] if every else signal[at][:, self.volumes]
            noise = None if sigma is None else sigma[at].to(device)
            fitted = method(batch.to(device), noise)
            got = outcome(model, fitted)
            found.usable[at] = fitted.usable.cpu()
            found.flags[at] = got.flags.cpu().numpy()
            for name, value in got.values.items():
                found.values[name][:, at] = value.cpu()
            for name, value in got.deviations.items():
                found.deviations[name][:, at] = value.cpu()
            return start

        for start in in_threads(work, range(0, n, size), device):
            self.step(start / n)
        self.step(1.0)
        return found

    def _batch(self, signal: torch.Tensor) -> int:
        """Voxels in a batch."""
        device = self.device.type
        threads = torch.get_num_threads() if device == "cpu" else 1
        values = BATCH_COPIES * len(self.volumes)
        if self.options.uncertainty:
            values += COVARIANCE_COPIES * self.model.size**2
        fitting = BATCH_BYTES // threads // (values * signal.element_size())
        size = min(BATCH_VOXELS[device], max(1, fitting))
        if device == "cpu":  # a batch for every thread, if there is enough to share
            size = min(size, max(MIN_BATCH, -(-len(signal) // threads)))
        return size
