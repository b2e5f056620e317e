"""The button that loads NIfTI, bval and bvec, or DICOM, as a diffusion volume."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from slicer.i18n import tr as _

from .messages import Messages
from .work import Work


class ImportButton:
    """Has the files read that the user chose, and selects the volume.

    Parameters
    ----------
    ui : object
        Has the path fields, the button and the selector.
    logic : DMRIMicroLogic
    messages : Messages
    work : Work
    ready : callable
        Has the packages installed; False if they are not.
    """

    def __init__(
        self, ui, logic, messages: Messages, work: Work, ready: Callable[[], bool]
    ) -> None:
        self._ui, self._logic, self._messages = ui, logic, messages
        self._work, self._ready = work, ready
        ui.importButton.connect("clicked()", self.press)

    def press(self) -> None:
        """Start the import; say what was recognised, or what is wrong."""
        ui = self._ui
        if self._work.job is not None:
            return
        if not ui.niftiPath.currentPath:
            self._messages.fail(_("Choose a NIfTI file first."))
            return
        try:
            if not self._ready():
                return
        except Exception as error:
            self._messages.error(error)
            return
        paths = (field.currentPath for field in (ui.niftiPath, ui.bvalPath, ui.bvecPath))
        heard = self._work.heard(self._select)
        self._work.run([partial(self._logic.startImportNifti, *paths, **heard)])

    def _select(self, node) -> None:
        """Choose the new volume."""
        self._ui.dwiSelector.setCurrentNode(node)
        self._messages.log(_("Imported '{name}'.").format(name=node.GetName()))
