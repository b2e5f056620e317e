"""Handing jobs to Dask: few at a time, again if they fail, and none stops the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from ..errors import InputError
from ..version import __version__
from . import state
from .cluster import gpu_of
from .jobs import Job, Outcome
from .work import keep_failure, run_job

if TYPE_CHECKING:
    from distributed import Client, Future

AHEAD = 4
"""Jobs for every process that the scheduler is given ahead of their time."""

LEAST_AHEAD = 32
"""... and at least, so that a cluster sees that there is work for more processes."""

LOOK = 10.0
"""Time between two looks at how many processes there are [s]."""


class Task(Protocol):
    """What is run: it has a name, and can be sent to another process."""

    @property
    def key(self) -> str:
        """Name, one of its own among all tasks."""
        ...


@dataclass
class Totals:
    """What became of all tasks.

    Attributes
    ----------
    done, present, failed, retried : int
        Present: done before. Retried: attempts beyond the first.
    stopped : str
        Why no more were handed out; empty if all were.
    seconds, busy : float
        On the clock; and of all tasks together, in their processes.
    workers : int
        Processes, at most.
    voxels : int
    most_ahead : int
        Tasks that the scheduler knew at a time, at most.
    errors : list of Outcome
    left_out : dict of str to list
        By method and reason: names of scans.
    """

    done: int = 0
    present: int = 0
    failed: int = 0
    retried: int = 0
    stopped: str = ""
    seconds: float = 0.0
    busy: float = 0.0
    workers: int = 0
    voxels: int = 0
    most_ahead: int = 0
    errors: list[Outcome] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> None:
        """Take in how a task ended."""
        setattr(self, outcome.status, getattr(self, outcome.status) + 1)
        self.busy += outcome.seconds
        self.voxels += outcome.voxels
        if outcome.status == "failed":
            self.errors.append(outcome)
        for method, why in outcome.left_out.items():
            self.left_out.setdefault(f"{method}: {why}", []).append(outcome.key)

    @property
    def ended(self) -> int:
        """Tasks that came to an end, good or bad."""
        return self.done + self.present + self.failed

    def throughput(self) -> dict[str, float]:
        """Return scans an hour, and what a scan costs beside its own work."""
        worked = self.done + self.failed
        share = self.seconds * max(1, self.workers)
        return {
            "scans_per_hour": round(3600 * self.done / max(self.seconds, 1e-9), 1),
            "voxels_per_second": round(self.voxels / max(self.seconds, 1e-9)),
            "busy_share": round(self.busy / max(share, 1e-9), 3),
            "overhead_per_scan_s": round(max(0.0, share - self.busy) / max(1, worked), 3),
        }


def run_all(
    tasks: Iterable[Any],
    client: Client,
    work: Callable[[Any], Outcome] = run_job,
    *,
    retries: int = 1,
    gpus: int = 0,
    ended: Callable[[Outcome, Totals], None] = lambda outcome, totals: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Totals:
    """Run tasks on a cluster.

    Parameters
    ----------
    tasks : iterable of Task
        Taken one by one, when there is room for them: it may be as long as it likes. One that is an
        `Outcome` has ended already, as a scan whose files are not complete.
    client : distributed.Client
    work : callable
        From a task to its outcome; what it raises counts as a failure.
    retries : int
        Attempts beyond the first. Errors of the input are tried again, too: a file that cannot be
        read now may be a server's that is slow.
    gpus : int
        Of this machine, to be shared out among the processes.
    ended : callable
        Told of each outcome that is final.
    cancelled : callable
        True stops the handing out; what runs is let go of.

    Returns
    -------
    Totals
        A full disk stops the handing out: no task would do better than the last. What has begun
        comes to its end.
    """
    from distributed import as_completed

    totals, started = Totals(), time.monotonic()
    waiting, running, open_tasks = iter(tasks), as_completed(), {}
    run, room = uuid4().hex[:8], _Room(client)

    def submit(task: Any, attempt: int) -> None:
        # one group, so that tasks wait at the scheduler and not at a process, which may die; what
        # is tried again comes last, and its name is new: Dask would give the old result
        name = (f"job-{run}", f"{task.key}-{attempt}")
        call = (_on_worker, work, task, gpus)
        future = client.submit(*call, key=name, pure=False, retries=0, priority=-attempt)
        open_tasks[name] = (task, attempt, future)
        running.add(future)
        totals.most_ahead = max(totals.most_ahead, len(open_tasks))

    def fill() -> None:
        while not totals.stopped and len(open_tasks) < room.now():
            if (task := next(waiting, None)) is None:
                return
            if isinstance(task, Outcome):
                totals.count(task)
                ended(task, totals)
            else:
                submit(task, 1)

    def let_go() -> None:
        started = {name for names in client.processing().values() for name in names}
        waiting_yet = [name for name in open_tasks if name not in started]
        client.cancel([open_tasks.pop(name)[2] for name in waiting_yet])

    try:
        fill()
        while open_tasks:
            future = next(running)
            if future.key not in open_tasks:  # let go of
                continue
            task, attempt, _ = open_tasks.pop(future.key)
            outcome = replace(_outcome(task.key, future), attempts=attempt)
            if cancelled():
                totals.stopped = "it was stopped"
                break
            if outcome.full:
                totals.stopped = f"the disk is full ({outcome.error})"
                let_go()
            if outcome.status == "failed" and attempt <= retries and not totals.stopped:
                totals.retried += 1
                submit(task, attempt + 1)
            else:
                totals.count(outcome)
                ended(outcome, totals)
            fill()
    finally:
        client.cancel([future for _, _, future in open_tasks.values()])
        totals.seconds, totals.workers = time.monotonic() - started, room.most
    return totals


class _Room:
    """How many tasks the scheduler may know, by how many processes there are."""

    def __init__(self, client: Client) -> None:
        self.client, self.looked, self.processes, self.most = client, -LOOK, 0, 0

    def now(self) -> int:
        if time.monotonic() - self.looked > LOOK:
            self.processes, self.looked = len(self.client.nthreads()), time.monotonic()
            self.most = max(self.most, self.processes)
        return max(LEAST_AHEAD, AHEAD * self.processes)


def _on_worker(work: Callable[[Any], Outcome], task: Any, gpus: int) -> Outcome:
    """Do a task in a process of the cluster, on the GPU that is this process's."""
    if gpus and isinstance(task, Job) and task.options.device == "auto":
        from distributed import get_worker

        device = gpu_of(get_worker().name, gpus)
        task = replace(task, options=replace(task.options, device=device))
    return work(task)


def _outcome(key: str, future: Future) -> Outcome:
    """Return what a task gave; a process that died under it, or an error, is a failure."""
    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":
        return Outcome(key, "failed", error="the cluster let go of it")
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return Outcome(
            key,
            "failed",
            error="the processes that worked on it died",
            fix="Probably they had too little memory: give more (--memory), or fewer processes.",
        )
    return Outcome.failed(key, error)


@contextmanager
def few_deaths(retries: int) -> Iterator[None]:
    """Have Dask give up a task after one death more than retries, for clusters opened within."""
    import dask

    # each attempt of ours may cost one process; Dask's own 3 would multiply
    with dask.config.set({"distributed.scheduler.allowed-failures": max(1, retries)}):
        yield


def run_cohort(
    jobs: Iterable[Job | Outcome],
    client: Client,
    out: Path,
    *,
    retries: int = 1,
    gpus: int = 0,
    told: Callable[[Outcome, Totals], None] = lambda outcome, totals: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Totals:
    """Run the jobs of a cohort, see `run_all`, and write down failures and the run itself."""

    def ended(outcome: Outcome, totals: Totals) -> None:
        if outcome.status == "failed":
            keep_failure(out, outcome)
        told(outcome, totals)

    totals = run_all(jobs, client, retries=retries, gpus=gpus, ended=ended, cancelled=cancelled)
    keep_run(out, totals)
    return totals


def keep_run(out: Path, totals: Totals) -> Path:
    """Write what a run came to; return the file."""
    now = datetime.now(UTC)
    content = {k: v for k, v in asdict(totals).items() if k != "errors"}
    content |= {"version": __version__, "ended": now.isoformat(timespec="seconds")}
    content |= {"failed_scans": [outcome.key for outcome in totals.errors]}
    content |= {"throughput": totals.throughput()}
    file = out / state.STATE / state.RUNS / f"{now:%Y%m%dT%H%M%S.%f}.json"
    try:
        state.write_atomically(file, content)
    except OSError as error:
        if not state.out_of_room(error):
            raise InputError(f"cannot be written ({error})", "See who may.", file=file) from error
    return file
