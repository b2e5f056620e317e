"""The 3D Slicer side of DMRIMicro: MRML nodes in, MRML nodes out. No mathematics lives here."""

from .library import add_library_to_path

add_library_to_path()
