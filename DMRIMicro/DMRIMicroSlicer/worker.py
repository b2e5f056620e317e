"""The worker: `dmrimicro fit` or another verb in Slicer's own Python, and what it is told."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from DMRIMicroLib.errors import InputError

from . import attributes
from .job import OUTPUT, FitJob
from .library import LIBRARY, library_parent
from .notes import of_scan, with_notes
from .words import _

SWITCHES = {
    "method": "--method",
    "iterations": "--iterations",
    "b_max": "--b-max",
    "likelihood": "--likelihood",
    "coils": "--coils",
    "sigma": "--noise",
    "robust": "--robust",
    "uncertainty": "--uncertainty",
    "noise": "--noise",
    "denoise": "--denoise",
    "degibbs": "--degibbs",
}
"""Command-line switches of the options of a fit, those of `fitting.options.Options` and of
`preprocess.prepare`."""

ACQUISITION_SWITCHES = {
    "b0_threshold": "--b0-threshold",
    "delta": "--delta",
    "Delta": "--Delta",
    "TE": "--TE",
}
"""Command-line switches of what the worker's files do not hold."""

ENHANCED = "enhanced.nii"
"""Image that the worker makes of a scan, in its output folder."""


def _as_it_is(scan):
    return scan


def start_fit(scan, models: Sequence, **rest) -> FitJob:
    """Fit a scan in a child process.

    Parameters
    ----------
    scan : Scan
    models : sequence of Model
    **rest
        As of `start_maps`; options are those of `fitting.options.Options`, too.
    """
    words = ["--models", ",".join(model.name for model in models), *_model_files(models)]
    return start_maps("fit", scan, words, **rest)


def start_maps(
    verb: str,
    scan,
    words: Sequence[str],
    *,
    masked: Callable = _as_it_is,
    device: str | None = None,
    options: Mapping | None = None,
    **callbacks,
) -> FitJob:
    """Write a scan to a temporary folder and run a verb that makes maps of it; see `FitJob`.

    Parameters
    ----------
    verb : str
        Of the command line.
    scan : Scan
    words : sequence of str
        Of the verb's own.
    masked : callable
        Puts the mask on the scan; called in a thread, see `nodes.open_node`.
    device : str, optional
    options : mapping, optional
        Those of `preprocess.prepare`, by the names of `SWITCHES`.
    **callbacks
        on_progress, on_done, on_error.
    """
    from DMRIMicroLib.maps import MapSet

    name, notes = scan.name, scan.notes  # the files that the worker reads do not hold them
    asked = [*words, *switches(options or {}), "--no-report"]

    def write(folder: Path) -> list[str]:
        return [*scan_words(masked(scan), folder), "--out", str(folder / OUTPUT), *asked]

    def read(maps_folder: Path) -> MapSet:
        return with_notes(of_scan(MapSet.load(maps_folder), name), notes)

    return start_worker(verb, write, read, device=device, **callbacks)


def start_enhance(
    scan,
    words: Sequence[str],
    read: Callable[[Path], object],
    *,
    masked: Callable = _as_it_is,
    options: Mapping | None = None,
    **rest,
) -> FitJob:
    """Enhance a scan in a child process.

    Parameters
    ----------
    scan : Scan
    words : sequence of str
        Of the verb's own.
    read : callable
        Called in a thread with the folder that holds `ENHANCED` and what belongs to it.
    masked, options, **rest
        As of `start_maps`.
    """
    asked = [*words, *switches(options or {})]

    def write(folder: Path) -> list[str]:
        given = scan_words(masked(scan), folder, ("b0_threshold",))  # it needs no timing
        return [*given, "--out", str(folder / OUTPUT / ENHANCED), *asked]

    return start_worker("enhance", write, read, **rest)


def start_worker(
    verb: str,
    write: Callable[[Path], Sequence[str]],
    read: Callable[[Path], object],
    *,
    device: str | None = None,
    progress: bool = True,
    **callbacks,
) -> FitJob:
    """Run a verb of the command line in a child process.

    Parameters
    ----------
    verb : str
    write : callable
        Called with the job's temporary folder, in a thread that must leave MRML, VTK and Qt alone:
        puts the input there and returns the words behind the verb. Output goes to the folder
        `OUTPUT` in it.
    read : callable
        Called with that folder when the process ended well, in a thread, too.
    device : str, optional
    progress : bool
        Whether the verb tells of its progress.
    **callbacks
        on_progress, on_done, on_error.
    """
    python = python_executable()
    folder = Path(tempfile.mkdtemp(prefix="dmrimicro-"))
    command = [python, "-m", LIBRARY, verb, *(["--progress", "json"] if progress else [])]
    command += ["--device", device] if device else []
    return FitJob(command, folder, read, write=write, env=worker_environment(), **callbacks)


def scan_words(scan, folder: Path, told: Iterable[str] = tuple(ACQUISITION_SWITCHES)) -> list[str]:
    """Write a scan into a folder and return the words that name it, its mask and acquisition."""
    from DMRIMicroLib.io import nifti

    file = folder / "scan.nii"  # not compressed: the user waits for it
    nifti.save(scan, file)
    words = [str(file)]
    if scan.mask is not None:
        words += ["--mask", str(folder / "scan_mask.nii.gz")]
    for name in told:
        value = getattr(scan.acquisition, name)
        if value != attributes.DEFAULTS[name]:
            words += [ACQUISITION_SWITCHES[name], str(value)]
    return words


def switches(options: Mapping) -> list[str]:
    """Turn options of a fit into command-line switches; what is off, or None, needs none."""
    command = []
    for name, value in options.items():
        if name not in SWITCHES:
            raise TypeError(f"there is no option {name!r}; there are {', '.join(SWITCHES)}")
        if value is True:
            command.append(SWITCHES[name])
        elif value is not None and value is not False:
            command += [SWITCHES[name], str(value)]
    return command


def _model_files(models: Iterable) -> list[str]:
    """Tell the worker where models of the user's own are, which its registry does not have."""
    files = []
    for model in models:
        kind = type(model)
        if kind.__module__.startswith(f"{LIBRARY}."):
            continue
        try:
            files.append(inspect.getfile(kind))
        except (TypeError, OSError):
            raise InputError(
                _("model {name!r} does not come from a file, so the worker cannot read it").format(
                    name=model.name
                ),
                _("Put it in a file and load that (loadModels), or use fit."),
            ) from None
    return [word for file in dict.fromkeys(files) for word in ("--model-file", file)]


def python_executable() -> str:
    """Return the Python of this Slicer; ``sys.executable`` is the application itself there."""
    import slicer

    home = getattr(getattr(slicer, "app", None), "slicerHome", "")
    suffix = ".exe" if os.name == "nt" else ""
    inside = os.path.join(home, "bin", f"PythonSlicer{suffix}") if home else ""
    if inside and os.path.isfile(inside):
        return inside
    if found := shutil.which("PythonSlicer"):
        return found
    if Path(sys.executable or "").stem.lower().startswith("python"):
        return sys.executable
    raise InputError(
        _("PythonSlicer was not found"), _("Install 3D Slicer again; it belongs to every release.")
    )


def worker_environment() -> dict[str, str]:
    """Return the environment of the worker, with our library on its path.

    Slicer's own variables are kept: PythonSlicer needs the library paths that Slicer set.
    """
    env = dict(os.environ)
    paths = [str(library_parent()), *filter(None, [env.get("PYTHONPATH")])]
    env.update(PYTHONPATH=os.pathsep.join(paths), PYTHONIOENCODING="utf-8", PYTHONUNBUFFERED="1")
    return env
