"""Files of a scan to a diffusion volume: read in a thread, added bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .background import Steps
from .nodes import adding_scan
from .notes import tell
from .thread_job import News, ThreadJob
from .words import _


def read_scan(path: str, files: Mapping[str, Any], progress: Callable | None = None):
    """Open a scan, see `DMRIMicroLib.load`; in any thread.

    Parameters
    ----------
    path : str
    files : mapping
        bval, bvec; b0_threshold, delta, Delta, TE.
    progress : callable(fraction, text), optional
        What it raises stops the work.
    """
    from DMRIMicroLib import load

    return load(path, **files, progress=progress)


def start_import(
    path: str,
    files: Mapping[str, Any],
    *,
    on_progress: Callable[[float, str], None] | None,
    on_done: Callable[[Any], None] | None,
    on_error: Callable[[str], None] | None,
    on_note: Callable[[str], None] | None,
) -> ThreadJob:
    """Import without keeping the window; see `DMRIMicroLogic.startImportNifti`."""
    news, told = News(), _("Reading {file}").format(file=Path(path).name)
    news.tell(0.0, told)

    def copied(fraction: float) -> None:
        news.tell(fraction, told)

    def added(scan) -> Steps:
        try:
            node = yield from adding_scan(scan, progress=copied)
        except Exception as error:
            if on_error:
                on_error(str(error) or type(error).__name__)
            return
        tell(scan.notes, on_note)
        if on_done:
            on_done(node)

    return ThreadJob(
        lambda: read_scan(path, files, news.tell),
        news,
        on_progress=on_progress,
        on_done=added,
        on_error=on_error,
    )
