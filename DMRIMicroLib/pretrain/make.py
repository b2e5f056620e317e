"""Pretraining and fine-tuning of a codebook, from data sets to weights with a card.

After Y. Li, Y. Qin, Z. Liu, C. Ye, "Pretraining improves deep learning based tissue microstructure
estimation", Computational Diffusion MRI, Springer 2021, 173-185: scans of high quality are brought
to the target's voxels and scheme, a network learns from them, and few scans of the target are then
enough to fine-tune it. The network is our codebook, whose prior is also PIGMENT's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..codebooks.network import Codebook
from ..codebooks.slices import Loaded, open_codebook
from ..codebooks.standard import settle
from ..errors import InputError
from ..io.bids import ScanFiles
from ..training.codebook import prior_loss
from ..training.examples import ExampleConfig
from ..training.head import labelled, teach_from
from ..training.recipe import CALIBRATION, LATER, hold, small
from ..training.relabel import strange_labels
from ..weights import save
from .cards import calibrated, card_of
from .clock import TOOK, Clock
from .describe import nameless
from .examples import example_stream
from .given import found_maps
from .held_out import split, subjects_apart
from .learning import Progress, Settings, learn, steps_done
from .prepare import Plan, prepare
from .presets import settings_of
from .target import Target

PREPARED, LEARNED, READ = 0.3, 0.8, 0.95
"""Share of the work that is done when slices, prior and head are (about)."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes
    ----------
    start : str
        Weights to begin with, by name or file.
    plan : Plan
        What slices are made of.
    settings : Settings
    fresh : bool
        Begin with random weights of the same shape, in the same signal space.
    keep_prior : bool
        Only the head is taught.
    held_out : tuple of str
        Labels of subjects to hold out; the last ones if left out.
    done : str
        "pretraining" or "fine-tuning", for the card.
    """

    start: str
    plan: Plan
    settings: Settings
    fresh: bool = False
    keep_prior: bool = False
    held_out: tuple[str, ...] = ()
    done: str = "pretraining"

    @property
    def teaches_head(self) -> bool:
        """Whether the head is taught.

        What fits find where the signal is known does not depend on the scanner: a head that reads
        it has learned from far more voxels than a handful of scans has. Maps may say something
        else.
        """
        return self.fresh or self.plan.maps is not None

    def told(self) -> dict[str, Any]:
        """Return what the result depends on beside the data, as JSON values."""
        plan = {"interpolation": self.plan.way, "target": self.plan.target.told()}
        own = {"settings": self.settings.told(), "fresh": self.fresh, "kind": self.done}
        return plan | own | {"reference": "fit" if self.plan.maps is None else "maps"}


def pretrain(
    start: str | Path,
    scans: Sequence[ScanFiles],
    target: Target,
    folder: str | Path,
    *,
    settings: Settings | None = None,
    fresh: bool = False,
    way: str = "dictionary",
    **options: Any,
) -> Path:
    """Let a codebook learn from scans of high quality, re-acquired as the target's.

    Parameters
    ----------
    start : str or path
        Weights to begin with.
    scans : sequence of ScanFiles
        Of a data set (`cohort.dataset.Dataset.scans`, or `io.bids.scans_of`).
    target : Target
    folder : path
        For slices, checkpoint, log, weights and card.
    settings : Settings, optional
    fresh : bool
        Begin with random weights instead, in the shape and the signal space of `start`.
    way : str
        Between schemes, one of `prepare.WAYS`.
    **options
        See `run`.

    Returns
    -------
    Path
        Of the card.
    """
    plan_options = {k: options.pop(k) for k in ("reading", "device") if k in options}
    space = open_codebook(start).space
    settings = settings or settings_of("cpu", gentle=False)
    plan = Plan(target, space, way, seed=settings.seed, **plan_options)
    held_out = tuple(options.pop("held_out", ()))
    job = Job(str(start), plan, settings, fresh, held_out=held_out)
    return run(job, scans, Path(folder), **options)


def finetune(
    start: str | Path,
    scans: Sequence[ScanFiles],
    folder: str | Path,
    *,
    target: Target | None = None,
    maps: str | Path | None = None,
    settings: Settings | None = None,
    way: str = "dictionary",
    **options: Any,
) -> Path:
    """Fine-tune a codebook on few full scans of the target.

    Parameters
    ----------
    start, scans, folder, way, **options
        As of `pretrain`.
    target : Target, optional
        Scheme and noise of the short scans that the network is for. If left out, subsets of the
        first scan's own volumes at that scan's SNR.
    maps : path, optional
        Data set of maps that are the truth (`given.given_maps`): the prior stays, and the head
        learns them. By default the truth is what the library fits to the full scans.
    settings : Settings, optional

    Returns
    -------
    Path
        Of the card.
    """
    plan_options = {k: options.pop(k) for k in ("reading", "device") if k in options}
    if not scans:
        raise InputError("there are no scans", "Name subjects that have some (--subjects).")
    if target is None:
        first = scans[0].load(**dict(plan_options.get("reading", ())))
        snr = first.snr
        if not snr:
            raise InputError(
                "the noise of the first scan is not known",
                "Give the scheme and noise of the short scans (--target-scheme, --snr).",
                file=first.source,
            )
        target = Target(first.acquisition, snr=(snr, snr), subsets=True)
    settings = settings or settings_of("cpu", gentle=True)
    space = open_codebook(start).space
    own = replace(target, voxel=None)  # what is short in the target is the scheme
    where = None if maps is None else Path(maps)
    plan = Plan(own, space, way, where, seed=settings.seed, **plan_options)
    held_out = tuple(options.pop("held_out", ()))
    kept = where is not None
    job = Job(str(start), plan, settings, False, kept, held_out, "fine-tuning")
    return run(job, scans, Path(folder), **options)


def run(
    job: Job,
    scans: Sequence[ScanFiles],
    folder: Path,
    *,
    name: str = "codebook-own",
    version: str = "1.0.0",
    workers: int = 0,
    progress: Progress = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Do a job: slices, prior, head, calibration, weights. The same call takes it up again."""
    if not scans:
        raise InputError("there are no scans", "Check the data set.")
    nameless(name, scans)
    # before hours of work, and before anything is written that the mended command would not fit
    subjects_apart([one.subject for one in scans], job.held_out)
    for one in scans:
        job.plan.check(one)
    loaded = open_codebook(job.start)
    _begin(job, scans, loaded, folder)
    clock = Clock(folder, job.settings.accelerator)
    with clock.part("slices"):
        made = prepare(
            scans,
            job.plan,
            folder,
            lambda u, text: progress(PREPARED * u, text),
            job.held_out,
        )
    known, held_out, apart = split(made, job.held_out)
    settings, space, target = job.settings, job.plan.space, job.plan.target
    config = ExampleConfig(edge=settings.edge)

    def stream(files: Sequence[Path], more: int = 0, how: ExampleConfig = config):
        return example_stream(files, space, target, settings.seed + more, how, workers)

    def first(files: Sequence[Path], more: int, count: int, how: ExampleConfig = config) -> list:
        return list(islice(stream(files, more, how)(0), count))

    network, loss = loaded.network.requires_grad_(True).train(), prior_loss(loaded.scale)
    if job.fresh:
        torch.manual_seed(settings.seed)
        network = Codebook(loaded.network.shape)
        settle(network, [one.tokens for one in first(known, LATER, settings.settle)])
    said: dict[str, Any] = {"prior": "kept"}
    if not job.keep_prior:
        looked_at = first(held_out, CALIBRATION, settings.looked_at)
        share = LEARNED - PREPARED
        with clock.part("training", lambda: settings.batch * steps_done(folder)):
            history = learn(
                network,
                stream(known),
                looked_at,
                loss,
                settings,
                folder,
                lambda u, text: progress(PREPARED + share * u, text),
                cancelled,
            )
        said = history.told()
    head: Any = "kept"
    if job.teaches_head:
        with clock.part("head"):
            head = _teach(network, job, known, loaded, stream(known, LATER)(0), progress)
    progress(READ, "Calibrating")
    network, config = network.cpu().eval(), replace(config, state=0.0)
    told = {"data": made.described} | job.told() | {"learned": said | {"head": head} | apart}
    card = card_of(loaded, network, told, f"{name}-{version}", job.fresh)
    with clock.part("calibration"):
        judges = first(held_out, CALIBRATION, settings.calibrate, config)
        card = calibrated(card, network, held_out, judges)
    return save(small(network.state_dict()), card, folder)


def _teach(network, job: Job, files, loaded: Loaded, examples, progress: Progress):
    """Teach the head: labels of the scans, and those of tissue that no scan has."""
    strange, *steps = job.settings.head
    generator = torch.Generator().manual_seed(job.settings.seed)
    sources = [labelled(files)]
    if strange:
        numbers, labels, known = strange_labels(files, job.plan.space, strange, generator)
        if job.plan.maps is not None:  # of the given metrics only what is given counts
            known = known & ~sources[0][2].any(0)
        sources.append((numbers, labels, known))
    return teach_from(
        network,
        sources,
        loaded.scale,
        examples,
        (steps[0], steps[1]),
        generator,
        lambda u: progress(LEARNED + (READ - LEARNED) * u, "Learning to read metrics"),
    )


def _begin(job: Job, scans: Sequence[ScanFiles], loaded: Loaded, folder: Path) -> None:
    """Write what the training depends on, or hold it to what it was begun with."""
    inputs = hashlib.sha256()
    for one in scans:
        inputs.update(f"{one.key} {one.image.stat().st_size}".encode())
        for name, file in one.inputs.items():
            inputs.update(b"" if name == "image" else file.read_bytes())
        for file in () if job.plan.maps is None else found_maps(one, job.plan.maps):
            inputs.update(f"{file.name} {file.stat().st_size}".encode())
    inputs.update(f"{sorted(job.held_out)} {job.plan.reading} {job.plan.maps}".encode())
    scheme = job.plan.target.acquisition.digest
    told = {"scans": inputs.hexdigest(), "scheme": scheme, "start": loaded.card.sha256}
    hold(json.loads(json.dumps(job.told() | told)), folder, apart=TOOK)
