"""Mask and tensor are chosen for a scan: another scan does not take them over."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .messages import Messages
from .results import scan_of

SELECTORS = {"mask": "maskSelector", "tensor": "tensorSelector"}

CHOSEN = "DMRIMicro.chosen_"
"""Node references of a scan, before "mask" or "tensor": what was last chosen for it."""


class ScanChoices:
    """What is chosen for each scan; kept with its node, and so with the scene.

    Parameters
    ----------
    ui : object
        Has the selectors of `SELECTORS` as attributes.
    messages : Messages
        Told what is no longer chosen, and what was made of another scan.
    """

    def __init__(self, ui, messages: Messages) -> None:
        self._selectors = {role: getattr(ui, name) for role, name in SELECTORS.items()}
        self._messages = messages
        self._scan_id = self._scan_name = ""

    def begin(self, scan) -> None:
        """Take what is shown as chosen for a scan, or for none."""
        self._scan_id, self._scan_name = (
            ("", "") if scan is None else (scan.GetID(), scan.GetName())
        )
        for role, selector in self._selectors.items():
            self._keep(role, selector.currentNode())

    def choose(self, role: str, node) -> None:
        """Note what the user has chosen for the scan; it may have been made of another one."""
        scan = self._keep(role, node)
        made = None if node is None else scan_of(node)
        if scan is not None and made is not None and _head(made) != _head(scan):
            self._messages.note(
                _("'{node}' was made of '{other}', not of '{scan}'.").format(
                    node=node.GetName(), other=made.GetName(), scan=scan.GetName()
                )
            )

    def change(self, scan) -> None:
        """Show what was chosen for another scan before, and say what is not taken over."""
        if scan is None or scan.GetID() == self._scan_id:
            return
        before_id, before = self._scan_id, self._scan_name
        self._scan_id, self._scan_name = scan.GetID(), scan.GetName()
        for role, selector in self._selectors.items():
            now, own = selector.currentNode(), scan.GetNodeReference(CHOSEN + role)
            stays = now is not None and _stays(role, now, scan, before_id)
            if stays and own is None:
                self._keep(role, now)
                continue
            selector.setCurrentNode(own)
            if now is not None and not stays and (own is None or own.GetID() != now.GetID()):
                made = scan_of(now)
                told = _(
                    "'{node}' belongs to '{other}' and is no longer chosen for '{scan}'; choose it "
                    "again if it is right for both."
                )
                other = before if made is None else made.GetName()
                self._messages.note(
                    told.format(node=now.GetName(), other=other, scan=scan.GetName())
                )

    def _keep(self, role: str, node):
        """Note a choice with the scan of now; return the scan."""
        scan = slicer.mrmlScene.GetNodeByID(self._scan_id) if self._scan_id else None
        if scan is not None:
            scan.SetNodeReferenceID(CHOSEN + role, None if node is None else node.GetID())
        return scan


def _stays(role: str, node, scan, before_id: str) -> bool:
    """Whether what was chosen with the scan before may go with this one."""
    made = scan_of(node)
    if made is None:  # drawn, or by another program: it goes with the scan that it was chosen for
        if not before_id:
            return True
        made = slicer.mrmlScene.GetNodeByID(before_id)
    if made is None:  # that scan is gone
        return False
    if role == "mask":
        return _head(made) == _head(scan)
    return made.GetID() == scan.GetID()


def _head(scan) -> str:
    """Return the identifier of the scan that a scan goes back to by enhancement, or its own."""
    while (made := scan_of(scan)) is not None:
        scan = made
    return scan.GetID()
