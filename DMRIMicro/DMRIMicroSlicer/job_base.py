"""What jobs have in common: something is read in a thread, and shown bit by bit.

`poll`, which the caller's timer calls, moves a job on: no thread touches MRML, VTK or Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from .background import Background, Turns

CANCEL_SECONDS = 0.05
"""How long the window waits for the end of a job that is cancelled; the rest goes on behind it."""


class Job:
    """Work that leaves the window alive; those that derive from it set `_behind`, or `_part`.

    Parameters
    ----------
    on_progress : callable(fraction, text), optional
    on_done : callable(what was read), optional
        It may return `background.Steps`, which are then gone through bit by bit.
    on_error : callable(text), optional
    """

    def __init__(
        self,
        on_progress: Callable[[float, str], None] | None = None,
        on_done: Callable[[object], object] | None = None,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self._on_progress, self._on_done, self._on_error = on_progress, on_done, on_error
        self.state = "running"
        self._inside = False
        self._part: Callable[[], None] = self._receive
        self._behind: Background | None = None
        self._showing: Turns | None = None

    def poll(self) -> str:
        """Go on; return "running", "done", "failed" or "cancelled"."""
        # a dialog that a callback opens runs the timer, which polls in here a second time
        if self.state == "running" and not self._inside:
            self._inside = True
            try:
                self._part()
            finally:
                self._inside = False
            if self.state == "cancelled":
                self._take_back()
        return self.state

    def cancel(self) -> None:
        """Stop; nothing stays in the scene."""
        if self.state == "running":
            self.state = "cancelled"
            if not self._inside:
                self._take_back()
            elif self._showing is not None:
                self._showing.stop()
            self._end_behind()

    # The parts of a job

    def _receive(self) -> None:
        """Wait for the thread that reads the output."""
        if not self._behind.over():
            return
        try:
            result = self._behind.result()
        except Exception as error:
            self._fail(str(error) or type(error).__name__)
            return
        self._behind = None
        steps = None
        try:
            steps = self._on_done(result) if self._on_done else None
        finally:
            if not isinstance(steps, Generator):
                self._finish()
        if isinstance(steps, Generator):
            self._showing, self._part = Turns(steps), self._show

    def _show(self) -> None:
        """Show a bit more of the result."""
        try:
            over = self._showing.go_on()
        except BaseException:
            self._showing = None
            self._finish()
            raise
        if over:  # what follows has a turn of its own
            self._showing, self._part = None, self._finish

    # What they need

    def _hear(self, fraction: float, text: str) -> bool:
        """Hand on a piece of news; say whether the job goes on: the listener may cancel it."""
        if self._on_progress:
            self._on_progress(fraction, text)
        return self.state == "running"

    def _finish(self) -> None:
        if self.state == "running":
            self.state = "done"

    def _fail(self, text: str) -> None:
        if self.state != "running":
            return
        self.state = "failed"  # first: a callback may run the timer's loop, which polls again
        self._end_behind()
        if self._on_error:
            self._on_error(text)

    def _take_back(self) -> None:
        """Take back what is shown of a result."""
        if self._showing is not None:
            showing, self._showing = self._showing, None
            showing.close()

    def _end_behind(self) -> None:
        """End process and threads, and clean up, in a thread: a driver may hold them for long."""
        before = self._behind

        def end() -> None:
            self._stop()
            if before is not None:
                before.wait()
                self._stop()  # it was started meanwhile
            self._clean()

        Background(end).over(CANCEL_SECONDS)

    def _stop(self) -> None:
        """End what goes on behind; called in a thread."""

    def _clean(self) -> None:
        """Remove what is left; called in a thread."""
