"""Slicer's translation of sentences that a user sees; as they are where it has none.

It is Qt's, and so for the main thread: what a thread may say is asked for before. What nodes keep
(names, descriptions, notes in a provenance, columns) stays as it is: scripts look for it.
"""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
except ImportError:  # Slicer's libraries without the application

    def _(text: str) -> str:
        return text


__all__ = ["_"]
