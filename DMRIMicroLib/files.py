"""Writing without ever leaving a half file behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def staged(folder: str | Path, *, last: str | None = None) -> Iterator[Path]:
    """Give a temporary folder whose files move into `folder` when the block ends well.

    Each file is renamed into place, so a reader sees the old file or the new one and nothing
    between; `last` names the file that moves after all others. On any error, Ctrl-C included,
    nothing in `folder` changes, and a folder that was not there is not made.
    """
    folder = Path(folder)
    check_writable(folder)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".dmrimicro-", dir=folder))
    try:
        yield temporary
        for file in sorted(temporary.iterdir(), key=lambda f: (f.name == last, f.name)):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def check_writable(folder: str | Path) -> None:
    """Check that files can be written in `folder`, or where it would have to be made."""
    folder = Path(folder)
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise InputError(
            f"cannot write there ({error.strerror or error})",
            "Choose another output folder, or change its permissions.",
            file=folder,
        ) from error
