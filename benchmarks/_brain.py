"""Simulated slices that no training saw, how they are scanned, and what methods say of them.

Slices are drawn and labelled as those of the training are (`training.pool`), of new subjects and
from seeds that no training uses; the heads behind the subjects are those that are installed. They
and the conventional fits, which are run on some of a slice's voxels drawn at random, are kept under
benchmarks/cache/brain (delete it to have them made again; fits of a scan that changed are others).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _common import HERE

CACHE = HERE / "cache" / "brain"

SEED = 90_210_011
"""Of subjects, protocols, scanners and noise: far from those of a training."""

VOLUMES = (10, 32)
"""Of the protocols, b0 included."""

WIDE = 1.96
"""Standard deviations of a 95 % interval."""


@dataclass(frozen=True)
class Told:
    """What a method says of a metric: (x, y) each.

    Attributes
    ----------
    value : array
    answered : bool array
    sd : array, optional
    """

    value: np.ndarray
    answered: np.ndarray
    sd: np.ndarray | None = None


Fields = tuple[tuple[float, float], ...]

Method = Callable[[object, str], "dict[str, Told]"]
"""From a scan and its name to what is said of each metric that it can tell."""


def slices(
    count: int, anatomies: str = "all", cache: Path = CACHE, fields: Fields | None = None
) -> list[Path]:
    """Make what is missing of the slices, one a subject; return their files.

    `fields` are field strengths [T] with weights, in place of the training's.
    """
    from DMRIMicroLib.cli_train import heads
    from DMRIMicroLib.training.pool import PoolConfig
    from DMRIMicroLib.training.slices import make_pool_side_by_side

    own = PoolConfig() if fields is None else replace(PoolConfig(), fields=fields)
    names = "slices" if fields is None else "slices at " + " ".join(f"{t:g} T" for t, _ in fields)
    return make_pool_side_by_side(cache / names, heads(anatomies), count, SEED, 1, config=own)


def sparse_protocol(number: int):
    """Draw a protocol of `VOLUMES`."""
    from DMRIMicroLib.brain.protocols import draw_protocol
    from DMRIMicroLib.brain.simulate import generator_for
    from DMRIMicroLib.training.examples import ExampleConfig

    config = replace(ExampleConfig().protocol, volumes=VOLUMES)
    return draw_protocol(generator_for(SEED, f"protocol {number}"), config)


def protocol(count: dict[float, int], b0: int, number: int):
    """Well spread directions, b0 volumes first, with a timing that reaches the highest b."""
    import torch

    from DMRIMicroLib.acquisition import Acquisition
    from DMRIMicroLib.brain.directions import spread
    from DMRIMicroLib.brain.protocols import draw_timing
    from DMRIMicroLib.brain.simulate import generator_for

    generator = generator_for(SEED, f"directions {number}")
    g = torch.cat([torch.zeros(b0, 3), *(spread(n, generator) for n in count.values())])
    b = np.concatenate([np.zeros(b0), *(np.full(n, b) for b, n in count.items())])
    return Acquisition(b, g.numpy(), **draw_timing(max(count), generator))


def scanned(item, acquisition, subject: int, part: str = ""):
    """Scan a slice: a scanner for each subject, noise for each subject and part.

    The echo time is that of the labels: signal fractions depend on it.
    """
    from DMRIMicroLib.brain.machines import draw_scanner
    from DMRIMicroLib.brain.scanner import observe
    from DMRIMicroLib.brain.simulate import generator_for
    from DMRIMicroLib.scan import Scan
    from DMRIMicroLib.training.examples import ExampleConfig, as_labelled

    acquisition = replace(acquisition, TE=item.TE)
    config = replace(ExampleConfig().scanner, fields=((item.scanner.field, 1.0),))
    machine = draw_scanner(generator_for(SEED, f"scanner {subject}"), config, acquisition)
    noise = generator_for(SEED, f"noise {subject} {part}")
    seen = observe(item.volume, acquisition, as_labelled(machine, item), noise)
    signal = np.moveaxis(seen.signal.numpy(), 0, -1)
    mask = item.mask.numpy()[:, :, None]
    return Scan(signal, seen.grid.affine.numpy(), acquisition, mask, name=f"brain {subject}")


def by_maps(maps) -> dict[str, Told]:
    """Take the metrics out of a MapSet of one slice."""
    from DMRIMicroLib.training.pool import METRICS

    out = {}
    for name in METRICS:
        if name in maps:
            item = maps[name]
            sd = None if item.uncertainty is None else np.asarray(item.uncertainty)[:, :, 0]
            answered = maps.flags[item.model][:, :, 0] > 0
            out[name] = Told(np.asarray(item.data)[:, :, 0], answered, sd)
    return out


def codebook(weights: str) -> Method:
    """Return our network with these weights as a method."""
    import DMRIMicroLib as dm

    return lambda scan, name: by_maps(dm.codebook(scan, weights=weights, device="cpu"))


def demic(weights: str) -> Method:
    """Return the published network with these weights as a method; no answer to one shell."""
    from DMRIMicroLib.codebooks.demic_maps import demic as run
    from DMRIMicroLib.errors import NotIdentifiable

    def work(scan, name: str) -> dict[str, Told]:
        try:
            return by_maps(run(scan, weights=weights, device="cpu"))
        except NotIdentifiable:
            return {}

    return work


def identifiable(acquisition) -> tuple[list[str], list[str]]:
    """Name the models of the 24 metrics that an acquisition determines, and the others."""
    from DMRIMicroLib.fitting.estimate import missing
    from DMRIMicroLib.fitting.options import Options
    from DMRIMicroLib.models import MODELS
    from DMRIMicroLib.training.pool import METRICS

    wanted = [n for n, m in MODELS.items() if any(k.name in METRICS for k in m.metrics)]
    lacking = [n for n in wanted if missing(MODELS[n], acquisition, Options())]
    return [n for n in wanted if n not in lacking], lacking


def conventional(scan) -> dict[str, Told]:
    """Fit what the acquisition determines, every model with its defaults."""
    import DMRIMicroLib as dm

    can, _ = identifiable(scan.acquisition)
    return by_maps(dm.fit(scan, can, device="cpu")) if can else {}


def some(scan, count: int):
    """Mask `count` voxels of a scan's mask, drawn at random; its noise stays that of them all."""
    inside = np.flatnonzero(scan.mask)
    drawn = np.random.default_rng(SEED).choice(inside, min(count, len(inside)), replace=False)
    mask = np.zeros(scan.mask.shape, bool)
    mask.flat[drawn] = True
    return scan.with_measured_noise(scan.noise).with_mask(mask)


def after_mppca(scan) -> object:
    """Denoise a scan before it is fitted; None where MP-PCA cannot."""
    from DMRIMicroLib.errors import InputError
    from DMRIMicroLib.preprocess import denoise

    try:
        return denoise(scan, "mppca")
    except InputError:
        return None


def kept_fits(
    voxels: int,
    cache: Path = CACHE,
    prepare: Callable[[object], object] | None = None,
    label: str = "fits",
) -> Method:
    """Return the conventional fits of so many voxels of a slice as a method; answers are kept.

    `prepare` is what is done to the scan before, under a `label` of its own.
    """

    def work(scan, name: str) -> dict[str, Told]:
        told = f"{scan.acquisition.digest[:12]} {scan.fingerprint[:12]}"
        file = cache / f"{label} of {voxels}" / f"{name} {told}.npz"
        if not file.exists():
            ready = scan if prepare is None else prepare(scan)
            found = {} if ready is None else conventional(some(ready, voxels))
            file.parent.mkdir(parents=True, exist_ok=True)
            arrays = {f"{k} value": v.value for k, v in found.items()}
            arrays |= {f"{k} answered": v.answered for k, v in found.items()}
            part = file.with_suffix(".part.npz")
            np.savez_compressed(part, **arrays)
            part.rename(file)
        with np.load(file) as read:
            names = [k.removesuffix(" value") for k in read.files if k.endswith(" value")]
            return {k: Told(read[f"{k} value"], read[f"{k} answered"]) for k in names}

    return work
