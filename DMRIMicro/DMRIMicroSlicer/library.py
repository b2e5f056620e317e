"""Where the library DMRIMicroLib lies."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

LIBRARY = "DMRIMicroLib"
MODULE_FOLDER = Path(__file__).resolve().parents[1]

FIRST = ("io.nifti", "maps", "weights", "tracts.rules", "tracts.seeds", "tracts.storage")
"""Parts of the library that jobs need on the main thread."""

PYTHON = (3, 11)
"""The oldest Python that DMRIMicroLib runs on."""

PYTHON_TOO_OLD = "DMRIMicro needs a 3D Slicer with Python 3.11 or newer (5.10 or later)"


def library_parent() -> Path:
    """Return the folder that holds DMRIMicroLib: the module's, or one up in a source checkout."""
    for folder in (MODULE_FOLDER, MODULE_FOLDER.parent):
        if (folder / LIBRARY / "__init__.py").is_file():
            return folder
    raise ImportError(
        f"{LIBRARY} is neither in {MODULE_FOLDER} nor in {MODULE_FOLDER.parent}. "
        "Install the extension again, or keep the folders of the source checkout together."
    )


def import_ahead() -> None:
    """Import in a thread what the first job needs, which would hold the window up for 0.1 s."""
    from .background import Background

    Background(lambda: [import_module(f"{LIBRARY}.{name}") for name in FIRST])


def add_library_to_path() -> None:
    """Make DMRIMicroLib importable; at the end of the path, so that it hides nothing of Slicer."""
    folder = str(library_parent())
    if folder not in sys.path:
        sys.path.append(folder)
