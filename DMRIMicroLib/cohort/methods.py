"""What may be made of a scan beside the fits of models: codebook, PIGMENT, an enhanced scan.

Each is checked before anything is started, tells what its result depends on, and is run on a scan
that is prepared. Nothing of torch is imported before one of them is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..maps import MapSet
    from ..rish.result import Enhanced
    from ..scan import Scan
    from .jobs import Options

CODEBOOK, PIGMENT, ENHANCE = "codebook", "pigment", "enhance"

PIGMENT_MODELS = ("dti", "dki", "noddi")
"""Models whose metrics PIGMENT is asked for, if none is said."""


@dataclass(frozen=True)
class Other:
    """A method that is no model.

    Attributes
    ----------
    settle : callable
        From options to options that are checked, with the hashes of the files that it uses.
    told : callable
        From options to what its result depends on beside these files, as JSON values.
    missing : callable
        From a scan and options to why the scan does not allow it; empty if it does.
    run : callable
        From a scan that is prepared and options to what it makes.
    """

    settle: Callable[[Options], Options]
    told: Callable[[Options], dict[str, Any]]
    missing: Callable[[Scan, Options], str]
    run: Callable[[Scan, Options], MapSet | Enhanced]


def _hashed(options: Options, method: str, **files: str) -> Options:
    return replace(options, hashes=options.hashes | {method: files})


def _network(options: Options) -> str:
    """Return the hash of the network's weights."""
    from ..weights.store import verify

    return verify(options.weights, CODEBOOK)[1].sha256


def _settle_codebook(options: Options) -> Options:
    from ..codebooks.heads import open_heads
    from ..codebooks.slices import open_codebook
    from . import state

    files = {CODEBOOK: _network(options)}
    if options.extra:
        loaded = open_codebook(options.weights)
        open_heads(options.extra, loaded.card, loaded.scale.metrics)
        files |= {f"extra {Path(f).name}": state.file_digest(Path(f)) for f in options.extra}
    return _hashed(options, CODEBOOK, **files)


def _run_codebook(scan: Scan, options: Options) -> MapSet:
    from ..codebooks.estimate import codebook

    network = {"weights": options.weights, "device": options.device}
    maps = codebook(scan, extra=options.extra, **network)
    _same_weights(maps.provenance[CODEBOOK]["weights"], options, CODEBOOK)
    return maps


def _takes_all(scan: Scan, options: Options) -> str:
    """Leave no scan out: a b0 volume and a weighted one, which reading asks for, are enough."""
    return ""


def _settle_pigment(options: Options) -> Options:
    from ..codebooks.slices import open_codebook
    from ..prior.estimate import PRESETS, columns_of_models

    own = {"models": PIGMENT_MODELS, "preset": "standard", "seed": 0} | options.pigment
    columns_of_models(open_codebook(options.weights), own["models"])
    if own["preset"] not in PRESETS:
        raise InputError(
            f"there is no preset {own['preset']!r}", f"Choose from: {', '.join(PRESETS)}."
        )
    own["models"] = list(own["models"])
    return _hashed(replace(options, pigment=own), PIGMENT, **{PIGMENT: _network(options)})


def _run_pigment(scan: Scan, options: Options) -> MapSet:
    from ..prior.estimate import pigment

    network = {"weights": options.weights, "device": options.device}
    maps = pigment(scan, **options.pigment, **network).maps
    _same_weights(maps.provenance[PIGMENT]["weights"], options, PIGMENT)
    return maps


def _settle_enhance(options: Options) -> Options:
    import torch

    from ..rish.enhance import QUIET, check_directions
    from ..rish.plan import HIGH, KEEP
    from ..rish.table import AUTO, open_method

    own = {"method": AUTO, "resolution": HIGH, "directions": QUIET, "weights": None, "seed": 0}
    own |= options.enhance
    check_directions(own["directions"])
    opened = open_method(own["method"], own["weights"], torch.device("cpu"))
    own["method"] = opened.name  # what "auto" means must not differ from machine to machine
    if own["resolution"] not in (KEEP, HIGH) and not _is_length(own["resolution"]):
        raise InputError(
            f"the resolution is {own['resolution']!r}", f"Give {HIGH}, {KEEP} or an edge in mm."
        )
    files = {ENHANCE: opened.provenance["sha256"]} if opened.provenance else {}
    return _hashed(replace(options, enhance=own), ENHANCE, **files)


def _is_length(text: Any) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _lacks_directions(scan: Scan, options: Options) -> str:
    """Say what the scan lacks for RISH features, in the words of the enhancement."""
    import torch

    from ..rish.features import ORDER, shells_for
    from ..rish.table import open_method

    own = options.enhance
    opened = open_method(own["method"], own["weights"], torch.device("cpu"))
    try:
        shells_for(scan.acquisition, opened.setting, ORDER)
    except InputError as error:
        return error.what
    return ""


def _run_enhance(scan: Scan, options: Options) -> Enhanced:
    from ..fitting.estimate import choose_device
    from ..rish.enhance import enhance

    made = enhance(scan, device=choose_device(options.device), **options.enhance)
    if made.provenance["weights"]:
        _same_weights(made.provenance["weights"], options, ENHANCE)
    return made


def _same_weights(used: Mapping[str, str], options: Options, method: str) -> None:
    """Refuse a result of weights that are not those that the run was started with."""
    if used["sha256"] != options.hashes[method][method]:
        raise InputError(
            f"weights {used['name']} are others here than where the run was started",
            "Give a file that all machines see.",
        )


OTHERS: dict[str, Other] = {
    CODEBOOK: Other(_settle_codebook, lambda options: {}, _takes_all, _run_codebook),
    PIGMENT: Other(
        _settle_pigment, lambda options: dict(options.pigment), _takes_all, _run_pigment
    ),
    ENHANCE: Other(
        _settle_enhance,
        lambda options: {k: v for k, v in options.enhance.items() if k != "weights"},
        _lacks_directions,
        _run_enhance,
    ),
}
"""By name."""
