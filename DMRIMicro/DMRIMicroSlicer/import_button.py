"""The button that loads NIfTI, bval and bvec as a diffusion volume."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from .messages import Messages


class ImportButton:
    """Reads the files that the user chose and selects the volume.

    Parameters
    ----------
    ui : object
        Has the path fields, the button and the selector.
    logic : DMRIMicroLogic
    messages : Messages
    ready : callable
        Has the packages installed; False if they are not.
    """

    def __init__(self, ui, logic, messages: Messages, ready: Callable[[], bool]) -> None:
        self._ui, self._logic, self._messages, self._ready = ui, logic, messages, ready
        ui.importButton.connect("clicked()", self.press)

    def press(self) -> None:
        """Import and select; say what was recognised, or what is wrong."""
        ui = self._ui
        if not ui.niftiPath.currentPath:
            self._messages.fail(_("Choose a NIfTI file first."))
            return
        try:
            if not self._ready():
                return
            node = self._logic.importNifti(
                ui.niftiPath.currentPath,
                ui.bvalPath.currentPath,
                ui.bvecPath.currentPath,
                onNote=self._messages.note,
            )
        except Exception as error:
            self._messages.error(error)
            return
        ui.dwiSelector.setCurrentNode(node)
        self._messages.log(_("Imported '{name}'.").format(name=node.GetName()))
