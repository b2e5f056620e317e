"""The exceptions that a user sees: what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path


class DMRIMicroError(Exception):
    """Base of every error that DMRIMicro raises on purpose."""


class InputError(DMRIMicroError, ValueError):
    """Something that the user gave cannot be used.

    Parameters
    ----------
    what : str
        The problem, with the field and the value that it concerns.
    fix : str
        What to do about it.
    file : path-like, optional
        The file that it stands in.
    """

    def __init__(self, what: str, fix: str = "", *, file: str | Path | None = None) -> None:
        self.what, self.fix, self.file = what, fix, None if file is None else str(file)
        where = "" if file is None else f"{file}: "
        super().__init__(f"{where}{what.rstrip('.')}.{' ' + fix if fix else ''}")


class NotIdentifiable(InputError):
    """A model whose parameters this acquisition cannot determine."""


class Cancelled(DMRIMicroError):
    """The user stopped the work; nothing was written."""
