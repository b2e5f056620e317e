"""The section of the panel that makes 7 T-like scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from slicer.i18n import tr as _

from . import choices
from .choices import Choices

METHODS = ("auto", "residual", "ldm", "cnn", "gan", "linear", "interpolate")
"""In the order of the list."""

RESOLUTIONS = ("7T", "keep", "mm")
"""In the order of the list; mm: the edge beside it."""

FIELDS = {
    "enhance_method": choices.one_of("enhanceMethodBox", *METHODS),
    "enhance_resolution": choices.one_of("enhanceResolutionBox", *RESOLUTIONS),
    "enhance_edge": choices.number("enhanceEdgeSpin"),
    "enhance_samples": choices.whole("enhanceSamplesSpin"),
    "enhance_weights": choices.path("enhanceWeightsPath"),
}


class EnhanceSection:
    """Choices and button of the section.

    Parameters
    ----------
    ui : object
    logic : DMRIMicroLogic
    on_change : callable(name, value)
        Called when the user changes a choice.
    on_press : callable(section)
        Called when the button is pressed.
    """

    def __init__(self, ui, logic, on_change: Callable, on_press: Callable) -> None:
        self._ui, self._logic = ui, logic
        self._choices = Choices(ui, FIELDS, on_change)
        self.frame = ui.enhanceCollapsible
        ui.enhanceApplyButton.connect("clicked()", lambda: on_press(self))

    def show(self, kept) -> None:
        """Show the choices that the scene keeps."""
        self._choices.show(kept)

    def refresh(self, kept, running: bool) -> None:
        """Say whether the button can be pressed, and what to know before."""
        learned = kept.enhance_method != "interpolate"
        self._ui.enhanceCaution.setVisible(learned)
        self._ui.enhanceWeightsPath.setEnabled(learned)
        self._ui.enhanceSamplesSpin.setEnabled(learned)
        self._ui.enhanceEdgeSpin.setEnabled(kept.enhance_resolution == "mm")
        scan = kept.dwi is not None
        self._ui.enhanceApplyButton.setEnabled(scan and not running)
        self._ui.enhanceApplyButton.setToolTip(
            _("Add a scan on a finer grid, with the same gradients.")
            if scan
            else _("choose a diffusion scan")
        )

    def starts(self, kept, heard: Mapping[str, Callable]) -> list[Callable]:
        """Return what starts the job."""
        edge = kept.enhance_resolution == "mm"
        learned = kept.enhance_method != "interpolate"
        return [
            partial(
                self._logic.startEnhance,
                kept.dwi,
                method=kept.enhance_method,
                resolution=kept.enhance_edge if edge else kept.enhance_resolution,
                samples=kept.enhance_samples if learned else 1,
                weights=kept.enhance_weights if learned else "",
                maskNode=kept.mask,
                **heard,
            )
        ]
