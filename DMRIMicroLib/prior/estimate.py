"""From a scan to maps by posterior sampling: PIGMENT-style zero-shot fitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..codebooks.estimate import metric_of, owner, provenance
from ..codebooks.gaussian import Posterior
from ..codebooks.network import Codebook, Prior
from ..codebooks.noise import with_settled_noise
from ..codebooks.recalibrate import Habits
from ..codebooks.slices import WEIGHTS, Loaded, open_codebook
from ..codebooks.stack import Stack, with_usable
from ..errors import Cancelled, InputError
from ..fitting.estimate import choose_device
from ..maps import Map, MapSet
from ..metric import Flag, Metric
from ..scan import Scan
from .adaptation import adapted
from .diffusion import sample
from .goodness import left_out
from .result import Pigment
from .volume import Volume, Work, planes_of

MODEL = "pigment"
"""Name that the maps are kept under."""

SHARE = Metric("prior_share", "Share of the prior in the answer", "", 0, 1, (0, 1))
"""Posterior variance over prior variance, mean over the numbers of the signal space."""

RESIDUAL = Metric("pigment_residual", "Signal left unexplained, RMS over noise", "", 0, 20, (0, 3))

BELIEVED = 4.0
"""Samples that the network's own standard deviation is worth beside those drawn."""

BATCH = 20_000
"""Voxels whose metrics are read at a time."""

CALIBRATING = 1.0
"""Looks at a scan in one plane in the time that its calibration takes."""

ADAPTING = 0.5
"""Slices that are looked at in the time of a step of adaptation."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Preset:
    """How much work is done.

    Attributes
    ----------
    samples : int
    steps : int
        Noise levels of each sample.
    adapt : int
        Steps in which the prior learns from the scan, at most.
    planes : bool
        Whether a voxel's neighbours in all three planes are looked at, see `volume.planes_of`.
    """

    samples: int
    steps: int
    adapt: int
    planes: bool = True


PRESETS = {
    "fast": Preset(samples=2, steps=4, adapt=0, planes=False),
    "standard": Preset(samples=4, steps=6, adapt=0),
    "best": Preset(samples=12, steps=9, adapt=0),
}
"""None adapts the prior: it made some metrics better and others worse (benchmarks/pigment.py)."""


def pigment(
    scan: Scan,
    models: str | Sequence[str] = ("dti", "dki", "noddi"),
    *,
    preset: str = "standard",
    samples: int | None = None,
    adapt: int | None = None,
    weights: str | Path = WEIGHTS,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Pigment:
    """Estimate maps where a scan alone does not determine them, with their uncertainty.

    Parameters
    ----------
    scan : Scan
        Of any protocol with a b0 and a weighted volume.
    models : str or sequence of str
        Whose metrics are wanted, "dti,noddi" is two; "all" for all that the network knows.
    preset : str
        "fast", "standard" or "best", see `PRESETS`.
    samples, adapt : int, optional
        In place of the preset's.
    weights : str or path
        Of the network that is both codebook and denoiser.
    seed : int
    device : str or torch.device, optional
    progress, cancelled : callable, optional
        As of `fit`.

    Raises
    ------
    InputError
        If the scan cannot be used, or a model or preset is not known.
    Cancelled
        If `cancelled` said so.

    Notes
    -----
    Memory: the signal of the masked voxels once, 1 kB a voxel, and 140 bytes a voxel and sample.
    """
    work = _settings(preset, samples, adapt)
    device = choose_device(device)
    loaded = open_codebook(weights)
    wanted = columns_of_models(loaded, models)

    def report(share: float, text: str) -> None:
        if progress is not None:
            progress(share, text)
        if cancelled is not None and cancelled():
            raise Cancelled("Stopped; nothing was written.")

    report(0.0, "Reading")
    scan, usable = with_usable(scan)
    network = loaded.network.to(device)
    scan = with_settled_noise(scan, usable, network, loaded.space, device)
    run = _Run(scan, usable, loaded, device, work, seed, report)
    run.look()
    return _to_maps(scan, run.stack.usable, run, wanted, device)


def _settings(preset: str, samples: int | None, adapt: int | None) -> Preset:
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}", f"Choose from: {', '.join(PRESETS)}.")
    own = PRESETS[preset]
    chosen = Preset(
        own.samples if samples is None else samples,
        own.steps,
        own.adapt if adapt is None else adapt,
        own.planes,
    )
    if chosen.samples < 1 or chosen.adapt < 0:
        raise InputError(
            f"{chosen.samples} samples, {chosen.adapt} steps", "Give 1 or more, and 0 or more."
        )
    return chosen


def columns_of_models(loaded: Loaded, models: str | Sequence[str]) -> list[int]:
    """Return the columns of the network's metrics that belong to some models; refuse others."""
    known = {m.name for name in loaded.scale.metrics if (m := owner(name)) is not None}
    if isinstance(models, str):
        models = [name.strip() for name in models.split(",")]
    if list(models) == ["all"]:
        models = sorted(known)
    fix = f"Choose from: {', '.join(sorted(known))}."
    for name in models:
        if name not in known:
            raise InputError(f"there is no model {name!r}", fix)
    if not models:
        raise InputError("no model was asked for", fix)
    owners = [owner(name) for name in loaded.scale.metrics]
    return [k for k, m in enumerate(owners) if m is not None and m.name in models]


class _Run:
    """Looking, learning, sampling, all voxels at once."""

    def __init__(
        self, scan: Scan, usable: NDArray[np.bool_], loaded: Loaded, device: torch.device,
        work: Preset, seed: int, report: Progress,
    ) -> None:  # fmt: skip
        self.loaded, self.device, self.work, self.seed = loaded, device, work, seed
        self.scan = scan
        self.network: Codebook = loaded.network.to(device)
        self.stack = Stack(scan, usable, loaded.space)
        usable = self.stack.usable
        self.planes = planes_of(scan, usable) if work.planes else (2,)
        slices, many = len(self.stack), len(self.planes)
        calibrating = CALIBRATING * (many + (many > 1))
        looks = many + (many > 1) + calibrating + work.samples * work.steps
        self.total, self.done = slices * looks + ADAPTING * work.adapt, 0.0
        self.calibrating = slices * calibrating
        self.report = report
        self.course: list[float] = []
        if work.adapt:
            told = self._part(ADAPTING * work.adapt, "Adapting the prior")
            self.network, self.course = adapted(
                self.network, self.stack, work.adapt, device, seed, told
            )
        self.volume = Volume(self.stack, self.planes, device)

    def _part(self, cost: float, text: str) -> Callable[[float], None]:
        """Return what reports a part of the work."""
        began = self.done
        self.done += cost

        def told(share: float) -> None:
            self.report((began + cost * share) / self.total, text)

        return told

    def _known(self, volume: Volume) -> tuple[Prior, Habits]:
        """Find what is expected of the scan, and the habits of that."""
        many, slices = len(volume.stacks), len(self.stack)
        prior = volume.prior(self.network, self._part(slices * many, "Looking"))
        share = many / (len(self.planes) + (len(self.planes) > 1))
        told = self._part(share * self.calibrating, "Calibrating")
        return prior, volume.habits(self.network, prior, self.seed, told)

    def look(self) -> None:
        """Find what is expected of the scan, and what network and data say of it."""
        volume, network = self.volume, self.network
        with torch.inference_mode():
            prior, habits = self._known(volume)
            self.said = [part.corrected(habits) for part in volume.given(prior)]
            found, told, shares = [], [], []
            for part in self.said:
                best = part.posterior()
                found.append(best.mean)
                told.append(self._tell(best, part.prior.features))
                shares.append((best.variance / part.prior.width).mean(1).clamp(0, 1))
            self.mean, self.own = (volume.gathered(v) for v in zip(*told, strict=True))
            self.best, self.share = volume.gathered(found), volume.gathered(shares)
            self.goodness = left_out(self.scan, volume, network, habits, self.seed)
            # a step of a sample asks of one plane, which knows less than three
            self.alone = habits
            if len(self.planes) > 1:
                self.alone = self._known(Volume(self.stack, self.planes[:1], self.device))[1]

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw samples: numbers (samples, n, c), and metrics read off them (samples, n, k)."""
        unit, drawn, means = self.volume.noise / self.volume.typical, [], []
        for number in range(self.work.samples):
            steps = self.work.steps
            told = self._part(
                len(self.stack) * steps, f"Sample {number + 1} of {self.work.samples}"
            )

            def ask(state: Tensor, level: float, step: int, work: Work, told=told) -> Tensor:
                asked = self.network, self.alone, state, level, step, work
                return self.volume.beside(
                    *asked, progress=lambda u: told((step + u) / self.work.steps)
                )

            generator = torch.Generator().manual_seed(self.seed * 10_007 + number)
            with torch.inference_mode():
                first = self.volume.gathered([part.draw(generator) for part in self.said])
                z = sample(ask, first, unit, steps, generator)
                means.append(torch.cat([self._read(part) for part in z.split(BATCH)]))
            drawn.append(z.half())
        return torch.stack(drawn), torch.stack(means)

    def _tell(self, found: Posterior, features: Tensor) -> tuple[Tensor, Tensor]:
        told = self.network.tell(
            Posterior(*(v.to(self.device) for v in found)), features.to(self.device)
        )
        return told.mean.float().cpu(), told.log_sd.exp().float().cpu()

    def _read(self, numbers: Tensor) -> Tensor:
        return self.network.read(numbers.to(self.device)).mean.float().cpu()


def _to_maps(
    scan: Scan, usable: NDArray[np.bool_], run: _Run, wanted: Sequence[int], device: torch.device
) -> Pigment:
    """Put means and standard deviations on the grid."""
    numbers, means = run.draw()
    count, scale = run.work.samples, run.loaded.scale
    # few samples tell little of their spread: beside them stands what the network says of it
    spread = (means - means.mean(0)).square().sum(0)
    variance = (BELIEVED * (run.own * run.loaded.calibration).square() + spread) / (
        BELIEVED + count - 1
    )
    # the mean over all samples is what the network says at once; that of a few is only noisier
    values, deviations = scale.decode(run.mean, variance.sqrt())

    def grid(values: Tensor) -> NDArray[np.float32]:
        out = np.zeros(scan.shape, np.float32)
        out[usable] = values.numpy()
        return out

    maps = {}
    for k in wanted:
        metric = metric_of(scale.metrics[k])
        held = values[:, k].clamp(metric.low, metric.high)
        maps[metric.name] = Map(metric, MODEL, grid(held), grid(deviations[:, k]))
    misfit = run.stack.misfit(run.best)
    for metric, value in ((SHARE, run.share), (RESIDUAL, misfit)):
        maps[metric.name] = Map(metric, MODEL, grid(value))
    flags = np.zeros(scan.shape, np.uint8)
    flags[usable] = Flag.GOOD
    names = [scale.metrics[k] for k in wanted]
    told = provenance(MODEL, scan, run.loaded, names, device) | {
        "samples": count,
        "steps": run.work.steps,
        "adapted": {"steps": run.work.adapt, "unlikeliness": [round(c, 4) for c in run.course]},
        "seed": run.seed,
        "planes": len(run.volume.stacks),
        "left_out": run.goodness,
        "prior_share": round(float(run.share.mean()), 4),
    }
    done = MapSet(maps, scan.affine, usable, {MODEL: told}, {MODEL: flags})
    return Pigment(done, run.best, numbers, run.loaded, usable, run.stack.frame)
