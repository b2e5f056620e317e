"""The version of the library and of the Slicer extension."""

__version__ = "0.1.0"
