"""Fields of a section of the panel, and the parameters that keep them in the scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """A field and how it is read: by its signal, which is alike in every Qt for Python.

    Attributes
    ----------
    widget : str
        Name in the panel.
    signal, setter : str
    values : tuple of str
        Of a list, what its entries stand for, in their order.
    """

    widget: str
    signal: str
    setter: str
    values: tuple[str, ...] = ()


def text(widget: str) -> Field:
    """Return a line of text."""
    return Field(widget, "textChanged(QString)", "setText")


def words(widget: str) -> Field:
    """Return a list that may be written in, too."""
    return Field(widget, "currentTextChanged(QString)", "setCurrentText")


def path(widget: str) -> Field:
    """Return a path."""
    return Field(widget, "currentPathChanged(QString)", "setCurrentPath")


def number(widget: str) -> Field:
    """Return a number."""
    return Field(widget, "valueChanged(double)", "setValue")


def whole(widget: str) -> Field:
    """Return a whole number."""
    return Field(widget, "valueChanged(int)", "setValue")


def one_of(widget: str, *values: str) -> Field:
    """Return a list of entries that stand for these values."""
    return Field(widget, "currentIndexChanged(int)", "setCurrentIndex", values)


def node(widget: str) -> Field:
    """Return a selector of nodes."""
    return Field(widget, "currentNodeChanged(vtkMRMLNode*)", "setCurrentNode")


class Choices:
    """The fields of a section.

    Parameters
    ----------
    ui : object
        Has the widgets as attributes.
    fields : mapping of str to Field
        By the names of `parameters`.
    on_change : callable(name, value)
        Called when the user changes one.
    """

    def __init__(
        self, ui, fields: Mapping[str, Field], on_change: Callable[[str, Any], None]
    ) -> None:
        self._ui, self._fields, self._on_change = ui, fields, on_change
        self._quiet = False
        for name, field in fields.items():
            widget = getattr(ui, field.widget)
            widget.connect(field.signal, lambda value, name=name: self._changed(name, value))

    def show(self, kept) -> None:
        """Show the choices that the scene keeps."""
        for name, field in self._fields.items():
            value = getattr(kept, name)
            if field.values:
                value = field.values.index(value) if value in field.values else 0
            setter = getattr(getattr(self._ui, field.widget), field.setter)
            self.quietly(lambda setter=setter, value=value: setter(value))

    def quietly(self, change: Callable[[], Any]) -> None:
        """Change a field as the user does not."""
        self._quiet = True
        try:
            change()
        finally:
            self._quiet = False

    def _changed(self, name: str, value: Any) -> None:
        if self._quiet:
            return
        values = self._fields[name].values
        if not values:
            self._on_change(name, value)
        elif 0 <= value < len(values):
            self._on_change(name, values[value])
