"""What the command line shows while it works."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from threading import Event, current_thread, main_thread
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .errors import Cancelled

console = Console(stderr=True, highlight=False, soft_wrap=True)


class ProgressStyle(StrEnum):
    """How progress is shown."""

    bar = "bar"
    json = "json"
    none = "none"


@contextmanager
def shown(style: ProgressStyle) -> Iterator[Callable[[float, str], None]]:
    """Give a function (share, text) that shows progress on the terminal, or as JSON lines."""
    try:
        with _interrupts() as asked, _display(style) as tell:

            def tell_or_stop(share: float, text: str) -> None:
                if asked.is_set():
                    raise KeyboardInterrupt
                tell(share, text)

            yield tell_or_stop
    except KeyboardInterrupt:
        raise Cancelled("Stopped; nothing was left half written.") from None


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Remember Ctrl-C: an exception that strikes inside a callback of compiled code is lost."""
    asked = Event()
    if current_thread() is not main_thread():  # only the main thread may handle signals
        yield asked
        return

    def stop(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _display(style: ProgressStyle) -> Iterator[Callable[[float, str], None]]:
    if style is ProgressStyle.json:
        yield lambda share, text: print(
            json.dumps({"progress": round(share, 4), "text": text}), flush=True
        )
    elif style is ProgressStyle.none or not console.is_terminal:
        yield lambda share, text: None
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("Opening", total=1.0)
            yield lambda share, text: bar.update(task, completed=share, description=text)
