"""What is done: hashes of what a result depends on, and marks that are there or not, never half.

A mark is written after the files that it names and removed before they change: whatever is killed
in between, a mark that is there tells of files that are whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..io.bids import read_json

STATE = ".dmrimicro"
"""Folder of marks, failures and runs within the output: BIDS ignores names with a dot."""

DONE, FAILED, WORK, RUNS = "done", "failed", "work", "runs"

ENDS = 65_536
"""Bytes at either end of a large image that are looked at."""

GZIP = b"\x1f\x8b"

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of the operating system that mean: the disk, or what we may have of it, is full."""


def file_digest(file: Path) -> str:
    """Hash a file's content: whole, but of large gzip files only size and ends.

    The last 8 bytes of a gzip file are the CRC-32 and the length of all that it holds (RFC 1952,
    section 2.3.1): a change anywhere shows there, and 100,000 scans need not be read to see that
    they are done.
    """
    told, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(ENDS)
        if size > 2 * ENDS and first.startswith(GZIP):
            opened.seek(-ENDS, os.SEEK_END)
            told.update(f"{size} ".encode() + first + opened.read())
        else:
            told.update(first)
            while block := opened.read(2**20):
                told.update(block)
    return told.hexdigest()


def digest(content: Mapping[str, Any]) -> str:
    """Hash JSON values."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that others see whole or not at all, also after a crash of the machine."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(content, opened, indent=1, ensure_ascii=False)
            opened.write("\n")
            opened.flush()
            os.fsync(opened.fileno())
        os.chmod(name, 0o644)  # a temporary file is its owner's alone
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def mark_file(out: Path, key: str, method: str) -> Path:
    """File that says that a method is done on a scan."""
    return out / STATE / DONE / key / f"{method}.json"


def read_mark(file: Path) -> dict[str, Any] | None:
    """Read a mark; None if there is none that can be read."""
    try:
        return read_json(file)
    except ValueError:
        return None


def failed_file(out: Path, key: str, method: str = "") -> Path:
    """File that says that a method failed on a scan; without a method, that all of it did."""
    return out / STATE / FAILED / (f"{key}/{method}.json" if method else f"{key}.json")


def is_done(out: Path, key: str, method: str, wanted: str) -> bool:
    """Tell whether a method is done with just these inputs and options, and its files are there."""
    mark = read_mark(mark_file(out, key, method))
    if mark is None or mark.get("digest") != wanted:
        return False
    return all(_size(out / name) == size for name, size in mark["files"].items())


def marks(out: Path) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield every scan's key and its marks by method, in order."""
    from ..io.bids import natural

    done = out / STATE / DONE
    folders = [f for f in done.iterdir() if f.is_dir()] if done.is_dir() else []
    for folder in sorted(folders, key=lambda f: natural(f.name)):
        found = {file.stem: read_mark(file) for file in sorted(folder.glob("*.json"))}
        yield folder.name, {method: mark for method, mark in found.items() if mark is not None}


def failures(out: Path) -> Iterator[dict[str, Any]]:
    """Yield what is written of scans, and of methods on a scan ("method"), that failed."""
    folder = out / STATE / FAILED
    for file in sorted(folder.rglob("*.json")) if folder.is_dir() else ():
        if (told := read_mark(file)) is not None:
            yield told


def out_of_room(error: BaseException | None) -> bool:
    """Tell whether an error, or what it came from, is that of a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        error = error.__cause__ or error.__context__
    return False


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1
