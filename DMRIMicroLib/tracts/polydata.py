"""Lines in VTK's legacy files (VTK File Formats, Kitware 2015, section "Simple Legacy Formats").

Written in binary, version 3.0, which every VTK reads; the title says that positions are RAS, as
3D Slicer expects it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

TITLE = "DMRIMicro streamlines; SPACE=RAS"
LPS = b"SPACE=LPS"

TYPES = {
    "float": ">f4",
    "double": ">f8",
    "int": ">i4",
    "long": ">i8",
    "vtktypeint64": ">i8",
    "vtkidtype": ">i8",
    "unsigned_char": ">u1",
    "short": ">i2",
}
"""VTK's names of number types; binary files are big-endian."""


def write_polydata(
    file: Path, lines: Sequence[NDArray], values: Mapping[str, NDArray] | None = None
) -> None:
    """Write lines of (points, 3), and values of all points in turn by name."""
    lengths = np.array([len(line) for line in lines], dtype=np.int64)
    points = np.concatenate(lines) if len(lines) else np.empty((0, 3))
    starts = np.cumsum(lengths) - lengths
    # each line: its number of points, then their indices
    cells = np.insert(np.arange(lengths.sum()), starts, lengths)
    with file.open("wb") as out:
        out.write(f"# vtk DataFile Version 3.0\n{TITLE}\nBINARY\nDATASET POLYDATA\n".encode())
        out.write(f"POINTS {len(points)} float\n".encode())
        out.write(points.astype(">f4").tobytes())
        out.write(f"\nLINES {len(lines)} {len(cells)}\n".encode())
        out.write(cells.astype(">i4").tobytes())
        if values:
            out.write(f"\nPOINT_DATA {len(points)}\nFIELD values {len(values)}\n".encode())
            for name, numbers in values.items():
                out.write(f"{name.replace(' ', '_')} 1 {len(numbers)} float\n".encode())
                out.write(np.asarray(numbers).astype(">f4").tobytes() + b"\n")


def read_polydata(file: Path) -> tuple[list[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Read lines and scalar values of points: ASCII or binary, versions 2 to 5.

    Positions come back in RAS: turned if the title says LPS, as 3D Slicer writes by default.
    """
    reader = _Reader(file.read_bytes(), file)
    reader.head()
    points, index, offsets = np.empty((0, 3)), np.empty(0, int), np.zeros(1, int)
    values: dict[str, NDArray] = {}
    of_points = False
    while words := reader.words():
        match words[0].upper():
            case "POINTS":
                points = reader.numbers(3 * int(words[1]), words[2]).reshape(-1, 3)
            case "LINES":
                index, offsets = reader.cells(int(words[1]), int(words[2]))
            case "VERTICES" | "POLYGONS" | "TRIANGLE_STRIPS":
                reader.cells(int(words[1]), int(words[2]))
            case "POINT_DATA":
                of_points = True
            case "CELL_DATA":
                of_points = False
            case "FIELD":
                got = reader.field(int(words[2]))
                values |= got if of_points else {}
            case "SCALARS":
                got = reader.scalars(words, len(points) if of_points else len(offsets) - 1)
                values |= got if of_points else {}
            case "METADATA":
                reader.skip_metadata()
            case other:
                raise InputError(
                    f"has a part {other!r} that is not read here", "Give lines.", file=file
                )
    if LPS in reader.title:
        points = points * [-1, -1, 1]
    cut = offsets[1:-1]
    lines = np.split(points[index].astype(np.float32), cut) if len(offsets) > 1 else []
    taken = {k: v[index].astype(np.float32) for k, v in values.items() if len(v) == len(points)}
    return lines, taken


@dataclass
class _Reader:
    """A place in the bytes of a file."""

    data: bytes
    file: Path
    at: int = 0
    binary: bool = False
    version: float = 3.0
    title: bytes = field(default=b"")

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        end = len(self.data) if end < 0 else end
        text, self.at = self.data[self.at : end], end + 1
        return text.strip()

    def words(self) -> list[str]:
        """Words of the next line that has any; none at the end."""
        while self.at < len(self.data):
            if text := self.line():
                return text.decode("ascii", "replace").split()
        return []

    def head(self) -> None:
        first = self.line()
        if not first.startswith(b"# vtk DataFile Version"):
            raise InputError("is no legacy VTK file", "Give .vtk.", file=self.file)
        self.version = float(first.split()[-1])
        self.title = self.line()
        self.binary = self.line().upper() == b"BINARY"
        if [w.upper() for w in self.words()] != ["DATASET", "POLYDATA"]:
            raise InputError("holds no polygonal data", "Give lines.", file=self.file)

    def numbers(self, count: int, kind: str) -> NDArray:
        if kind.lower() not in TYPES:
            raise InputError(f"holds numbers of type {kind}", "Write it anew.", file=self.file)
        if self.binary:
            found = np.frombuffer(self.data, TYPES[kind.lower()], count, self.at)
            self.at += found.nbytes
            return found.astype(found.dtype.newbyteorder("="))
        found: list[str] = []
        while len(found) < count and (words := self.words()):
            found += words
        if len(found) != count:
            raise InputError("is cut off", "Make it again.", file=self.file)
        return np.array(found, dtype=np.float64)

    def cells(self, first: int, second: int) -> tuple[NDArray, NDArray]:
        """Read point numbers of all cells in turn, and where each begins."""
        if self.version >= 5:
            offsets = self.numbers(first, self.words()[1]).astype(int)
            return self.numbers(second, self.words()[1]).astype(int), offsets
        raw = self.numbers(second, "int").astype(int)
        starts = [0]
        for _ in range(first):
            starts.append(starts[-1] + raw[starts[-1]] + 1)
        heads = np.array(starts[:-1], dtype=int)
        return np.delete(raw, heads), np.array(starts) - np.arange(first + 1)

    def field(self, arrays: int) -> dict[str, NDArray]:
        found = {}
        for _ in range(arrays):
            words = self.words()
            while words[0].upper() == "METADATA":
                self.skip_metadata()
                words = self.words()
            name, width, count, kind = words
            numbers = self.numbers(int(width) * int(count), kind)
            if int(width) == 1:
                found[name] = numbers
        return found

    def scalars(self, words: list[str], count: int) -> dict[str, NDArray]:
        width = int(words[3]) if len(words) > 3 else 1
        self.words()  # LOOKUP_TABLE
        numbers = self.numbers(width * count, words[2])
        return {words[1]: numbers} if width == 1 else {}

    def skip_metadata(self) -> None:
        while self.at < len(self.data) and self.line():
            pass
