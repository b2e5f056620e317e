"""Doing a job: maps are made aside, moved into place, and marked as done."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__
from . import derivatives, state
from .jobs import Job, Options, Outcome
from .methods import ENHANCE, OTHERS

if TYPE_CHECKING:
    from ..maps import MapSet
    from ..rish.result import Enhanced
    from ..scan import Scan


def run_job(job: Job) -> Outcome:
    """Do what is not done of a job. It never raises: an error is an outcome, too.

    A method that fails takes no other along: those are made and marked.
    """
    started = time.perf_counter()
    try:
        todo = job.open_methods()
        voxels, left_out, failed = _make(job, todo) if todo else (0, {}, {})
        _forget_failures(job, failed)
    except Exception as error:
        return Outcome.failed(job.key, error, time.perf_counter() - started)
    told = {"seconds": time.perf_counter() - started, "voxels": voxels, "left_out": left_out}
    if failed:
        return Outcome.of_methods(job, failed, **told)
    return Outcome(job.key, "done" if todo else "present", **told)


def keep_failure(out: Path, outcome: Outcome) -> None:
    """Write down a failure, for `group` and for the user; a full disk has no room for it.

    That of a method has a file of its own; that of a scan takes the place of those.
    """
    try:
        if not outcome.failures:
            shutil.rmtree(out / state.STATE / state.FAILED / outcome.key, ignore_errors=True)
            state.write_atomically(state.failed_file(out, outcome.key), asdict(outcome))
        for method, one in outcome.failures.items():
            told = asdict(replace(one, key=outcome.key, attempts=outcome.attempts))
            file = state.failed_file(out, outcome.key, method)
            state.write_atomically(file, told | {"method": method})
    except OSError as error:
        if not state.out_of_room(error):
            raise


def _forget_failures(job: Job, failed: Collection[str]) -> None:
    """Remove what is written of failures of the scan and of its methods that are done by now."""
    state.failed_file(job.out, job.key).unlink(missing_ok=True)
    for method in job.options.methods:
        if method not in failed:
            state.failed_file(job.out, job.key, method).unlink(missing_ok=True)


def _make(job: Job, todo: Mapping[str, str]) -> tuple[int, dict[str, str], dict[str, Outcome]]:
    """Make the maps of some methods, mark them; return voxels, what was left out and failed.

    Models are made together and each other method by itself: what is made before a process dies,
    of memory that ran out in a network say, is marked by then.
    """
    from .summary import quality_of

    work = job.out / state.STATE / state.WORK / job.key
    left_out: dict[str, str] = {}
    failed: dict[str, Outcome] = {}
    quality: dict[str, Any] = {}
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        work.mkdir(parents=True)
        started, scan = time.perf_counter(), _prepared(job)
        for methods in _groups(todo):
            made = make_maps(scan, job.options, methods)
            left_out, failed = left_out | made.left_out, failed | made.failed
            worked = {name: todo[name] for name in methods if name not in made.failed}
            if worked:
                tensor = any("tensor" in maps for maps in made.maps)
                if not quality or (tensor and quality["high_fa"] is None):  # it takes time
                    quality = quality_of(scan, made.maps)
                told = {
                    "acquisition": scan.acquisition.describe(),
                    "quality": quality,
                    "notes": list(scan.notes),
                }
                _deliver(job, scan, made, worked, work / methods[0], told, started)
            started = time.perf_counter()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    assert scan.mask is not None
    return int(scan.mask.sum()) if len(failed) < len(todo) else 0, left_out, failed


def _groups(methods: Iterable[str]) -> Iterator[list[str]]:
    """Yield what is made together."""
    names = list(methods)
    if models := [name for name in names if name not in OTHERS]:
        yield models
    yield from ([name] for name in names if name in OTHERS)


def _deliver(
    job: Job,
    scan: Scan,
    made: Made,
    wanted: Mapping[str, str],
    folder: Path,
    told: Mapping[str, Any],
    started: float,
) -> None:
    """Put what was made into place, and mark it; `wanted` has the hashes of its methods."""
    from .summary import methods_summary

    folder.mkdir()
    files = _write(job, scan, made, list(wanted), folder)
    summaries = methods_summary(made.maps)
    _publish(job, folder, files)
    common = {**told, "seconds": round(time.perf_counter() - started, 3)}
    for method, digest in wanted.items():
        own = {"left_out": made.left_out.get(method), "metrics": summaries.get(method, {})}
        _mark(job, method, digest, files[method], common | own)


def _prepared(job: Job) -> Scan:
    """Read the scan of a job, with a mask, after the steps that were asked for."""
    import torch

    from ..masking import brain_mask
    from ..models import load_models
    from ..preprocess import prepare

    options = job.options
    torch.set_num_threads(options.threads)
    for file in options.model_files:
        load_models(file)
    scan = brain_mask(job.scan.load(**options.reading))
    return prepare(scan, denoise=options.denoise, degibbs=options.degibbs, noise=options.noise)


def _write(
    job: Job, scan: Scan, made: Made, methods: Sequence[str], work: Path
) -> dict[str, list[str]]:
    """Write all that was made into folders of `work`; return the names of every method's files."""
    assert scan.mask is not None
    files: dict[str, list[str]] = {}
    for k, maps in enumerate(made.maps):
        (work / str(k)).mkdir()
        files |= derivatives.write(maps, job.scan, work / str(k))
    (work / "mask").mkdir()
    mask = derivatives.write_mask(scan.mask, scan.affine, job.scan, work / "mask")
    both = [mask, derivatives.sidecar_name(mask)]
    if made.enhanced is not None:
        (work / ENHANCE).mkdir()
        files[ENHANCE] = derivatives.write_scan(made.enhanced, job.scan, work / ENHANCE)
    return {method: [*files.get(method, ()), *both] for method in methods}


@dataclass(frozen=True, eq=False)
class Made:
    """What was made of a scan.

    Attributes
    ----------
    maps : list of MapSet
        Of all models together, or of each if one failed, and of each other method: they share
        names of metrics.
    enhanced : Enhanced or None
    left_out : dict of str to str
        Methods that the scan does not allow, and why.
    failed : dict of str to Outcome
        Methods that ended in an error.
    """

    maps: list[MapSet]
    enhanced: Enhanced | None
    left_out: dict[str, str]
    failed: dict[str, Outcome]


def make_maps(scan: Scan, options: Options, methods: Sequence[str]) -> Made:
    """Make what some methods make of a scan that is prepared; an error stops no other method."""
    failed: dict[str, Outcome] = {}
    left_out: dict[str, str] = {}
    made: dict[str, Any] = {}
    allowed: list[str] = []
    for name in methods:
        with _caught(name, failed):
            if lacks := _lacking(name, scan, options):
                left_out[name] = lacks
            else:
                allowed.append(name)
    models = [name for name in allowed if name not in OTHERS]
    maps = _fits(scan, options, models, failed)
    answered = {*failed, *(name for one in maps for name in one.provenance)}
    empty = [name for name in models if name not in answered]
    left_out |= dict.fromkeys(empty, "no voxel has a usable signal")
    for name in (name for name in allowed if name in OTHERS):
        with _caught(name, failed):
            made[name] = OTHERS[name].run(scan, options)
    enhanced = made.pop(ENHANCE, None)
    return Made([*maps, *made.values()], enhanced, left_out, failed)


@contextmanager
def _caught(method: str, failed: dict[str, Outcome]) -> Iterator[None]:
    """Put an error of a method among those that failed."""
    try:
        yield
    except Exception as error:
        failed[method] = Outcome.failed(method, error)


def _lacking(name: str, scan: Scan, options: Options) -> str:
    """Say what a scan lacks for a method; empty if nothing."""
    from ..fitting.estimate import missing
    from ..fitting.options import Options as FitOptions
    from ..models import get

    if name in OTHERS:
        return OTHERS[name].missing(scan, options)
    lacks = "; ".join(missing(get(name), scan.acquisition, FitOptions(**options.fit)))
    return lacks and f"needs {lacks}"


def _fits(
    scan: Scan, options: Options, models: Sequence[str], failed: dict[str, Outcome]
) -> list[MapSet]:
    """Fit models together, which reads the scan once; each alone if one of them fails."""
    from ..fitting import fit

    if len(models) > 1:
        with suppress(Exception):
            return [fit(scan, models, device=options.device, **options.fit)]
    maps = []
    for name in models:
        with _caught(name, failed):
            maps.append(fit(scan, [name], device=options.device, **options.fit))
    return maps


def _publish(job: Job, work: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Move files into place: marks go, then files that are no longer made; then new ones come.

    Between, there is no mark, so that a run that is killed here is made again.
    """
    home = derivatives.home_of(job.scan)
    (job.out / home).mkdir(parents=True, exist_ok=True)
    for method, names in files.items():
        file = state.mark_file(job.out, job.key, method)
        before = (state.read_mark(file) or {}).get("files", {})
        file.unlink(missing_ok=True)
        for name in set(before) - {str(home / name) for name in names}:
            if Path(name).parent == home:
                (job.out / name).unlink(missing_ok=True)
    for file in sorted(work.glob("*/*")):
        if file.is_file():
            os.replace(file, job.out / home / file.name)


def _mark(
    job: Job, method: str, wanted: str, names: Sequence[str], told: Mapping[str, Any]
) -> None:
    home = derivatives.home_of(job.scan)
    files = {str(home / name): (job.out / home / name).stat().st_size for name in names}
    content = {
        "scan": job.key,
        "subject": job.scan.subject,
        "session": job.scan.session,
        "method": method,
        "digest": wanted,
        "version": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
        **told,
    }
    state.write_atomically(state.mark_file(job.out, job.key, method), content)
