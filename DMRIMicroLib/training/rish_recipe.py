"""What a training of a method on RISH features is told: presets of ``recipes/rish.toml``."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

from ..errors import InputError
from .recipe import RECIPES

EVERY = "every"
"""Table of the settings that all stages of a preset share."""


@dataclass(frozen=True)
class RishRecipe:
    """What to train, how, and on what.

    Attributes
    ----------
    kind : str
        Of the weights, e.g. "rish-residual".
    preset : str
    pairs, patch : int
        Simulated heads, and 3 T voxels along an edge of the pairs of each (`rish_pairs.LOOKS`).
    patches : int
        Pairs of an example.
    crop : int
        Voxels along an edge of what is seen of a pair at a time.
    crops : dict
        By the name of a stage, where it differs.
    spots : dict
        By the name of a stage: share of the pairs that get a spot (`rish_stream.Spots`).
    finer : dict
        Arguments of `SuperResolution`.
    every, stages : dict
        Arguments of `loop.Training`: of all stages, and of each.
    method : dict
        Arguments of a method's one network.
    autoencoder, denoiser, detail : dict
        Those of latent diffusion's.
    drop : float
        Share of labels that the denoiser is not told.
    scarce : float
        Share of the pairs whose 7 T scan its autoencoder sees: 7 T scans are rare.
    scratch : bool
        Whether the 7 T autoencoder starts from nothing.
    plain : bool
        Whether nothing gives back what the autoencoders lose: the method of the paper.
    choosing : int
        Pairs on which the way of sampling is chosen.
    seed : int
    data : str
        Where the pairs are from, for the card.
    """

    kind: str
    preset: str
    pairs: int
    patch: int
    patches: int
    crop: int
    finer: dict[str, Any]
    every: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    method: dict[str, Any]
    autoencoder: dict[str, Any]
    denoiser: dict[str, Any]
    detail: dict[str, Any]
    crops: dict[str, int]
    spots: dict[str, float]
    drop: float = 0.1
    scarce: float = 1.0
    scratch: bool = False
    plain: bool = False
    choosing: int = 8
    seed: int = 0
    data: str = ""

    def told(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return json.loads(json.dumps(self.__dict__))

    def given(self, pairs: int | None, steps: int | None, seed: int) -> RishRecipe:
        """Put what a user gave in place of what the preset says; `steps` are of every stage."""
        stages = self.stages
        if steps is not None:
            stages = {name: table | {"steps": steps} for name, table in stages.items()}
        return replace(self, pairs=pairs or self.pairs, stages=stages, seed=seed)

    def training(self, stage: str) -> dict[str, Any]:
        """Return the arguments of `loop.Training` of a stage."""
        return {**self.every, **self.stages[stage]}

    def seed_of(self, stage: str) -> int:
        """Return the seed of a stage: stages draw examples in orders of their own."""
        return self.seed + 1000 * (1 + list(self.stages).index(stage))

    def seen(self, files: Sequence[Path]) -> list[Path]:
        """Return the pairs whose 7 T scans the autoencoder sees."""
        return list(files[: max(1, math.ceil(self.scarce * len(files)))])


def read_rish(kind: str, preset: str) -> RishRecipe:
    """Read a preset of a method; what it does not say is that of its ``base``, and of all."""
    tables = tomllib.loads((RECIPES / "rish.toml").read_text(encoding="utf-8"))
    if kind not in tables:
        kinds = [name for name in tables if name.startswith("rish-")]
        raise InputError(f"there is no recipe {kind!r}", f"Choose from: {', '.join(kinds)}.")
    own = tables[kind]
    if preset not in own:
        raise InputError(f"there is no preset {preset!r}", f"Choose from: {', '.join(own)}.")
    chain = [own[preset]]
    if base := own[preset].get("base"):
        chain.insert(0, own[base])
    told = reduce(_merged, [tables[base or preset], *chain], {})
    # super-resolution comes last, and the order of stages is that of their seeds
    told["stages"]["finer"] = told["stages"].pop("finer")
    known = {field.name for field in fields(RishRecipe)}
    optional = ("method", "autoencoder", "denoiser", "detail", "crops", "spots")
    kept = {key: value for key, value in told.items() if key in known}
    empty = {table: {} for table in optional}
    return RishRecipe(**{**empty, **kept, "kind": kind, "preset": preset})


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Put tables together, the second's entries first."""
    out = dict(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out
