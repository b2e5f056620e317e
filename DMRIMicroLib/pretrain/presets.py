"""Lengths of pretraining and fine-tuning, under the names of `dmrimicro train`'s presets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InputError
from .learning import Settings

SHORT: dict[str, Any] = {"head": (5000, 1000, 60), "settle": 24, "looked_at": 8, "calibrate": 12}
"""What is not the prior, for minutes."""

LARGE: dict[str, Any] = {"batch": 8, "edge": 96, "looked_at": 64, "calibrate": 100, "settle": 64}

PRETRAINING = {
    "cpu": Settings(),
    "cpu-short": Settings(steps=100, warmup=20, check=25, **SHORT),
    "gpu": Settings(
        steps=10_000,
        warmup=500,
        check=250,
        head=(100_000, 10_000, 2000),
        accelerator="cuda",
        **LARGE,
    ),
}
"""An hour or two on two cores, minutes to compare by, and what a GPU does in an hour (chosen)."""

FINETUNING = {
    # few scans are soon known by heart: slower, shorter, and looked at more often
    "cpu": Settings(steps=400, rate=2e-4, check=25),
    "cpu-short": Settings(steps=60, rate=2e-4, warmup=10, check=20, **SHORT),
    "gpu": Settings(
        steps=2000, rate=2e-4, check=100, head=(50_000, 5000, 1000), accelerator="cuda", **LARGE
    ),
}
"""The same for a handful of scans."""


def settings_of(preset: str, gentle: bool, **changes: Any) -> Settings:
    """Return the settings of a preset.

    Parameters
    ----------
    preset : str
    gentle : bool
        For a fine-tuning.
    **changes
        In place of what the preset says; None for none.
    """
    presets = FINETUNING if gentle else PRETRAINING
    if preset not in presets:
        raise InputError(f"there is no preset {preset!r}", f"Choose from: {', '.join(presets)}.")
    own = replace(presets[preset], **{k: v for k, v in changes.items() if v is not None})
    return replace(own, check=min(own.check, own.steps))
