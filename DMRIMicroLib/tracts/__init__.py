"""Streamlines from the maps: seeds, tracking, profiles, connectomes, planning.

The package itself is the verb: ``dm.tracts(maps, seeds)`` is `tracts.track.tracts`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tractogram import Tractogram


class _Verb(ModuleType):
    """A package that can be called: the name of the verb is that of the folder."""

    def __call__(self, *arguments: Any, **options: Any) -> Tractogram:
        """Track fibres, see `tracts.track.tracts`."""
        from .track import tracts

        return tracts(*arguments, **options)


sys.modules[__name__].__class__ = _Verb
