"""Fields for what a scan's file does not tell: they show and set a node's attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import attributes

FIELDS = {"b0_threshold": "thresholdSpin", "delta": "deltaSpin", "Delta": "bigDeltaSpin"}
"""Attribute and field that shows it; 0 in a field of timing is 'not known'."""


class AcquisitionFields:
    """Spin boxes for b0_threshold, delta and Delta of the node that is selected.

    Parameters
    ----------
    ui : object
        Has the spin boxes as attributes.
    on_change : callable(name, value)
        Called when the user changes one; None for a value that is not known.
    """

    def __init__(self, ui, on_change: Callable[[str, float | None], None]) -> None:
        self._boxes = {name: getattr(ui, field) for name, field in FIELDS.items()}
        self._on_change, self._quiet = on_change, False
        for name, box in self._boxes.items():
            box.connect("valueChanged(double)", lambda value, name=name: self._changed(name, value))

    def show(self, node) -> None:
        """Show the values of a node, or the defaults without one."""
        values: Mapping = attributes.DEFAULTS if node is None else attributes.read(node)
        self._quiet = True
        for name, box in self._boxes.items():
            box.setValue(values[name] or 0.0)
            box.setEnabled(node is not None)
        self._quiet = False

    def _changed(self, name: str, value: float) -> None:
        if not self._quiet:
            known = value > 0 or attributes.DEFAULTS[name] is not None
            self._on_change(name, float(value) if known else None)
