"""Weights and their cards: found by name, verified before they are used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..errors import InputError
from ..files import staged

SHIPPED = Path(__file__).parent
"""Folder of the weights that come with the library."""

SUFFIX = ".safetensors"

NONE_SHIPPED = (
    "Install a release of DMRIMicro, which brings them; or train them (`dmrimicro train`) and give "
    "the .safetensors file."
)
"""What to do where the library came without weights."""

LARGEST = 16_000_000
"""Bytes of a file."""


@dataclass(frozen=True)
class Card:
    """What is known of trained weights.

    Attributes
    ----------
    name, version : str
    kind : str
        The network's class, e.g. "codebook".
    arguments : dict
        What builds the network.
    about : str
        One paragraph for a user: what it does, what it was trained on, what it is not for.
    data : dict
        Output scales and calibration that belong to the weights.
    training : dict
        Command, data, seed, steps, commit.
    metrics : dict
        Measured accuracy, with the benchmark that measured it.
    licence : str
    sha256 : str
    bytes : int
    """

    name: str
    version: str
    kind: str
    arguments: dict[str, Any]
    about: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = "Apache-2.0"
    sha256: str = ""
    bytes: int = 0

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"{self.name}-{self.version}"

    def provenance(self) -> dict[str, Any]:
        """Return what a result says of the weights that it was made with."""
        return {"name": self.stem, "sha256": self.sha256}


def available(kind: str | None = None) -> dict[str, Path]:
    """Cards of the shipped weights by name and version, in rising order of both."""
    files = {file.stem: file for file in sorted(SHIPPED.glob("*.json"), key=_rank)}
    return {stem: f for stem, f in files.items() if kind is None or read_card(f).kind == kind}


def read_card(file: Path) -> Card:
    """Read a card, or say what is wrong with it."""
    try:
        return Card(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"is no model card ({error})", "Give the .json beside the weights.", file=file
        ) from error


def load(name: str | Path, kind: str | None = None) -> tuple[dict[str, Tensor], Card]:
    """Read weights, on the CPU, and their card; arguments and errors are those of `verify`."""
    file, card = verify(name, kind)
    return load_file(file), card


def verify(name: str | Path, kind: str | None = None) -> tuple[Path, Card]:
    """Find weights and check that they are what their card says; return file and card.

    Parameters
    ----------
    name : str or path
        Of shipped weights, with or without the version (the latest is taken), or a file.
    kind : str, optional
        The network that they must be for.

    Raises
    ------
    InputError
        If there are none, they are for another network, or their hash is not the card's.
    """
    card_file = _find(name)
    card, file = read_card(card_file), card_file.with_suffix(SUFFIX)
    if kind is not None and card.kind != kind:
        raise InputError(f"is a {card.kind}", f"Give weights of a {kind}.", file=card_file)
    if not file.exists():
        raise InputError("is missing", "Keep weights and card together.", file=file)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != card.sha256:
        raise InputError(
            f"has the sha256 {found[:12]}..., its card says {card.sha256[:12]}...",
            "The file was changed or cut off: get it anew.",
            file=file,
        )
    return file, card


def save(tensors: dict[str, Tensor], card: Card, folder: Path, *, stem: str | None = None) -> Path:
    """Write weights and card; both appear whole or not at all. Returns the card's path.

    Files are called by the card's name and version, or `stem`.
    """
    stem = stem or card.stem
    with staged(folder) as stage:
        file = stage / f"{stem}{SUFFIX}"
        # as bytes: files that safetensors writes itself are readable by their owner only
        content = to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        file.write_bytes(content)
        if len(content) > LARGEST:
            raise InputError(
                f"the weights have {len(content) / 1e6:.1f} MB, more than 16",
                "Train a smaller network, or store it in half precision.",
            )
        card = replace(card, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        text = json.dumps(asdict(card), indent=2) + "\n"
        (stage / f"{stem}.json").write_text(text, encoding="utf-8")
    return folder / f"{stem}.json"


def _rank(file: Path) -> tuple[str, list[int]]:
    """Key to sort cards by: name, then version as numbers."""
    name, _, version = file.stem.rpartition("-")
    return name, [int(part) if part.isdigit() else -1 for part in version.split(".")]


def _find(name: str | Path) -> Path:
    """Return the card of weights by name, name and version, or file."""
    file = Path(name)
    if file.suffix in (SUFFIX, ".json"):
        if not file.with_suffix(".json").exists():
            if not file.exists():
                raise InputError("there is no such file", "Check the path.", file=file)
            raise InputError("there is no card", "Give weights with a .json beside.", file=file)
        return file.with_suffix(".json")
    cards = available()
    if str(name) in cards:
        return cards[str(name)]
    versions = [f for f in cards.values() if read_card(f).name == str(name)]
    if not versions:
        fix = (
            f"Choose from: {', '.join(cards)}; or give a .safetensors file."
            if cards
            else NONE_SHIPPED
        )
        raise InputError(f"there are no weights {str(name)!r}", fix)
    return max(versions, key=lambda f: [int(part) for part in read_card(f).version.split(".")])
