"""One scan of a cohort: what is to be made of it, whether that is done, and how it ended."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import DMRIMicroError, InputError
from ..io.bids import ScanFiles
from ..version import __version__
from . import state

CODEBOOK = "codebook"
"""The method that is no model: `codebooks.estimate.codebook`."""


@dataclass(frozen=True)
class Options:
    """What to make of every scan.

    Attributes
    ----------
    methods : tuple of str
        Models, and "codebook".
    fit : dict
        Options of `fitting.fit`.
    weights : str
        Of the codebook.
    denoise, degibbs, noise
        As of `preprocess.prepare`.
    reading : dict
        b0_threshold, delta, Delta, TE of `io.load`, where given; the sidecars tell the rest.
    hashes : dict of str to str
        sha256 of the weights and of files with models of the user's own.
    model_files : tuple of str
    device : str
    threads : int
        Of each process.
    """

    methods: tuple[str, ...] = ("dti",)
    fit: dict[str, Any] = field(default_factory=dict)
    weights: str = CODEBOOK
    denoise: str | None = None
    degibbs: bool = False
    noise: str = "b0"
    reading: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    model_files: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 1

    def settled(self) -> Options:
        """Check the methods and hash what they come from, before anything is started."""
        from ..models import MODELS, get, load_models

        for file in self.model_files:
            load_models(file)
        names = tuple(MODELS) if self.methods == ("all",) else self.methods
        methods = tuple(dict.fromkeys(n if n == CODEBOOK else get(n).name for n in names))
        if not methods:
            raise InputError("no method was named", "Name one at least (--methods).")
        hashes = {Path(f).name: state.file_digest(Path(f)) for f in self.model_files}
        if CODEBOOK in methods:
            from ..weights.store import verify

            hashes[CODEBOOK] = verify(self.weights, CODEBOOK)[1].sha256
        return replace(self, methods=methods, hashes=hashes)

    def told(self, method: str) -> dict[str, Any]:
        """Return what the result of a method depends on, as JSON values."""
        ours = method == CODEBOOK
        return {
            "method": method,
            "fit": {} if ours else self.fit,
            "denoise": self.denoise,
            "degibbs": self.degibbs,
            "noise": self.noise,
            "reading": self.reading,
            # weights are told by what they are: where they lie does not matter
            "hashes": {k: v for k, v in self.hashes.items() if (k == CODEBOOK) == ours},
        }


@dataclass(frozen=True)
class Job:
    """A scan, what to make of it and where to put it; anew, or only what is not done yet."""

    scan: ScanFiles
    options: Options
    out: Path
    anew: bool = False

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
            return wanted
        return {m: d for m, d in wanted.items() if not state.is_done(self.out, self.key, m, d)}


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    key : str
    status : {"done", "present", "failed"}
        Present: it was done before.
    seconds : float
    error, fix, file, trace : str
        Of a failure.
    full : bool
        The disk is full: no use in going on.
    voxels : int
    left_out : dict of str to str
        Methods that the scan does not allow, and why.
    attempts : int
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


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
