"""Rules such as ``NDI > 0.4 and FWF < 0.2 and NDI_sd < 0.1``: parsed, checked, never executed.

Allowed are numbers, names of maps, the comparisons < <= > >= == !=, ``and``, ``or``, ``not`` and
parentheses. ``NAME_sd`` is the standard deviation of a map.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..brain.register import Image, sample, world
from ..errors import InputError
from ..io.nifti import read_volume
from ..maps import MapSet

COMPARISONS: dict[type[ast.cmpop], Callable] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}

SD = "_sd"
"""Ending of a map's name that asks for its standard deviation."""

LONGEST = 2000
"""Characters of a rule; the parser's recursion is bounded by it."""

EXAMPLE = 'Write it like "FA > 0.3" or "NDI > 0.4 and not FWF > 0.2".'


@dataclass(frozen=True)
class Layers(Mapping[str, NDArray]):
    """Scalar images on the grid of a set of maps, by the names that rules use.

    Attributes
    ----------
    maps : MapSet
        Gives its scalar maps, and their standard deviations as ``NAME_sd``.
    files : dict of str to path-like
        Further images by a name of the user's choice, on any grid; brought onto that of the maps by
        linear interpolation, NaN beyond their edge.
    """

    maps: MapSet
    files: Mapping[str, str | Path] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray:
        if name in self.files:
            return _on_grid(Path(self.files[name]), self.maps)
        if name in self.maps:
            item = self.maps[name]
            if item.metric.kind != "scalar":
                raise InputError(
                    f"{name} is a {item.metric.kind}, which cannot be compared with a number",
                    "Use a scalar map.",
                )
            return item.data
        if name.endswith(SD) and (base := name.removesuffix(SD)) in self.maps:
            deviation = self.maps[base].uncertainty
            if deviation is None:
                raise InputError(
                    f"{base} has no standard deviation in these maps",
                    "Fit with --uncertainty (uncertainty=True), or leave it out.",
                )
            return deviation
        known = {there.lower(): there for there in self}
        close = difflib.get_close_matches(name.lower(), list(known), n=1)
        hint = f" Did you mean {known[close[0]]}?" if close else ""
        raise InputError(f"there is no map {name!r}", f"There are {', '.join(self)}.{hint}")

    def __iter__(self) -> Iterator[str]:
        yield from self.files
        for name, item in self.maps.items():
            if item.metric.kind == "scalar" and name not in self.files:
                yield name
                if item.uncertainty is not None:
                    yield name + SD

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Rule:
    """A rule that has been checked.

    Attributes
    ----------
    text : str
    names : frozenset of str
        Maps that it reads.
    """

    text: str
    names: frozenset[str]
    _tree: ast.expr = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule.

        Raises
        ------
        InputError
            Saying what in it is not allowed.
        """
        if len(text) > LONGEST:
            raise InputError(f"the rule has {len(text)} characters", f"{LONGEST} are allowed.")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            what = getattr(error, "msg", None) or str(error)
            raise InputError(f"the rule {text!r} cannot be read ({what})", EXAMPLE) from None
        names: set[str] = set()
        _check(tree, text, names, truth=True)
        return cls(text.strip(), frozenset(names), tree)

    def where(self, layers: Mapping[str, NDArray]) -> NDArray[np.bool_]:
        """Evaluate it: (x, y, z) bool, False where a map that it reads is not finite."""
        values = {name: np.asarray(layers[name]) for name in sorted(self.names)}
        known = reduce(operator.and_, (np.isfinite(v) for v in values.values()))
        return known & _truth(self._tree, values)


def _check(node: ast.expr, text: str, names: set[str], *, truth: bool) -> None:
    """Refuse whatever is not allowed; `truth` is whether a yes or no is expected here."""
    match node:
        case ast.BoolOp(values=parts) if truth:
            for part in parts:
                _check(part, text, names, truth=True)
        case ast.UnaryOp(op=ast.Not(), operand=part) if truth:
            _check(part, text, names, truth=True)
        case ast.Compare(left=left, ops=signs, comparators=others) if truth:
            if unknown := [s for s in signs if type(s) not in COMPARISONS]:
                raise _refused(node, text, f"the comparison {type(unknown[0]).__name__}")
            for part in (left, *others):
                _check(part, text, names, truth=False)
            if not any(isinstance(part, ast.Name) for part in (left, *others)):
                raise _refused(node, text, "a comparison without a map")
        case ast.Name(id=name) if not truth:
            names.add(name)
        case ast.Constant(value=bool()):
            raise _refused(node, text, "True and False")
        case ast.Constant(value=int() | float()) if not truth:
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            if truth:
                raise _refused(node, text, "a number alone")
        case ast.Name() | ast.Constant() if truth:
            raise _refused(node, text, "a map or number that is compared with nothing")
        case _:
            raise _refused(node, text, "more than names, numbers, comparisons, and, or, not")


def _refused(node: ast.expr, text: str, what: str) -> InputError:
    part = ast.get_source_segment(text.strip(), node) or text
    return InputError(f"the rule has {what}: {part!r}", EXAMPLE)


def _truth(node: ast.expr, values: Mapping[str, NDArray]) -> NDArray[np.bool_]:
    """Evaluate a node that `_check` has passed as a yes or no."""
    match node:
        case ast.BoolOp(op=op, values=parts):
            join = operator.and_ if isinstance(op, ast.And) else operator.or_
            return reduce(join, (_truth(part, values) for part in parts))
        case ast.UnaryOp(operand=part):
            return ~_truth(part, values)
        case ast.Compare(left=left, ops=signs, comparators=others):
            sides = [_number(part, values) for part in (left, *others)]
            steps = zip(signs, sides[:-1], sides[1:], strict=True)
            return reduce(operator.and_, (COMPARISONS[type(s)](a, b) for s, a, b in steps))
    raise AssertionError(f"unchecked {type(node).__name__}")


def _number(node: ast.expr, values: Mapping[str, NDArray]) -> NDArray | float:
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
            return -value
        case ast.UnaryOp(operand=ast.Constant(value=value)) | ast.Constant(value=value):
            return value
    raise AssertionError(f"unchecked {type(node).__name__}")


def _on_grid(file: Path, maps: MapSet) -> NDArray[np.float32]:
    """Read an image and bring it onto the grid of the maps; NaN beyond its edge."""
    data, affine = read_volume(file)
    if data.ndim != 3:
        raise InputError(f"has {data.ndim} dimensions, expected 3", "Give a 3-D image.", file=file)
    points = world(maps.affine, maps.mask.shape)
    values = sample(Image(data, affine), points, outside="nearest")
    at = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = ((at >= -0.5) & (at <= np.array(data.shape) - 0.5)).all(-1)
    return np.where(inside, values, np.nan).astype(np.float32)
