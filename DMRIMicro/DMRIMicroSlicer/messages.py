"""What the panel says to the user: a log of lines, and dialogs for errors."""

from __future__ import annotations

import slicer.util
from slicer.i18n import tr as _

from DMRIMicroLib.errors import DMRIMicroError


class Messages:
    """Messages of the panel.

    Parameters
    ----------
    view : QPlainTextEdit
        Where the lines appear.
    """

    def __init__(self, view) -> None:
        self._view = view

    def log(self, text: str) -> None:
        """Add a line."""
        self._view.appendPlainText(text)

    def note(self, text: str) -> None:
        """Add something that the user must know."""
        self.log(_("Note: {text}").format(text=text))

    def fail(self, text: str) -> None:
        """Show a problem in a dialog, and keep it in the log."""
        self.log(_("Error: {text}").format(text=text))
        slicer.util.errorDisplay(text)

    def error(self, error: Exception) -> None:
        """Show an exception; one that is not ours is a defect."""
        text = str(error)
        if not isinstance(error, DMRIMicroError):
            text = _("Unexpected error, please report it: {text}").format(text=text)
        self.fail(text)
