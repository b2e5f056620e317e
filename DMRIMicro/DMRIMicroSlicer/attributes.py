"""What a diffusion volume node has no place for: kept as its attributes, saved with the scene."""

from __future__ import annotations

from DMRIMicroLib.table import B0_THRESHOLD

PREFIX = "DMRIMicro."

ENHANCED_BY = PREFIX + "enhanced_by"
"""Of an enhanced scan: the method."""

UNLIFTED = PREFIX + "no_noise_floor"
"""Of a scan whose signals noise does not lift: "1"."""

DEFAULTS: dict[str, float | None] = {
    "b0_threshold": B0_THRESHOLD,
    "delta": None,
    "Delta": None,
    "TE": None,
}
"""Highest b-value of a b0 volume [s/mm2]; gradient duration, gradient separation and echo time
[ms]."""


def read(node) -> dict[str, float | None]:
    """Return b0_threshold, delta, Delta and TE of a node, as `Acquisition` takes them."""
    return {name: _number(node.GetAttribute(PREFIX + name), DEFAULTS[name]) for name in DEFAULTS}


def write(node, **values: float | None) -> None:
    """Keep some of them; a default needs no attribute."""
    if strangers := set(values) - set(DEFAULTS):
        raise TypeError(f"no attribute {strangers.pop()!r}; there are {', '.join(DEFAULTS)}")
    for name, value in values.items():
        text = None if value is None or value == DEFAULTS[name] else repr(float(value))
        if text != node.GetAttribute(PREFIX + name):  # setting it tells every observer
            node.SetAttribute(PREFIX + name, text)


def _number(text: str | None, default: float | None) -> float | None:
    try:
        return default if text is None else float(text)
    except ValueError:  # somebody has edited the attribute
        return default
