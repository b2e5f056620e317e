"""The report: one HTML file with the acquisition, its quality, every map and how it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .html import render, write_report

__all__ = ["render", "write_report"]


def __getattr__(name: str) -> object:
    # matplotlib and jinja2 are loaded when a report is written, not when the library is imported
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import html

    return getattr(html, name)
