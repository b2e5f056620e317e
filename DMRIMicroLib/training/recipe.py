"""A codebook from nothing to weights with a card: pool, training, calibration."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..codebooks.network import GROUPS, Prediction, Shape
from ..codebooks.scale import Scale
from ..codebooks.standard import settle
from ..codebooks.tokens import Tokens
from ..errors import Cancelled, InputError
from ..files import staged
from ..version import __version__
from ..weights import Card, save
from ..weights.store import LARGEST
from .codebook import columns_of, example_stream, scale_of
from .examples import Example, ExampleConfig
from .mapped import find_space, map_slices, some_numbers
from .pool import METRICS
from .start import Given
from .tasks import TASKS

RECIPES = Path(__file__).parent / "recipes"

RUN = "run.json"
"""File of the settings that a training was begun with."""

MAPPED = "signals"
"""Folder of the slices in the signal space."""

LATER = 2_000_000
"""Added to the seed: examples of the stage after the training."""

CALIBRATION = 1_000_000
"""Added to the seed: examples that calibrate are of slices that no training step saw."""

SCALED = 200
"""Slices that are enough for the scale of the metrics: a million voxels."""

COVERED, WIDE = 0.95, 1.96
"""Share of labels that intervals of so many standard deviations hold."""

ROOM = 0.98
"""Share of the largest file that weights in single precision may take; the rest is its header."""

LEAST = 1e-3
"""Smallest factor of a standard deviation."""

STOPPED = "Stopped; the same command goes on from the last checkpoint."

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Recipe:
    """What to train, how, and on what.

    Attributes
    ----------
    preset : str
    slices : int
        Of the pool.
    held_out : float
        Share of them that calibrates.
    settle, calibrate : int
        Examples that tell centre and spread of the inputs, and that calibrate.
    network, training, examples : dict
        Arguments of `Shape`, `loop.Training` and `ExampleConfig`.
    seed : int
    anatomies : tuple of str
        Names only, for the card.
    without : tuple of str
        Metrics of `METRICS` that are not learned, for `adapt` to be tried on.
    kind : str
        Of the network, one of `TASKS`.
    head : (int, int, int)
        Steps of what reads metrics off the signal space, see `head.teach_head`.
    prior : str
        Weights whose prior is taken as it is, so that only the head is taught.
    start : str
        Weights that the training begins with.
    """

    preset: str
    slices: int
    held_out: float
    settle: int
    calibrate: int
    network: dict[str, Any]
    training: dict[str, Any]
    examples: dict[str, Any]
    seed: int = 0
    anatomies: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    kind: str = "codebook"
    head: tuple[int, int, int] = (0, 0, 0)
    prior: str = ""
    start: str = ""

    def told(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return json.loads(json.dumps(self.__dict__))

    def metrics(self) -> tuple[str, ...]:
        """Name what is learned."""
        if unknown := sorted(set(self.without) - set(METRICS)):
            raise InputError(
                f"there is no metric {', '.join(unknown)}", f"Choose from: {', '.join(METRICS)}."
            )
        left = tuple(name for name in METRICS if name not in self.without)
        if not left:
            raise InputError("no metric is left to learn", "Leave out fewer (--without).")
        return left

    def shape(self) -> Shape:
        """Return the network's shape."""
        return Shape(metrics=self.metrics(), **self.sizes())

    def sizes(self) -> dict[str, Any]:
        """Return the arguments of the network, lists as tuples."""
        return {k: tuple(v) if isinstance(v, list) else v for k, v in self.network.items()}

    def split(self, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
        """Return files to learn from, and those held out."""
        out = math.ceil(self.held_out * len(files))
        if not 0 < out < len(files):
            raise InputError(
                f"of {len(files)} slices {out} would be held out", "Make more slices (--slices)."
            )
        return list(files[:-out]), list(files[-out:])


def read_recipe(preset: str, name: str = "codebook") -> Recipe:
    """Read a preset of a recipe; what it does not say is that of its ``base``."""
    presets = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    if preset not in presets:
        raise InputError(f"there is no preset {preset!r}", f"Choose from: {', '.join(presets)}.")

    def whole(which: str) -> dict[str, Any]:
        own = dict(presets[which])
        base = whole(own.pop("base")) if "base" in own else {}
        both = {k: base[k] | own[k] for k in own if isinstance(own[k], dict) and k in base}
        return {**base, **own, **both}

    return Recipe(preset, **whole(preset), kind=name)


def training_loop():
    """Import `loop`, which alone needs more than the library does."""
    try:
        from . import loop
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("lightning_fabric", "lightning_utilities"):
            raise
        raise InputError(
            f"training needs the package {error.name}, which is not installed",
            'Run: pip install "dmrimicro[train]"',
        ) from error
    return loop


def train_codebook(
    recipe: Recipe,
    files: Sequence[Path],
    folder: Path,
    *,
    version: str = "1.0.0",
    workers: int = 1,
    progress: Progress = lambda share, text: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Train, calibrate and write a codebook, or `demic`; return the card's path.

    A training that was stopped goes on from its checkpoint: with the same recipe, to the same
    weights.

    Parameters
    ----------
    recipe : Recipe
    files : sequence of path
        The pool (`pool.make_pool`).
    folder : path
        For checkpoint, log, weights and card.
    version : str
        Of the weights.
    workers : int
        Processes that make examples; 0 for none.
    progress, cancelled
        As of `fitting.fit`; a cancelled training leaves its checkpoint.
    """
    loop = training_loop()
    training = loop.Training(**recipe.training)
    if training.accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device", "Train with --preset cpu.")
    task = TASKS[recipe.kind]
    begin(recipe, folder)
    given = Given.of(recipe.prior or recipe.start) if recipe.prior or recipe.start else None
    space = given.space if given else find_space(recipe.split(files)[0])
    mapped = map_slices(files, folder / MAPPED, space, progress)
    known, held_out = recipe.split(mapped)
    space = space.coupled(some_numbers(known))
    config = task.examples(replace(ExampleConfig(), **recipe.examples))
    scale = scale_of(known[:: -(-len(known) // SCALED)], recipe.metrics())
    torch.manual_seed(recipe.seed)
    network = task.build(recipe)
    stream = example_stream(known, space, recipe.seed, config, workers)
    if given and recipe.prior:
        given.lend_prior(network)
    else:
        if not (folder / loop.CHECKPOINT).exists():
            progress(0.0, "Looking at examples")
            seen = [example.tokens for example in islice(stream(0), recipe.settle)]
            given.begin(network, seen) if given else settle(network, seen)
        stopped = [False]

        def asked() -> bool:
            stopped[0] = stopped[0] or cancelled()
            return stopped[0]

        loss = task.loss(scale)
        network = loop.train(network, stream, loss, training, folder, progress, asked)
        if stopped[0]:
            raise Cancelled(STOPPED)

    def reading(share: float) -> None:
        if cancelled():  # begins anew then: it takes minutes, the training before it is kept
            raise Cancelled(STOPPED)
        progress(1.0, f"Learning to read metrics: {share:.0%}")

    later = example_stream(known, space, recipe.seed + LATER, config, workers)(0)
    progress(1.0, "Learning to read metrics")
    taught = task.finish(network, known, space, scale, later, recipe, reading)
    progress(1.0, "Calibrating")
    network = network.cpu().eval()
    plain = replace(config, strange=0.0, state=0.0)
    fresh = example_stream(held_out, space, recipe.seed + CALIBRATION, plain, workers)(0)
    shown = islice(fresh, recipe.calibrate)
    factors, correlations = calibrate(network, scale, shown, task.predict)
    data = {"metrics": scale.metrics, "centre": scale.centre, "spread": scale.spread}
    told = recipe.told() | {k: Path(getattr(recipe, k)).stem for k in ("prior", "start")}
    card = Card(
        recipe.kind,
        version,
        recipe.kind,
        network.arguments(),
        about=task.about,
        data=data | {"calibration": factors, "space": space.told()},
        training={"software": f"DMRIMicro {__version__}", "recipe": told, "head": taught},
        metrics={"correlation on slices held out of the training": correlations},
    )
    return save(small(network.state_dict()), card, folder)


def small(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring weights into half precision if they are too large for a file otherwise."""
    size = sum(v.numel() * v.element_size() for v in tensors.values())
    if size < ROOM * LARGEST:
        return tensors
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}


@torch.no_grad()
def calibrate(
    network: nn.Module,
    scale: Scale,
    examples: Iterator[Example],
    predict: Callable[[nn.Module, Tokens], Prediction] = lambda network, tokens: network(tokens),
) -> tuple[list[float], dict[str, float]]:
    """Find the factor of each predicted standard deviation, and how well each metric is told.

    Returns
    -------
    list of float
        With them, 95 % of the labels lie within 1.96 standard deviations, in scans of few volumes
        as in those of many: the half of the examples that asks for more has its way.
    dict of str to float
        Correlation of labels and predictions, in the network's units.
    """
    means, deviations, labels, known, volumes = [], [], [], [], []
    columns = columns_of(scale)
    for example in examples:
        found = predict(network, example.tokens)
        means.append(found.mean)
        deviations.append(found.log_sd.exp())
        labels.append(scale.encode(example.labels[:, columns].float()))
        known.append(example.known[:, columns])
        volumes.append(float(example.tokens.facts[GROUPS]))
    sizes = torch.tensor([len(v) for v in means])
    many = (torch.tensor(volumes) > median(volumes)).repeat_interleave(sizes)
    mean, sd, label, good = (torch.cat(v) for v in (means, deviations, labels, known))
    factors, correlations = [], {}
    for k, name in enumerate(scale.metrics):
        at = good[:, k]
        error = (label[:, k] - mean[:, k]).abs() / sd[:, k]
        wide = [_quantile(error[at & part], COVERED) for part in (many, ~many) if part[at].any()]
        factors.append(round(max([*(v / WIDE for v in wide or [WIDE]), LEAST]), 4))
        if at.sum() < 2:  # nothing to correlate
            correlations[name] = 0.0
            continue
        both = torch.stack([label[at, k], mean[at, k]])
        correlations[name] = round(float(torch.corrcoef(both)[0, 1].nan_to_num()), 4)
    return factors, correlations


def _quantile(values: Tensor, share: float) -> float:
    """Quantile of any number of values, of which torch's own takes 16 million."""
    return float(values.sort().values[min(len(values) - 1, int(share * len(values)))])


def begin(recipe: Recipe, folder: Path) -> None:
    """Write the settings, or hold them to those that the training was begun with."""
    hold(recipe.told(), folder, "settings: ")


def hold(told: dict[str, Any], folder: Path, what: str = "", apart: str = "") -> None:
    """Write what a training depends on, or hold it to what it was begun with.

    `what` stands before the names of what differs; the field `apart` of the file may differ.
    """
    file = folder / RUN
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        other = sorted(
            k
            for k in {*told, *before} - {apart}
            if (told.get(k) or None) != (before.get(k) or None)
        )
        if other:
            raise InputError(
                f"this training was begun with other {what}{', '.join(other)}",
                "Go on with the same, or give another folder (--out).",
                file=folder,
            )
        return
    with staged(folder) as stage:
        (stage / RUN).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
