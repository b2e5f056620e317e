"""Jobs one after the other: the next starts when one has ended, well or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .job import FitJob


class JobQueue:
    """At most one job runs; a caller's timer polls.

    Parameters
    ----------
    on_failure : callable(exception)
        Told why a job could not be started; those behind it are.
    """

    def __init__(self, on_failure: Callable[[Exception], None]) -> None:
        self.current: FitJob | None = None
        self._waiting: list[Callable[[], FitJob]] = []
        self._on_failure = on_failure

    def run(self, starts: Sequence[Callable[[], FitJob]]) -> None:
        """Start the first of some jobs; the others wait."""
        self._waiting = list(starts)
        self._next()

    def poll(self) -> bool:
        """Let the job deliver its news; say whether the queue moved on, or came to its end."""
        job = self.current
        # a dialog that a callback opens runs the timer, which polls in here a second time
        if job is None or job.poll() == "running" or self.current is not job:
            return False
        self.current = None
        self._next()
        return True

    def cancel(self) -> None:
        """Kill the job that runs and forget those that wait."""
        self._waiting = []
        if self.current is not None:
            self.current.cancel()
            self.current = None

    def _next(self) -> None:
        while self._waiting and self.current is None:
            start = self._waiting.pop(0)
            try:
                self.current = start()
            except Exception as error:
                self._on_failure(error)
