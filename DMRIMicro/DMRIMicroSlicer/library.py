"""Where the library DMRIMicroLib lies."""

from __future__ import annotations

import sys
from pathlib import Path

LIBRARY = "DMRIMicroLib"
MODULE_FOLDER = Path(__file__).resolve().parents[1]

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


def add_library_to_path() -> None:
    """Make DMRIMicroLib importable; at the end of the path, so that it hides nothing of Slicer."""
    folder = str(library_parent())
    if folder not in sys.path:
        sys.path.append(folder)
