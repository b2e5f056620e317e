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


class Chained:
    """Two jobs as if they were one: the second begins with what the first has made.

    Parameters
    ----------
    first : callable
        Called with callbacks (on_progress, on_done, on_error); starts the first job.
    second : callable
        Called with the first's result and callbacks (on_progress, on_error); starts the second.
    on_progress, on_error : callable, optional
    """

    def __init__(
        self,
        first: Callable[[dict], FitJob],
        second: Callable[[object, dict], FitJob],
        *,
        on_progress: Callable[[float, str], None] | None = None,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self._second, self._on_progress, self._on_error = second, on_progress, on_error
        self._failure = ""
        told = {"on_progress": self._half(0.0), "on_done": self._go_on, "on_error": on_error}
        self._job = first(told)

    @property
    def state(self) -> str:
        """As of a job: running, done, failed or cancelled."""
        return self._failure or self._job.state

    def poll(self) -> str:
        """Let the job of now deliver its news."""
        before = self._job
        if not self._failure:
            before.poll()
        # the first job is done and the second has just begun
        return self.state if self._job is before else "running"

    def cancel(self) -> None:
        """Stop the job of now; the other does not begin."""
        self._job.cancel()

    def _go_on(self, made: object) -> None:
        try:
            told = {"on_progress": self._half(0.5), "on_error": self._on_error}
            self._job = self._second(made, told)
        except Exception as error:
            self._failure = "failed"
            if self._on_error:
                self._on_error(str(error))

    def _half(self, start: float) -> Callable[[float, str], None] | None:
        if self._on_progress is None:
            return None
        return lambda share, text: self._on_progress(start + share / 2, text)
