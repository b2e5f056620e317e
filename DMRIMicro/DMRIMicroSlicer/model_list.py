"""Check boxes of the models and of the network's methods: what each gives, or why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import wrap

import qt
from slicer.i18n import tr as _

LINE = 60
"""Characters of a line: the panel is some 480 pixels wide."""

MARK = "*"
"""Behind the name of a prior-driven metric."""


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
            model, told = self.models[name], suitability[name]
            box.setEnabled(not told.lacks)
            box.setText(_short(model, told.prior_driven))
            box.setToolTip(
                _needs(model, told.lacks) if told.lacks else _meaning(model, told.prior_driven)
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
            _needs(self.models[name], self._lacks(name), _("{model} needs {what}"))
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


def _problem(model) -> str:
    """Say why the network cannot run on any scan; models always can."""
    return getattr(model, "problem", "")


def _needs(model, lacks: Sequence[str], form: str = "") -> str:
    """Say what a scan lacks for a model, or what keeps it from any scan."""
    if problem := _problem(model):
        return f"{model.title}: {problem}"
    return (form or _("Needs {what}.")).format(model=model.title, what="; ".join(lacks))


def _short(model, prior_driven: Iterable[str] = ()) -> str:
    """Write 'Diffusion tensor: FA, MD, AD, RD'; check boxes do not break lines by themselves."""
    if problem := _problem(model):
        return "\n".join([f"{model.title}:", *wrap(problem, LINE)])
    names = [metric.name for metric in model.metrics if metric.kind == "scalar"]
    marked = [name + MARK if name in prior_driven else name for name in names]
    if not marked:
        return model.title
    line = f"{model.title}: {', '.join(marked)}"
    if len(line) <= LINE:
        return line
    legend = [_("{mark} prior-driven in this scan, see tooltip").format(mark=MARK)]
    lines = wrap(", ".join(marked), LINE, break_on_hyphens=False)
    return "\n".join([f"{model.title}:", *lines, *(legend if prior_driven else [])])


def _meaning(model, prior_driven: Mapping[str, Sequence[str]]) -> str:
    """Say what every metric is, in what unit, and of prior-driven ones that they are."""
    told = []
    for metric in model.metrics:
        unit = f" [{metric.unit}]" if metric.unit else ""
        line = f"{metric.name}{unit}: {metric.title}"
        if lacks := prior_driven.get(metric.name):
            line += _(" (prior-driven: a fit would need {what})").format(what="; ".join(lacks))
        told.append(line)
    return "\n".join(told)
