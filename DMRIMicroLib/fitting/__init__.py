"""Conventional fitting: `fit(scan, models)` gives maps."""

from .estimate import fit

__all__ = ["fit"]
