"""Handing jobs to Dask: few at a time, again if they fail, and none stops the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from .cluster import gpu_of
from .jobs import Job, Outcome
from .totals import Totals, keep_run
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


def run_all(
    tasks: Iterable[Any],
    client: Client,
    work: Callable[[Any], Outcome] = run_job,
    *,
    retries: int = 1,
    gpus: int = 0,
    again: Callable[[Any, Outcome], Any] = lambda task, outcome: task,
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
    again : callable
        From a task and how it ended to the task of the next attempt.
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
    hand, started = _Hand(tasks, client, work, gpus, ended), time.monotonic()
    totals = hand.totals
    try:
        hand.fill()
        while hand.running:
            if (back := hand.next()) is None:
                continue
            task, outcome = back
            if cancelled():
                totals.stopped = "it was stopped"
                break
            if outcome.full:
                totals.stopped = f"the disk is full ({outcome.error})"
                hand.let_go()
            if outcome.lacks and outcome.attempts <= retries and not totals.stopped:
                totals.retry(outcome)
                hand.submit(again(task, outcome), outcome.attempts + 1)
            else:
                hand.count(outcome)
            hand.fill()
    finally:
        client.cancel([future for _, _, future in hand.running.values()])
        totals.seconds, totals.workers = time.monotonic() - started, hand.room.most
    return totals


class _Hand:
    """Hands tasks to the cluster, and takes them back.

    Attributes
    ----------
    running : dict
        By Dask's name: task, attempt and future of what the cluster has.
    """

    def __init__(
        self,
        tasks: Iterable[Any],
        client: Client,
        work: Callable[[Any], Outcome],
        gpus: int,
        ended: Callable[[Outcome, Totals], None],
    ) -> None:
        from distributed import as_completed

        self.waiting, self.client, self.work = iter(tasks), client, work
        self.gpus, self.ended, self.totals = gpus, ended, Totals()
        self.running: dict[Any, tuple[Any, int, Future]] = {}
        self.back, self.room, self.run = as_completed(), _Room(client), uuid4().hex[:8]

    def submit(self, task: Any, attempt: int) -> None:
        # one group, so that tasks wait at the scheduler and not at a process, which may die; what
        # is tried again comes last, and its name is new: Dask would give the old result
        name = (f"job-{self.run}", f"{task.key}-{attempt}")
        call = (_on_worker, self.work, task, self.gpus)
        future = self.client.submit(*call, key=name, pure=False, retries=0, priority=-attempt)
        self.running[name] = (task, attempt, future)
        self.back.add(future)
        self.totals.most_ahead = max(self.totals.most_ahead, len(self.running))

    def fill(self) -> None:
        """Give the cluster what it has room for."""
        while not self.totals.stopped and len(self.running) < self.room.now():
            if (task := next(self.waiting, None)) is None:
                return
            if isinstance(task, Outcome):
                self.count(task)
            else:
                self.submit(task, 1)

    def next(self) -> tuple[Any, Outcome] | None:
        """Wait for a task to end; None if it was one that had been let go of."""
        future = next(self.back)
        if future.key not in self.running:
            return None
        task, attempt, _ = self.running.pop(future.key)
        return task, replace(_outcome(task.key, future), attempts=attempt)

    def let_go(self) -> None:
        """Take back what has not begun."""
        begun = {name for names in self.client.processing().values() for name in names}
        idle = [name for name in self.running if name not in begun]
        self.client.cancel([self.running.pop(name)[2] for name in idle])

    def count(self, outcome: Outcome) -> None:
        self.totals.count(outcome)
        self.ended(outcome, self.totals)


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
    """Have Dask give up a task that kills its processes, in clusters opened within."""
    import dask

    # Dask's own 3 would multiply with our attempts, and 0 would blame a task that had not begun;
    # none is to wait at a process, beside the one that it works on, to die with it
    settings = {"allowed-failures": max(1, retries), "worker-saturation": 1.0}
    with dask.config.set({f"distributed.scheduler.{k}": v for k, v in settings.items()}):
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
        if outcome.lacks:
            keep_failure(out, outcome)
        told(outcome, totals)

    words: dict[str, Any] = {"again": Job.again, "ended": ended, "cancelled": cancelled}
    totals = run_all(jobs, client, retries=retries, gpus=gpus, **words)
    keep_run(out, totals)
    return totals
