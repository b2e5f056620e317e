"""The jobs that the panel has started, and what it shows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
import slicer.util
from slicer.i18n import tr as _

from .jobs import JobQueue
from .messages import Messages
from .nodes import DWI_CLASS
from .running import Running

POLL_MS = 25

BACKGROUNDS = ("vtkMRMLScalarVolumeNode", DWI_CLASS)
"""Results of which the first is shown in the slices."""


class Work:
    """Jobs in processes of their own, polled by a timer.

    Parameters
    ----------
    ui : object
        Has progress bar, status line and the fields that cannot be used meanwhile.
    messages : Messages
    on_change : callable
        Called when work has begun or ended.
    """

    def __init__(self, ui, messages: Messages, on_change: Callable[[], None]) -> None:
        self._messages, self._on_change = messages, on_change
        self._jobs = JobQueue(messages.error)
        self._running = Running(ui)
        self._added = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)

    @property
    def job(self):
        """What runs; None while nothing does."""
        return self._jobs.current

    def heard(self, shown: Callable | None = None) -> dict:
        """Who listens to a job; `shown` gets what it added, in place of a word in the log."""

        def done(added) -> None:
            self._added = True
            (shown or self._done)(added)

        return {
            "onProgress": self._running.tell,
            "onDone": done,
            "onError": self._messages.fail,
            "onNote": self._messages.note,
        }

    def run(self, starts: Sequence[Callable]) -> None:
        """Start jobs one after the other."""
        self._added = False
        self._jobs.run(starts)
        if self.job is not None:
            self.show()
            self._timer.start()

    def cancel(self) -> None:
        """Stop what runs, and say so; the scene stays as it was."""
        if self.job is None:
            return
        self.stop()
        self._messages.log(
            _("Cancelled. What had been added stays.")
            if self._added
            else _("Cancelled. Nothing was added.")
        )
        self.show()

    def stop(self) -> None:
        """Stop what runs."""
        self._timer.stop()
        self._jobs.cancel()

    def show(self) -> None:
        """Show whether a job runs."""
        self._running.show(self.job is not None)
        self._on_change()

    def _poll(self) -> None:
        if self._jobs.poll():
            self.show()
            if self.job is None:
                self._timer.stop()

    def _done(self, nodes: list) -> None:
        self._messages.log(
            _("Added {names}.").format(names=", ".join(f"'{n.GetName()}'" for n in nodes))
        )
        first = next((n for n in nodes if n.GetClassName() in BACKGROUNDS), None)
        if first is not None:
            slicer.util.setSliceViewerLayers(background=first)
