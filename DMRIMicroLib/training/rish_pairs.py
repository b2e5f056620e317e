"""Pairs of features of simulated heads, on disk: made once, learned from by every network.

Pair k is a function of (anatomies, seed, configuration, k) only: what is missing is made again, by
as many processes as are wanted.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..acquisition import Acquisition
from ..brain.anatomy import Anatomy
from ..brain.ownscan import open_anatomy
from ..brain.scanner import Scanner
from ..brain.simulate import generator_for
from ..errors import Cancelled
from ..fitting.threads import one_thread_each
from ..rish.data import SUFFIX, Look, Pair, paired, remember, save_pair
from ..rish.features import harmonics
from ..rish.units import Setting
from .pairs import PairConfig, draw_pair, machine
from .patch import Batch


def shell_machine(name: str, b: float) -> tuple[Scanner, Acquisition]:
    """Return a scanner and the b0 volumes and one shell of the protocol of the same name."""
    scanner, whole = machine(name, name)
    volumes = np.sort(np.r_[np.flatnonzero(whole.is_b0), whole.shell(b).indices])
    return scanner, whole.subset(volumes)


@dataclass(frozen=True)
class FeatureConfig:
    """What pairs of features to make.

    Attributes
    ----------
    patch : int
        Voxels of the first scanner along each edge.
    clean : bool
        Whether the second scan's features are those of its signal without noise and artefacts.
    setting : Setting
    pairs : PairConfig
        Scanners, margins and subjects; by default the two of the Human Connectome Project, 18 b0
        and 90 directions, and 15 b0 and 64 directions, at b = 1000 s/mm2.
    """

    patch: int = 32
    clean: bool = False
    setting: Setting = field(default_factory=Setting)
    pairs: PairConfig = field(
        default_factory=lambda: PairConfig(
            first=shell_machine("hcp3t", 1000.0), second=shell_machine("hcp7t", 1000.0)
        )
    )


def draw_features(
    anatomies: Sequence[Anatomy], seed: int, number: int, config: FeatureConfig
) -> Pair:
    """Draw a subject, a piece of its head, and the features that both scanners see there."""
    pairs = replace(config.pairs, patch=(config.patch,) * 3, batch=1)
    generator = generator_for(seed, f"RISH pair {number}")
    first, second = draw_pair(anatomies, generator, pairs, torch.device("cpu"))
    with one_thread_each():
        looks = (
            _look(first, False, config.setting),
            _look(second, config.clean, config.setting),
        )
        grids = ((v.affine, tuple(v.mask.shape)) for v in looks)
        return paired(*looks, *grids)  # type: ignore[arg-type]


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
    """Make what is missing of a folder of pairs.

    Parameters
    ----------
    folder : path
    anatomies : sequence of str
        Names, files or folders (`brain.ownscan.open_anatomy`).
    count : int
        Wanted in all.
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
    files = [folder / f"pair-{seed}-{k:05d}{SUFFIX}" for k in range(count)]
    missing = [k for k in range(count) if not files[k].exists()]
    done = count - len(missing)

    def tell() -> None:
        progress(done / count, f"pair {done} of {count}")
        if cancelled():
            raise Cancelled("Stopped; the pairs that are there stay.")

    tell()
    work = [(files[k], seed, k, config) for k in missing]
    if workers <= 1:
        _open(anatomies if missing else ())
        for task in work:
            _make(*task)
            done += 1
            tell()
        return files
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
    return files


def _origin(anatomies: Sequence[str], config: FeatureConfig) -> dict[str, object]:
    """Tell what pairs are of; their seed is in their names."""
    return {
        "source": "simulated",
        "of": [Path(name).stem for name in anatomies],
        "patch": config.patch,
        "b": config.setting.b,
        "clean": config.clean,
        "scans": [acq.describe() for _, acq in (config.pairs.first, config.pairs.second)],
    }


_heads: list[Anatomy] = []
"""Anatomies of this process: opened once, not for every pair."""


def _open(anatomies: Sequence[str]) -> None:
    _heads[:] = [open_anatomy(name) for name in anatomies]


def _open_alone(anatomies: Sequence[str]) -> None:
    torch.set_num_threads(1)
    _open(anatomies)


def _make(file: Path, seed: int, number: int, config: FeatureConfig) -> None:
    save_pair(draw_features(_heads, seed, number, config), file)


def _look(batch: Batch, clean: bool, setting: Setting) -> Look:
    """Fit harmonics to what a scanner saw of the one subject of a batch."""
    signal = (batch.clean if clean else batch.signal)[0]
    made = harmonics(signal, batch.acquisition, setting.b)
    return Look(made, batch.mask[0], batch.affine[0].numpy())
