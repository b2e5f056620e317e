"""What the panel shows while a job runs."""

from __future__ import annotations

from slicer.i18n import tr as _


class Running:
    """Progress bar, status line, and which fields can be used.

    Parameters
    ----------
    ui : object
        Has them as attributes.
    """

    def __init__(self, ui) -> None:
        self._ui = ui
        self._choices = (
            ui.dwiSelector,
            ui.maskSelector,
            ui.modelsFrame,
            ui.allButton,
            ui.advancedButton,
            ui.importButton,
            ui.enhanceCollapsible,
            ui.tractsCollapsible,
            ui.planCollapsible,
        )

    def show(self, running: bool) -> None:
        """Begin or end to show that a job runs."""
        for widget in self._choices:
            widget.setEnabled(not running)
        self._ui.cancelButton.setEnabled(running)
        self._ui.progressBar.setVisible(running)
        self._ui.progressBar.setValue(0)
        self._ui.statusLabel.setText(_("Starting ...") if running else "")

    def tell(self, fraction: float, text: str) -> None:
        """Show how far the job is."""
        self._ui.progressBar.setValue(round(100 * fraction))
        self._ui.statusLabel.setText(text)
