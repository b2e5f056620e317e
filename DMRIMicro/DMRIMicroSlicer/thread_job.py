"""Work in a thread of this process, for what needs none of its own: reading a file, say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from DMRIMicroLib.errors import Cancelled

from .background import Background
from .job_base import Job


class News:
    """What a thread tells of its progress, for the main thread."""

    def __init__(self) -> None:
        self.latest: tuple[float, str] | None = None
        self.stopped = False

    def tell(self, fraction: float, text: str) -> None:
        """Note how far the work is; raise Cancelled if nobody waits for it any more."""
        if self.stopped:
            raise Cancelled("Stopped; nothing was added.")
        self.latest = (fraction, text)


class ThreadJob(Job):
    """Reading in a thread, and showing what was read.

    Parameters
    ----------
    read : callable
        Called in a thread: it must leave MRML, VTK and Qt alone.
    news : News
        Where `read`, and what the steps of `on_done` call in a thread, tell their progress.
    **callbacks
        on_progress, on_done, on_error, see `job_base.Job`.
    """

    def __init__(
        self, read: Callable[[], object], news: News, **callbacks: Callable | None
    ) -> None:
        super().__init__(**callbacks)
        self._news = news
        self._behind = Background(read)
        self._part = partial(self._after_news, self._receive)

    def _after_news(self, part: Callable[[], None]) -> None:
        """Tell the latest news, and go on."""
        news, self._news.latest = self._news.latest, None
        if news is None or self._hear(*news):
            part()

    def _receive(self) -> None:
        super()._receive()
        if self._showing is not None:
            self._part = partial(self._after_news, self._show)

    def _stop(self) -> None:
        self._news.stopped = True
