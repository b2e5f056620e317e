"""Check boxes of the models: what each gives, and why it cannot be chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import qt
from slicer.i18n import tr as _

LINE = 60
"""Characters of a line: the panel is some 480 pixels wide."""


class ModelList:
    """The models in a frame with a layout, one below the other.

    Parameters
    ----------
    frame : QWidget
    on_change : callable
        Called when the user checks or unchecks a model.
    """

    def __init__(self, frame, on_change: Callable[[], None]) -> None:
        self.frame, self._on_change = frame, on_change
        self.models: Mapping = {}
        self.boxes: dict[str, object] = {}
        self._suitability: Mapping = {}
        self._widgets: list = []
        self._quiet = False

    def fill(self, models: Mapping[str, object]) -> None:
        """List the models anew; say why there are none."""
        kept = self.checked()
        for widget in self._widgets:
            widget.setParent(None)
            widget.deleteLater()
        self.models, self._suitability, self.boxes, self._widgets = models, {}, {}, []
        for name, model in models.items():
            self.boxes[name] = self._add(qt.QCheckBox(_short(model)))
            self.boxes[name].connect("toggled(bool)", self._toggled)
        if not models:
            self._add(qt.QLabel(_("(shown once the Python packages are installed)")))
        self.check(kept)

    def show(self, suitability: Mapping) -> None:
        """Grey out what the scan does not allow, with the reason as tooltip."""
        self._suitability = suitability
        for name, box in self.boxes.items():
            lacks = suitability[name].lacks
            box.setEnabled(not lacks)
            box.setToolTip(
                _("Needs {what}.").format(what="; ".join(lacks))
                if lacks
                else _meaning(self.models[name])
            )

    def check(self, names: Iterable[str]) -> None:
        """Check these models and no others."""
        wanted, self._quiet = set(names), True
        for name, box in self.boxes.items():
            box.setChecked(name in wanted)
        self._quiet = False

    def checked(self) -> list[str]:
        """Names of the models that are checked, possible or not."""
        return [name for name, box in self.boxes.items() if box.isChecked()]

    def chosen(self) -> list[str]:
        """Names of the models to fit: checked, and not greyed out."""
        return [name for name in self.checked() if name in self.possible()]

    def possible(self) -> list[str]:
        """Names of the models that are not greyed out."""
        return [n for n in self.boxes if n not in self._suitability or not self._lacks(n)]

    def titles(self) -> list[str]:
        """Titles of the models to fit."""
        return [self.models[name].title for name in self.chosen()]

    def left_out(self) -> list[str]:
        """Say of models that are checked but greyed out what they need."""
        return [
            _("{model} needs {what}").format(
                model=self.models[name].title, what="; ".join(self._lacks(name))
            )
            for name in self.checked()
            if name not in self.possible()
        ]

    def cautions(self) -> list[str]:
        """Say what the user must know of the maps of the models to fit."""
        return [
            f"{self.models[name].title}: {caution}"
            for name in self.chosen()
            if name in self._suitability
            for caution in self._suitability[name].cautions
        ]

    def _lacks(self, name: str) -> tuple[str, ...]:
        return self._suitability[name].lacks

    def _add(self, widget):
        self.frame.layout().addWidget(widget)
        self._widgets.append(widget)
        return widget

    def _toggled(self, _on: bool) -> None:
        if not self._quiet:
            self._on_change()


def _short(model) -> str:
    """Write 'Diffusion tensor: FA, MD, AD, RD'; check boxes do not break lines by themselves."""
    gives = ", ".join(metric.name for metric in model.metrics if metric.kind == "scalar")
    line = f"{model.title}: {gives}"
    return line if len(line) <= LINE else f"{model.title}:\n{gives}"


def _meaning(model) -> str:
    return "\n".join(f"{metric.name}: {metric.title}" for metric in model.metrics)
