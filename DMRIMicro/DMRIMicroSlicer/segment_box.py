"""A list of the segments of a segmentation, of which one can be chosen, or all together."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from .region_nodes import SEGMENTATION


class SegmentBox:
    """The list.

    Parameters
    ----------
    box : QComboBox
    on_change : callable(identifier)
        Called when the user chooses a segment; "" is all of them.
    """

    def __init__(self, box, on_change: Callable[[str], None]) -> None:
        self._box, self._on_change = box, on_change
        self._listed: dict[str, str] = {}
        self._quiet = False
        box.connect("currentIndexChanged(int)", self._changed)

    def show(self, node, chosen: str) -> bool:
        """List the segments of a node, if it has any; say whether the chosen one is there."""
        listed = {"": _("(all together)"), **names(node)}
        self._quiet = True
        if list(listed.items()) != list(self._listed.items()):  # the order counts, too
            self._listed = listed
            self._box.clear()
            self._box.addItems(list(listed.values()))
        there = chosen in listed
        self._box.setCurrentIndex(list(listed).index(chosen) if there else -1)
        self._quiet = False
        self._box.setEnabled(len(listed) > 2 or not there)
        return there

    def _changed(self, index: int) -> None:
        if not self._quiet and index >= 0:
            self._on_change(list(self._listed)[index])


def names(node) -> dict[str, str]:
    """Return the names of a segmentation's segments, by their identifiers; none of other nodes."""
    if node is None or not node.IsA(SEGMENTATION):
        return {}
    segmentation = node.GetSegmentation()
    return {key: segmentation.GetSegment(key).GetName() for key in segmentation.GetSegmentIDs()}
