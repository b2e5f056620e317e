"""What keeps the window alive in this process: calls in a thread, and work done bit by bit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

TURN = 0.01
"""How long one look at a thread waits for it [s]: Slicer's own loop may keep Python to itself, so
that a thread gets on only while the main thread waits."""

BIT = 0.01
"""Work on the main thread goes on for so long before the window has its turn [s]."""

Steps = Generator[Callable[[], object] | None, Any, Any]
"""Work on the main thread: at every ``yield`` the window may have its turn. What is yielded, if not
None, is called in a thread and must leave MRML, VTK and Qt alone; ``yield`` gives its result."""


class Background:
    """A call in a thread of its own.

    Parameters
    ----------
    call : callable
        Numbers and files only: MRML, VTK and Qt belong to the main thread.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call, self._result, self._error = call, None, None
        # not a daemon: what it writes and cleans up is finished when Slicer is closed
        self._thread = threading.Thread(target=self._run, name="DMRIMicro", daemon=False)
        self._thread.start()

    def over(self, seconds: float = TURN) -> bool:
        """Give the thread its turn; say whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait until the thread has ended; for other threads."""
        self._thread.join()

    def result(self) -> Any:
        """Return what the call has returned, or raise what it has raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error
        self._call = None  # it holds arrays


class Turns:
    """Steps that are gone on with at every look.

    Parameters
    ----------
    steps : Steps
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._waits_for: Background | None = None
        self._stopped = False

    def go_on(self, seconds: float = BIT) -> bool:
        """Work for about so long; say whether everything is done.

        What the steps raise comes out here.
        """
        until = time.monotonic() + seconds
        while not self._stopped:
            try:
                if self._waits_for is None:
                    asked = next(self._steps)
                elif self._waits_for.over():
                    asked = self._answer()
                else:
                    return False
            except StopIteration:
                return True
            self._waits_for = None if asked is None else Background(asked)
            if time.monotonic() > until:
                break
        return False

    def stop(self) -> None:
        """Let `go_on` end after the step of now, which may be what calls this."""
        self._stopped = True

    def close(self) -> None:
        """Give up: the steps take back what they have done."""
        self._steps.close()

    def _answer(self) -> Callable[[], object] | None:
        found, self._waits_for = self._waits_for, None
        try:
            result = found.result()
        except BaseException as error:
            return self._steps.throw(error)
        return self._steps.send(result)


def at_once(steps: Steps) -> Any:
    """Go through steps here and now; return their result."""
    step: Callable[[], Any] = partial(next, steps)
    while True:
        try:
            asked = step()
        except StopIteration as end:
            return end.value
        try:
            step = partial(next, steps) if asked is None else partial(steps.send, asked())
        except Exception as error:
            step = partial(steps.throw, error)
