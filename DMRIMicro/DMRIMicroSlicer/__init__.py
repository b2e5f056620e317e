"""The 3D Slicer side of DMRIMicro: MRML nodes in, MRML nodes out. No mathematics lives here."""

import sys

from .library import PYTHON, PYTHON_TOO_OLD, add_library_to_path

if sys.version_info < PYTHON:  # the library's own complaint would be about its syntax
    raise ImportError(PYTHON_TOO_OLD)

add_library_to_path()
