"""The table of `pretraining`: small digital brains and real slices, trainings that can be cut off.

Every training is one row, written when it is done; what is begun goes on from its checkpoint.
Brains, the labels of their scans, checkpoints and weights are kept under
benchmarks/cache/pretraining.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from _common import Results, clock, rounded
from _pretraining_data import CACHE, METRICS, MODELS, SLICES, brains, files_of, slices

SNR = (15.0, 30.0)
"""Of the target's b0, as trainings are told it."""


@dataclass(frozen=True)
class Lengths:
    """Of the trainings.

    Attributes
    ----------
    pretraining, tuning : int
        Steps at most; from scratch there are as many as of both, for few target scans as for many.
    way : str
        From scheme to scheme.
    """

    pretraining: int = 150
    tuning: int = 50
    way: str = "dictionary"

    def of(self, kind: str):
        """Return the settings of a training: "pretraining", "tuning" or "scratch"."""
        from DMRIMicroLib.pretrain.presets import settings_of

        steps = {"pretraining": self.pretraining, "tuning": self.tuning}
        wanted = steps.get(kind, self.pretraining + self.tuning)
        return settings_of("cpu-short", gentle=kind == "tuning", steps=wanted)


class TimeIsUp(Exception):
    """What is done is written, and the same command goes on."""


class Budget:
    """Minutes that are left; asked between trainings, and by them before every step."""

    def __init__(self, minutes: float | None) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def over(self) -> bool:
        """Tell whether the time is up."""
        return self.end is not None and time.monotonic() > self.end

    def ask(self) -> None:
        """Raise TimeIsUp if it is."""
        if self.over():
            raise TimeIsUp


@dataclass(frozen=True)
class Table:
    """One part of the benchmark.

    Attributes
    ----------
    results : Results
    part : str
        Name of the entry.
    folder : Path
        With the data sets `auxiliary` (if there is one) and `target`.
    tests : list of (Scan, dict)
        Short scans, and the truth of every metric, NaN where not known.
    counts : list of int
        Numbers of target subjects.
    lengths : Lengths
    budget : Budget
    """

    results: Results
    part: str
    folder: Path
    tests: list
    counts: list[int]
    lengths: Lengths
    budget: Budget

    def fill(self) -> None:
        """Make the rows that are missing, in an order in which each of them says something."""
        about = {"lengths": asdict(self.lengths), "tests": len(self.tests), "slices": SLICES}
        about |= {"auxiliary": len(list((self.folder / "auxiliary").glob("sub-*")))}
        about |= {"settings": {k: self.lengths.of(k).told() for k in ("pretraining", "tuning")}}
        self._hold(about)
        self._row("fits to the short scans", lambda: errors(self.tests, by_fits))
        self._row("as shipped", lambda: self._errors("codebook"))
        base = "codebook"
        if (self.folder / "auxiliary").exists():
            base = self._pretrained("pretrained", "pretraining", "auxiliary", None, "pre-trained")
        for count in self.counts:
            self._tuned(base, count, f"pre-trained, fine-tuned on {count}")
            self._pretrained(
                f"scratch-{count}", "scratch", "target", count, f"from scratch on {count}"
            )

    def _pretrained(self, place: str, kind: str, data: str, count: int | None, row: str) -> str:
        from DMRIMicroLib.pretrain import pretrain

        def train() -> Path:
            return pretrain(
                "codebook",
                files_of(self.folder / data, count),
                self._target(),
                self.folder / place,
                settings=self.lengths.of(kind),
                fresh=True,
                way=self.lengths.way,
                cancelled=self.budget.over,
            )

        return self._trained(row, self.folder / place, train)

    def _tuned(self, base: str, count: int, row: str) -> str:
        from DMRIMicroLib.pretrain import finetune

        def train() -> Path:
            return finetune(
                base,
                files_of(self.folder / "target", count),
                self.folder / f"tuned-{count}",
                target=self._target(),
                settings=self.lengths.of("tuning"),
                way=self.lengths.way,
                cancelled=self.budget.over,
            )

        return self._trained(row, self.folder / f"tuned-{count}", train)

    def _trained(self, row: str, place: Path, train: Callable[[], Path]) -> str:
        """Train if that was not done yet, and score; return the weights."""
        done = place / "card"
        if not done.exists():
            self._check()
            before = clock()
            with kept_fits():
                card = train()
            done.write_text(json.dumps([card.name, *(rounded(v) for v in clock() - before)]) + "\n")
        name, wall, cpu = json.loads(done.read_text())
        weights = str((place / name).with_suffix(".safetensors"))
        took = json.loads((place / "run.json").read_text())["took"]
        told = {"seconds of the last run": wall, "CPU seconds of the last run": cpu, "took": took}
        self._row(row, lambda: self._errors(weights) | told)
        return weights

    def _row(self, name: str, work: Callable[[], dict]) -> None:
        if not self.results.has(self.part, name):
            self._check()
            self.results.put(self.part, name, value=work())
            print(f"{self.part}: {name}", file=sys.stderr, flush=True)

    def _errors(self, weights: str) -> dict[str, float]:
        import DMRIMicroLib as dm

        return errors(self.tests, lambda scan: dm.codebook(scan, weights=weights))

    def _target(self):
        from DMRIMicroLib.pretrain import Target

        short = self.tests[0][0]
        return Target(short.acquisition, tuple(float(v) for v in short.voxel_size), SNR)

    def _check(self) -> None:
        self.budget.ask()

    def _hold(self, about: dict) -> None:
        """Refuse to put rows of other settings beside those that are there."""
        about = json.loads(json.dumps(about))
        if self.results.has(self.part, "about"):
            if self.results.content[self.part]["about"] != about:
                sys.exit(f"{self.part}: rows of other settings are there; --anew deletes them")
            return
        self.results.put(self.part, "about", value=about)


@contextmanager
def kept_fits() -> Iterator[None]:
    """Keep the labels of a scan: every row wants those of the same subjects."""
    from DMRIMicroLib.pretrain import prepare

    fitted = prepare.fitted

    def kept(scan, device: str = "cpu") -> dict[str, np.ndarray]:
        file = CACHE / "fits" / f"{scan.fingerprint}.npz"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez_compressed(part, **fitted(scan, device))
            part.replace(file)
        with np.load(file) as found:
            return dict(found)

    with patch.object(prepare, "fitted", kept):
        yield


def errors(tests: list, answer: Callable) -> dict[str, float]:
    """Root mean squared error of each metric over (short scan, truth) pairs."""
    wrong: dict[str, list] = {name: [] for name in METRICS}
    for scan, truth in tests:
        maps = answer(scan)
        for name in METRICS:
            at = scan.mask & np.isfinite(truth[name])
            wrong[name].append(np.nan_to_num(maps[name].data[at]) - truth[name][at])
    return {k: rounded(float(np.sqrt(np.mean(np.concatenate(v) ** 2)))) for k, v in wrong.items()}


def by_fits(scan):
    """Fit the short scan itself: what there is without any network."""
    import DMRIMicroLib as dm

    return dm.fit(scan, list(MODELS))


def digital(results: Results, counts: list[int], lengths: Lengths, budget: Budget) -> None:
    """Compare on simulated brains."""
    folder, tests = brains(max(counts), budget.ask)
    Table(results, "digital", folder, tests, counts, lengths, budget).fill()


def real(results: Results, lengths: Lengths, budget: Budget) -> None:
    """Compare on the two slices of the example scan; the shipped weights are the pre-trained."""
    for train in (0, 1):
        folder, tests = slices(train)
        part = f"real, test on slice {1 - train}"
        Table(results, part, folder, tests, [1], lengths, budget).fill()


def forget(results: Results) -> None:
    """Delete rows and what they were made of; the brains stay."""
    for place in CACHE.glob("*/*"):
        if place.name.startswith(("pretrained", "tuned", "scratch")):
            shutil.rmtree(place)
    for part in [name for name in results.content if name.startswith(("digital", "real"))]:
        del results.content[part]
