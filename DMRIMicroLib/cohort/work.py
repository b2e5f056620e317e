"""Doing a job: maps are made aside, moved into place, and marked as done."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
    """Do what is not done of a job. It never raises: an error is an outcome, too."""
    started = time.perf_counter()
    try:
        todo = job.open_methods()
        voxels, left_out = _make(job, todo) if todo else (0, {})
        _failed_file(job.out, job.key).unlink(missing_ok=True)
    except Exception as error:
        return Outcome.failed(job.key, error, time.perf_counter() - started)
    status, seconds = "done" if todo else "present", time.perf_counter() - started
    return Outcome(job.key, status, seconds, voxels=voxels, left_out=left_out)


def keep_failure(out: Path, outcome: Outcome) -> None:
    """Write down a failure, for `group` and for the user; a full disk has no room for it."""
    try:
        state.write_atomically(_failed_file(out, outcome.key), asdict(outcome))
    except OSError as error:
        if not state.out_of_room(error):
            raise


def _failed_file(out: Path, key: str) -> Path:
    return out / state.STATE / state.FAILED / f"{key}.json"


def _make(job: Job, todo: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """Make the maps of some methods and mark them; return voxels and what was left out."""
    from .summary import methods_summary, quality_of

    work, started = job.out / state.STATE / state.WORK / job.key, time.perf_counter()
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        work.mkdir(parents=True)
        scan = _prepared(job)
        made = make_maps(scan, job.options, list(todo))
        files = _write(job, scan, made, list(todo), work)
        told = {
            "acquisition": scan.acquisition.describe(),
            "quality": quality_of(scan, made.maps),
            "notes": list(scan.notes),
        }
        summaries = methods_summary(made.maps)
        _publish(job, work, files)
        told["seconds"] = round(time.perf_counter() - started, 3)
        for method, wanted in todo.items():
            own = {"left_out": made.left_out.get(method), "metrics": summaries.get(method, {})}
            _mark(job, method, wanted, files[method], told | own)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    assert scan.mask is not None
    return int(scan.mask.sum()), made.left_out


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
        Of all models together, and of each other method: they share names of metrics.
    enhanced : Enhanced or None
    left_out : dict of str to str
        Methods that the scan does not allow, and why.
    """

    maps: list[MapSet]
    enhanced: Enhanced | None
    left_out: dict[str, str]


def make_maps(scan: Scan, options: Options, methods: Sequence[str]) -> Made:
    """Make what some methods make of a scan that is prepared."""
    from ..fitting import fit
    from ..fitting.estimate import missing
    from ..fitting.options import Options as FitOptions
    from ..models import get

    left_out, models, others = {}, [], []
    fit_options = FitOptions(**options.fit)
    for name in methods:
        if name in OTHERS:
            lacks = OTHERS[name].missing(scan, options)
        else:
            lacks = "; ".join(missing(get(name), scan.acquisition, fit_options))
            lacks = lacks and f"needs {lacks}"
        if lacks:
            left_out[name] = lacks
        else:
            (others if name in OTHERS else models).append(name)
    maps: list[MapSet] = []
    if models:
        maps.append(fit(scan, models, device=options.device, **options.fit))
        empty = [name for name in models if name not in maps[0].provenance]
        left_out |= dict.fromkeys(empty, "no voxel has a usable signal")
    made: dict[str, Any] = {name: OTHERS[name].run(scan, options) for name in others}
    enhanced = made.pop(ENHANCE, None)
    return Made([*maps, *made.values()], enhanced, left_out)


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
