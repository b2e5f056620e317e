"""The list of maps in a folder, ``maps.json``: read, checked, and what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import InputError

INDEX = "maps.json"
FORMAT_VERSION = 2


def check_folder(
    folder: str | Path, *fingerprints: str | None, overwrite: bool = False
) -> dict[str, Any] | None:
    """Check, before a long fit, that maps of a scan may go into a folder.

    Parameters
    ----------
    folder : path
        It need not exist.
    *fingerprints : str or None
        Those of the scan (`Scan.fingerprint`); without any, only whether the folder's
        list of maps can be read is checked.
    overwrite : bool
        Whether what is there may be replaced.

    Returns
    -------
    dict or None
        The folder's list of maps if it is of the same scan, so that other models' maps stay.

    Raises
    ------
    InputError
        If the folder holds maps of another scan, or a list of maps that cannot be read, and
        `overwrite` is off.
    """
    try:
        index = read_index(Path(folder) / INDEX)
    except InputError:
        if overwrite:
            return None
        raise
    if index is None or not fingerprints:
        return index
    scans = [scan_of(made) for made in index["provenance"].values()]
    strangers = [scan for scan in scans if scan.get("fingerprint") not in fingerprints]
    if overwrite:  # maps of an unknown scan are not taken for those of the same one
        return None if strangers or None in fingerprints else index
    if strangers:
        raise InputError(
            f"this folder holds maps of another scan ({strangers[0].get('name', 'unknown')})",
            "Choose another output folder, or allow it with --overwrite (overwrite=True).",
            file=Path(folder),
        )
    return index


def scan_of(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what a provenance tells of the scan."""
    return provenance.get("scan", {})


def read_index(file: Path) -> dict | None:
    """Read a folder's list of maps; None if there is no such file."""
    if not file.exists():
        return None
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        if index["format"] != "DMRIMicro maps":
            raise ValueError(f"its format is {index['format']!r}")
        if index["version"] != FORMAT_VERSION:
            age = "an older" if index["version"] < FORMAT_VERSION else "a newer"
            raise ValueError(f"{age} DMRIMicro wrote it, in format version {index['version']}")
        for key, kind in (("maps", list), ("flags", dict), ("provenance", dict)):
            if not isinstance(index[key], kind):
                raise ValueError(f"{key!r} is a {type(index[key]).__name__}")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"not a readable list of maps ({error})",
            "Move it away, give another folder, or replace it with --overwrite (overwrite=True).",
            file=file,
        ) from error
    return index


def listed(file: Path) -> set[str]:
    """Names of the files that a list of maps, of whatever format, names and that we wrote."""
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        named = {e[key] for e in index["maps"] for key in ("file", "uncertainty_file") if key in e}
        flags = index.get("flags") or {}
        named |= set(flags.values()) if isinstance(flags, dict) else set()
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return set()  # none, or damaged: `check_folder` tells
    named |= {name.replace(".nii.gz", ".json") for name in named if "_desc-" not in name}
    # a list that was tampered with must not have other files removed
    return {name for name in named if name.startswith("model-") and Path(name).name == name}
