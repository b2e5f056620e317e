"""The section of the panel that tells which bundles run near a lesion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import qt
from slicer.i18n import tr as _

from . import choices
from .choices import Choices
from .plan_worker import PAGE
from .segment_box import SegmentBox

FIELDS = {
    "lesion": choices.node("lesionSelector"),
    "bundle": choices.node("bundleSelector"),
    "risk_distance": choices.number("riskDistanceSpin"),
    "rim": choices.number("rimSpin"),
}


class PlanSection:
    """Choices and button of the section; parameters as of `EnhanceSection`."""

    def __init__(self, ui, logic, on_change: Callable, on_press: Callable) -> None:
        self._ui, self._logic, self._on_change = ui, logic, on_change
        self._choices = Choices(ui, FIELDS, self._changed)
        self._segments = SegmentBox(ui.lesionSegmentBox, partial(on_change, "lesion_segment"))
        self.frame = ui.planCollapsible
        ui.planApplyButton.connect("clicked()", lambda: on_press(self))

    def show(self, kept) -> None:
        """Show the choices that the scene keeps."""
        self._choices.show(kept)

    def refresh(self, kept, running: bool) -> None:
        """Say whether the button can be pressed."""
        there = self._segments.show(kept.lesion, kept.lesion_segment)
        reason = self._reason(kept, there)
        self._ui.planApplyButton.setEnabled(not reason and not running)
        self._ui.planApplyButton.setToolTip(reason or _("Add two tables, and open a page."))

    def starts(self, kept, heard: Mapping[str, Callable]) -> list[Callable]:
        """Return what starts the job."""

        def done(tables: list) -> None:
            heard["onDone"](tables)
            page = tables[0].GetAttribute(PAGE)
            heard["onNote"](_("the page is {file}").format(file=page))
            open_page(Path(page))

        segment = kept.lesion_segment
        return [
            partial(
                self._logic.startStructuresAtRisk,
                (kept.lesion, segment) if segment else kept.lesion,
                kept.bundle if kept.bundle is not None else self._logic.bundles(),
                kept.tensor,
                distance=kept.risk_distance,
                rim=kept.rim,
                **{**heard, "onDone": done},
            )
        ]

    def _changed(self, name: str, value) -> None:
        """Hand on a choice; segments of two segmentations may have one identifier."""
        if name == "lesion":
            self._on_change("lesion_segment", "")
        self._on_change(name, value)

    def _reason(self, kept, segment_there: bool) -> str:
        """Why the button cannot work now."""
        if kept.lesion is None:
            return _("choose a lesion: a segmentation or a label map")
        if not segment_there:
            return _("the segment that was chosen is gone: choose another one")
        if kept.tensor is None:
            return _("choose a tensor above, in Tractography: its maps are told of")
        if kept.bundle is None and not self._logic.bundles():
            return _("track fibres, or choose some")
        return ""


def open_page(file: Path) -> None:
    """Show a page in the browser."""
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(file)))
