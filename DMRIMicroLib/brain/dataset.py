"""Simulated scans as a raw BIDS data set; what is known of them lies in its derivatives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..files import staged
from ..io.bids import BIDS_VERSION, DESCRIPTION
from .simulate import IMAGE, Simulation, check_free

KNOWN = Path("derivatives") / "simulated"
"""Folder of truth and state, with one folder a subject."""

ENDS = (".nii.gz", ".bval", ".bvec", ".json")


def labels_of(text: str) -> list[str]:
    """Turn ``01,sub-02`` into labels without ``sub-``; no text into none."""
    labels = [part.strip().removeprefix("sub-") for part in text.split(",") if part.strip()]
    if odd := [one for one in labels if not (one.isascii() and one.isalnum())]:
        raise InputError(f"{odd[0]!r} is no label", "Use letters and digits alone, like 01.")
    if len(set(labels)) < len(labels):
        raise InputError("a label is there twice", "Name every subject once.")
    return labels


def check_free_subjects(folder: str | Path, labels: Sequence[str], *, overwrite: bool) -> None:
    """Raise InputError if a data set has one of these scans, and it may not be replaced."""
    for label in labels:
        check_free(Path(folder) / KNOWN / f"sub-{label}", overwrite=overwrite)
        if (image := image_of(folder, label)).exists() and not overwrite:
            raise InputError(
                "there is such a scan already",
                "Choose another folder or label, or allow it with --overwrite.",
                file=image,
            )


def image_of(folder: str | Path, label: str) -> Path:
    """Return where a subject's scan lies."""
    return Path(folder) / f"sub-{label}" / "dwi" / f"sub-{label}_dwi.nii.gz"


def save(made: Simulation, folder: str | Path, label: str, *, overwrite: bool = False) -> Path:
    """Write a simulation as a subject of a data set; return the path of the scan's image.

    The brain mask lies beside the scan, where `io.bids` finds it.
    """
    check_free_subjects(folder, [label], overwrite=overwrite)
    known, image = Path(folder) / KNOWN / f"sub-{label}", image_of(folder, label)
    made.save(known, overwrite=overwrite)
    own = {f"dwi{end}": f"sub-{label}_dwi{end}" for end in ENDS}
    own["dwi_mask.nii.gz"] = f"sub-{label}_desc-brain_mask.nii.gz"
    with staged(image.parent, last=image.name) as stage:
        for before, after in own.items():
            shutil.copy2(known / before, stage / after)
    for before in sorted(own, key=lambda name: name != IMAGE):
        (known / before).unlink()
    _describe(Path(folder))
    return image


def _describe(folder: Path) -> None:
    """Say what the data set is, unless it does already."""
    if (folder / DESCRIPTION).exists():
        return
    told = {"Name": "Simulated scans", "BIDSVersion": BIDS_VERSION, "DatasetType": "raw"}
    with staged(folder) as stage:
        text = json.dumps(told, indent=2) + "\n"
        (stage / DESCRIPTION).write_text(text, encoding="utf-8")
