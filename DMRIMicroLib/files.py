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
    `folder` is as it was before, and a folder that was not there is not made.
    """
    folder = Path(folder)
    check_writable(folder)
    new = [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".dmrimicro-", dir=folder))
    try:
        yield temporary
        _publish(temporary, folder, last)
        new = []
    except OSError as error:
        raise InputError(
            f"writing failed ({error.strerror or error}); nothing there was changed",
            "Make room, or choose another output folder.",
            file=folder,
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for made in new:
            if not any(made.iterdir()):
                made.rmdir()


def _publish(stage: Path, folder: Path, last: str | None) -> None:
    """Move all files of `stage` to `folder`, or none: what was there comes back on any error."""
    files = sorted(stage.iterdir(), key=lambda f: (f.name == last, f.name))
    for file in files:
        if (folder / file.name).is_dir():
            raise IsADirectoryError(0, f"{file.name} is a folder there")
    old = stage / "old"
    old.mkdir()
    try:
        for file in files:
            target = folder / file.name
            if target.exists():
                try:
                    os.link(target, old / file.name)
                except OSError:  # a file system without hard links
                    shutil.copy2(target, old / file.name)
            os.replace(file, target)
    except BaseException:
        for file in files:
            if (old / file.name).exists():
                os.replace(old / file.name, folder / file.name)
            elif not file.exists():
                (folder / file.name).unlink(missing_ok=True)
        raise


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
