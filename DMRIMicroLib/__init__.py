"""DMRIMicro: maps of brain microstructure from any diffusion MRI scan.

>>> import DMRIMicroLib as dm                                # doctest: +SKIP
>>> scan = dm.load("dwi.nii.gz")                             # doctest: +SKIP
>>> maps = dm.fit(scan, "dti")                               # doctest: +SKIP
>>> maps["FA"], maps.save("maps/")                           # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from . import tracts  # a package and a verb; it imports nothing until it is called
from .version import __version__

if TYPE_CHECKING:
    from .acquisition import Acquisition
    from .codebooks.adapt import adapt
    from .codebooks.estimate import codebook
    from .errors import DMRIMicroError, InputError, NotIdentifiable
    from .fitting import fit
    from .io import load
    from .maps import Map, MapSet
    from .prior.estimate import pigment
    from .prior.result import Pigment
    from .report import write_report
    from .rish.enhance import enhance
    from .rish.result import Enhanced
    from .scan import Scan
    from .tracts.connectome import connectome
    from .tracts.planning import planning
    from .tracts.profile import profile
    from .tracts.seeds import seeds

# Imported on first use: Slicer loads the module before torch, nibabel and dipy are installed.
_HOME = {
    "Acquisition": ".acquisition",
    "DMRIMicroError": ".errors",
    "InputError": ".errors",
    "NotIdentifiable": ".errors",
    "adapt": ".codebooks.adapt",
    "codebook": ".codebooks.estimate",
    "connectome": ".tracts.connectome",
    "enhance": ".rish.enhance",
    "Enhanced": ".rish.result",
    "fit": ".fitting",
    "load": ".io",
    "Map": ".maps",
    "MapSet": ".maps",
    "Pigment": ".prior.result",
    "pigment": ".prior.estimate",
    "planning": ".tracts.planning",
    "profile": ".tracts.profile",
    "write_report": ".report",
    "Scan": ".scan",
    "seeds": ".tracts.seeds",
}

__all__ = [
    "Acquisition",
    "DMRIMicroError",
    "Enhanced",
    "InputError",
    "Map",
    "MapSet",
    "NotIdentifiable",
    "Pigment",
    "Scan",
    "__version__",
    "adapt",
    "codebook",
    "connectome",
    "enhance",
    "fit",
    "load",
    "pigment",
    "planning",
    "profile",
    "seeds",
    "tracts",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
