"""What the command line shows while it works."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

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
        with _display(style) as tell:
            yield tell
    except KeyboardInterrupt:
        raise Cancelled("Stopped; nothing was left half written.") from None


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
