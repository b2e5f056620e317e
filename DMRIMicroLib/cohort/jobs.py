"""One scan of a cohort: what is to be made of it, whether that is done, and how it ended."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import DMRIMicroError, InputError
from ..io.bids import ScanFiles
from ..version import __version__
from . import state
from .methods import CODEBOOK, OTHERS

MODEL_FILES = "model files"
"""What of `Options.hashes` is of models of the user's own."""


@dataclass(frozen=True)
class Options:
    """What to make of every scan.

    Attributes
    ----------
    methods : tuple of str
        Models, and those of `methods.OTHERS`: "codebook", "pigment", "enhance".
    fit : dict
        Options of `fitting.fit`.
    weights : str
        Of the network that is both codebook and PIGMENT's prior.
    extra : tuple of str
        Files of metrics that the codebook was taught by `adapt`.
    pigment : dict
        Options of `prior.estimate.pigment`: models, preset, seed.
    enhance : dict
        Options of `rish.enhance.enhance`: method, resolution, directions, weights, seed.
    denoise, degibbs, noise
        As of `preprocess.prepare`.
    reading : dict
        b0_threshold, delta, Delta, TE of `io.load`, where given; the sidecars tell the rest.
    hashes : dict of str to dict of str to str
        For each method that is no model, and `MODEL_FILES`: sha256 of the files that it uses.
    model_files : tuple of str
    device : str
    threads : int
        Of each process.
    """

    methods: tuple[str, ...] = ("dti",)
    fit: dict[str, Any] = field(default_factory=dict)
    weights: str = CODEBOOK
    extra: tuple[str, ...] = ()
    pigment: dict[str, Any] = field(default_factory=dict)
    enhance: dict[str, Any] = field(default_factory=dict)
    denoise: str | None = None
    degibbs: bool = False
    noise: str = "b0"
    reading: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    model_files: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 1

    def settled(self) -> Options:
        """Check the methods and hash what they come from, before anything is started."""
        from ..models import MODELS, get, load_models

        for file in self.model_files:
            load_models(file)
        names = [n for name in self.methods for n in (MODELS if name == "all" else (name,))]
        methods = tuple(dict.fromkeys(n if n in OTHERS else known(n, get) for n in names))
        if not methods:
            raise InputError("no method was named", "Name one at least (--methods).")
        if self.extra and CODEBOOK not in methods:
            raise InputError("an extra metric needs the codebook", "Add codebook to --methods.")
        files = {Path(f).name: state.file_digest(Path(f)) for f in self.model_files}
        settled = replace(self, methods=methods, hashes={MODEL_FILES: files} if files else {})
        for method in methods:
            if method in OTHERS:
                settled = OTHERS[method].settle(settled)
        return settled

    def told(self, method: str) -> dict[str, Any]:
        """Return what the result of a method depends on, as JSON values."""
        other = OTHERS.get(method)
        return {
            "method": method,
            "fit": {} if other else self.fit,
            "own": other.told(self) if other else {},
            "denoise": self.denoise,
            "degibbs": self.degibbs,
            "noise": self.noise,
            "reading": self.reading,
            # weights are told by what they are: where they lie does not matter
            "hashes": self.hashes.get(method if other else MODEL_FILES, {}),
        }


def known(name: str, get: Callable[[str], Any]) -> str:
    """Return the name of a model; an error that names the other methods, too, if there is none."""
    try:
        return get(name).name
    except InputError as error:
        also = f"Or: {', '.join(OTHERS)}."
        raise InputError(error.what, f"{error.fix} {also}".strip(), file=error.file) from error


@dataclass(frozen=True)
class Job:
    """A scan, what to make of it and where to put it; anew, or only what is not done yet."""

    scan: ScanFiles
    options: Options
    out: Path
    anew: bool = False
    made: tuple[str, ...] = ()
    """Methods that an attempt before this one made: even anew, they are not made twice."""

    @property
    def key(self) -> str:
        """Name of the scan in its data set."""
        return self.scan.key

    def digests(self) -> dict[str, str]:
        """Hash, for every method, what its result depends on: inputs, options, weights, version."""
        try:
            inputs = {what: state.file_digest(file) for what, file in self.scan.inputs.items()}
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})", "Check it.", file=error.filename
            ) from error
        common = {"version": __version__, "key": self.key, "inputs": inputs}
        return {
            method: state.digest(common | {"options": self.options.told(method)})
            for method in self.options.methods
        }

    def open_methods(self) -> dict[str, str]:
        """Hashes of the methods that are not done yet."""
        wanted = self.digests()
        if self.anew:
            return {m: d for m, d in wanted.items() if m not in self.made}
        return {m: d for m, d in wanted.items() if not state.is_done(self.out, self.key, m, d)}

    def again(self, outcome: Outcome) -> Job:
        """Return the job of the next attempt: what this one made is left."""
        if outcome.status != "partial":
            return self
        return replace(
            self, made=tuple(m for m in self.options.methods if m not in outcome.failures)
        )


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    key : str
    status : {"done", "present", "partial", "failed"}
        Present: it was done before. Partial: some methods failed, the others are done.
    seconds : float
    error, fix, file, trace : str
        Of a failure.
    full : bool
        The disk is full: no use in going on.
    voxels : int
    left_out : dict of str to str
        Methods that the scan does not allow, and why.
    attempts : int
    failures : dict of str to Outcome
        By method: what failed by itself; empty where the whole scan did, of one cause.
    """

    key: str
    status: str
    seconds: float = 0.0
    error: str = ""
    fix: str = ""
    file: str = ""
    trace: str = ""
    full: bool = False
    voxels: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    attempts: int = 1
    failures: dict[str, Outcome] = field(default_factory=dict)

    @property
    def lacks(self) -> bool:
        """Whether something that was asked for is not there."""
        return self.status in ("partial", "failed")

    @classmethod
    def failed(cls, key: str, error: BaseException, seconds: float = 0.0) -> Outcome:
        """Tell of an error; one that is not the input's with its traceback."""
        full = state.out_of_room(error)
        if isinstance(error, InputError):
            return cls(key, "failed", seconds, error.what, error.fix, error.file or "", full=full)
        fix = "Give more memory (--memory), or fewer processes." * isinstance(error, MemoryError)
        trace = "" if isinstance(error, DMRIMicroError) else _traceback(error)
        said = f"{type(error).__name__}: {error}"
        return cls(key, "failed", seconds, said, fix, trace=trace, full=full)

    @classmethod
    def of_methods(cls, job: Job, failures: Mapping[str, Outcome], **told: Any) -> Outcome:
        """Tell of a job some methods of which failed; one cause of all of several is the scan's.

        Of a single method nobody knows: others that were made before may be whole.
        """
        ones, whole = list(failures.values()), set(failures) == set(job.options.methods)
        if whole and len({one.error for one in ones}) == 1:
            own = dict(failures) if len(ones) == 1 else {}
            return replace(ones[0], key=job.key, failures=own, **told)
        files = {one.file for one in ones}
        return cls(
            job.key,
            "failed" if whole else "partial",
            error="; ".join(f"{method}: {one.error}" for method, one in failures.items()),
            fix=" ".join(dict.fromkeys(one.fix for one in ones if one.fix)),
            file=files.pop() if len(files) == 1 else "",
            full=any(one.full for one in ones),
            failures=dict(failures),
            **told,
        )


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
