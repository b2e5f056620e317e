"""Pairs of features of simulated heads, on disk: made once, learned from by every network.

Head k is a function of (anatomies, seed, configuration, k) only: what is missing is made again, by
as many processes as are wanted. Of each head there are up to three pairs (`LOOKS`), so that a
network learns what features are at other b-values, and to see how much of them is noise.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..acquisition import Acquisition
from ..brain.anatomy import Anatomy
from ..brain.lesions import LESIONS
from ..brain.ownscan import open_anatomy
from ..brain.scanner import Scanner
from ..brain.simulate import generator_for
from ..errors import Cancelled
from ..files import staged
from ..fitting.threads import one_thread_each
from ..rish.data import SUBJECT, SUFFIX, Look, Pair, paired, remember, save_pair
from ..rish.units import Setting
from .pairs import PairConfig, draw_pair, machine
from .patch import Batch

LOOKS = ("whole", "few", "other")
"""All volumes of the shell of a setting; few of them, and maybe less noise; those of a shell at
another b-value, maybe few, and maybe with less noise."""

LEAST = 20
"""Directions that a shell of few has at least."""

LEAST_NOISE = 0.25
"""Least share of its noise that is left of a scan: one of larger voxels has less."""


def shell_machine(name: str, largest: float) -> tuple[Scanner, Acquisition]:
    """Return a scanner and the volumes up to a b-value of the protocol of the same name."""
    scanner, whole = machine(name, name)
    return scanner, whole.subset(np.flatnonzero(whole.bvals < 1.25 * largest))


@dataclass(frozen=True)
class FeatureConfig:
    """What pairs of features to make.

    Attributes
    ----------
    patch : int
        Voxels of the first scanner along each edge.
    clean : bool
        Whether the second scan's features are those of its signal without noise and artefacts.
    ill : float
        Share of the heads that have a lesion, in the pair.
    shells : (float, float)
        Range of the b-value of the second shell, where protocols have one [s/mm2]: it takes the
        place of theirs.
    setting : Setting
        Its b-value is that of the first shell; and whether noise is taken out of the first scan's
        features.
    pairs : PairConfig
        Scanners, margins and subjects; by default the two of the Human Connectome Project, 18 b0
        and twice 90 directions, and 15 b0 and twice 64.
    """

    patch: int = 32
    clean: bool = True
    ill: float = 0.5
    shells: tuple[float, float] = (700.0, 3000.0)
    setting: Setting = field(default_factory=lambda: Setting(quiet=True))
    pairs: PairConfig = field(
        default_factory=lambda: PairConfig(
            first=shell_machine("hcp3t", 2000.0), second=shell_machine("hcp7t", 2000.0)
        )
    )


def draw_features(
    anatomies: Sequence[Anatomy], seed: int, number: int, config: FeatureConfig
) -> dict[str, Pair]:
    """Draw a subject, a piece of its head, and the features that both scanners see there.

    Returns
    -------
    dict of str to Pair
        By the name of the look (`LOOKS`); "few" and "other" if the protocol allows them.
    """
    generator = generator_for(seed, f"RISH pair {number}")
    subject = config.pairs.subject
    if float(torch.rand(1, generator=generator)) < config.ill:
        kind = int(torch.randint(len(LESIONS), (1,), generator=generator))
        subject = replace(subject, lesion=LESIONS[kind])
    low, high = config.shells
    other = low + (high - low) * float(torch.rand(1, generator=generator))
    first, second = (
        (scanner, _moved(acq, config.setting.b, other))
        for scanner, acq in (config.pairs.first, config.pairs.second)
    )
    pairs = replace(
        config.pairs,
        patch=(config.patch,) * 3,
        batch=1,
        subject=subject,
        first=first,
        second=second,
    )
    one, two = draw_pair(anatomies, generator, pairs, torch.device("cpu"))
    out = {}
    with one_thread_each():
        for look, (mine, theirs, b, noise) in _looks(config, other, generator).items():
            left, calm = 0.0 if config.clean else 1.0, config.setting.quiet
            seen = _look(one, mine, b, noise, calm), _look(two, theirs, b, left, False)
            grids = ((v.affine, tuple(v.mask.shape)) for v in seen)
            out[look] = paired(*seen, *grids)  # type: ignore[arg-type]
    return out


Volumes = NDArray[np.intp]


def _moved(acq: Acquisition, b: float, other: float) -> Acquisition:
    """Put another b-value in place of those that are neither 0 nor of the shell at b."""
    _, rest = _volumes(acq, b)
    bvals = acq.bvals.copy()
    bvals[rest[~acq.is_b0[rest]]] = other
    return replace(acq, bvals=bvals)


def _volumes(acq: Acquisition, b: float) -> tuple[Volumes, Volumes]:
    """Return the b0 volumes with those of the shell at b, and with all others."""
    own = np.isin(np.arange(len(acq)), acq.shell(b).indices)
    return np.flatnonzero(acq.is_b0 | own), np.flatnonzero(acq.is_b0 | ~own)


def _looks(
    config: FeatureConfig, other: float, generator: torch.Generator
) -> dict[str, tuple[Volumes, Volumes, float, float]]:
    """Say for each look the volumes of both scans, b-value, and share of the first's noise."""
    b = config.setting.b
    (first, rest), (second, rest2) = (
        _volumes(acq, b) for _, acq in (config.pairs.first, config.pairs.second)
    )
    acq = config.pairs.first[1]
    looks = {"whole": (first, second, b, 1.0)}
    few = _few(acq, first, generator)
    if len(few) < len(first):
        looks["few"] = few, second, b, _noise(generator)
    if not acq.is_b0[rest].all():
        all_of_it = float(torch.rand(1, generator=generator)) < 0.5
        own = rest if all_of_it else _few(acq, rest, generator)
        looks["other"] = own, rest2, other, _noise(generator)
    return looks


def _noise(generator: torch.Generator) -> float:
    """Draw the share of noise and artefacts that is left: all as often as less."""
    u, v = torch.rand(2, generator=generator).tolist()
    return 1.0 if u < 0.5 else LEAST_NOISE**v


def _few(acq: Acquisition, volumes: Volumes, generator: torch.Generator) -> Volumes:
    """Draw how many b0 volumes and directions of a shell are taken, evenly in the logarithm."""
    part = acq.subset(volumes)
    (shell,), b0 = part.shells, int(part.is_b0.sum())
    u, v = torch.rand(2, generator=generator).tolist()
    start = int(torch.randint(len(shell), (1,), generator=generator))
    directions = round(min(LEAST, len(shell)) ** (1 - u) * len(shell) ** u)
    return volumes[part.subsample({shell.b: directions}, round(b0**v), start)]


def make_pairs(
    folder: Path,
    anatomies: Sequence[str],
    count: int,
    seed: int,
    workers: int = 1,
    config: FeatureConfig | None = None,
    progress: Callable[[float, str], None] = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Make what is missing of a folder of pairs, head by head.

    Parameters
    ----------
    folder : path
    anatomies : sequence of str
        Names, files or folders (`brain.ownscan.open_anatomy`).
    count : int
        Heads that are wanted in all.
    seed : int
        See `rish.data.TEST`.
    workers : int
        Processes; up to 1, this very one works.
    config : FeatureConfig, optional
    progress, cancelled : callable
        As of `fitting.fit`; pairs that are whole stay.

    Returns
    -------
    list of path
        Of all of them, in order.
    """
    config = config or FeatureConfig()
    folder.mkdir(parents=True, exist_ok=True)
    remember(folder, _origin(anatomies, config))
    missing = [k for k in range(count) if not (folder / SUBJECT.format(label(seed, k))).exists()]
    done = count - len(missing)

    def tell() -> None:
        progress(done / count, f"head {done} of {count}")
        if cancelled():
            raise Cancelled("Stopped; the pairs that are there stay.")

    tell()
    work = [(folder, seed, k, config) for k in missing]
    if workers <= 1:
        _open(anatomies if missing else ())
        for task in work:
            _make(*task)
            done += 1
            tell()
        return _files(folder, seed, count)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _open_alone, (tuple(anatomies),)) as crew:
        try:
            for future in as_completed([crew.submit(_make, *task) for task in work]):
                future.result()
                done += 1
                tell()
        except BaseException:
            crew.shutdown(cancel_futures=True)
            raise
    return _files(folder, seed, count)


def label(seed: int, number: int) -> str:
    """Name a simulated head."""
    return f"{seed}-{number:05d}"


def by_look(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Sort pairs by their look; those of one's own scans, which have none, under ""."""
    out: dict[str, list[Path]] = {}
    for file in files:
        look = file.stem.rpartition("-")[2]
        out.setdefault(look if look in LOOKS else "", []).append(file)
    return out


def _files(folder: Path, seed: int, count: int) -> list[Path]:
    """List the pairs of the first heads, in order."""
    names = (f"pair-{label(seed, k)}-*{SUFFIX}" for k in range(count))
    return [file for name in names for file in sorted(folder.glob(name))]


def _origin(anatomies: Sequence[str], config: FeatureConfig) -> dict[str, object]:
    """Tell what pairs are of; their seed is in their names."""
    return {
        "source": "simulated",
        "of": [Path(name).stem for name in anatomies],
        "patch": config.patch,
        "b": config.setting.b,
        "clean": config.clean,
        "quiet": config.setting.quiet,
        "ill": config.ill,
        "shells": config.shells,
        "scans": [acq.describe() for _, acq in (config.pairs.first, config.pairs.second)],
    }


_heads: list[Anatomy] = []
"""Anatomies of this process: opened once, not for every pair."""


def _open(anatomies: Sequence[str]) -> None:
    _heads[:] = [open_anatomy(name) for name in anatomies]


def _open_alone(anatomies: Sequence[str]) -> None:
    torch.set_num_threads(1)
    _open(anatomies)


def _make(folder: Path, seed: int, number: int, config: FeatureConfig) -> None:
    """Write the pairs of a head, and last that they are all there."""
    name = label(seed, number)
    pairs = draw_features(_heads, seed, number, config)
    for look, pair in pairs.items():
        save_pair(pair, folder / f"pair-{name}-{look}{SUFFIX}")
    told = {"patches": len(pairs), "b": {look: pair.b for look, pair in pairs.items()}}
    with staged(folder) as stage:
        (stage / SUBJECT.format(name)).write_text(json.dumps(told) + "\n", encoding="utf-8")


def _look(batch: Batch, volumes: Volumes, b: float, noise: float, quiet: bool) -> Look:
    """Fit harmonics to what a scanner saw of one subject, with that share of its noise."""
    seen, clean = (v[0][torch.from_numpy(volumes)] for v in (batch.signal, batch.clean))
    signal = seen if noise == 1 else clean + noise * (seen - clean)
    part, affine = batch.acquisition.subset(volumes), batch.affine[0].numpy()
    return Look.of(signal, part, batch.mask[0], affine, b, quiet)
