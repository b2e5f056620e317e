"""What a card says of the data: as much as a user must know, and never whose scans they were."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.bids import DESCRIPTION, ScanFiles, read_json

FIELDS = ("Name", "License", "DatasetDOI")
"""Of `dataset_description.json`, that are kept."""

LONG = 3
"""Labels of at least so many characters are looked for in what the data set says of itself."""


def of_dataset(folder: Path, labels: Sequence[str]) -> dict[str, str]:
    """Return what a data set says of itself, less fields that hold a subject's label."""
    file = folder / DESCRIPTION
    if not file.exists():
        return {}
    content = read_json(file)
    told = {name: content[name] for name in FIELDS if isinstance(content.get(name), str)}
    secret = [label.lower() for label in labels if _telling(label)]
    secret += [f"sub-{label}".lower() for label in labels]
    return {k: v for k, v in told.items() if not any(s in v.lower() for s in secret)}


def nameless(name: str, scans: Sequence[ScanFiles]) -> None:
    """Refuse a name of weights that says whose scans they learned from."""
    labels = {one.subject.lower() for one in scans if _telling(one.subject)}
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if labels & words or "sub-" in name.lower():
        raise InputError(
            f"the name {name!r} holds the label of a subject",
            "Give a name that says nothing of whose scans they are (--name).",
        )


def _telling(label: str) -> bool:
    """Whether a label can be looked for within a text: long enough to be no word's chance part."""
    return len(label) >= LONG


class Described:
    """Counts over scans."""

    def __init__(self) -> None:
        self.acquisitions: Counter[str] = Counter()
        self.voxels: Counter[tuple[float, ...]] = Counter()
        self.snr: list[float] = []
        self.slices = 0

    def add(self, acquisition: str, voxel: tuple[float, ...], slices: int, snr: float) -> None:
        """Count a scan."""
        self.acquisitions[acquisition] += 1
        self.voxels[voxel] += 1
        self.snr.append(snr)
        self.slices += slices

    def told(self, scans: Sequence[ScanFiles]) -> dict[str, Any]:
        """Return it as JSON values; of the scans only counts, and what the data sets say."""
        subjects = sorted({(str(one.folder), one.subject) for one in scans})
        labels = [label for _, label in subjects]
        sessions = [one.session for one in scans if one.session]
        sets = sorted({one.folder for one in scans})
        own = [of_dataset(folder, [*labels, *sessions]) for folder in sets]
        return {
            "data sets": [told for told in own if told],
            "subjects": len(subjects),
            "scans": len(scans),
            "slices": self.slices,
            "acquisitions": dict(self.acquisitions),
            "voxels [mm]": [list(size) for size in self.voxels],
            "SNR of b0": [round(min(self.snr), 1), round(max(self.snr), 1)] if self.snr else [],
        }
