"""The section of the panel that tracks fibres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from slicer.i18n import tr as _

from DMRIMicroLib.errors import DMRIMicroError

from . import choices
from .choices import Choices
from .results import scan_of
from .tract_nodes import DIRECTION

WAYS = ("deterministic", "probabilistic")
FOLLOWED = ("tensor", "csd")
"""In the order of the lists."""

FIELDS = {
    "tensor": choices.node("tensorSelector"),
    "seeds": choices.text("seedsEdit"),
    "density": choices.number("densitySpin"),
    "inside": choices.text("insideEdit"),
    "include": choices.node("includeSelector"),
    "exclude": choices.node("excludeSelector"),
    "ends": choices.node("endsSelector"),
    "followed": choices.one_of("followBox", *FOLLOWED),
    "way": choices.one_of("wayBox", *WAYS),
    "least_length": choices.number("leastLengthSpin"),
    "colour_by": choices.words("colourBox"),
}


class TractSection:
    """Choices and button of the section; parameters as of `EnhanceSection`."""

    def __init__(self, ui, logic, on_change: Callable, on_press: Callable) -> None:
        self._ui, self._logic = ui, logic
        self._choices = Choices(ui, FIELDS, on_change)
        self._listed: list[str] | None = None
        self.frame = ui.tractsCollapsible
        ui.tractsApplyButton.connect("clicked()", lambda: on_press(self))

    def show(self, kept) -> None:
        """Show the choices that the scene keeps."""
        self._list_maps(kept)
        self._choices.show(kept)

    def refresh(self, kept, running: bool) -> None:
        """Say which maps there are, and whether the button can be pressed."""
        names = self._list_maps(kept)
        if names:
            told = _("Maps for rules: {names}.").format(names=", ".join(names))
        elif kept.dwi is not None:
            told = _("The tensor is fitted to the scan first; rules may name FA, MD, AD, RD.")
        else:
            told = _("Choose a diffusion scan above, or a tensor.")
        self._ui.tractMapsLabel.setText(told)
        reason = self._reason(kept)
        self._ui.tractsApplyButton.setEnabled(not reason and not running)
        self._ui.tractsApplyButton.setToolTip(reason or _("Add the lines to the scene."))

    def starts(self, kept, heard: Mapping[str, Callable]) -> list[Callable]:
        """Return what starts the job."""
        given = kept.tensor if kept.tensor is not None else kept.dwi
        return [
            partial(
                self._logic.startTracts,
                given,
                kept.seeds,
                density=kept.density,
                inside=kept.inside,
                include=kept.include,
                exclude=kept.exclude,
                ends=kept.ends,
                colourBy=kept.colour_by,
                dwiNode=kept.dwi,
                maskNode=kept.mask,
                odf=kept.followed,
                method=kept.way,
                min_length=kept.least_length,
                **heard,
            )
        ]

    def _reason(self, kept) -> str:
        """Why the button cannot work now."""
        if kept.tensor is None and kept.dwi is None:
            return _("choose a diffusion scan, or a tensor")
        if kept.followed == "csd" and kept.dwi is None:
            return _("deconvolution needs the diffusion scan, too")
        made = None if kept.tensor is None else scan_of(kept.tensor)
        if kept.followed == "csd" and made is not None and made.GetID() != kept.dwi.GetID():
            told = _(
                "'{tensor}' was made of '{other}', deconvolution would take '{scan}': choose one"
            )
            return told.format(
                tensor=kept.tensor.GetName(), other=made.GetName(), scan=kept.dwi.GetName()
            )
        return ""

    def _list_maps(self, kept) -> list[str]:
        """Offer the maps of the tensor's scan to colour by; return their names."""
        try:
            names = [] if kept.tensor is None else self._logic.mapNames(kept.tensor)
        except DMRIMicroError:  # a tensor of another program: Track says so
            names = []
        if names != self._listed:
            self._listed = names
            box, before = self._ui.colourBox, kept.colour_by
            self._choices.quietly(lambda: (box.clear(), box.addItems([DIRECTION, *names])))
            self._choices.quietly(lambda: box.setCurrentText(before))
        return names
